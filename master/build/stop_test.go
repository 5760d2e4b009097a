package build

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
)

var cancelled = &engine.StopCause{Result: model.Cancelled, Reason: "ann said so"}

// stopping runs the build and cancels its context with the cause at the n-th external call.
func stopping(w *world, n int, cause error) engine.Outcome {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	w.onCall = func(call int) {
		if call == n {
			cancel(cause)
		}
	}
	return w.runner().Run(ctx, w.job(false))
}

func alwaysRun(s *hcl.Step) { s.AlwaysRun = true }

func TestCancelAnywhereEndsTheBuildAndCleansUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	world := func() *world {
		w := everything(t, dir)
		w.add("clean", echo("rm", "-rf", "tmp"), alwaysRun)
		return w
	}
	calm := world()
	calm.run()
	for n := 1; n <= calm.calls; n += 2 {
		w := world()
		out := stopping(w, n, cancelled)
		last := len(w.def.Builder.Steps) - 1
		over := !w.rows[last-1].FinishedAt.IsZero() // the step before was over when the order came
		switch {
		case out.Detached, !over && out.Result != model.Cancelled:
			t.Errorf("call %d: %+v", n, out)
		case out.Result == model.Cancelled && out.Text != "cancelled: ann said so":
			t.Errorf("call %d: %+v", n, out)
		}
		if r := w.rows[last]; r.Result != model.Success && !strings.Contains(w.log(last), "cancelled: ann said so") {
			t.Errorf("call %d: the always_run step: %+v\n%s", n, r, w.log(last))
		}
		for i, row := range w.rows {
			if row.FinishedAt.IsZero() || strings.Contains(w.log(i), "(open)") {
				t.Errorf("call %d: step %d is not closed: %+v\n%s", n, i, row, w.log(i))
			}
		}
	}
}

func TestRetryAnywhereEndsTheBuildAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	calm := everything(t, dir)
	calm.run()
	for n := 1; n <= calm.calls; n += 2 {
		w := everything(t, dir)
		w.add("clean", echo("rm", "-rf", "tmp"), alwaysRun)
		out := stopping(w, n, &engine.StopCause{Result: model.Retry, Reason: "its instance must end"})
		if _, ran := w.rows[7]; ran && w.rows[7].Result == model.Success || out.Result != model.Retry || out.Text != "retry: its instance must end" {
			t.Errorf("call %d: %+v %+v", n, out, w.rows[7])
		}
	}
}

// TestDetachAnywhereLeavesABuildThatGoesOn lets the master stop at each of its external calls; the next one ends the build as if nothing had been.
func TestDetachAnywhereLeavesABuildThatGoesOn(t *testing.T) {
	t.Parallel()
	calm := everything(t, t.TempDir())
	wantOut := calm.run()
	want := summary(calm)
	dir := t.TempDir()
	for n := 1; n <= calm.calls; n += 2 {
		w := everything(t, dir)
		out := stopping(w, n, engine.ErrDetach)
		w.onCall = nil
		if out.Detached {
			out, _ = w.crashing(0, true)
		}
		if diff := cmp.Diff(wantOut, out); diff != "" {
			t.Errorf("call %d: %s", n, diff)
		}
		if diff := cmp.Diff(want, summary(w)); diff != "" {
			t.Errorf("call %d: %s", n, diff)
		}
	}
}

func TestCancelInterruptsARunningCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("hang", echo("sleep", "1000"))
	w.answers["shell"] = answer{hang: true}
	w.add("next", echo("true"))
	if out := stopping(w, 6, cancelled); out.Result != model.Cancelled {
		t.Errorf("%+v", out)
	}
	if got := w.log(0); got != "| cancelled: ann said so\n" {
		t.Errorf("log:\n%s", got)
	}
	if len(w.order) != 1 || len(w.forgot) != 1 {
		t.Error(w.order, w.forgot)
	}
}

func TestDetachLeavesARunningCommandAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("hang", echo("sleep", "1000"))
	w.answers["shell"] = answer{hang: true}
	out := stopping(w, 6, engine.ErrDetach)
	if !out.Detached || len(w.forgot) != 0 || !w.rows[0].FinishedAt.IsZero() || len(w.order) != 1 {
		t.Errorf("%+v, forgot %v, row %+v, order %v", out, w.forgot, w.rows[0], w.order)
	}
	w.onCall = nil
	w.answers["shell"] = answer{}
	if out, _ := w.crashing(0, true); out.Result != model.Success || len(w.order) != 1 {
		t.Errorf("%+v %v", out, w.order)
	}
}

func TestResumeOfACancelledBuildInterruptsItsCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("hang", echo("sleep", "1000"))
	w.add("clean", echo("rm"), alwaysRun)
	w.answers["b12.s0.0"] = answer{hang: true}
	if out := stopping(w, 6, engine.ErrDetach); !out.Detached {
		t.Fatalf("%+v", out)
	}
	w.onCall = nil
	job := w.job(true)
	job.Build.Cancelling = "ann said so"
	out := w.runner().Run(context.Background(), job)
	if out.Result != model.Cancelled || w.rows[0].Result != model.Cancelled || w.rows[1].Result != model.Success {
		t.Errorf("%+v %+v", out, w.rows)
	}
}

func TestCancelOfAWaitingTriggerCancelsItsChildren(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("deps", &hcl.TriggerSpec{Scheduler: "deps", Wait: true, Properties: map[string]any{"x": "y"}})
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var once sync.Once
	w.onCall = func(int) {
		if len(w.kids) == 2 {
			once.Do(func() { time.AfterFunc(time.Millisecond, func() { cancel(cancelled) }) })
		}
	}
	if out := w.runner().Run(ctx, w.job(false)); out.Result != model.Cancelled {
		t.Errorf("%+v", out)
	}
	why := "build 12, which triggered it, was stopped"
	if diff := cmp.Diff([]core.Event{core.CancelAsked{Request: 100, Reason: why}, core.CancelAsked{Request: 101, Reason: why}}, w.events); diff != "" {
		t.Error(diff)
	}
	kid := w.kids[1]
	if kid.Builder != "b" || kid.Parent != 12 || kid.Priority != 3 || kid.Properties["x"].Source != "Trigger" || kid.Source.Branch != "main" {
		t.Errorf("%+v", kid)
	}
}
