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

// ReadConsole writes what an instance has printed; with follow, it goes on until the instance ends (nil) or ctx does. The instance's token is masked, and what
// Options.Hide returns, also where it comes in pieces.
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
	var hide [][]byte
	if e.o.Token != nil {
		hide = append(hide, []byte(e.o.Token(key).Reveal()))
	}
	if e.o.Hide != nil {
		hide = append(hide, e.o.Hide(ctx, sn.Instances[at].Instance.Worker, key)...)
	}
	out, flush := masked(w, hide)
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

// minHidden is the length in bytes from which on a value is masked: a shorter one would mask everything.
const minHidden = 4

// masked is a stream in which none of the values is seen. The longest is taken out first, since one may contain another. What is held back is written by flush.
func masked(w io.Writer, values [][]byte) (out io.Writer, flush func() error) {
	values = slices.SortedStableFunc(slices.Values(values), func(a, b []byte) int { return len(a) - len(b) })
	var chain []*masker
	for _, v := range values {
		if len(v) >= minHidden {
			m := &masker{w: w, token: v}
			chain, w = append(chain, m), m
		}
	}
	return w, func() error {
		for _, m := range slices.Backward(chain) {
			if err := m.flush(); err != nil {
				return err
			}
		}
		return nil
	}
}

// masker hides a token in a stream, also where it comes in pieces: what may be its beginning is kept back until more has come.
type masker struct {
	w     io.Writer
	token []byte
	kept  []byte
}

func (m *masker) Write(b []byte) (int, error) {
	text := append(m.kept, b...)
	if len(m.token) == 0 {
		_, err := m.w.Write(b)
		return len(b), err
	}
	text = bytes.ReplaceAll(text, m.token, []byte(providers.Secret("").String()))
	hold := min(len(m.token)-1, len(text))
	for ; hold > 0 && !bytes.HasPrefix(m.token, text[len(text)-hold:]); hold-- {
	}
	m.kept = bytes.Clone(text[len(text)-hold:])
	_, err := m.w.Write(text[:len(text)-hold])
	return len(b), err
}

func (m *masker) flush() error {
	_, err := m.w.Write(m.kept)
	m.kept = nil
	return err
}
