package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

func snapOf(c core.Config) store.ConfigSnapshot {
	return store.ConfigSnapshot{Generation: c.Generation}
}

// failing is a store whose disk can be full.
type failing struct {
	store.Store
	full   atomic.Bool
	tries  atomic.Int64
	before func() error // an error is the commit's
	after  func() error // of a commit that went through
	failed func()
}

func (f *failing) Commit(ctx context.Context, tx store.Tx) error {
	f.tries.Add(1)
	err := f.commit(ctx, tx)
	if err != nil && f.failed != nil {
		f.failed()
	}
	return err
}

func (f *failing) commit(ctx context.Context, tx store.Tx) error {
	if f.full.Load() {
		return fmt.Errorf("commit: %w", store.ErrNoSpace)
	}
	if f.before != nil {
		if err := f.before(); err != nil {
			return err
		}
	}
	if err := f.Store.Commit(ctx, tx); err != nil || f.after == nil {
		return err
	}
	return f.after()
}

func (w *world) failing() *failing {
	f := &failing{}
	w.wrap = func(s store.Store) store.Store {
		f.Store = s
		return f
	}
	return f
}

func TestNothingIsAnsweredOrDoneBeforeItIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		f := w.failing()
		w.start()
		f.full.Store(true)
		submitted := make(chan error, 1)
		go func() {
			_, err := w.e.SubmitWith(context.Background(), []model.Request{{Builder: "b"}}, nil)
			submitted <- err
		}()
		time.Sleep(time.Hour)
		select {
		case err := <-submitted:
			t.Errorf("answered (%v) while the disk is full", err)
		default:
		}
		if n := w.cloud.count("create"); n != 0 {
			t.Errorf("%d instances were asked for before the intent was stored", n)
		}
		if n := f.tries.Load(); n > 3600/5+20 {
			t.Errorf("%d attempts in an hour", n)
		}
		var trouble *Trouble
		if err := w.e.Health(); !errors.As(err, &trouble) || !errors.Is(err, store.ErrNoSpace) || trouble.Tries < 100 ||
			!strings.HasPrefix(err.Error(), "the state cannot be stored since "+trouble.Since.UTC().Format("2006-01-02T15:04:05Z: ")) { // the reader may be in another time zone
			t.Errorf("health: %v", err)
		}
		if _, err := w.e.Submit(t.Context(), []model.Request{{Builder: "b"}}); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("a new request while the disk is full: %v", err)
		}
		if _, err := w.e.Snapshot(t.Context()); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("a snapshot while the disk is full: %v", err)
		}
		if w.e.Latest() == nil {
			t.Error("no latest snapshot")
		}
		f.full.Store(false)
		if err := <-submitted; err != nil {
			t.Error(err)
		}
		if r := w.wait(1); r != model.Success {
			t.Errorf("the result is %s", r)
		}
		if err := w.e.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
		w.stop(core.StopDrain)
	})
}

func TestAFullDiskDoesNotKeepTheMasterFromStopping(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		f := w.failing()
		w.run = until
		w.start()
		w.submit(1)
		time.Sleep(10 * time.Second)
		f.full.Store(true)
		asked := make(chan error, 1)
		go func() { asked <- w.e.Do(context.Background(), core.PauseAsked{Worker: "w1", Reason: "x"}) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := w.e.Stop(ctx, core.StopKeep); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v", err)
		}
		if err := <-w.ran; !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("run: %v", err)
		}
		if err := <-asked; !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("what could not be stored was answered with %v", err)
		}
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
		w.agents.Wait()
	})
}

func TestSavedStepsAreDurableAndBadOnesHurtNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start()
		tx := store.Tx{Steps: []model.Step{{Build: 3, Number: 1, Name: "x", Result: model.NoResult}}, Meta: map[string]string{"k": "v"}}
		if err := w.e.Save(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if got, err := w.db.Steps(t.Context(), 3); err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if err := w.e.Save(t.Context(), store.Tx{Props: []store.BuildProperties{{Build: 1, Properties: model.Properties{"f": {Value: func() {}}}}}}); err == nil {
			t.Error("a function was saved as a property")
		}
		if err := w.e.Save(t.Context(), store.Tx{Requests: []model.Request{{}}}); err == nil {
			t.Error("a request got past the core")
		}
		ids, err := w.e.SubmitWith(t.Context(), []model.Request{{Builder: "b"}, {Builder: "b"}}, func(ids []model.RequestID) store.Tx {
			return store.Tx{Steps: []model.Step{{Build: 4, Name: fmt.Sprint(ids)}}}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.db.Steps(t.Context(), 4); err != nil || len(got) != 1 || got[0].Name != fmt.Sprint(ids) {
			t.Errorf("%v, %v", got, err)
		}
		w.stop(core.StopDrain)
	})
}

// TestACrashAtAnyCommitLosesNothing ends a master at each commit of a build's life: once right after the commit, so that its effects never
// start, and once when they have started, at the moment at which the next commit would be made. Then another master takes over.
func TestACrashAtAnyCommitLosesNothing(t *testing.T) {
	t.Parallel()
	for _, effects := range []bool{false, true} {
		for at, more := int64(1), true; more; at++ {
			t.Run(fmt.Sprintf("commit %d, effects %v", at, effects), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { more = crashAt(t, at, effects) })
			})
			if !more && at < 8 {
				t.Errorf("a build's life has %d commits only", at)
			}
		}
	}
}

// crashAt returns false when the master had come to its end before that commit.
func crashAt(t *testing.T, at int64, effects bool) bool {
	w := newWorld(t)
	f := w.failing()
	crash := make(chan struct{})
	var n atomic.Int64
	f.before = func() error {
		if effects && n.Load() == at {
			return errors.New("crashed")
		}
		return nil
	}
	f.after = func() error {
		if n.Add(1) == at && !effects {
			f.full.Store(true)
			return errors.New("crashed")
		}
		return nil
	}
	f.failed = sync.OnceFunc(func() { close(crash) })
	w.run = func(ctx context.Context, job Job) Outcome {
		select {
		case <-time.After(3 * time.Second):
			return Outcome{Result: model.Success}
		case <-ctx.Done():
			return until(ctx, job)
		}
	}
	w.open()
	w.ran = make(chan error, 1)
	first, client := w.e, make(chan model.Result, 1)
	go func() { w.ran <- first.Run(context.Background()) }()
	go func() {
		defer close(client)
		ctx := context.Background()
		if first.Apply(ctx, w.cfg, snapOf(w.cfg)) != nil {
			return
		}
		if ids, err := first.SubmitWith(ctx, []model.Request{{Builder: "b"}}, nil); err == nil {
			if r, err := first.Wait(ctx, ids[0]); err == nil {
				client <- r
			}
		}
	}()
	crashed := true
	select {
	case <-crash:
	case <-time.After(time.Hour): // long after the worker's build_wait_timeout
		crashed = false
	}
	w.mu.Lock()
	w.deaf = true // from here on its agents cannot reach it
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = first.Stop(ctx, core.StopKeep)
	<-w.ran
	<-client
	if err := w.db.Close(); err != nil {
		t.Error(err)
	}
	w.agents.Wait()
	if !crashed {
		return false
	}

	w.wrap, w.deaf = nil, false
	w.start()
	for key, worker := range w.cloud.living() {
		w.attach(w.e, worker, model.InstanceKey(key))
	}
	id := model.RequestID(1)
	if _, err := w.db.Request(t.Context(), id); errors.Is(err, store.ErrNotFound) {
		id = w.submit(1)[0] // the client had no answer, and asks again
	}
	if r := w.wait(id); r != model.Success {
		t.Errorf("the result is %s", r)
	}
	time.Sleep(time.Hour)
	if n := w.cloud.live(); n != 0 {
		t.Errorf("%d instances are left when all is quiet", n)
	}
	if w.cloud.mostLive > 1 {
		t.Errorf("%d instances at once for one request", w.cloud.mostLive)
	}
	builds, err := w.db.Builds(t.Context(), store.BuildFilter{Request: id})
	if err != nil {
		t.Fatal(err)
	}
	success := 0
	for _, b := range builds {
		if b.Phase != model.BuildDone {
			t.Errorf("build %d never ended", b.ID)
		}
		if b.Result == model.Success {
			success++
		}
	}
	if success != 1 {
		t.Errorf("%d of %d builds succeeded", success, len(builds))
	}
	w.stop(core.StopKeep)
	return true
}
