package ec2

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// This file bounds what prices may cost those who ask for them: a plan or a launch needs none of them.

const (
	priceWait  = 2 * time.Second  // a plan or a launch goes on without the prices of which none has come for so long
	priceAsk   = 10 * time.Second // one question; it outlives those who asked, so that the next ones find the answer of a slow service
	priceGrace = time.Minute      // for so long after a failure nobody waits; questions are asked nevertheless, and the first answer ends it
)

var (
	errLatePrices = errors.New("no price came within " + priceWait.String())
	errPricesDown = errors.New("somebody has just asked for a price in vain")
	errSilent     = errors.New("no answer within " + priceWait.String())
)

// priceSource is one of the services that know prices, as those who wait see it.
type priceSource struct {
	down string // what is told of a failure, with its consequence
	log  *slog.Logger

	mu     sync.Mutex
	last   time.Time // of the last answer
	failed time.Time // of the last failure, or when somebody waited in vain, if nothing was answered since
	told   bool      // of this failure
}

// heard notes an answer, or the failure that came instead of one. A failure is told once until there is an answer again.
func (s *priceSource) heard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.last, s.failed, s.told = time.Now(), time.Time{}, false
		return
	}
	s.failed = time.Now()
	if !s.told {
		s.told = true
		s.log.Warn(s.down, "error", err)
	}
}

// silent notes that a question has waited for priceWait. Others may have been answered: then it only waits for its turn.
func (s *priceSource) silent() {
	if time.Since(s.answeredAt()) >= priceWait {
		s.heard(errSilent)
	}
}

func (s *priceSource) answeredAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// skip lets nobody wait for this source for a while. What is wrong with it is not known yet, if anything is.
func (s *priceSource) skip() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = time.Now()
}

func (s *priceSource) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.failed.IsZero() && time.Since(s.failed) < priceGrace
}

// patiently is the context of somebody who waits for prices: it ends when none has come for priceWait. Where many are asked for, their turns
// (see governor) may take longer than that.
func (c *chooser) patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		t := time.NewTimer(priceWait)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			last := c.spotPrices.answeredAt()
			if at := c.listPrices.answeredAt(); at.After(last) {
				last = at
			}
			left := priceWait - time.Since(last)
			if left <= 0 {
				c.spotPrices.skip() // both: a plan that has waited for one does not begin to wait for the other
				c.listPrices.skip()
				cancel(errLatePrices)
				return
			}
			t.Reset(left)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// askPrice answers from a memo, or asks. ctx is that of somebody who waits patiently.
func askPrice[V any](ctx context.Context, s *priceSource, m *memo[V], key string, ask func(context.Context) (V, error)) (V, error) {
	if s.isDown() {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		cancel(errPricesDown) // what is known is found nevertheless
	}
	return m.get(ctx, key, func(ctx context.Context) (V, error) {
		ctx, cancel := context.WithTimeout(optional(ctx), priceAsk)
		defer cancel()
		defer time.AfterFunc(priceWait, s.silent).Stop()
		return ask(ctx)
	})
}
