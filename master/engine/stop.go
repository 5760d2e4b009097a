package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

const (
	stopTimeout   = time.Minute      // of a Stop that nobody bounds
	detachTimeout = 10 * time.Second // for builds to let go of their workers
	callTimeout   = 2 * time.Second  // for calls of providers that are under way
)

// Stop ends Run. With StopKeep, builds are left as they are for the next master to resume, and instances too. With StopDrain and StopTerminate
// it first waits until no build runs and no instance is left; when ctx ends before, what is left is kept, and the error says so.
// When it returns, everything that was acknowledged is stored, and nothing of the engine's runs any more but what ignores its context.
func (e *Engine) Stop(ctx context.Context, policy core.StopPolicy) error {
	if e.life.CompareAndSwap(notYet, unused) { // it never ran
		e.finish()
		return nil
	}
	e.stopping.Lock()
	defer e.stopping.Unlock()
	if errors.Is(e.Health(), ErrStopped) {
		<-e.ended
		return nil
	}
	quiet := make(chan struct{})
	err := e.ask(ctx, item{event: core.Stopping{Policy: policy}, after: func() {
		if policy == core.StopKeep {
			close(quiet)
		} else {
			e.loop.quiet = quiet
		}
	}})
	if err == nil {
		select {
		case <-quiet:
		case <-e.left:
		case <-ctx.Done():
			err = fmt.Errorf("stop the engine (%s): %w; what is left is kept for the next master%s", policy, context.Cause(ctx), e.remains())
		}
	}

	e.detaching.Store(true)
	e.detach(ErrDetach)
	if !e.runs.within(detachTimeout) {
		e.log.Warn("engine: builds do not let go of their workers; the next master resumes them", "seconds", detachTimeout.Seconds())
	}
	hold := make(chan struct{})
	if serr := e.send(ctx, item{after: func() {
		for _, c := range e.loop.callers {
			c.stop()
		}
		close(hold)
	}}); serr == nil {
		select {
		case <-hold:
			e.work.within(callTimeout) // an answer that is known is worth a moment: the next master need not look
		case <-ctx.Done():
		case <-e.left:
		}
	}
	e.hangUp()
	close(e.leave)
	select {
	case <-e.left:
	case <-ctx.Done():
		close(e.abandon)
	}
	<-e.ended
	return err
}

// remains says what is left, for people.
func (e *Engine) remains() string {
	sn := e.latest.Load()
	return fmt.Sprintf(" (at most %d instances and %d builds)", len(sn.Instances), len(sn.Builds))
}

// nothingLeft makes a snapshot for each turn, but only while the engine drains.
func (l *loop) nothingLeft() bool {
	sn := l.state.Snapshot(l.e.clock.now())
	l.e.latest.Store(sn)
	return len(sn.Instances) == 0 && len(sn.Builds) == 0
}

// finish cleans up behind the loop.
func (e *Engine) finish() {
	close(e.left)
	defer close(e.ended)
	e.detaching.Store(true)
	e.detach(ErrDetach)
	e.hangUp()
	for _, c := range e.loop.callers {
		c.stop()
		c.retire()
	}
	e.runs.within(detachTimeout)
	if !e.work.within(callTimeout) {
		e.log.Warn("engine: calls of providers have not returned", "seconds", callTimeout.Seconds())
	}
	for { // those who came too late
		select {
		case it := <-e.inbox:
			if it.done != nil {
				it.done <- ErrStopped
			}
		default:
			return
		}
	}
}
