package build

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

const sha = "0123456789abcdef0123456789abcdef01234567"

// everything is a build with a step of each kind.
func everything(t testing.TB, dir string) *world {
	w := newWorld(t)
	w.dir = dir
	w.request.Source.Patch = &model.Patch{Level: 1, Body: []byte("--- a\n+++ b\n")}
	content := "settings\n"
	w.add("source", &hcl.GitSpec{Repository: "https://example.org/r.git", Branch: "main", Workdir: "build", Mode: "incremental"})
	w.add("never", nil)
	w.evals["never"] = func() (*hcl.Evaluated, error) { return &hcl.Evaluated{}, nil }
	w.add("version", &hcl.SetPropertySpec{Property: "version", Command: echo("git", "describe")})
	w.add("settings", &hcl.DownloadSpec{Content: &content, To: "settings.ini", Workdir: "build"})
	w.add("test", echo("make", "test"), func(s *hcl.Step) { s.HaltOnFailure = false })
	w.add("result", &hcl.UploadSpec{From: "out.bin", Workdir: "build"})
	w.add("deps", &hcl.TriggerSpec{Scheduler: "deps", Wait: true})
	w.answers["b12.s0.0"] = answer{rc: 128, out: []chunk{{proto.Stderr, "fatal: not a git repository\n"}}} // so it clones
	w.answers["b12.s0.5"] = answer{out: []chunk{{proto.Stdout, sha[:10]}, {proto.Stdout, sha[10:] + "\n"}}}
	w.answers["b12.s2.0"] = answer{out: []chunk{{proto.Header, "in /srv\n"}, {proto.Stdout, "v1."}, {proto.Stderr, "hm\n"}, {proto.Stdout, "2\n"}}}
	w.answers["b12.s4.0"] = answer{rc: 1, out: []chunk{{proto.Stdout, "ok 1\n"}, {proto.Stderr, "oh\n"}, {proto.Stdout, "not ok 2\n"}}}
	w.answers["stat"] = answer{upd: map[string][]any{"stat": {[]any{int64(0o100644), int64(1)}}}}
	w.answers["upload_file"] = answer{upload: []byte(strings.Repeat("bits", 500)), out: []chunk{{proto.Header, "sending\n"}}}
	w.children[100], w.children[101] = model.Success, model.Warnings
	return w
}

// summary is all that a person can see of a build afterwards.
func summary(w *world) string {
	var b strings.Builder
	for n, st := range w.def.Builder.Steps {
		row := w.rows[n]
		text := strings.ReplaceAll(row.Text, w.dir, "DIR") // each run has its own
		fmt.Fprintf(&b, "step %d %s: %s %q state %q\n", n, st.Name, row.Result, text, row.State)
		for line := range strings.Lines(w.log(n)) {
			b.WriteString("\t" + line)
		}
	}
	fmt.Fprintf(&b, "got_revision %v, version %v\n", w.props["got_revision"], w.props["version"])
	fmt.Fprintf(&b, "children %d\n", len(w.kids))
	return b.String()
}

// TestCrashAnywhereChangesNothing lets the master die before and after each of its external calls, and another one go on: the records and the
// logs are those of an undisturbed build, and no command ran twice under one ID (the fake agent sees to that).
func TestCrashAnywhereChangesNothing(t *testing.T) {
	t.Parallel()
	calm := everything(t, t.TempDir())
	wantOut := calm.run()
	want := summary(calm)
	if strings.Contains(want, "exception") || calm.calls < 100 {
		t.Fatalf("the build is not what the test needs:\n%s", want)
	}
	t.Logf("%d calls, %d saves\n%s", calm.calls, calm.saves, want)
	for n := 1; n <= calm.calls; n++ {
		w := everything(t, t.TempDir())
		_, crashed := w.crashing(n, false)
		if !crashed {
			t.Fatalf("call %d: no crash", n)
		}
		out, _ := w.crashing(0, true)
		if diff := cmp.Diff(wantOut, out); diff != "" {
			t.Errorf("crash at call %d: %s", n, diff)
		}
		if diff := cmp.Diff(want, summary(w)); diff != "" {
			t.Errorf("crash at call %d: %s", n, diff)
		}
		once(t, w)
	}
}

// TestTwoCrashesChangeNothing does the same with a second death at any call of the second master.
func TestTwoCrashesChangeNothing(t *testing.T) {
	t.Parallel()
	calm := everything(t, t.TempDir())
	wantOut := calm.run()
	want := summary(calm)
	dir := t.TempDir()
	for n := 1; n <= calm.calls; n += 9 {
		for m := 1; ; m += 7 {
			w := everything(t, dir)
			w.crashing(n, false)
			out, crashed := w.crashing(m, true)
			if crashed {
				out, _ = w.crashing(0, true)
			}
			if diff := cmp.Diff(wantOut, out); diff != "" {
				t.Fatalf("crash at calls %d and %d: %s", n, m, diff)
			}
			if diff := cmp.Diff(want, summary(w)); diff != "" {
				t.Fatalf("crash at calls %d and %d: %s", n, m, diff)
			}
			once(t, w)
			if !crashed {
				break
			}
		}
	}
}

// once checks that no command but the repeatable ones ran twice.
func once(t *testing.T, w *world) {
	t.Helper()
	seen := map[string]bool{}
	for _, id := range w.order {
		if seen[id] {
			t.Errorf("%s ran twice", id)
		}
		seen[id] = true
	}
}
