// Package engine is the shell around the core: it owns the one goroutine that steps it, stores each delta before it starts any effect, and
// carries the effects out on other goroutines.
//
// The loop waits only for its inbox, its one timer and the commit. Everything that dials, runs, sleeps or asks a provider happens elsewhere and
// comes back as an event. The engine decides nothing about requests, builds or instances, and knows neither HTTP nor HCL nor any one provider.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
)

const (
	inboxSize = 1024
	batchSize = 512 // items that one transaction may carry
)

// ErrStopped says that the engine has stopped, or stopped before it could store what was asked.
var ErrStopped = errors.New("the master has stopped")

// Opened is a provider and what must be known to call it.
type Opened struct {
	Provider providers.Provider
	Limits   providers.Limits
}

// Sessions are the agents' connections. Its methods are called by the loop, in the order of the core's effects, and never block.
type Sessions interface {
	Admit(worker string, session model.SessionID)
	Hangup(worker string, session model.SessionID, reason string, end bool)
	Lost(worker string) // its instance is gone, and all commands on it
}

// Observe are hooks for metrics. Each may be nil; none may block.
type Observe struct {
	Entry  func(at time.Time, e core.Entry)                                  // each journal entry, once it is durable
	Op     func(provider, op string, class core.OpClass, took time.Duration) // each call of a provider; op is create, destroy, check, list, rooms, stop or start
	Commit func(took time.Duration, items int, err error)                    // each attempt to commit
	Turn   func(took time.Duration, items int)                               // each turn of the loop: for so long it did not look at its inbox
}

// Options make an Engine. Store, Saved, Builds, Sessions and Describe are required.
type Options struct {
	Store    store.Store
	Saved    core.Saved // from Store.Load
	First    bool       // no configuration was ever in force with this state
	Log      *slog.Logger
	Builds   Builds
	Sessions Sessions
	Notify   func(core.Notify) // may block

	// Due submits the requests of a scheduler whose time has come, in one transaction with at as its last time (see ScheduleMeta). It may block.
	Due func(scheduler string, at time.Time) error

	// Providers by the names of their blocks. The engine closes each one when it was replaced and its last call has returned, or else when it
	// stops.
	Providers map[string]Opened

	// Describe says how an instance of a worker is made. It is called on a goroutine of its own for every create.
	Describe func(worker string, key model.InstanceKey) (spec any, agent providers.Agent, err error)

	// Console keeps what an instance has printed with the builds that it failed: out is "" if its provider could not tell, and err says why. It is
	// called on a goroutine of its own, and may block. It may be nil.
	Console func(ctx context.Context, about core.ReadConsole, out []byte, err error)

	// Mask hides in what is written to out what a console may not show: the instance's token, and what the instance was given in another way. flush lets out what
	// is held back. It may block, and may be nil: then nothing is hidden.
	Mask func(ctx context.Context, worker string, key model.InstanceKey, w io.Writer) (out io.Writer, flush func() error)

	// Token is the credential of an instance's agent: wherever its provider says it, it is masked. It may be nil.
	Token func(key model.InstanceKey) providers.Secret

	Observe Observe
}

// Engine runs the core. Its methods are safe for concurrent use.
type Engine struct {
	o     Options
	log   *slog.Logger
	inbox chan item
	clock clock

	building context.Context // of builds
	detach   context.CancelCauseFunc
	calling  context.Context // of calls of providers
	hangUp   context.CancelFunc

	life      atomic.Int32  // notYet, running, unused
	stopping  sync.Mutex    // held by the one Stop that does it
	detaching atomic.Bool   // builds are being left to the next master: no runner is started any more
	leave     chan struct{} // closed: the loop ends when its inbox is empty
	abandon   chan struct{} // closed: the loop ends even if it could not store everything
	left      chan struct{} // closed: the loop has ended
	ended     chan struct{} // closed: and what it had started, too
	work      group         // goroutines of builds, calls and notices
	runs      group         // of builds only

	latest     atomic.Pointer[core.Snapshot]
	nudged     atomic.Bool
	health     atomic.Pointer[Trouble]
	generation atomic.Int64
	lastID     atomic.Int64
	waiters    waiters

	loop // owned by the goroutine of Run
}

// item is one thing for the loop to do.
type item struct {
	event    core.Event              // may be nil
	may      func(*core.State) error // called before the event: an error refuses the item, and nothing of it happens; may be nil
	refused  error
	tx       store.Tx              // what is stored together with the event's delta
	look     func(*core.State)     // called after the commit; must not keep the state or change it
	snapshot chan<- *core.Snapshot // wants a snapshot that is made after the commit
	after    func()                // called on the loop after the commit, before the effects
	ran      *runner               // a runner has returned
	done     chan<- error          // may be nil; has room for the answer
}

// New makes an engine. Nothing happens before Run.
func New(ctx context.Context, o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	last, err := o.Store.MaxRequest(ctx)
	if err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	e := &Engine{o: o, log: o.Log, inbox: make(chan item, inboxSize), leave: make(chan struct{}), abandon: make(chan struct{}),
		left: make(chan struct{}), ended: make(chan struct{})}
	e.building, e.detach = context.WithCancelCause(context.Background())
	e.calling, e.hangUp = context.WithCancel(context.Background())
	e.lastID.Store(int64(last))
	for _, r := range o.Saved.Requests {
		e.lastID.Store(max(e.lastID.Load(), int64(r.ID)))
	}
	e.clock.start()
	e.loop.init(e)
	return e, nil
}

// send puts an item into the inbox. An error says that it was not taken.
func (e *Engine) send(ctx context.Context, it item) error {
	select {
	case <-e.left:
		return ErrStopped
	default:
	}
	select {
	case e.inbox <- it:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.left:
		return ErrStopped
	}
}

// ask sends an item and waits until it is durable.
func (e *Engine) ask(ctx context.Context, it item) error {
	done := make(chan error, 1)
	it.done = done
	if err := e.send(ctx, it); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.left:
		select { // it may have been the last one that was done
		case err := <-done:
			return err
		default:
			return ErrStopped
		}
	}
}

// Do handles one event. It returns when what the event changed is durable. When ctx ends first, the event may be handled all the same.
func (e *Engine) Do(ctx context.Context, ev core.Event) error { return e.ask(ctx, item{event: ev}) }

// Deliver hands over an event and does not wait for it. It blocks while the inbox is full; after the engine has stopped it does nothing.
func (e *Engine) Deliver(ev core.Event) { _ = e.send(context.Background(), item{event: ev}) }

// Save stores steps and properties of builds with the loop's next transaction and returns when they are durable.
func (e *Engine) Save(ctx context.Context, tx store.Tx) error {
	if len(tx.Deltas)+len(tx.Requests) > 0 || tx.Config != nil {
		return errors.New("save: only steps, properties and meta can be saved; the rest belongs to events")
	}
	if err := checkTx(&tx); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return e.ask(ctx, item{tx: tx})
}

// Submit adds requests and returns their IDs once they are durable. It sets ID, State, Result and, where they are zero, SubmittedAt and
// Generation. It fails at once while the state cannot be stored. When ctx ends first, the requests may be submitted all the same.
func (e *Engine) Submit(ctx context.Context, reqs []model.Request) ([]model.RequestID, error) {
	if t := e.health.Load(); t != nil {
		return nil, fmt.Errorf("submit: %w", t)
	}
	return e.SubmitWith(ctx, reqs, nil)
}

// SubmitWith is Submit, but what also makes of the requests' IDs (steps, properties) becomes durable with them, and it waits while the state
// cannot be stored.
func (e *Engine) SubmitWith(ctx context.Context, reqs []model.Request, also func(ids []model.RequestID) store.Tx) ([]model.RequestID, error) {
	ids := make([]model.RequestID, len(reqs))
	full := make([]model.Request, len(reqs))
	queued := make([]core.Request, len(reqs))
	last := e.lastID.Add(int64(len(reqs)))
	now := e.clock.now()
	for i, r := range reqs {
		r.ID = model.RequestID(last - int64(len(reqs)) + int64(i) + 1)
		r.State, r.Result, r.Attempts, r.Build, r.Text, r.FinishedAt = model.RequestWaiting, model.NoResult, 0, 0, "", time.Time{}
		if r.SubmittedAt.IsZero() {
			r.SubmittedAt = now
		}
		if r.Generation == 0 {
			r.Generation = model.Generation(e.generation.Load())
		}
		key, err := sourceKey(&r)
		if err != nil {
			return nil, fmt.Errorf("submit: %w", err)
		}
		ids[i], full[i] = r.ID, r
		queued[i] = core.Request{ID: r.ID, Builder: r.Builder, Priority: r.Priority, SubmittedAt: r.SubmittedAt, Worker: r.Worker, SourceKey: key,
			Generation: r.Generation}
	}
	var tx store.Tx
	if also != nil {
		tx = also(ids)
		if err := checkTx(&tx); err != nil {
			return nil, fmt.Errorf("submit: %w", err)
		}
	}
	tx.Requests = full
	if err := e.ask(ctx, item{event: core.Submitted{Requests: queued}, tx: tx}); err != nil {
		return nil, fmt.Errorf("submit: %w", err)
	}
	return ids, nil
}

// Apply puts a configuration into force and stores its text, in one transaction. The set of providers stays.
func (e *Engine) Apply(ctx context.Context, cfg core.Config, snap store.ConfigSnapshot) error {
	return e.ApplyWith(ctx, cfg, snap, nil, nil, nil)
}

// ApplyWith is Apply with a new set of providers (nil: the old one) and small facts that are stored with it. A provider that is not in the set stays for the instances
// that it still has. The engine owns the providers from here on, unless it fails: then nothing was applied. When ctx ends first, it may be applied all the same.
// may (nil: yes) is asked on the loop, with what is live at the very moment: its error refuses the configuration.
func (e *Engine) ApplyWith(ctx context.Context, cfg core.Config, snap store.ConfigSnapshot, set map[string]Opened, meta map[string]string,
	may func(*core.Snapshot) error) error {
	if cfg.Generation != snap.Generation {
		return fmt.Errorf("apply: the configuration is generation %d and its text generation %d", cfg.Generation, snap.Generation)
	}
	var allowed func(*core.State) error
	if may != nil {
		allowed = func(s *core.State) error { return may(s.Snapshot(e.clock.now())) }
	}
	if err := e.ask(ctx, item{event: core.ConfigApplied{Config: cfg, Prepared: core.Prepare(cfg)}, may: allowed, tx: store.Tx{Config: &snap, Meta: meta}, after: func() {
		e.generation.Store(int64(cfg.Generation))
		for name, p := range set {
			e.loop.provide(name, p)
		}
	}}); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}
