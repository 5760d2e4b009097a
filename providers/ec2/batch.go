package ec2

import (
	"context"
	"sync"
	"time"
)

// batcher merges what many callers ask for within a short time into few calls. A batch that fails falls apart into calls of one item each, so
// that one bad item fails alone.
type batcher[R any] struct {
	window   time.Duration // from the first item of a batch to its call
	size     int           // items of one call
	deadline time.Duration // of one call
	base     context.Context
	work     *sync.WaitGroup
	run      func(ctx context.Context, items []string) (map[string]R, error)

	mu   sync.Mutex
	open *batch[R] // collects
}

type batch[R any] struct {
	items []string
	full  chan struct{} // closed when it has its size
	done  chan struct{} // closed when results are there
	got   map[string]outcome[R]
}

type outcome[R any] struct {
	value R
	err   error
}

// do asks for one item and waits for its result. The call goes on when ctx ends: others are in it.
func (b *batcher[R]) do(ctx context.Context, item string) (R, error) {
	var zero R
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if b.base.Err() != nil {
		return zero, errClosed
	}
	b.mu.Lock()
	t := b.open
	if t == nil {
		t = &batch[R]{full: make(chan struct{}), done: make(chan struct{})}
		b.open = t
		b.work.Go(func() { b.collect(t) })
	}
	t.items = append(t.items, item)
	if len(t.items) >= b.size {
		b.open = nil
		close(t.full)
	}
	b.mu.Unlock()
	select {
	case <-t.done:
		return t.got[item].value, t.got[item].err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

func (b *batcher[R]) collect(t *batch[R]) {
	timer := time.NewTimer(b.window)
	defer timer.Stop()
	select {
	case <-t.full:
	case <-timer.C:
	case <-b.base.Done():
	}
	b.mu.Lock()
	if b.open == t {
		b.open = nil
	}
	items := unique(t.items) // nobody appends any more
	b.mu.Unlock()

	t.got = map[string]outcome[R]{}
	defer close(t.done)
	all, err := b.call(items)
	if err == nil || len(items) == 1 {
		for _, item := range items {
			t.got[item] = outcome[R]{all[item], err}
		}
		return
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, item := range items {
		wg.Go(func() {
			one, err := b.call([]string{item})
			mu.Lock()
			defer mu.Unlock()
			t.got[item] = outcome[R]{one[item], err}
		})
	}
	wg.Wait()
}

func (b *batcher[R]) call(items []string) (map[string]R, error) {
	ctx, cancel := context.WithTimeout(b.base, b.deadline)
	defer cancel()
	return b.run(ctx, items)
}

func unique(items []string) []string {
	seen := map[string]bool{}
	var list []string
	for _, s := range items {
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}
