package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// results counts what comes back for each operation, by looking into the inbox instead of running the core.
func results(e *Engine) (ops map[model.OpID][]core.OpResult, lists map[model.OpID][]core.Listed) {
	ops, lists = map[model.OpID][]core.OpResult{}, map[model.OpID][]core.Listed{}
	for {
		select {
		case it := <-e.inbox:
			switch ev := it.event.(type) {
			case core.OpDone:
				ops[ev.Op] = append(ops[ev.Op], ev.Result)
			case core.Listed:
				lists[ev.Op] = append(lists[ev.Op], ev)
			}
		default:
			return ops, lists
		}
	}
}

// calling runs a test with an engine whose loop does not run: effects are started by hand.
func calling(t *testing.T, f func(t *testing.T, w *world)) {
	bubble(t, func(t *testing.T, w *world) {
		w.deaf = true
		w.open()
		f(t, w)
		if err := w.e.Stop(context.Background(), core.StopKeep); err != nil {
			t.Error(err)
		}
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
		w.agents.Wait()
	})
}

func create(n int) core.CreateInstance {
	return core.CreateInstance{Op: model.OpID(n), Provider: "p", Worker: "w1", Key: model.InstanceKey(fmt.Sprint("k", n))}
}

func TestEachCallHasExactlyOneResult(t *testing.T) {
	instance := providers.Instance{ID: "i", State: providers.Running, Detail: "d"}
	for _, tc := range []struct {
		name   string
		create func(ctx context.Context, req providers.CreateRequest) (providers.Instance, error)
		want   core.OpResult
		after  time.Duration
	}{
		{"success", func(context.Context, providers.CreateRequest) (providers.Instance, error) { return instance, nil },
			core.OpResult{Class: core.OpOK, ProviderID: "i", State: core.SightRunning, Detail: "d"}, 0},
		{"classed error", func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			return instance, fmt.Errorf("wrapped: %w", providers.Errorf(providers.NoCapacity, "create", "full"))
		}, core.OpResult{Class: core.OpNoCapacity, Detail: "wrapped: create: full (no-capacity)"}, 0},
		{"error without a class", func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			return instance, errors.New("hm")
		}, core.OpResult{Class: core.OpUnknown, Detail: "hm"}, 0},
		{"long error", func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			return instance, errors.New(strings.Repeat("ü", 400))
		}, core.OpResult{Class: core.OpUnknown, Detail: strings.Repeat("ü", 250) + "…"}, 0},
		{"panic", func(context.Context, providers.CreateRequest) (providers.Instance, error) { panic("boo") },
			core.OpResult{Class: core.OpUnknown, Detail: "internal error: boo"}, 0},
		{"hang that heeds its context", func(ctx context.Context, _ providers.CreateRequest) (providers.Instance, error) {
			<-ctx.Done()
			return instance, providers.Errorf(providers.Transient, "create", "%w", ctx.Err())
		}, core.OpResult{Class: core.OpUnknown, Detail: "create: context deadline exceeded (transient)"}, time.Minute},
		{"hang that does not", func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			time.Sleep(time.Hour)
			return instance, nil
		}, core.OpResult{Class: core.OpUnknown, Detail: "no answer within 1m0s"}, time.Minute + lateAnswer},
		{"just in time", func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			time.Sleep(time.Minute)
			return instance, nil
		}, core.OpResult{Class: core.OpOK, ProviderID: "i", State: core.SightRunning, Detail: "d"}, time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calling(t, func(t *testing.T, w *world) {
				w.cloud.create = tc.create
				w.e.loop.effect(create(1), time.Now())
				synctest.Wait()
				if ops, _ := results(w.e); tc.after > 0 && len(ops) > 0 {
					t.Errorf("a result before its time: %+v", ops)
				} else if tc.after > 0 {
					time.Sleep(tc.after)
					synctest.Wait()
					ops, _ = results(w.e)
					check(t, ops[1], tc.want)
				} else {
					check(t, ops[1], tc.want)
				}
				time.Sleep(2 * time.Hour) // what returns late is dropped
				synctest.Wait()
				if ops, _ := results(w.e); len(ops) > 0 {
					t.Errorf("a second result: %+v", ops)
				}
			})
		})
	}
}

func check(t *testing.T, got []core.OpResult, want core.OpResult) {
	t.Helper()
	if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("results %+v, want %+v", got, want)
	}
}

func TestACallForAnUnknownProviderIsAnswered(t *testing.T) {
	calling(t, func(t *testing.T, w *world) {
		w.e.loop.effect(core.CheckInstance{Op: 1, Provider: "gone", Key: "k"}, time.Now())
		w.e.loop.effect(core.ListInstances{Op: 2, Provider: "gone"}, time.Now())
		synctest.Wait()
		ops, lists := results(w.e)
		check(t, ops[1], core.OpResult{Class: core.OpTransient, Detail: errNoProvider.Error()})
		if len(lists[2]) != 1 || lists[2][0].Error == "" {
			t.Errorf("list: %+v", lists)
		}
	})
}

func TestADescriptionThatFailsMakesNothing(t *testing.T) {
	calling(t, func(t *testing.T, w *world) {
		w.e.o.Describe = func(string, model.InstanceKey) (any, providers.Agent, error) {
			return nil, providers.Agent{}, errors.New("no such worker")
		}
		w.e.loop.effect(create(1), time.Now())
		synctest.Wait()
		ops, _ := results(w.e)
		check(t, ops[1], core.OpResult{Class: core.OpTransient, Detail: "no such worker"})
		if n := w.cloud.count("create"); n != 0 {
			t.Errorf("%d creates", n)
		}
	})
}

func TestListsCarryWhatTheProviderHas(t *testing.T) {
	calling(t, func(t *testing.T, w *world) {
		w.cloud.have["k"] = "w1"
		now := w.e.clock.now()
		w.e.loop.effect(core.ListInstances{Op: 2, Provider: "p"}, now)
		synctest.Wait()
		_, lists := results(w.e)
		if l := lists[2]; len(l) != 1 || len(l[0].Instances) != 1 || l[0].Instances[0].Key != "k" || l[0].Error != "" || !l[0].AskedAt.Equal(now) {
			t.Errorf("list: %+v", lists)
		}
	})
}

// Calls that hang, all of them, hold their places until their deadline and not a moment longer; nothing that waits is lost.
func TestCallsAreBoundedAndNoneIsDropped(t *testing.T) {
	calling(t, func(t *testing.T, w *world) {
		const n = 30
		w.cloud.create = func(ctx context.Context, _ providers.CreateRequest) (providers.Instance, error) {
			<-ctx.Done()
			return providers.Instance{}, ctx.Err()
		}
		for i := range n {
			w.e.loop.effect(create(i+1), time.Now())
		}
		synctest.Wait()
		if n, _ := w.cloud.load(); n != 3 {
			t.Errorf("%d creates are in flight; one of 4 places is not for them", n)
		}
		w.e.loop.effect(core.DestroyInstance{Op: 1000, Provider: "p", Key: "x"}, time.Now())
		synctest.Wait()
		ops, _ := results(w.e)
		check(t, ops[1000], core.OpResult{Class: core.OpNotFound, Detail: "destroy: no x (not-found)"})
		time.Sleep(n / 3 * time.Minute)
		synctest.Wait()
		ops, _ = results(w.e)
		for i := range n {
			if len(ops[model.OpID(i+1)]) != 1 {
				t.Errorf("call %d has %d results", i+1, len(ops[model.OpID(i+1)]))
			}
		}
		if _, most := w.cloud.load(); most > 4 {
			t.Errorf("%d calls at once", most)
		}
	})
}

func TestAProviderThatNeverReturnsIsNotCalledForEver(t *testing.T) {
	calling(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		var inside atomic.Int64
		w.cloud.create = func(context.Context, providers.CreateRequest) (providers.Instance, error) {
			inside.Add(1)
			<-release
			return providers.Instance{}, nil
		}
		const n = 3 * maxAbandoned
		for i := range n {
			w.e.loop.effect(create(i+1), time.Now())
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		ops, _ := results(w.e)
		if len(ops) != n {
			t.Errorf("%d of %d calls have a result", len(ops), n)
		}
		if got := inside.Load(); got > maxAbandoned+4 {
			t.Errorf("%d calls have not returned", got)
		}
		if last := ops[n]; len(last) != 1 || last[0].Class != core.OpTransient {
			t.Errorf("the last result is %+v", last)
		}
		close(release)
		synctest.Wait()
		w.cloud.create = nil
		w.e.loop.effect(create(n+1), time.Now())
		synctest.Wait()
		ops, _ = results(w.e)
		if r := ops[n+1]; len(r) != 1 || r[0].Class != core.OpOK {
			t.Errorf("after they have returned: %+v", ops)
		}
	})
}

func TestAReplacedProviderIsClosedWhenItsLastCallHasReturned(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		old := w.cloud
		old.create = func(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
			<-release
			return old.make(req), nil
		}
		w.start()
		id := w.submit(1)[0]
		synctest.Wait()
		next := &cloud{w: w, have: old.have, calls: map[string]int{}}
		w.cfg.Generation = 2
		if err := w.e.ApplyWith(t.Context(), w.cfg, snapOf(w.cfg), map[string]Opened{"p": {Provider: next, Limits: w.limits}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if old.closed {
			t.Error("closed under a call")
		}
		close(release)
		if r := w.wait(id); r != model.Success {
			t.Errorf("the result is %s", r)
		}
		old.mu.Lock()
		closed := old.closed
		old.mu.Unlock()
		if !closed {
			t.Error("not closed after its last call")
		}
		w.stop(core.StopDrain)
		if next.count("destroy") == 0 || !next.closed {
			t.Errorf("the new provider: %d destroys, closed %v", next.count("destroy"), next.closed)
		}
	})
}
