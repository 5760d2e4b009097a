package build

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/worker/proto"
)

// reopen gives the world real logs in the directory, as a new master process would.
func (w *world) reopen(dir string) {
	w.t.Helper()
	d, err := steplog.Open(dir, steplog.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.real = d
	w.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// realLogs is the text of all logs.
func (w *world) realLogs() string {
	w.t.Helper()
	var b strings.Builder
	for n := range w.def.Builder.Steps {
		r, err := w.real.Reader(steplog.ID{Build: 12, Step: n, Name: stdio})
		if err != nil {
			b.WriteString("none\n")
			continue
		}
		if info, err := r.Info(); err != nil || !info.Ended {
			b.WriteString("not ended\n")
		}
		if err := r.Records(context.Background(), false, func(s proto.Stream, p []byte) error {
			b.WriteByte("?o!|"[s])
			b.Write(p)
			return nil
		}); err != nil {
			w.t.Error(err)
		}
		if err := r.Close(); err != nil {
			w.t.Error(err)
		}
	}
	return b.String()
}

func TestCrashAnywhereLeavesRealLogsWhole(t *testing.T) {
	t.Parallel()
	calm := everything(t, t.TempDir())
	calm.reopen(t.TempDir())
	wantOut := calm.run()
	want := calm.realLogs()
	if !strings.Contains(want, "|property version: v1.2") {
		t.Fatal(want)
	}
	for n := 1; n <= calm.calls; n += 5 {
		w := everything(t, t.TempDir())
		dir := t.TempDir()
		w.reopen(dir)
		var out engine.Outcome
		if out, crashed := w.crashing(n, false); !crashed {
			t.Fatalf("call %d: %+v", n, out)
		}
		w.reopen(dir)
		if out, _ = w.crashing(0, true); out != wantOut {
			t.Errorf("crash at call %d: %+v", n, out)
		}
		if diff := cmp.Diff(want, w.realLogs()); diff != "" {
			t.Errorf("crash at call %d: %s", n, diff)
		}
	}
}

// TestCrashAnywhereLosesNothingThatTheLogHeldBack is about logs that mask: the agent may only forget what is in the file. All output ends in what
// may begin a secret.
func TestCrashAnywhereLosesNothingThatTheLogHeldBack(t *testing.T) {
	t.Parallel()
	masking := func() *world {
		w := newWorld(t)
		w.add("source", &hcl.GitSpec{Repository: "https://example.org/r.git", Branch: "main", Workdir: "build", Mode: "incremental"})
		w.add("test", echo("make", "test"))
		for name, eval := range w.evals {
			w.evals[name] = func() (*hcl.Evaluated, error) {
				ev, err := eval()
				ev.Secrets = [][]byte{[]byte("open-sesame")}
				return ev, err
			}
		}
		w.answers["b12.s0.0"] = answer{rc: 128, out: []chunk{{proto.Stderr, "fatal: open"}}} // so it clones
		w.answers["b12.s0.5"] = answer{out: []chunk{{proto.Stdout, sha + "\n"}}}             // what is captured is another matter
		w.answers["shell"] = answer{out: []chunk{{proto.Stdout, "it is op"}, {proto.Stderr, "hm\nop"}, {proto.Stdout, "en-sesame! and o"}}}
		return w
	}
	calm := masking()
	calm.reopen(t.TempDir())
	wantOut := calm.run()
	want := calm.realLogs()
	if !strings.Contains(want, "it is (secret)") || !strings.Contains(want, "fatal: open") {
		t.Fatal(want)
	}
	for n := 1; n <= calm.calls; n++ {
		w := masking()
		dir := t.TempDir()
		w.reopen(dir)
		if out, crashed := w.crashing(n, false); !crashed {
			t.Fatalf("call %d: %+v", n, out)
		}
		w.reopen(dir)
		if out, _ := w.crashing(0, true); out != wantOut {
			t.Errorf("crash at call %d: %+v", n, out)
		}
		if diff := cmp.Diff(want, w.realLogs()); diff != "" {
			t.Errorf("crash at call %d: %s", n, diff)
		}
	}
}

func TestSecretsOfEarlierStepsAreMaskedAfterACrashToo(t *testing.T) {
	t.Parallel()
	world := func() *world {
		w := newWorld(t)
		w.add("login", echo("login"))
		w.add("show", echo("env"))
		login := w.evals["login"]
		w.evals["login"] = func() (*hcl.Evaluated, error) {
			ev, err := login()
			ev.Secrets = [][]byte{[]byte("open-sesame")}
			return ev, err
		}
		w.answers["b12.s1.0"] = answer{out: []chunk{{proto.Stdout, "it is open-sesame\n"}}}
		return w
	}
	calm := world()
	calm.reopen(t.TempDir())
	calm.run()
	want := calm.realLogs()
	if !strings.Contains(want, "it is (secret)") {
		t.Fatal(want)
	}
	for n := 1; n <= calm.calls; n++ {
		w := world()
		dir := t.TempDir()
		w.reopen(dir)
		w.crashing(n, false)
		w.reopen(dir)
		w.crashing(0, true)
		if diff := cmp.Diff(want, w.realLogs()); diff != "" {
			t.Errorf("crash at call %d: %s", n, diff)
		}
	}
}

// TestSecretsStayOutOfEverything prints a secret in every way a step can, in pieces, and looks for it in all that is kept.
func TestSecretsStayOutOfEverything(t *testing.T) {
	t.Parallel()
	const secret = "open-sesame"
	w := newWorld(t)
	dir := t.TempDir()
	w.reopen(dir)
	sh := echo("curl", "-H", secret)
	sh.Env = map[string]string{"TOKEN": secret}
	w.add("shell", sh, func(s *hcl.Step) { s.HaltOnFailure = false })
	w.add("capture", &hcl.SetPropertySpec{Property: "p", Command: sh})
	w.add("value", &hcl.SetPropertySpec{Property: "q", Value: map[string]any{"x": []any{"a " + secret}}})
	w.add("deps", &hcl.TriggerSpec{Scheduler: "deps", Properties: map[string]any{"x": secret}})
	for name, eval := range w.evals {
		w.evals[name] = func() (*hcl.Evaluated, error) {
			ev, err := eval()
			ev.Secrets = [][]byte{[]byte(secret + "\n")}
			return ev, err
		}
	}
	w.answers["shell"] = answer{out: []chunk{{proto.Stdout, "it is open-"}, {proto.Stderr, "hm\n"}, {proto.Stdout, "sesame!\n"}}}
	w.answers["b12.s0.0"] = answer{rc: 3, text: "cannot run " + secret}
	var seen strings.Builder
	w.onSave = func(row model.Step) {
		var st state
		if err := json.Unmarshal(row.State, &st); err != nil && row.State != nil {
			t.Error(err)
		}
		seen.WriteString(row.Text + string(row.State) + string(st.Out) + "\"\n")
	}
	w.run()
	if got := w.props["p"].Value; got != "it is (secret)!" {
		t.Errorf("property %v", got)
	}
	if diff := cmp.Diff(map[string]any{"x": []any{"a (secret)"}}, w.props["q"].Value); diff != "" {
		t.Error(diff)
	}
	for _, p := range w.props {
		if s, ok := p.Value.(string); ok {
			seen.WriteString(s + "\n")
		}
	}
	for _, kid := range w.kids {
		seen.WriteString(kid.Properties["x"].Value.(string))
	}
	seen.WriteString(w.realLogs())
	if err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(os.DirFS(dir), p)
		seen.Write(b)
		return err
	}); err != nil {
		t.Error(err)
	}
	if strings.Contains(seen.String(), "sesame") || strings.Contains(seen.String(), "open-s") || !strings.Contains(seen.String(), "(secret)") {
		t.Errorf("seen:\n%s", seen.String())
	}
	if strings.Contains(seen.String(), `open-"`) {
		t.Error("the beginning of a secret was stored")
	}
}
