package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// long is a step that is still at it when the test interferes.
var long = talk{Name: "long", Seed: 3, Lines: 150, PaceMS: 15}

// running brings a master up with a build in the middle of its output.
func (w *world) running() (*master, model.RequestID) {
	w.t.Helper()
	m := w.up(nil)
	id := w.force("b")
	w.until("the build prints", 20*time.Second, func() bool { return logged(0, 5000)(w.t.Context(), w) })
	return m, id
}

// resumed says whether a request that a second master found running ended as if there had been only one.
func (w *world) resumed(id model.RequestID) {
	w.t.Helper()
	r := w.done(id, 30*time.Second)
	if r.Result != model.Success || r.Attempts != 1 {
		w.t.Errorf("got %s after %d attempts (%s), want success at once", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, long)
	if n := len(w.instances()); n != 1 {
		w.t.Errorf("%d instances were made", n)
	}
	if got := strings.Join(w.witnessed(), ", "); got != "begin long, end long" {
		w.t.Errorf("the step's program said %q", got)
	}
}

func TestStopKeepsBuildsForTheNextMaster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", long.step())})
	m, id := w.running()
	m.stop(10 * time.Second)
	if n := len(w.processes()); n != 2 { // the agent and the step's program
		t.Errorf("%d processes are left while no master is there, want 2", n)
	}
	if slices.Contains(w.witnessed(), "end long") {
		t.Fatal("the build was over before the master stopped")
	}
	w.up(nil)
	w.resumed(id)
	w.clean()
}

func TestStopDrainsFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{OnStop: "drain", Builders: builder("b", long.step())})
	m, id := w.running()
	second := w.force("b") // there is one worker: it waits
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := w.done(id, 20*time.Second); r.Result != model.Success || r.Attempts != 1 { // it still answers
		t.Errorf("got %s after %d attempts (%s)", r.Result, r.Attempts, r.Text)
	}
	m.awaitDeath(10 * time.Second)
	if m.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the master ended with %v", m.cmd.ProcessState)
	}
	w.cleanNow()
	w.up(nil)
	if r := w.done(second, 20*time.Second); r.Result != model.Success || r.Attempts != 1 {
		t.Errorf("the request that waited: got %s after %d attempts (%s)", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(w.request(id).Build, 0, long)
	w.checkTalk(w.request(second).Build, 0, long)
	w.clean()
}

func TestStopTerminatesAndTheNextMasterTriesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{OnStop: "terminate", Builders: builder("b", long.step())})
	m, id := w.running()
	m.stop(10 * time.Second)
	w.cleanNow()
	if slices.Contains(w.witnessed(), "end long") {
		t.Error("the build was not stopped")
	}
	w.up(nil)
	r := w.done(id, 30*time.Second)
	if r.Result != model.Success {
		t.Errorf("got %s (%s)", r.Result, r.Text)
	}
	w.checkTalk(r.Build, 0, long)
	var results []string
	for _, b := range get[api.BuildList](w, "/builds").Builds {
		results = append(results, b.Result.String())
	}
	if got := strings.Join(results, ", "); got != "success, retry" {
		t.Errorf("the builds' results are %s, newest first", got)
	}
	w.clean()
}

func TestTakeoverGoesOnWithTheBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", long.step())})
	first, id := w.running()

	refused := w.start(nil)
	refused.awaitDeath(10 * time.Second)
	if code := refused.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(w.said(), fmt.Sprint(first.cmd.Process.Pid)) {
		t.Errorf("a second master ended with %d; it must be refused and name the first", code)
	}
	if first.isDead() {
		t.Fatal("the first master is dead")
	}

	w.up(nil, "-takeover")
	first.awaitDeath(time.Second)
	if code := first.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the first master ended with %d", code)
	}
	w.resumed(id)
	w.clean()
}
