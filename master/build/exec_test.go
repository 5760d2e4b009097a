package build

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/worker/proto"
)

// execute carries commands out on this machine, as an agent would.
func execute(w *world) func(ctx context.Context, c session.Command) (session.Outcome, error) {
	return func(ctx context.Context, c session.Command) (session.Outcome, error) {
		fail := func(err error) (session.Outcome, error) {
			if err == nil {
				return session.Outcome{}, nil
			}
			msg := []byte(err.Error() + "\n")
			return session.Outcome{RC: 1}, c.Output(proto.Stderr, msg, int64(len(msg)))
		}
		path, _ := c.Args["path"].(string)
		switch c.Name {
		case "shell":
			dir := c.Args["workdir"].(string)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fail(err)
			}
			argv, ok := c.Args["command"].([]string)
			if !ok {
				argv = []string{"/bin/sh", "-c", c.Args["command"].(string)}
			}
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
			for k, v := range c.Args["env"].(map[string]string) {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			end := int64(0)
			for _, o := range []struct {
				s proto.Stream
				b []byte
			}{{proto.Stderr, stderr.Bytes()}, {proto.Stdout, stdout.Bytes()}} {
				if len(o.b) > 0 {
					end += int64(len(o.b))
					if err := c.Output(o.s, o.b, end); err != nil {
						return session.Outcome{}, err
					}
				}
			}
			return session.Outcome{RC: cmd.ProcessState.ExitCode()}, nil
		case "rmdir":
			return fail(os.RemoveAll(c.Args["paths"].([]string)[0]))
		case "stat":
			fi, err := os.Stat(path)
			if err != nil {
				return session.Outcome{RC: 2}, nil
			}
			mode := int64(0o100644)
			if fi.IsDir() {
				mode = 0o040755
			}
			return session.Outcome{Updates: map[string][]any{"stat": {[]any{mode}}}}, nil
		case "download_file":
			data, _ := io.ReadAll(c.Download)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fail(err)
			}
			return fail(os.WriteFile(path, data, os.FileMode(c.Args["mode"].(int))))
		case "upload_file":
			data, err := os.ReadFile(path)
			if err == nil {
				_, err = c.Upload.Write(data)
			}
			return session.Outcome{}, err
		case "upload_directory":
			t := tar.NewWriter(c.Upload)
			err := t.AddFS(os.DirFS(path))
			if err == nil {
				err = t.Close()
			}
			return session.Outcome{}, err
		}
		return session.Outcome{Text: "unknown command"}, nil
	}
}

// repo is a git repository to check out from.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("ROUSE_PEERS") == "require" {
			t.Fatal("git is not installed; .ci/buildbot-peers installs it")
		}
		t.Skip("git is not installed; .ci/buildbot-peers installs it")
	}
	r := &repo{t, t.TempDir()}
	r.git("init", "--quiet", "--initial-branch=main", ".")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit changes one file and returns the commit.
func (r *repo) commit(file, text string) string {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, file), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "-m", file)
	return r.git("rev-parse", "HEAD")
}

// checkoutOf runs a build of one git step in the base directory.
func checkoutOf(t *testing.T, base string, spec hcl.GitSpec, change func(*world)) (*world, string) {
	t.Helper()
	w := newWorld(t)
	w.def.Workers["w1"].Properties = map[string]any{}
	w.base = base
	w.request.Source = model.Source{}
	w.exec = execute(w)
	if spec.Workdir == "" {
		spec.Workdir = "build"
	}
	w.add("source", &spec)
	if change != nil {
		change(w)
	}
	w.run()
	return w, w.rows[0].Text
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(b)
}

func TestGitChecksOut(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	first := r.commit("f", "one")
	second := r.commit("f", "two")
	r.git("checkout", "--quiet", "-b", "side", first)
	side := r.commit("f", "side")
	r.git("tag", "v1")
	r.git("checkout", "--quiet", "main")
	for name, c := range map[string]struct {
		spec hcl.GitSpec
		want string
	}{
		"the head":                 {hcl.GitSpec{}, second},
		"a branch":                 {hcl.GitSpec{Branch: "side"}, side},
		"a tag as branch":          {hcl.GitSpec{Branch: "v1"}, side},
		"a revision of a branch":   {hcl.GitSpec{Branch: "main", Revision: first}, first},
		"a revision alone":         {hcl.GitSpec{Revision: side}, side},
		"a short revision":         {hcl.GitSpec{Revision: first[:10]}, first},
		"a revision not on branch": {hcl.GitSpec{Branch: "main", Revision: side}, side},
		"a branch as revision":     {hcl.GitSpec{Revision: "side"}, side},
		"a tag as revision":        {hcl.GitSpec{Revision: "v1"}, side},
		"shallow":                  {hcl.GitSpec{Branch: "main", Shallow: 1}, second},
		"a shallow revision":       {hcl.GitSpec{Branch: "main", Revision: first, Shallow: 1}, first},
		"clobber":                  {hcl.GitSpec{Mode: "clobber"}, second},
		"clean":                    {hcl.GitSpec{Mode: "clean"}, second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.spec.Repository = "file://" + r.dir
			w, text := checkoutOf(t, t.TempDir(), c.spec, nil)
			if got := w.props["got_revision"]; got != (model.Property{Value: c.want, Source: "Source"}) || text != "checked out "+c.want[:12] {
				t.Errorf("%s %+v, want %s\n%s", text, got, c.want, w.log(0))
			}
		})
	}
}

func TestGitUpdatesWhatIsThere(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("f", "one")
	base := t.TempDir()
	dir := filepath.Join(base, "lin", "build")
	spec := hcl.GitSpec{Repository: r.dir, Branch: "main"}
	checkoutOf(t, base, spec, nil)
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("cache", "kept")
	write("f", "changed by the build")
	two := r.commit("f", "two")
	w, text := checkoutOf(t, base, spec, nil)
	if text != "checked out "+two[:12] || read(t, dir, "f") != "two" || read(t, dir, "cache") != "kept" {
		t.Errorf("incremental: %s\n%s", text, w.log(0))
	}

	spec.Mode = "clean"
	w, _ = checkoutOf(t, base, spec, nil)
	if _, err := os.Stat(filepath.Join(dir, "cache")); err == nil {
		t.Errorf("clean left a file\n%s", w.log(0))
	}

	spec.Mode = "incremental"
	write("cache", "kept")
	write(".git/HEAD", "nonsense") // not a repository any more
	w, text = checkoutOf(t, base, spec, nil)
	if text != "checked out "+two[:12] || read(t, dir, "cache") == "kept" {
		t.Errorf("broken: %s\n%s", text, w.log(0))
	}

	write(".git/index.lock", "") // a repository that cannot be used
	w, text = checkoutOf(t, base, spec, nil)
	if text != "checked out "+two[:12] {
		t.Errorf("locked: %s\n%s", text, w.log(0))
	}

	// A repository that cannot be reached must not cost the clone.
	write("cache", "kept")
	spec.Repository = filepath.Join(base, "nowhere")
	w, text = checkoutOf(t, base, spec, nil)
	if w.rows[0].Result != model.Failure || text != "cannot fetch from "+spec.Repository || read(t, dir, "cache") != "kept" {
		t.Errorf("unreachable: %s\n%s", text, w.log(0))
	}

	// Nor must a misspelt branch.
	spec.Repository, spec.Branch = r.dir, "mian"
	w, text = checkoutOf(t, base, spec, nil)
	if w.rows[0].Result != model.Failure || text != r.dir+" has no mian" || read(t, dir, "cache") != "kept" {
		t.Errorf("no such branch: %s\n%s", text, w.log(0))
	}
}

func TestGitAppliesAPatchAndUndoesIt(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	if err := os.Mkdir(filepath.Join(r.dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.commit("sub/f", "one\n")
	base := t.TempDir()
	dir := filepath.Join(base, "lin", "build")
	diff := "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+patched\ndiff --git a/new b/new\nnew file mode 100644\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+new\n"
	patched := func(p *model.Patch) (string, *world) {
		w, text := checkoutOf(t, base, hcl.GitSpec{Repository: r.dir, Branch: "main"}, func(w *world) { w.request.Source.Patch = p })
		return text, w
	}
	if text, w := patched(&model.Patch{Level: 1, Subdir: "sub", Body: []byte(diff)}); !strings.HasSuffix(text, "and patched it") || read(t, dir, "sub/f") != "patched\n" || read(t, dir, "sub/new") != "new\n" {
		t.Errorf("%s\n%s", text, w.log(0))
	}
	if text, w := patched(nil); read(t, dir, "sub/f") != "one\n" || !strings.HasPrefix(read(t, dir, "sub/new"), "(") {
		t.Errorf("not undone: %s\n%s", text, w.log(0))
	}
	if text, w := patched(&model.Patch{Level: 1, Body: []byte(diff)}); text != "the patch does not apply" || w.rows[0].Result != model.Failure {
		t.Errorf("%s\n%s", text, w.log(0))
	}
	if text, _ := patched(&model.Patch{Level: 1, Subdir: "../..", Body: []byte(diff)}); text != `the patch's directory "../.." is outside the checkout` {
		t.Error(text)
	}
}

func TestGitTakesWhatTheRequestSays(t *testing.T) {
	t.Parallel()
	src := model.Source{Repository: "r", Branch: "b", Revision: "v"}
	for _, c := range []struct{ spec, want hcl.GitSpec }{
		{hcl.GitSpec{}, hcl.GitSpec{Repository: "r", Branch: "b", Revision: "v"}},
		{hcl.GitSpec{Repository: "r"}, hcl.GitSpec{Repository: "r", Branch: "b", Revision: "v"}},
		{hcl.GitSpec{Branch: "c"}, hcl.GitSpec{Repository: "r", Branch: "c"}},
		{hcl.GitSpec{Branch: "b"}, hcl.GitSpec{Repository: "r", Branch: "b", Revision: "v"}},
		{hcl.GitSpec{Revision: "w"}, hcl.GitSpec{Repository: "r", Branch: "b", Revision: "w"}},
		{hcl.GitSpec{Repository: "other"}, hcl.GitSpec{Repository: "other"}},
	} {
		g := &checkout{spec: c.spec}
		g.defaults(&src)
		if diff := cmp.Diff(c.want, g.spec); diff != "" {
			t.Errorf("%+v: %s", c.spec, diff)
		}
	}
}

func TestGitRefusesHostileNames(t *testing.T) {
	t.Parallel()
	for _, spec := range []hcl.GitSpec{
		{Repository: "--upload-pack=touch /tmp/x"}, {Repository: "ext::sh -c date"}, {Repository: "::x"}, {Repository: ""}, {Repository: "a\nb"},
		{Repository: "r", Branch: "--upload-pack=x"}, {Repository: "r", Branch: "a b"}, {Repository: "r", Branch: "a..b"}, {Repository: "r", Branch: "+x:y"},
		{Repository: "r", Branch: "x:y"}, {Repository: "r", Branch: "a.lock"}, {Repository: "r", Branch: "/a"}, {Repository: "r", Branch: "a\x00"},
		{Repository: "r", Revision: "-x"}, {Repository: "r", Revision: "HEAD@{1}"}, {Repository: "r", Revision: "$(date)^"},
	} {
		w := newWorld(t)
		w.request.Source = model.Source{}
		w.add("source", &spec)
		if out := w.run(); out.Result != model.Failure || len(w.order) != 0 {
			t.Errorf("%+v: %+v, commands %v", spec, out, w.order)
		}
	}
}

func TestDirectoriesTravelBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.base, w.dir = t.TempDir(), t.TempDir()
	w.exec = execute(w)
	src := t.TempDir()
	for i, name := range []string{"a", "d/b", "d/e/c"} {
		if err := os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, name), fmt.Append(nil, "text ", i), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	w.add("down", &hcl.DownloadSpec{From: src, To: "tree", Workdir: "build"})
	w.add("one", &hcl.DownloadSpec{From: src + "/d/b", To: "single", Workdir: "build", Mode: 0o755})
	w.add("up", &hcl.UploadSpec{From: "tree", To: "sub/tree", Workdir: "build"})
	w.add("again", &hcl.UploadSpec{From: "tree", To: "sub/tree", Workdir: "build"})
	w.add("file", &hcl.UploadSpec{From: "single", Workdir: "build"})
	w.add("missing", &hcl.UploadSpec{From: "nothing", Workdir: "build"}, func(s *hcl.Step) { s.HaltOnFailure = false })
	w.add("large", &hcl.UploadSpec{From: "single", To: "large", Workdir: "build", MaxSize: 3})
	w.run()
	art := filepath.Join(w.dir, "lin", "12")
	if read(t, art, "sub/tree/d/e/c") != "text 2" || read(t, art, "sub/tree/a") != "text 0" || read(t, art, "single") != "text 1" {
		t.Error("files are missing")
	}
	for n, want := range []string{"downloaded tree", "downloaded single", "uploaded to " + art + "/sub/tree (18 bytes)", "uploaded to " + art + "/sub/tree (18 bytes)",
		"uploaded to " + art + "/single (6 bytes)",
		"nothing is not there", "upload of single failed: larger than max_size"} {
		if w.rows[n].Text != want {
			t.Errorf("step %d: %s\n%s", n, w.rows[n].Text, w.log(n))
		}
	}
	var names []string
	_ = filepath.WalkDir(art, func(p string, d os.DirEntry, _ error) error {
		if !d.IsDir() {
			names = append(names, strings.TrimPrefix(p, art+"/"))
		}
		return nil
	})
	if got := strings.Join(names, " "); got != "single sub/tree/a sub/tree/d/b sub/tree/d/e/c" {
		t.Errorf("left: %s", got)
	}
}
