package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// buildbotWorkers are the unmodified programs that .ci/buildbot-peers installs.
var buildbotWorkers = map[string]string{
	"pypi":   "../../../.cache/peers/pypi/bin/buildbot-worker",
	"debian": "/usr/bin/buildbot-worker",
}

const standardWorker = `
secret "w" {
  file = %q
}
worker "w" {
  password = secret.w
}
`

// standard configures a standard worker named w, and returns the file with its password.
func (w *world) standard(c config, password string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	c.Worker += fmt.Sprintf(standardWorker, file)
	w.configure(c)
}

// buildbot starts a Buildbot worker, whose directory is made if it is not there.
func (w *world) buildbot(program, base, password string) *exec.Cmd {
	w.t.Helper()
	if _, err := os.Stat(base); err != nil {
		host := strings.TrimPrefix(w.proxy.url(), "ws://")
		create := exec.Command(program, "create-worker", "--protocol=msgpack_experimental_v7", base, host, "w", password)
		if out, err := create.CombinedOutput(); err != nil {
			w.t.Fatalf("create-worker: %v\n%s", err, out)
		}
		w.t.Cleanup(func() {
			if w.t.Failed() {
				b, _ := os.ReadFile(filepath.Join(base, "twistd.log"))
				w.t.Logf("the worker said:\n%s", b)
			}
		})
	}
	run := exec.Command(program, "start", "--nodaemon", base)
	run.Env = append(os.Environ(), "E2E_MARK="+w.mark, "E2E_WITNESS="+w.witnessFile())
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	if err := run.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.killBuildbot(run) })
	return run
}

// killBuildbot kills the worker, and what it runs, which has process groups of its own.
func (w *world) killBuildbot(run *exec.Cmd) {
	if run.ProcessState != nil {
		return
	}
	_ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL)
	_ = run.Wait()
}

func TestUnmodifiedBuildbotWorker(t *testing.T) {
	t.Parallel()
	for name, program := range buildbotWorkers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, err := filepath.Abs(program)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(program); err != nil {
				if os.Getenv("ROUSE_PEERS") == "require" {
					t.Fatalf("%v; install it with .ci/buildbot-peers", err)
				}
				t.Skipf("%v; install it with .ci/buildbot-peers", err)
			}
			testBuildbotWorker(t, program)
		})
	}
}

func testBuildbotWorker(t *testing.T, program string) {
	k := talk{Name: "talk", Seed: 5, Lines: 40}
	w := newWorld(t, false)
	w.standard(config{Builders: builder("b", k.step(), `
  step "shell" "fails" {
    command = "echo to stderr >&2; printf 'no newline'; exit 3"
  }
`) + builder("sleep", `
  step "shell" "sleep" {
    command = "echo asleep >> $E2E_WITNESS; sleep 300"
  }
`) + builder("once", `
  step "shell" "once" {
    command = "if [ -e ../been ]; then echo again; else touch ../been; echo first >> $E2E_WITNESS; sleep 300; fi"
  }
`)}, "pw-of-w")
	w.up(nil)
	base := filepath.Join(w.dir, "worker")
	peer := w.buildbot(program, base, "pw-of-w")

	r := w.done(w.force("b"), 60*time.Second)
	if r.Result != model.Failure || r.Attempts != 1 {
		t.Errorf("got %s after %d attempts (%s), want failure", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, k)
	// The worker ends every partial line with a newline.
	if out, errs := w.raw(r.Build, 1, "stdout"), w.raw(r.Build, 1, "stderr"); out != "no newline\n" || errs != "to stderr\n" {
		t.Errorf("the log holds %q and %q", out, errs)
	}
	if head := w.raw(r.Build, 1, "header"); !strings.Contains(head, "exit code 3") {
		t.Errorf("the log says %q", head)
	}

	id := w.force("sleep")
	w.until("the step sleeps", 30*time.Second, w.now(told("asleep")))
	began := time.Now()
	c := w.client()
	defer c.Close()
	if err := c.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
		t.Fatal(err)
	}
	if r := w.done(id, 20*time.Second); r.Result != model.Cancelled {
		t.Errorf("got %s (%s), want cancelled", r.Result, r.Text)
	}
	t.Logf("cancelled after %v", time.Since(began).Round(time.Millisecond))
	w.until("the step's program is gone", 10*time.Second, func() bool { return len(w.programs("sleep")) == 0 })

	id = w.force("once")
	w.until("the step runs", 30*time.Second, w.now(told("first")))
	w.killBuildbot(peer)
	for _, pid := range w.programs("sleep") { // it is nobody's now
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	w.phase(id, "waiting", 20*time.Second)
	_ = os.Remove(filepath.Join(base, "twistd.pid"))
	peer = w.buildbot(program, base, "pw-of-w")
	r = w.done(id, 60*time.Second)
	if r.Result != model.Success || r.Attempts != 2 {
		t.Errorf("got %s after %d attempts (%s), want success after 2", r.Result, r.Attempts, r.Text)
	}
	if out := w.raw(r.Build, 0, "stdout"); out != "again\n" {
		t.Errorf("the log holds %q", out)
	}
	w.killBuildbot(peer)
	masters := w.all()
	masters[len(masters)-1].stop(10 * time.Second)
}

// programs are the world's processes that run a program.
func (w *world) programs(name string) (pids []int) {
	for _, p := range w.processes() {
		b, _ := os.ReadFile(filepath.Join("/proc", p, "comm"))
		var pid int
		if _, err := fmt.Sscan(p, &pid); err == nil && strings.TrimSpace(string(b)) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}
