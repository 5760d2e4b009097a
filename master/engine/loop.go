package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

const (
	firstRetry = 100 * time.Millisecond // pause after the first commit that failed; doubles
	lastRetry  = 5 * time.Second
)

// loop is what only the goroutine of Run touches.
type loop struct {
	e        *Engine
	state    *core.State
	timers   timers
	runners  map[model.BuildID]*runner
	callers  map[string]*caller
	consoles map[model.InstanceKey]chan struct{} // being read; closed when a destroy need not wait any more
	quiet    chan struct{}                       // not nil: close it when no build runs and no instance is left

	items   []item // of the batch that runs
	batches []core.Batch
	deltas  []core.Delta
}

func (l *loop) init(e *Engine) {
	l.e = e
	l.state = core.Restore(e.o.Saved)
	l.runners, l.callers = map[model.BuildID]*runner{}, map[string]*caller{}
	l.consoles = map[model.InstanceKey]chan struct{}{}
	for name, p := range e.o.Providers {
		l.provide(name, p)
	}
	e.latest.Store(l.state.Snapshot(e.clock.now()))
}

// Trouble says that the state cannot be stored at present. The engine tries on, and everything that it has not stored waits.
type Trouble struct {
	Since time.Time
	Tries int
	Err   error
}

func (t *Trouble) Error() string {
	return fmt.Sprintf("the state cannot be stored since %s: %v", t.Since.UTC().Format(time.RFC3339), t.Err)
}

func (t *Trouble) Unwrap() error { return t.Err }

// Health says whether the engine can do its work: nil, a *Trouble, or ErrStopped.
func (e *Engine) Health() error {
	select {
	case <-e.left:
		return ErrStopped
	default:
	}
	if t := e.health.Load(); t != nil {
		return t
	}
	return nil
}

// What an engine's life is: it runs once at most.
const (
	notYet int32 = iota
	running
	unused // stopped before it ran
)

// Run steps the core until Stop, or until ctx ends, which is as good as Stop with the policy to keep everything. It is called once; after Stop it returns
// at once.
func (e *Engine) Run(ctx context.Context) error {
	if !e.life.CompareAndSwap(notYet, running) {
		if e.life.Load() == unused {
			<-e.ended
			return nil
		}
		return errors.New("run the engine: it runs already")
	}
	end := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := e.Stop(ctx, core.StopKeep); err != nil {
			e.log.Error("engine: could not stop in order", "error", err)
		}
	})
	defer end()
	err := e.loop.run()
	e.finish()
	return err
}

func (l *loop) run() error {
	e := l.e
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	l.items = append(l.items, item{event: core.Restarted{First: e.o.First}})
	for _, name := range slices.Sorted(maps.Keys(l.callers)) {
		l.callers[name].watch()
		l.callers[name].askRooms()
	}
	for {
		if err := l.turn(); err != nil {
			return err
		}
		var wake <-chan time.Time
		if at, ok := l.timers.next(); ok {
			timer.Reset(max(at.Sub(e.clock.now()), 0))
			wake = timer.C
		}
		select {
		case it := <-e.inbox:
			l.items = append(l.items, it)
		case <-wake:
		case <-e.leave:
			select {
			case it := <-e.inbox:
				l.items = append(l.items, it)
			default:
				return nil
			}
		}
	}
}

// turn drains the inbox, steps the core for each item, commits everything at once, and only then answers and acts.
func (l *loop) turn() error {
	began := time.Now()
	l.drain()
	now := l.e.clock.now()
	for {
		t, ok := l.timers.due(now)
		if !ok {
			break
		}
		l.items = append(l.items, item{event: core.TimerFired{Timer: t}})
	}
	tx := l.step(now)
	if !empty(&tx) {
		if err := l.commit(tx, len(l.items)); err != nil {
			l.answer(err)
			l.forget()
			return err
		}
	}
	l.journal(now)
	l.act(now)
	l.answer(nil)
	if l.quiet != nil && l.nothingLeft() {
		close(l.quiet)
		l.quiet = nil
	}
	if f := l.e.o.Observe.Turn; f != nil {
		f(time.Since(began), len(l.items))
	}
	l.forget()
	return nil
}

func (l *loop) drain() {
	for len(l.items) < batchSize {
		select {
		case it := <-l.e.inbox:
			l.items = append(l.items, it)
		default:
			return
		}
	}
}

// step takes all items in and gathers what is to be stored.
func (l *loop) step(now time.Time) store.Tx {
	tx := store.Tx{Time: now}
	for i := range l.items {
		it := &l.items[i]
		if it.may != nil {
			if it.refused = it.may(l.state); it.refused != nil {
				continue
			}
		}
		if it.ran != nil {
			l.returned(it)
		}
		if it.event != nil {
			b := l.state.Step(now, it.event)
			l.batches = append(l.batches, b)
			if !b.Delta.Empty() {
				l.deltas = append(l.deltas, b.Delta)
			}
		}
		tx.Requests = append(tx.Requests, it.tx.Requests...)
		tx.Steps = append(tx.Steps, it.tx.Steps...)
		tx.Props = append(tx.Props, it.tx.Props...)
		if it.tx.Config != nil {
			tx.Config = it.tx.Config // of two in one batch the newer one is in force
		}
		for k, v := range it.tx.Meta {
			if tx.Meta == nil {
				tx.Meta = map[string]string{}
			}
			tx.Meta[k] = v
		}
	}
	for i := range l.deltas {
		for _, sc := range l.deltas[i].Schedules {
			if tx.Meta == nil {
				tx.Meta = map[string]string{}
			}
			k, v := ScheduleMeta(sc.Name, sc.Last)
			tx.Meta[k] = v
		}
	}
	tx.Deltas = l.deltas
	return tx
}

func empty(tx *store.Tx) bool {
	return len(tx.Deltas)+len(tx.Requests)+len(tx.Steps)+len(tx.Props)+len(tx.Meta) == 0 && tx.Config == nil
}

// commit tries until the transaction is durable. While it fails the memory is ahead of the store, so nothing is answered and nothing is done:
// whoever waits goes on waiting, the inbox fills, and those who fill it wait too. Only the end of the engine ends that.
func (l *loop) commit(tx store.Tx, items int) error {
	e := l.e
	pause := firstRetry
	for tries := 1; ; tries++ {
		began := time.Now()
		err := e.o.Store.Commit(context.Background(), tx)
		if f := e.o.Observe.Commit; f != nil {
			f(time.Since(began), items, err)
		}
		old := e.health.Load()
		if err == nil {
			if old != nil {
				e.health.Store(nil)
				e.log.Info("engine: the state can be stored again", "seconds", e.clock.now().Sub(old.Since).Seconds())
			}
			return nil
		}
		t := &Trouble{Since: e.clock.now(), Tries: tries, Err: err}
		if old != nil {
			t.Since = old.Since
		}
		e.health.Store(t)
		if tries == 1 {
			e.log.Error("engine: the state cannot be stored; everything waits until it can", "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-e.abandon:
			timer.Stop()
			return fmt.Errorf("stopped while %w", t)
		}
		pause = min(2*pause, lastRetry)
	}
}

// answer tells everybody who waits for this batch.
func (l *loop) answer(err error) {
	var sn *core.Snapshot
	for i := range l.items {
		it := &l.items[i]
		if it.snapshot != nil && err == nil {
			if sn == nil {
				l.e.nudged.Store(false)
				sn = l.state.Snapshot(l.e.clock.now())
				l.e.latest.Store(sn)
			}
			it.snapshot <- sn
		}
		if it.look != nil && err == nil {
			it.look(l.state)
		}
		if it.done != nil {
			it.done <- cmp.Or(err, it.refused)
		}
	}
}

func (l *loop) forget() {
	clear(l.items)
	clear(l.batches)
	clear(l.deltas)
	l.items, l.batches, l.deltas = l.items[:0], l.batches[:0], l.deltas[:0]
}
