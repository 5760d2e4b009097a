package ec2

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func kept5m(_ int, err error) time.Duration {
	if err != nil {
		return 0
	}
	return 5 * time.Minute
}

func TestManyWhoAskAtOnceAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memo[int]{keep: kept5m}
		var asked atomic.Int32
		ask := func(context.Context) (int, error) {
			time.Sleep(time.Second)
			return int(asked.Add(1)), nil
		}
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				if v, err := m.get(t.Context(), "k", ask); v != 1 || err != nil {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		all.Wait()
		time.Sleep(4 * time.Minute)
		if v, _ := m.get(t.Context(), "k", ask); v != 1 {
			t.Errorf("a fresh answer was asked for again")
		}
		time.Sleep(2 * time.Minute)
		if v, _ := m.get(t.Context(), "k", ask); v != 2 {
			t.Errorf("an old answer was given: %d", v)
		}
	})
}

func TestAQuestionOutlivesTheOneWhoAskedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memo[int]{keep: kept5m}
		ask := func(ctx context.Context) (int, error) {
			select {
			case <-time.After(time.Second):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		first, cancel := context.WithCancel(t.Context())
		go func() {
			if _, err := m.get(first, "k", ask); !errors.Is(err, context.Canceled) {
				t.Errorf("the first one got %v", err)
			}
		}()
		synctest.Wait()
		go func() {
			time.Sleep(time.Millisecond)
			cancel()
		}()
		if v, err := m.get(t.Context(), "k", ask); v != 7 || err != nil {
			t.Errorf("the second one got %d, %v", v, err)
		}
		cancel()
	})
}

func TestAHungQuestionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memo[int]{keep: kept5m}
		start := time.Now()
		_, err := m.get(t.Context(), "k", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != memoDeadline {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestAnAnswerFromBeforeADropIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memo[int]{keep: kept5m}
		go func() {
			_, _ = m.get(t.Context(), "k", func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil })
		}()
		synctest.Wait()
		m.drop("k")
		two := func(context.Context) (int, error) { return 2, nil }
		if v, _ := m.get(t.Context(), "k", two); v != 2 {
			t.Errorf("right after the drop: %d", v)
		}
		time.Sleep(2 * time.Second)
		if v, _ := m.get(t.Context(), "k", two); v != 2 {
			t.Errorf("the answer from before the drop came back: %d", v)
		}
	})
}

func TestErrorsAreNotKeptUnlessToldSoAndTheMemoIsBounded(t *testing.T) {
	t.Parallel()
	m := memo[int]{keep: kept5m}
	asked := 0
	for range 2 {
		if _, err := m.get(t.Context(), "k", func(context.Context) (int, error) { asked++; return 0, errors.New("no") }); err == nil {
			t.Error("no error")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	for i := range 3 * memoSize {
		_, _ = m.get(t.Context(), fmt.Sprint(i), func(context.Context) (int, error) { return 0, nil })
	}
	if len(m.entries) > memoSize {
		t.Errorf("%d entries", len(m.entries))
	}
}
