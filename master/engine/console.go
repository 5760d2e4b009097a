package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
)

// consolePoll is how often a console is read anew whose provider cannot be followed.
const consolePoll = 2 * time.Second

// ReadConsole writes what an instance has printed; with follow, it goes on until the instance ends (nil) or ctx does. It is masked by Options.Mask.
func (e *Engine) ReadConsole(ctx context.Context, key model.InstanceKey, follow bool, w io.Writer) error {
	sn, err := e.Snapshot(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(sn.Instances, func(v core.InstanceView) bool { return v.Instance.Key == key })
	if at < 0 {
		return fmt.Errorf("console of instance %s: it is not there (any more): %w", key, store.ErrNotFound)
	}
	provider := sn.Instances[at].Instance.Provider
	var c *caller
	found := make(chan struct{})
	if err := e.send(ctx, item{after: func() { c = e.loop.callers[provider]; close(found) }}); err != nil {
		return err
	}
	select {
	case <-found:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.left:
		return ErrStopped
	}
	if c == nil {
		return fmt.Errorf("console of instance %s: %w", key, errNoProvider)
	}
	out, flush := w, func() error { return nil }
	if e.o.Mask != nil {
		out, flush = e.o.Mask(ctx, sn.Instances[at].Instance.Worker, key, w)
	}
	err = c.showConsole(ctx, key, follow, out)
	if flushErr := flush(); err == nil {
		err = flushErr
	}
	if err != nil {
		return fmt.Errorf("console of instance %s: %w", key, err)
	}
	return nil
}

func (c *caller) showConsole(ctx context.Context, key model.InstanceKey, follow bool, w io.Writer) error {
	f, ok := c.opened.Provider.(providers.ConsoleFollower)
	if !follow || !ok {
		return c.pollConsole(ctx, key, follow, w)
	}
	c.mu.Lock()
	if c.closed || c.closing {
		c.mu.Unlock()
		return errors.New("the provider is closed")
	}
	c.inside++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inside--
		c.mayClose()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.e.calling, cancel)()
	return f.FollowConsole(ctx, providers.Key(key), w)
}

// pollConsole writes what is new each time: what follows the longest end of the last answer that is still there.
func (c *caller) pollConsole(ctx context.Context, key model.InstanceKey, follow bool, w io.Writer) error {
	var last []byte
	for {
		out, err := c.console(key)
		if err != nil {
			if last != nil && providers.ClassOf(err) == providers.NotFound { // it has ended
				return nil
			}
			return err
		}
		if _, err := w.Write(fresh(last, out)); err != nil || !follow {
			return err
		}
		last = out
		t := time.NewTimer(consolePoll)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-c.e.calling.Done():
			t.Stop()
			return ErrStopped
		}
	}
}

// fresh is the part of now that was not in last, both being the ends of one text.
func fresh(last, now []byte) []byte {
	if bytes.HasPrefix(now, last) {
		return now[len(last):]
	}
	for skip := 1; skip < len(last); skip++ {
		if bytes.HasPrefix(now, last[skip:]) {
			return now[len(last)-skip:]
		}
	}
	return now
}
