package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

const (
	// maxAbandoned bounds the calls of one provider that were given up at their deadline and have still not returned.
	maxAbandoned = 64

	defaultTimeout     = time.Minute
	defaultConcurrency = 4

	lateAnswer = time.Second // how long after its deadline a call may take to return with its own result
)

// caller calls one provider, a bounded number of times at once. The rest waits in two queues: creates, which may take long and may hang, and
// everything else. Creates never hold the last place, so that destroys, for which somebody pays meanwhile, always get through.
type caller struct {
	e      *Engine
	name   string
	opened Opened

	mu        sync.Mutex
	creates   []*call
	others    []*call
	running   int
	creating  int                // of running
	inside    int                // calls that the provider has not returned from
	abandoned int                // of inside: given up at their deadline
	stopped   bool               // no more calls
	unwatch   context.CancelFunc // ends the watch; nil: there is none
	closing   bool               // close the provider when its last call has returned
	closed    bool
}

// call is one operation. Exactly one of its results is delivered.
type call struct {
	kind    string // create, destroy, check, list, rooms, stop, start
	timeout time.Duration
	run     func(ctx context.Context) answer
	deliver func(a answer, began time.Time) core.Event

	back  bool // the provider has returned
	given bool // given up
}

type answer struct {
	result core.OpResult
	list   []core.Sighting
	rooms  []core.Room
}

// provide puts a provider in the place of the one of the same name.
func (l *loop) provide(name string, p Opened) {
	if old := l.callers[name]; old != nil {
		if old.opened.Provider == p.Provider {
			old.setLimits(p.Limits)
			return
		}
		old.retire()
	}
	c := &caller{e: l.e, name: name}
	c.opened.Provider = p.Provider
	c.setLimits(p.Limits)
	l.callers[name] = c
	if l.e.life.Load() == running { // else Run does it
		c.watch()
		c.askRooms()
	}
}

func (c *caller) setLimits(n providers.Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.CreateTimeout <= 0 {
		n.CreateTimeout = defaultTimeout
	}
	if n.CallTimeout <= 0 {
		n.CallTimeout = defaultTimeout
	}
	if n.Concurrency <= 0 {
		n.Concurrency = defaultConcurrency
	}
	c.opened.Limits = n
}

func (l *loop) create(ef core.CreateInstance) {
	e := l.e
	l.op(ef.Provider, ef.Key, ef.Op, "create", func(ctx context.Context, p providers.Provider) answer {
		spec, agent, err := e.o.Describe(ef.Worker, ef.Key)
		if err != nil {
			return answer{result: core.OpResult{Class: core.OpTransient, Detail: clip(err.Error())}} // the worker has just left the configuration: nobody asked for what can not be
		}
		in, err := p.Create(ctx, providers.CreateRequest{Key: providers.Key(ef.Key), Owner: providers.Owner(e.o.Saved.Owner), Worker: ef.Worker, Spec: spec, Place: ef.Place, Agent: agent})
		return sighted(in, err)
	})
}

func (l *loop) destroy(ef core.DestroyInstance) {
	if read := l.consoles[ef.Key]; read != nil { // what it has printed is gone with it
		l.e.work.Go(func() {
			<-read
			_ = l.e.send(context.Background(), item{after: func() { l.destroyNow(ef) }})
		})
		return
	}
	l.destroyNow(ef)
}

func (l *loop) destroyNow(ef core.DestroyInstance) {
	l.op(ef.Provider, ef.Key, ef.Op, "destroy", func(ctx context.Context, p providers.Provider) answer {
		return sighted(providers.Instance{}, p.Destroy(ctx, providers.Key(ef.Key)))
	})
}

func (l *loop) check(ef core.CheckInstance) {
	l.op(ef.Provider, ef.Key, ef.Op, "check", func(ctx context.Context, p providers.Provider) answer {
		return sighted(p.Get(ctx, providers.Key(ef.Key)))
	})
}

func (l *loop) list(ef core.ListInstances, now time.Time) {
	e := l.e
	listed := func(a answer, began time.Time) core.Event {
		ev := core.Listed{Op: ef.Op, AskedAt: began, Instances: a.list}
		if a.result.Class != core.OpOK {
			ev.Error, ev.Instances = a.result.Class.String()+": "+clip(a.result.Detail), nil
		}
		return ev
	}
	c := l.callers[ef.Provider]
	if c == nil {
		e.refuse(listed(answer{result: core.OpResult{Class: core.OpBadConfig, Detail: errNoProvider.Error()}}, now))
		return
	}
	c.askRooms()
	c.add(&call{kind: "list", deliver: listed, run: func(ctx context.Context) answer {
		all, err := c.opened.Provider.List(ctx, providers.Owner(e.o.Saved.Owner))
		a := sighted(providers.Instance{}, err)
		for _, in := range all {
			a.list = append(a.list, core.Sighting{Key: model.InstanceKey(in.Key), ProviderID: in.ID, State: sightState(in.State), Detail: clip(e.masked(model.InstanceKey(in.Key), in.Detail)),
				CreatedAt: in.CreatedAt})
		}
		return a
	}})
}

func (l *loop) op(provider string, key model.InstanceKey, op model.OpID, kind string, run func(ctx context.Context, p providers.Provider) answer) {
	done := func(a answer, _ time.Time) core.Event {
		a.result.Detail = clip(l.e.masked(key, a.result.Detail))
		return core.OpDone{Op: op, Result: a.result}
	}
	c := l.callers[provider]
	if c == nil {
		l.e.refuse(done(answer{result: core.OpResult{Class: core.OpTransient, Detail: errNoProvider.Error()}}, time.Time{}))
		return
	}
	c.add(&call{kind: kind, deliver: done, run: func(ctx context.Context) answer { return run(ctx, c.opened.Provider) }})
}

// masked takes an instance's token out of what its provider says: that may repeat what the machine has printed.
func (e *Engine) masked(key model.InstanceKey, text string) string {
	if e.o.Token == nil || text == "" {
		return text
	}
	if token := e.o.Token(key); token != "" {
		return strings.ReplaceAll(text, token.Reveal(), token.String())
	}
	return text
}

// refuse answers for a call that was not made. The loop must not wait for its own inbox.
func (e *Engine) refuse(ev core.Event) { e.work.Go(func() { e.Deliver(ev) }) }

func (c *caller) add(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	if k.kind == "create" {
		c.creates = append(c.creates, k)
	} else {
		c.others = append(c.others, k)
	}
	c.next()
}

// next starts what may start. c.mu is held.
func (c *caller) next() {
	limit := c.opened.Limits.Concurrency
	for c.running < limit {
		var k *call
		switch {
		case len(c.others) > 0:
			k = c.others[0]
			c.others = slices.Delete(c.others, 0, 1)
		case len(c.creates) > 0 && c.creating < max(limit-1, 1):
			k = c.creates[0]
			c.creates = slices.Delete(c.creates, 0, 1)
			c.creating++
		default:
			return
		}
		c.running++
		k.timeout = c.opened.Limits.CallTimeout
		if k.kind == "create" {
			k.timeout = c.opened.Limits.CreateTimeout
		}
		stuck := c.abandoned >= maxAbandoned
		if !stuck {
			c.inside++
		}
		c.e.work.Go(func() { c.make(k, stuck) })
	}
}

// make makes one call and delivers one result: the call's own, or at its deadline that the outcome is not known, whether or not the provider
// heeds its context.
func (c *caller) make(k *call, stuck bool) {
	began := c.e.clock.now()
	if stuck {
		c.finish(k, began, answer{result: core.OpResult{Class: core.OpTransient,
			Detail: fmt.Sprintf("not called: %d earlier calls have not returned, long after their deadline", maxAbandoned)}})
		return
	}
	ctx, cancel := context.WithTimeout(c.e.calling, k.timeout)
	defer cancel()
	returned := make(chan answer, 1)
	go func() { // not waited for when the engine ends: it may never return
		var a answer
		defer func() {
			c.returned(k)
			returned <- a
		}()
		defer c.e.survive(k.kind+" of provider "+c.name, func(v any) {
			a = answer{result: core.OpResult{Class: core.OpUnknown, Detail: clip(fmt.Sprintf("internal error: %v", v))}}
		})
		a = k.run(ctx)
	}()
	select {
	case a := <-returned:
		c.finish(k, began, a)
		return
	case <-ctx.Done():
	}
	why := "no answer within " + k.timeout.String()
	if errors.Is(ctx.Err(), context.Canceled) {
		why = "the master stops"
	}
	late := time.NewTimer(lateAnswer)
	defer late.Stop()
	select {
	case a := <-returned: // it heeds its context, or was just in time
		c.finish(k, began, a)
	case <-late.C:
		c.abandon(k)
		c.finish(k, began, answer{result: core.OpResult{Class: core.OpUnknown, Detail: why}})
	}
}

// finish frees the call's place and delivers its result.
func (c *caller) finish(k *call, began time.Time, a answer) {
	if f := c.e.o.Observe.Op; f != nil {
		f(c.name, k.kind, a.result.Class, c.e.clock.now().Sub(began))
	}
	c.mu.Lock()
	c.running--
	if k.kind == "create" {
		c.creating--
	}
	c.next()
	c.mu.Unlock()
	c.e.Deliver(k.deliver(a, began))
}

// abandon gives a call up that does not return.
func (c *caller) abandon(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.back {
		k.given = true
		c.abandoned++
	}
}

// returned notes that a call is back from the provider, in time or not.
func (c *caller) returned(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.back = true
	c.inside--
	if k.given {
		c.abandoned--
	}
	c.mayClose()
}

// stop starts no more calls. Those that wait are dropped: their intents are stored, and the next master carries them out.
func (c *caller) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.creates, c.others = true, nil, nil
	if c.unwatch != nil {
		c.unwatch()
	}
}

// retire closes the provider once its last call has returned.
func (c *caller) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if c.unwatch != nil {
		c.unwatch()
	}
	c.mayClose()
}

// mayClose is called with c.mu held.
func (c *caller) mayClose() {
	if !c.closing || c.closed || c.inside > 0 || len(c.creates)+len(c.others) > 0 {
		return
	}
	c.closed = true
	c.e.work.Go(func() {
		defer c.e.survive("close of provider "+c.name, nil)
		if err := c.opened.Provider.Close(); err != nil {
			c.e.log.Warn("engine: close provider", "provider", c.name, "error", err)
		}
	})
}

func sighted(in providers.Instance, err error) answer {
	if err != nil {
		return answer{result: core.OpResult{Class: opClass(providers.ClassOf(err)), Detail: err.Error()}}
	}
	return answer{result: core.OpResult{Class: core.OpOK, ProviderID: in.ID, State: sightState(in.State), Detail: in.Detail, Facts: bounded(in.Facts), Place: place(in.Place),
		Interrupted: in.Interrupted}}
}

func opClass(c providers.Class) core.OpClass {
	switch c {
	case providers.Transient:
		return core.OpTransient
	case providers.Throttled:
		return core.OpThrottled
	case providers.NoCapacity:
		return core.OpNoCapacity
	case providers.OverQuota:
		return core.OpOverQuota
	case providers.BadConfig:
		return core.OpBadConfig
	case providers.Unauthorized:
		return core.OpUnauthorized
	case providers.NotFound:
		return core.OpNotFound
	}
	return core.OpUnknown
}

func sightState(s providers.State) core.SightState {
	switch s {
	case providers.Running:
		return core.SightRunning
	case providers.Stopping:
		return core.SightStopping
	case providers.Gone:
		return core.SightGone
	case providers.Failed:
		return core.SightFailed
	case providers.Stopped:
		return core.SightStopped
	}
	return core.SightPending
}

func (c *caller) retired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}
