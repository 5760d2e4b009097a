package build

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestExitCodesBecomeResults(t *testing.T) {
	t.Parallel()
	codes := map[int]string{2: "warnings", 77: "skipped", 99: "exception", -1: "retry", 5: "nonsense", 0: "success"}
	for _, c := range []struct {
		codes map[int]string
		d     done
		want  model.Result
		text  string
	}{
		{nil, done{}, model.Success, "'make all'"},
		{nil, done{RC: 2}, model.Failure, "'make all' failed (exit 2)"},
		{nil, done{RC: -1}, model.Failure, "'make all' was killed by a signal"},
		{nil, done{RC: -1, Text: "no such directory"}, model.Failure, "'make all' failed: no such directory"},
		{nil, done{RC: -1, Why: "timeout_without_output"}, model.Failure, "'make all' killed: no output for 20m0s"},
		{nil, done{RC: -1, Why: "timeout"}, model.Failure, "'make all' killed: it ran longer than 1h0m0s"},
		{nil, done{RC: -1, Why: "max_lines_failure"}, model.Failure, "'make all' killed: max_lines_failure"},
		{codes, done{}, model.Success, "'make all'"},
		{codes, done{RC: 2}, model.Warnings, "'make all': warnings (exit 2)"},
		{codes, done{RC: 77}, model.Skipped, "'make all': skipped (exit 77)"},
		{codes, done{RC: -1}, model.Retry, "'make all': retry (exit -1)"},
		{codes, done{RC: 5}, model.Failure, "'make all' failed (exit 5)"},
		{map[int]string{3: "success"}, done{RC: 3}, model.Success, "'make all' (exit 3)"},
		{map[int]string{3: "success"}, done{}, model.Success, "'make all'"},
	} {
		spec := &hcl.ShellSpec{ExitCodes: c.codes, Timeout: 20 * time.Minute, MaxTime: time.Hour}
		if r, text := verdict(spec, "make all", c.d); r != c.want || text != c.text {
			t.Errorf("%+v: %s %q", c.d, r, text)
		}
	}
}

func TestShellArgumentsAreTheProtocols(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("x", &hcl.ShellSpec{Script: "echo a\necho b\n", Workdir: "sub", Env: map[string]string{"A": "b"}, MaxTime: 90 * time.Second, Signal: "TERM", Stdin: "in"})
	var args map[string]any
	w.onCall = func(int) {
		if c := w.agent["b12.s0.0"]; c != nil {
			args = c.c.Args
		}
	}
	w.run()
	for k, want := range map[string]any{"command": "echo a\necho b\n", "workdir": "/srv/w1/lin/sub", "timeout": nil, "maxTime": 90.0, "sigtermTime": nil,
		"interruptSignal": "TERM", "usePTY": false, "initial_stdin": "in", "want_stdout": true} {
		if args[k] != want {
			t.Errorf("%s: %v, want %v", k, args[k], want)
		}
	}
	if got := w.rows[0].Text; got != "'echo a …'" {
		t.Error(got)
	}
	if _, err := proto.Encode(proto.Message{Op: proto.OpStartCommand, Fields: map[string]any{"args": args}}); err != nil {
		t.Error(err)
	}
}

func TestCaptureIsBounded(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]model.Result{maxCapture: model.Success, maxCapture + 1: model.Failure} {
		w := newWorld(t)
		w.add("p", &hcl.SetPropertySpec{Property: "p", Command: echo("cat")})
		w.answers["shell"] = answer{out: []chunk{{proto.Stdout, strings.Repeat("x", size-10)}, {proto.Stdout, strings.Repeat("y", 10)}, {proto.Stderr, "z"}}}
		if out := w.run(); out.Result != want {
			t.Errorf("%d bytes: %+v", size, out)
		}
	}
}

func TestInvalidOutputIsReplacedButCutCharactersAreNot(t *testing.T) {
	t.Parallel()
	euro := "€"
	for in, want := range map[string]string{
		"plain":                      "plain",
		"a\xffb":                     "a\uFFFDb",
		euro + euro:                  euro + euro,
		"a" + euro[:2]:               "a" + euro[:2], // the rest comes with the next chunk
		euro[1:] + "b":               euro[1:] + "b",
		euro[2:] + "\xff" + euro[:1]: euro[2:] + "\uFFFD" + euro[:1],
		"a\xff":                      "a\uFFFD",
	} {
		if got := string(valid([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzValid(f *testing.F) {
	f.Add([]byte("a\xffb€"))
	f.Fuzz(func(t *testing.T, p []byte) {
		in := bytes.Clone(p)
		out := valid(p)
		if !bytes.Equal(in, p) {
			t.Error("the input was changed")
		}
		if utf8.Valid(in) && !bytes.Equal(in, out) {
			t.Errorf("%q became %q", in, out)
		}
		if len(out) > 6 && !utf8.Valid(bytes.TrimRightFunc(out[3:len(out)-3], func(r rune) bool { return r == utf8.RuneError })) {
			mid := out[3 : len(out)-3]
			for len(mid) > 0 && !utf8.RuneStart(mid[0]) {
				mid = mid[1:]
			}
			for i := 0; i < utf8.UTFMax && len(mid) > 0 && !utf8.Valid(mid); i++ {
				mid = mid[:len(mid)-1]
			}
			if !utf8.Valid(mid) {
				t.Errorf("%q became %q", in, out)
			}
		}
	})
}

func TestCleaningUpAfterACancelIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add("work", echo("make"))
		w.add("clean", echo("sleep", "inf"), alwaysRun)
		w.add("more", echo("rm"), alwaysRun)
		w.answers["shell"] = answer{hang: true}
		start := time.Now()
		out := stopping(w, 6, cancelled)
		if out.Result != model.Cancelled || out.Text != "cancelled: ann said so" || time.Since(start) != time.Minute {
			t.Errorf("%+v after %s", out, time.Since(start))
		}
		if w.rows[1].Text != "cleaning up took longer than 1m0s" || len(w.order) != 2 {
			t.Errorf("%+v %v", w.rows[1], w.order)
		}
	})
}

func TestStoppedEngineMakesTheRunnerLetGo(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		w := newWorld(t)
		w.add("a", echo("true"))
		w.saveErr = func() error {
			if w.saves == n {
				return engine.ErrStopped
			}
			return nil
		}
		if out := w.run(); !out.Detached {
			t.Errorf("save %d: %+v", n, out)
		}
		w.saveErr = nil
		if out, _ := w.crashing(0, true); out.Result != model.Success || len(w.order) != 1 {
			t.Errorf("save %d: %+v %v", n, out, w.order)
		}
	}
}

func TestDamagedStateIsAnExceptionAndSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("a", echo("true"))
	w.crashing(4, false)
	row := w.rows[0]
	row.State = []byte("{")
	w.rows[0] = row
	if out, _ := w.crashing(0, true); out.Result != model.Exception || len(w.order) != 0 {
		t.Errorf("%+v %v", out, w.order)
	}
}

func TestPanicInAStepIsAnException(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("a", (*hcl.ShellSpec)(nil))
	w.add("clean", echo("rm"), alwaysRun)
	if out := w.run(); out.Result != model.Exception || w.rows[1].Result != model.Success {
		t.Errorf("%+v", out)
	}
}

func TestUnknownBuilderIsAnException(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.job(false)
	job.Build.Builder = "gone"
	if out := w.runner().Run(context.Background(), job); out.Result != model.Exception || out.Text != "builder gone of configuration 1: no such builder" {
		t.Errorf("%+v", out)
	}
}

func TestScopeHasWhatExpressionsMayName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("first", echo("true"))
	w.add("second", echo("true"))
	var got hcl.Scope
	w.def.Eval = func(_ context.Context, st *hcl.Step, sc hcl.Scope) (*hcl.Evaluated, error) {
		got = sc
		return w.evals[st.Name]()
	}
	w.run()
	js, err := json.Marshal(map[string]any{"step": got.Step, "build": got.Build, "worker": got.Worker, "source": got.Source})
	want := `{"build":{"attempt":1,"builder":"lin","id":12,"number":12,"owner":"ann","reason":"force","request":7,"result":"success","scheduler":"","started_at":"0001-01-01T00:00:00Z"},` +
		`"source":{"branch":"main","codebase":"","project":"","repository":"https://example.org/r.git","revision":""},` +
		`"step":{"first":{"result":"success"},"name":"second","number":1,"second":{"result":"success"}},` +
		`"worker":{"info":{"basedir":"/srv/w1","numcpus":4,"os_name":"debian"},"name":"w1"}}`
	if err != nil || string(js) != want {
		t.Errorf("%s %v", js, err)
	}
}

func TestWhatAnInstanceIsCanBeNamedInStepsAndIsAProperty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance = model.Instance{Key: "me-w1-1", Provider: "cloud", ProviderID: "i-0123", Facts: map[string]string{"type": "m5.large", "market": "spot", "colour": "red"}}
	w.add("test", echo("true"))
	var got hcl.Scope
	w.def.Eval = func(_ context.Context, st *hcl.Step, sc hcl.Scope) (*hcl.Evaluated, error) {
		got = sc
		return w.evals[st.Name]()
	}
	job := w.job(false)
	job.Build.Instance = "me-w1-1"
	w.runner().Run(context.Background(), job)
	js, err := json.Marshal(got.Instance)
	if want := `{"key":"me-w1-1","market":"spot","provider":"cloud","provider_id":"i-0123","type":"m5.large"}`; err != nil || string(js) != want {
		t.Errorf("%s %v", js, err)
	}
	if p := w.props["instance"]; p.Value != "i-0123" || p.Source != "Worker" {
		t.Errorf("property instance: %+v", p)
	}
}
