// Package fake is a provider whose instances are entries in memory, with knobs for everything that can go wrong with a real one: errors before
// and after the deed, calls that hang, stale and doubled lists, accepted destroys that are forgotten. Demonstrations and the engine's tests use it.
//
// Every fault is drawn from the seed, the kind of call, the key and the number of the call under that key: goroutines may run in any
// order, and the same key meets the same faults. Its instances live as long as the Kind: they end with the process.
// It knows nothing of the master.
package fake

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// Options are hooks into a Kind. Hooks run on goroutines of their own.
type Options struct {
	// OnRunning is called when an instance comes to run. It may start an agent with the request's Agent.
	OnRunning func(req providers.CreateRequest)

	// OnStopped is called when an instance that came to run is gone. It comes after OnRunning has returned.
	OnStopped func(key providers.Key)
}

// Kind is the provider kind "fake". All providers of one name and place that it opens share one world, as the processes of one account do.
type Kind struct {
	opts Options

	mu     sync.Mutex
	worlds map[site]*world
}

type site struct{ name, place string }

// New returns a Kind with no instances.
func New(opts Options) *Kind { return &Kind{opts: opts, worlds: map[site]*world{}} }

// Name implements providers.Kind.
func (*Kind) Name() string { return "fake" }

// Open implements providers.Kind.
func (k *Kind) Open(_ context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	cfg, ok := env.Config.(Config)
	if !ok {
		return nil, providers.Limits{}, providers.Errorf(providers.BadConfig, "open", "the configuration is a %T, not one of fake's", env.Config)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	here := site{env.Name, cfg.Place}
	w := k.worlds[here]
	if w == nil {
		w = &world{opts: k.opts, instances: map[providers.Key]*instance{}, calls: map[call]uint64{}, down: map[string]bool{}, watchers: map[int]func(providers.Key){}}
		k.worlds[here] = w
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &provider{world: w, cfg: cfg, owner: env.Owner, log: log}, providers.Limits{
		CreateTimeout:  30 * time.Second,
		CallTimeout:    10 * time.Second,
		Settle:         cfg.ListStale + 2*time.Second,
		Concurrency:    16,
		SweepInterval:  10 * time.Second,
		CheckInterval:  time.Second,
		DestroyBackoff: 200 * time.Millisecond,
	}, nil
}

// Instances returns what really exists under a provider's name in all its places, whoever owns it and whatever its lists say.
func (k *Kind) Instances(name string) (all []providers.Instance) {
	for _, w := range k.of(name) {
		w.mu.Lock()
		all = append(all, w.list(time.Now(), func(*instance) bool { return true })...)
		w.mu.Unlock()
	}
	return all
}

// of are the worlds of a name, in the order of their places.
func (k *Kind) of(name string) (all []*world) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sites := slices.SortedFunc(maps.Keys(k.worlds), func(a, b site) int { return strings.Compare(a.place, b.place) })
	for _, s := range sites {
		if s.name == name {
			all = append(all, k.worlds[s])
		}
	}
	return all
}

// Fail makes an instance end by itself, as a machine does that crashes. It says whether there was one to fail.
func (k *Kind) Fail(name string, key providers.Key, detail string) bool {
	return k.fail(name, key, detail, false)
}

// Interrupt makes an instance end because its provider takes it back, without a notice. It says whether there was one.
func (k *Kind) Interrupt(name string, key providers.Key, detail string) bool {
	return k.fail(name, key, detail, true)
}

func (k *Kind) fail(name string, key providers.Key, detail string, taken bool) bool {
	for _, w := range k.of(name) {
		if w.fail(key, detail, taken) {
			return true
		}
	}
	return false
}

func (w *world) fail(key providers.Key, detail string, taken bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.instances[key]
	now := time.Now()
	if in == nil || in.state(now) > providers.Running {
		return false
	}
	in.failed, in.detail, in.taken = now, detail, taken
	w.stop(in)
	w.tell(key)
	return true
}

// world is what all handles share.
type world struct {
	opts Options

	mu        sync.Mutex
	instances map[providers.Key]*instance // also those that are gone: a key is never used again
	calls     map[call]uint64             // how often each call was made under each key
	down      map[string]bool             // hosts that cannot be reached
	watchers  map[int]func(providers.Key)
	nextWatch int
}

type call struct {
	op  string
	key providers.Key
}

// instance is facts; its state at any moment is derived from them. It holds no token.
type instance struct {
	key       providers.Key
	owner     providers.Owner
	worker    string
	created   time.Time
	running   time.Time // when it will run; zero: never
	failed    time.Time // when it ends by itself; zero: never
	destroyed time.Time // when a destroy was accepted; zero: never
	gone      time.Time // when that will be done
	halted    time.Time // when a stop was accepted; zero: it is on
	off       time.Time // when that will be done
	detail    string
	taken     bool // it has failed because its provider takes it back
	place     string
	room      string // its host
	spec      Spec

	boot *time.Timer // calls OnRunning
	up   chan struct{}
}

func (in *instance) state(now time.Time) providers.State {
	passed := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch {
	case passed(in.gone):
		return providers.Gone
	case passed(in.destroyed):
		return providers.Stopping
	case passed(in.failed) && !passed(in.off):
		return providers.Failed
	case passed(in.off):
		return providers.Stopped
	case passed(in.halted):
		return providers.Stopping
	case passed(in.running):
		return providers.Running
	default:
		return providers.Pending
	}
}

func (in *instance) shown(now time.Time) providers.Instance {
	s := in.state(now)
	detail := in.detail
	if detail == "" {
		detail = "fake machine"
	}
	return providers.Instance{Key: in.key, ID: "fake-" + string(in.key), Worker: in.worker, State: s, Detail: detail, CreatedAt: in.created, Facts: in.facts(), Place: in.room,
		Interrupted: in.taken && s == providers.Failed}
}

// list returns what existed at a time, sorted. The caller holds mu.
func (w *world) list(at time.Time, want func(*instance) bool) []providers.Instance {
	var out []providers.Instance
	for _, in := range w.instances {
		if !at.Before(in.created) && in.state(at) != providers.Gone && want(in) {
			out = append(out, in.shown(at))
		}
	}
	slices.SortFunc(out, func(a, b providers.Instance) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return out
}

// start arranges for OnRunning. The caller holds mu.
func (w *world) start(in *instance, req providers.CreateRequest, after time.Duration) {
	if w.opts.OnRunning == nil {
		return
	}
	up := make(chan struct{})
	in.up = up
	in.boot = time.AfterFunc(after, func() {
		defer close(up)
		w.opts.OnRunning(req)
	})
}

// stop takes back what start arranged. The caller holds mu.
func (w *world) stop(in *instance) {
	if in.boot == nil {
		return
	}
	ran, up, key := !in.boot.Stop(), in.up, in.key
	in.boot = nil
	if ran && w.opts.OnStopped != nil {
		go func() {
			<-up
			w.opts.OnStopped(key)
		}()
	}
}

// forget drops everything about instances that are gone for a day, so that a long demonstration does not grow. The caller holds mu.
func (w *world) forget(now time.Time) {
	if len(w.instances) < 10_000 {
		return
	}
	maps.DeleteFunc(w.instances, func(_ providers.Key, in *instance) bool {
		return in.state(now) == providers.Gone && now.Sub(in.gone) > 24*time.Hour
	})
	maps.DeleteFunc(w.calls, func(c call, _ uint64) bool { return c.key != "" && w.instances[c.key] == nil })
}
