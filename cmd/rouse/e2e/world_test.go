package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// world is one state directory with its configuration, and all masters that live on it, one after the other.
type world struct {
	t     *testing.T
	mark  string // in the environment of every process of this world
	dir   string
	state string
	proxy *proxy
	env   []string // of the masters, besides the test's own

	mu      sync.Mutex
	masters []*master
	log     bytes.Buffer // of all masters
}

func newWorld(t *testing.T, park bool) *world {
	t.Helper()
	w := &world{t: t, mark: rand.Text(), dir: t.TempDir()}
	if len(w.dir) > 80 { // a socket's path has little room
		short, err := os.MkdirTemp("", "rouse-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(short) })
		w.dir = short
	}
	w.state = filepath.Join(w.dir, "state")
	w.proxy = newProxy(t, park)
	t.Cleanup(w.end)
	return w
}

// end ends what a failed test has left, and says what the masters said.
func (w *world) end() {
	for _, m := range w.all() {
		_ = m.cmd.Process.Kill()
		<-m.dead
	}
	left := w.processes()
	for _, p := range left {
		if pid, err := strconv.Atoi(p); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if len(left) > 0 {
		w.t.Errorf("processes %v were left", left)
	}
	if w.t.Failed() {
		w.t.Logf("the masters said:\n%s", w.said())
		consoles, _ := filepath.Glob(filepath.Join(w.state, "providers", "*", "*", "instances", "*", "console.log"))
		for _, c := range consoles {
			b, _ := os.ReadFile(c)
			w.t.Logf("%s:\n%s", c, b)
		}
	}
}

func (w *world) all() []*master {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.masters)
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// processes are the IDs of all live processes that carry the world's mark, masters included.
func (w *world) processes() (pids []string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range envs {
		b, err := os.ReadFile(name)
		if err == nil && bytes.Contains(b, []byte("E2E_MARK="+w.mark)) {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}

// configure writes the configuration: the builders, and whatever replaces the defaults.
func (w *world) configure(c config) {
	w.t.Helper()
	if c.Worker == "" {
		c.Worker = fmt.Sprintf(`
worker "w" {
  provider           = provider.local.here
  count              = %d
  max_builds         = 1
  build_wait_timeout = %q
  missing_timeout    = "1m"
  orphan_timeout     = %q
  instance {}
}`, max(c.Count, 1), orDefault(c.Wait, "0s"), orDefault(c.Orphan, "10m"))
	}
	text := fmt.Sprintf(`
master {
  listen         = "127.0.0.1:0"
  url            = %q
  on_master_stop = %q
}
provider "local" "here" {
  worker_binary = %q
  grace         = %q
  env           = { E2E_MARK = %q, E2E_WITNESS = %q }
}
%s
%s
`, w.proxy.url(), orDefault(c.OnStop, "keep"), orDefault(c.Agent, programs.worker), orDefault(c.Grace, "500ms"), w.mark, w.witnessFile(), c.Worker, c.Builders)
	dir := filepath.Join(w.dir, "config")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// config is what tests say of the configuration.
type config struct {
	OnStop, Agent, Grace, Wait, Orphan string
	Count                              int
	Worker                             string // instead of the latent worker w
	Builders                           string
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// talk is the text of a step that runs the test's program as a talker.
type talk struct {
	Name     string
	Seed     int
	Lines    int
	PaceMS   int
	Artifact int
}

func (k talk) step() string {
	return fmt.Sprintf(`
  step "shell" %[1]q {
    command = [%[2]q]
    env = { E2E_ROLE = "talk", E2E_NAME = %[1]q, E2E_SEED = "%[3]d", E2E_LINES = "%[4]d", E2E_PACE_MS = "%[5]d", E2E_ARTIFACT = "%[6]d" }
  }
`, k.Name, programs.self, k.Seed, k.Lines, k.PaceMS, k.Artifact)
}

func builder(name string, steps ...string) string {
	return fmt.Sprintf("builder %q {\n  workers = [worker.w]\n%s}\nscheduler \"force\" %q {\n  builders = [builder.%s]\n}\n", name, strings.Join(steps, ""),
		"force-"+name, name)
}

func (w *world) witnessFile() string { return filepath.Join(w.dir, "witness") }

// witnessed are the lines that the steps' programs have written.
func (w *world) witnessed() []string {
	b, err := os.ReadFile(w.witnessFile())
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// client talks to whichever master there is.
func (w *world) client() *api.Client {
	w.t.Helper()
	c, err := api.NewClient(filepath.Join(w.state, api.SocketName), "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// get asks the master, which must answer.
func get[T any](w *world, path string, query ...string) T {
	w.t.Helper()
	v, err := try[T](w, path, query...)
	if err != nil {
		w.t.Fatalf("GET %s: %v", path, err)
	}
	return v
}

func try[T any](w *world, path string, query ...string) (v T, err error) {
	q := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	c := w.client()
	defer c.Close()
	err = c.Get(w.t.Context(), path, q, &v)
	return v, err
}

func post[T any](w *world, path string, in any) (v T, err error) {
	c := w.client()
	defer c.Close()
	err = c.Post(w.t.Context(), path, nil, in, &v)
	return v, err
}

// force asks for a build and returns its request, which is durable.
func (w *world) force(builder string) model.RequestID {
	w.t.Helper()
	made, err := post[api.Forced](w, "/force", api.Force{Builder: builder})
	if err != nil {
		w.t.Fatalf("force %s: %v", builder, err)
	}
	return made.Requests[0]
}

func (w *world) request(id model.RequestID) api.Request {
	w.t.Helper()
	return get[api.Request](w, fmt.Sprintf("/requests/%d", id))
}

// done waits for the end of a request.
func (w *world) done(id model.RequestID, within time.Duration) api.Request {
	w.t.Helper()
	var r api.Request
	w.until(fmt.Sprintf("request %d is done", id), within, func() bool {
		var err error
		r, err = try[api.Request](w, fmt.Sprintf("/requests/%d", id))
		return err == nil && r.State == model.RequestDone
	})
	return r
}

// phase waits until a request is in a phase.
func (w *world) phase(id model.RequestID, phase string, within time.Duration) api.Request {
	w.t.Helper()
	var r api.Request
	w.until(fmt.Sprintf("request %d is %s", id, phase), within, func() bool {
		r = w.request(id)
		return r.Phase == phase
	})
	return r
}

// until waits for a condition.
func (w *world) until(what string, within time.Duration, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in %v: %s", within, what)
		}
		select {
		case <-w.t.Context().Done():
			w.t.Fatal("the test has ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// raw is what one stream of a step's log holds.
func (w *world) raw(build model.BuildID, step int, stream string) string {
	w.t.Helper()
	c := w.client()
	defer c.Close()
	var b strings.Builder
	q := url.Values{}
	if stream != "" {
		q.Set("stream", stream)
	}
	if err := c.Copy(w.t.Context(), fmt.Sprintf("/builds/%d/steps/%d/logs/stdio/raw", build, step), q, &b); err != nil {
		w.t.Fatalf("read the log of build %d, step %d: %v", build, step, err)
	}
	return b.String()
}

// sameText says where two texts differ.
func sameText(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d bytes instead of %d, different from byte %d on: got %.200q, want %.200q", what, len(got), len(want), i, got[i:], want[i:])
}

// checkTalk says whether the logs of a talking step are whole.
func (w *world) checkTalk(build model.BuildID, step int, k talk) {
	w.t.Helper()
	out, errs := talkText(k.Seed, k.Lines)
	what := fmt.Sprintf("build %d, step %d", build, step)
	sameText(w.t, what+", stdout", w.raw(build, step, "stdout"), out)
	sameText(w.t, what+", stderr", w.raw(build, step, "stderr"), errs)
	if n := strings.Count(w.raw(build, step, "header"), "program finished with exit code 0"); n != 1 {
		w.t.Errorf("%s: its end is told %d times: %s", what, n, w.raw(build, step, "header"))
	}
}

// instances are all instances ever made.
func (w *world) instances() []api.Instance {
	w.t.Helper()
	return get[api.InstanceList](w, "/instances", "all", "true", "limit", "1000").Instances
}

// clean waits until nothing but the master is left of the world, then ends that in order, and looks whether anything stays.
func (w *world) clean() {
	w.t.Helper()
	w.until("all instances are gone", 30*time.Second, func() bool {
		list, err := try[api.InstanceList](w, "/instances") // a disk that was full a moment ago may still be so for the next attempt
		return err == nil && len(list.Instances) == 0
	})
	w.cleanNow()
}

// cleanNow is clean for masters that have ended already, too.
func (w *world) cleanNow() {
	w.t.Helper()
	masters := w.all()
	last := masters[len(masters)-1]
	if !last.isDead() {
		last.stop(30 * time.Second)
	}
	w.until("no process is left", 5*time.Second, func() bool { return len(w.processes()) == 0 })
	if left, err := os.ReadDir(filepath.Join(w.state, "providers", "local", "here", "instances")); err != nil || len(left) > 0 {
		w.t.Errorf("left of the provider's instances: %v %v", left, err)
	}
}

// artifact is the path of a build's artifact.
func (w *world) artifact(builder string, build model.BuildID, name string) string {
	return filepath.Join(w.state, "artifacts", builder, fmt.Sprint(build), name)
}
