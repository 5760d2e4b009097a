package ec2

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// memo keeps answers for a while, and lets everybody who wants the same one at the same time wait for one question. 500 instances that start
// together ask AWS once for their image and once for its price.
type memo[V any] struct {
	keep func(V, error) time.Duration // how long an answer or an error is good; 0 = not kept

	mu      sync.Mutex
	entries map[string]kept[V]
	dropped int // counts drops: an answer to a question that was asked before one is not kept
	flight  singleflight.Group
}

type kept[V any] struct {
	value V
	err   error
	until time.Time
}

const (
	memoSize     = 1000        // entries; a configuration has far fewer specs that differ
	memoDeadline = time.Minute // of one question; whoever waits has its own deadline, too
)

// get returns the answer for a key, asking if there is none. The question outlives the caller that asked it, since others may wait for it.
func (m *memo[V]) get(ctx context.Context, key string, ask func(context.Context) (V, error)) (V, error) {
	if e, ok, _ := m.look(key); ok {
		return e.value, e.err
	}
	ch := m.flight.DoChan(key, func() (any, error) {
		e, ok, dropped := m.look(key) // the question of somebody else may have been answered since
		if ok {
			return e.value, e.err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), memoDeadline)
		defer cancel()
		v, err := ask(ctx)
		m.put(key, kept[V]{v, err, time.Now().Add(m.keep(v, err))}, dropped)
		return v, err
	})
	select {
	case r := <-ch:
		v, _ := r.Val.(V)
		return v, r.Err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
}

// look returns what is known of a key, if it is still good, and how much was dropped before.
func (m *memo[V]) look(key string) (e kept[V], ok bool, dropped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok = m.entries[key]
	return e, ok && time.Now().Before(e.until), m.dropped
}

func (m *memo[V]) put(key string, e kept[V], dropped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.dropped != dropped || !e.until.After(now) {
		return
	}
	if m.entries == nil {
		m.entries = map[string]kept[V]{}
	}
	if len(m.entries) >= memoSize {
		for k, old := range m.entries {
			if !old.until.After(now) {
				delete(m.entries, k)
			}
		}
		if len(m.entries) >= memoSize {
			clear(m.entries)
		}
	}
	m.entries[key] = e
}

// drop forgets a key: its answer has turned out to be wrong.
func (m *memo[V]) drop(key string) {
	m.mu.Lock()
	delete(m.entries, key)
	m.dropped++
	m.mu.Unlock()
	m.flight.Forget(key)
}
