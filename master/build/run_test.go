package build

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/worker/proto"
)

func echo(words ...string) *hcl.ShellSpec {
	return &hcl.ShellSpec{Argv: words, Workdir: "build", Timeout: 20 * time.Minute}
}

func TestOneShellStepTakesTwoSaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("test", echo("make", "test"))
	w.answers["shell"] = answer{out: []chunk{{proto.Stdout, "ok 1\n"}, {proto.Stderr, "warning\n"}, {proto.Stdout, "ok 2\n"}}}
	if diff := cmp.Diff(engine.Outcome{Result: model.Success, Text: "build successful"}, w.run()); diff != "" {
		t.Error(diff)
	}
	want := "ok 1\n! warning\nok 2\n| program finished with exit code 0\n"
	if got := w.log(0); got != want {
		t.Errorf("log:\n%s", got)
	}
	if w.saves != 2 {
		t.Errorf("%d saves", w.saves)
	}
	if diff := cmp.Diff([]string{"b12.s0.0"}, w.forgot); diff != "" {
		t.Error(diff)
	}
	row := w.rows[0]
	if row.Result != model.Success || row.Text != "'make test'" || row.State != nil || row.FinishedAt.IsZero() {
		t.Errorf("row %+v", row)
	}
}

func TestFailureHaltsAndAlwaysRunStepsStillRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("compile", echo("make"))
	w.add("test", echo("make", "test"))
	w.add("clean", echo("rm", "-rf", "out dir"), func(s *hcl.Step) { s.AlwaysRun = true })
	w.answers["b12.s0.0"] = answer{rc: 2}
	if diff := cmp.Diff(engine.Outcome{Result: model.Failure, Text: "failure: 'make' failed (exit 2)"}, w.run()); diff != "" {
		t.Error(diff)
	}
	if _, ran := w.rows[1]; ran {
		t.Error("the test step has a row")
	}
	if got := w.log(2); got != "| program finished with exit code 0\n" {
		t.Errorf("log:\n%s", got)
	}
	if w.saves != 3 {
		t.Errorf("%d saves", w.saves)
	}
}

func TestSkippedStepHasARowAndNoEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("never", nil)
	w.evals["never"] = func() (*hcl.Evaluated, error) { return &hcl.Evaluated{}, nil }
	if out := w.run(); out.Result != model.Success {
		t.Errorf("%+v", out)
	}
	if w.rows[0].Result != model.Skipped || len(w.order) != 0 {
		t.Errorf("%+v", w.rows[0])
	}
}

func TestStepThatCannotBeEvaluatedIsAnException(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("broken", nil)
	w.evals["broken"] = func() (*hcl.Evaluated, error) {
		return &hcl.Evaluated{Secrets: [][]byte{[]byte("hush")}}, errors.New("main.hcl:3: there is no hush")
	}
	w.add("next", echo("true"))
	out := w.run()
	if out.Result != model.Exception || out.Text != "exception: main.hcl:3: there is no (secret)" {
		t.Errorf("%+v", out)
	}
	if got := w.log(0); got != "| main.hcl:3: there is no (secret)\n" {
		t.Errorf("log:\n%s", got)
	}
	if len(w.order) != 0 {
		t.Error(w.order)
	}
}

func TestLostWorkerEndsTheBuildAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("test", echo("make"))
	w.add("clean", echo("rm"), func(s *hcl.Step) { s.AlwaysRun = true })
	w.answers["shell"] = answer{err: fmt.Errorf("gone: %w", session.ErrLost)}
	if diff := cmp.Diff(engine.Outcome{Result: model.Retry, Text: "retry: worker w1 is lost"}, w.run()); diff != "" {
		t.Error(diff)
	}
	if len(w.order) != 1 {
		t.Error(w.order)
	}
}

func TestPropertiesKeepBuildbotsOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.def.Builder.Properties = map[string]any{"flavour": "builder", "a": "builder"}
	w.def.Workers["w1"].Properties = map[string]any{"a": "worker", "os_name": "plan9"}
	w.def.Workers["w1"].DefaultProperties = map[string]any{"a": "default", "b": "default"}
	w.add("test", echo("true"))
	w.run()
	want := model.Properties{
		"flavour": {Value: "builder", Source: "Builder"}, "buildername": {Value: "lin", Source: "Builder"},
		"a": {Value: "worker", Source: "Worker"}, "b": {Value: "default", Source: "Worker"}, "os_name": {Value: "plan9", Source: "Worker"},
		"basedir": {Value: "/srv/w1", Source: "Worker"}, "numcpus": {Value: 4.0, Source: "Worker"},
		"workername": {Value: "w1", Source: "Worker"}, "builddir": {Value: "/srv/w1/lin", Source: "Worker"},
		"buildnumber": {Value: 12.0, Source: "Build"}, "branch": {Value: "main", Source: "Build"}, "revision": {Value: "", Source: "Build"},
		"repository": {Value: "https://example.org/r.git", Source: "Build"}, "project": {Value: "", Source: "Build"}, "codebase": {Value: "", Source: "Build"},
	}
	if diff := cmp.Diff(want, w.props); diff != "" {
		t.Error(diff)
	}
}
