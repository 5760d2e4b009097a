package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

func TestARequestBecomesAnInstanceABuildAndNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start()
		ids := w.submit(1)
		if r := w.wait(ids[0]); r != model.Success {
			t.Errorf("the result is %s", r)
		}
		if r := w.wait(ids[0]); r != model.Success { // from the store
			t.Errorf("the second answer is %s", r)
		}
		if n := w.cloud.live(); n != 1 {
			t.Errorf("%d instances live while the worker is kept warm", n)
		}
		w.stop(core.StopDrain)
		if n := w.cloud.live(); n != 0 {
			t.Errorf("%d instances are left behind", n)
		}
		if !w.cloud.closed {
			t.Error("the provider was not closed")
		}
	})
}

func TestASnapshotShowsWhatItsCallerWasToldIsDone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deaf = true
		w.start()
		for n := range 5 {
			w.submit(1)
			if got := len(w.snapshot().Requests); got != n+1 {
				t.Errorf("after %d requests the snapshot has %d", n+1, got)
			}
		}
		if err := w.e.Do(t.Context(), core.PauseAsked{Worker: "w1", Reason: "x"}); err != nil {
			t.Fatal(err)
		}
		if p := w.snapshot().Workers[0].Paused; p != "x" {
			t.Errorf("paused: %q", p)
		}
		if got := len(w.e.Latest().Requests); got != 5 {
			t.Errorf("the latest snapshot has %d requests", got)
		}
		ex, err := w.e.Explain(t.Context(), 5)
		if err != nil || len(ex.Candidates) != 1 {
			t.Errorf("explain: %+v, %v", ex, err)
		}
		if _, err := w.e.Explain(t.Context(), 99); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("explain of an unknown request: %v", err)
		}
		w.stop(core.StopTerminate)
	})
}

func TestLatestNeverBlocksAndCatchesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deaf = true
		w.start()
		w.submit(3)
		w.e.Latest()
		synctest.Wait()
		if got := len(w.e.Latest().Requests); got != 3 {
			t.Errorf("the latest snapshot has %d requests", got)
		}
		w.stop(core.StopTerminate)
	})
}

func TestCancelWhileTheInstanceBootsEndsTheRequestAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deaf = true
		w.start()
		id := w.submit(1)[0]
		synctest.Wait()
		began := time.Now()
		if err := w.e.Do(t.Context(), core.CancelAsked{Request: id, Reason: "changed my mind"}); err != nil {
			t.Fatal(err)
		}
		if r := w.wait(id); r != model.Cancelled || time.Since(began) > 0 {
			t.Errorf("%s after %s", r, time.Since(began))
		}
		w.stop(core.StopDrain)
	})
}

func TestAStoppedBuildLearnsWhy(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run = until
		w.start()
		id := w.submit(1)[0]
		time.Sleep(10 * time.Second)
		if err := w.e.Do(t.Context(), core.CancelAsked{Request: id, Reason: "enough"}); err != nil {
			t.Fatal(err)
		}
		if r := w.wait(id); r != model.Cancelled {
			t.Errorf("the result is %s", r)
		}
		req, err := w.db.Request(t.Context(), id)
		if err != nil || req.Text != "enough" {
			t.Errorf("the text is %q, %v", req.Text, err)
		}
		w.stop(core.StopDrain)
	})
}

func TestABuildThatPanicsIsAnException(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run = func(context.Context, Job) Outcome { panic("boo") }
		w.start()
		id := w.submit(1)[0]
		if r := w.wait(id); r != model.Exception {
			t.Errorf("the result is %s", r)
		}
		req, err := w.db.Request(t.Context(), id)
		if err != nil || req.Text != "internal error: boo" {
			t.Errorf("the text is %q, %v", req.Text, err)
		}
		w.stop(core.StopDrain)
	})
}

func TestStopKeepLeavesRunningBuildsToTheNextMaster(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run = until
		w.start()
		id := w.submit(1)[0]
		time.Sleep(10 * time.Second)
		if n := len(w.ranJobs()); n != 1 {
			t.Fatalf("%d builds run", n)
		}
		w.stop(core.StopKeep)
		if n := w.cloud.live(); n != 1 {
			t.Errorf("%d instances are kept", n)
		}

		// The agent was not told anything. It comes back to the next master, and the build goes on.
		w.cloud.closed = false
		w.succeeds()
		w.start()
		sn := w.snapshot()
		if len(sn.Builds) != 1 || sn.Builds[0].Phase != model.BuildRunning {
			t.Fatalf("the builds are %+v", sn.Builds)
		}
		w.attach(w.e, "w1", sn.Instances[0].Instance.Key)
		if r := w.wait(id); r != model.Success {
			t.Errorf("the result is %s", r)
		}
		jobs := w.ranJobs()
		if len(jobs) != 2 || !jobs[1].Resume || jobs[1].Build.ID != jobs[0].Build.ID {
			t.Errorf("the builds that ran are %+v", jobs)
		}
		w.stop(core.StopDrain)
		if w.cloud.made != 1 {
			t.Errorf("%d instances were made", w.cloud.made)
		}
	})
}

func TestStopDrainLetsBuildsEndAndIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run = func(ctx context.Context, job Job) Outcome {
			select {
			case <-time.After(time.Minute):
				return Outcome{Result: model.Success}
			case <-ctx.Done():
				return until(ctx, job)
			}
		}
		w.start()
		id := w.submit(1)[0]
		time.Sleep(10 * time.Second)
		w.stop(core.StopDrain)
		w.start()
		if r := w.wait(id); r != model.Success {
			t.Errorf("the result is %s", r)
		}
		if n := w.cloud.live(); n != 0 {
			t.Errorf("%d instances are left", n)
		}

		w.submit(1)
		time.Sleep(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.e.Stop(ctx, core.StopDrain); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a drain that takes too long says %v", err)
		}
		w.close()
		if n := w.cloud.live(); n != 1 {
			t.Errorf("%d instances are kept", n)
		}
	})
}

func TestWhatComesAfterTheEndIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start()
		w.stop(core.StopKeep)
		if _, err := w.e.Submit(t.Context(), []model.Request{{Builder: "b"}}); !errors.Is(err, ErrStopped) {
			t.Errorf("submit: %v", err)
		}
		w.e.Deliver(core.Detached{})
		if err := w.e.Health(); !errors.Is(err, ErrStopped) {
			t.Errorf("health: %v", err)
		}
		if err := w.e.Stop(t.Context(), core.StopKeep); err != nil {
			t.Errorf("a second stop: %v", err)
		}
	})
}

func TestTheEndOfRunsContextIsAStopThatKeeps(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run = until
		w.open()
		ctx, cancel := context.WithCancel(t.Context())
		w.ran = make(chan error, 1)
		go func() { w.ran <- w.e.Run(ctx) }()
		w.apply()
		w.submit(1)
		time.Sleep(10 * time.Second)
		cancel()
		w.close()
		if n := w.cloud.live(); n != 1 {
			t.Errorf("%d instances are kept", n)
		}
	})
}

func TestRequestsOfOneSourceAndNoPatchShareAKey(t *testing.T) {
	t.Parallel()
	key := func(r model.Request) string {
		k, err := sourceKey(&r)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := model.Request{Source: model.Source{Revision: "a"}, Properties: model.Properties{"x": {Value: 1.0}, "y": {Value: 2.0}}}
	same := base
	same.Reason, same.Priority, same.ID = "other", 5, 7
	other, props, patched := base, base, base
	other.Source.Revision = "b"
	props.Properties = model.Properties{"x": {Value: 2.0}}
	patched.Source.Patch = &model.Patch{Body: []byte("x")}
	if key(base) == "" || key(base) != key(same) {
		t.Error("equal requests have different keys")
	}
	if key(base) == key(other) || key(base) == key(props) {
		t.Error("different requests share a key")
	}
	if key(patched) != "" {
		t.Error("a patch is shared")
	}
	if _, err := sourceKey(&model.Request{Properties: model.Properties{"f": {Value: func() {}}}}); err == nil {
		t.Error("a property that cannot be stored was accepted")
	}
}

// A master whose start fails stops an engine that may not have begun: that is no second error.
func TestAnEngineThatIsStoppedBeforeItRunsEndsInPeace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	if err := w.e.Stop(t.Context(), core.StopKeep); err != nil {
		t.Fatal(err)
	}
	if err := w.e.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.db.Close(); err != nil {
		t.Error(err)
	}
}
