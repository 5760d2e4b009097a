package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Snapshot returns a copy of what is live that is at least as new as the call: whoever was told that his change is durable sees it here.
// However many ask, one copy is made for each batch. While the state cannot be stored it fails at once: what is in memory may never become true.
func (e *Engine) Snapshot(ctx context.Context) (*core.Snapshot, error) {
	if t := e.health.Load(); t != nil {
		return nil, t
	}
	c := make(chan *core.Snapshot, 1)
	if err := e.ask(ctx, item{snapshot: c}); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return <-c, nil
}

// Latest returns the last snapshot that was made, which may be old, and has a new one made for the next time. It never blocks.
func (e *Engine) Latest() *core.Snapshot {
	if e.nudged.CompareAndSwap(false, true) {
		select {
		case e.inbox <- item{snapshot: make(chan *core.Snapshot, 1)}:
		default: // busy: somebody asks again
			e.nudged.Store(false)
		}
	}
	return e.latest.Load()
}

// Explain says why a request waits. A request that is done, or unknown, is store.ErrNotFound.
func (e *Engine) Explain(ctx context.Context, id model.RequestID) (core.Explanation, error) {
	if t := e.health.Load(); t != nil {
		return core.Explanation{}, t
	}
	var ex core.Explanation
	found := false
	done := make(chan struct{})
	look := func(s *core.State) {
		ex, found = s.Explain(e.clock.now(), id)
		close(done)
	}
	if err := e.ask(ctx, item{look: look}); err != nil {
		return core.Explanation{}, fmt.Errorf("explain request %d: %w", id, err)
	}
	<-done
	if !found {
		return core.Explanation{}, fmt.Errorf("explain request %d: it does not wait: %w", id, store.ErrNotFound)
	}
	return ex, nil
}

// Wait waits until a request is done and returns how it ended. A request that is done already is found in the store.
func (e *Engine) Wait(ctx context.Context, id model.RequestID) (model.Result, error) {
	c := e.waiters.add(id) // first: the request may end while the store is read
	defer e.waiters.remove(id, c)
	r, err := e.o.Store.Request(ctx, id)
	if err != nil {
		return model.NoResult, fmt.Errorf("wait for request %d: %w", id, err)
	}
	if r.State == model.RequestDone {
		return r.Result, nil
	}
	select {
	case result := <-c:
		return result, nil
	case <-ctx.Done():
		return model.NoResult, fmt.Errorf("wait for request %d: %w", id, context.Cause(ctx))
	case <-e.left:
		select {
		case result := <-c:
			return result, nil
		default:
			return model.NoResult, fmt.Errorf("wait for request %d: %w", id, ErrStopped)
		}
	}
}

// waiters are those who wait for the end of requests.
type waiters struct {
	mu sync.Mutex
	m  map[model.RequestID][]chan model.Result
}

func (w *waiters) add(id model.RequestID) chan model.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[model.RequestID][]chan model.Result{}
	}
	c := make(chan model.Result, 1)
	w.m[id] = append(w.m[id], c)
	return c
}

func (w *waiters) remove(id model.RequestID, c chan model.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.m[id] {
		if other == c {
			w.m[id] = append(w.m[id][:i], w.m[id][i+1:]...)
		}
	}
	if len(w.m[id]) == 0 {
		delete(w.m, id)
	}
}

func (w *waiters) ended(id model.RequestID, result model.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.m[id] {
		c <- result // there is room, and a request ends once
	}
	delete(w.m, id)
}
