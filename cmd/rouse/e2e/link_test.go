package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

func TestConnectionIsCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	for name, hurt := range map[string]func(*proxy) int{"both ends": (*proxy).cut, "the agent's end": (*proxy).half} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.configure(config{Builders: killedBuilder("b", 30)})
			w.up(nil)
			id := w.force("b")
			for _, when := range []func() bool{w.now(output(10)), w.now(output(30)), w.now(output(60)), w.now(told("end one")), w.now(told("end two"))} {
				w.until("the build goes on", 20*time.Second, when)
				w.until("there is a connection to hurt", 20*time.Second, func() bool { return hurt(w.proxy) > 0 })
			}
			w.checkKilled(id, "b")
			w.checkOnce(1)
			w.clean()
		})
	}
}

// now makes a condition of a point's.
func (w *world) now(when func(ctx context.Context, w *world) bool) func() bool {
	return func() bool { return when(w.t.Context(), w) }
}

func TestConnectionIsCutInAnUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.configure(config{Builders: killedBuilder("b", 8)})
	w.up(nil)
	id := w.force("b")
	w.until("the upload goes on", 20*time.Second, w.now(uploading(2<<20)))
	w.proxy.cut()
	w.checkKilled(id, "b")
	w.checkOnce(1)
	w.clean()
}

// TestConnectionFallsSilent leaves the connection open, and nothing passes: both sides must find that out for themselves.
func TestConnectionFallsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: killedBuilder("b", 8)})
	w.up(nil)
	id := w.force("b")
	w.until("the build prints", 20*time.Second, w.now(output(20)))
	w.proxy.freeze()
	began := time.Now()
	w.until("somebody notices", time.Minute, func() bool { return strings.Contains(w.said(), `"msg":"session: detached"`) })
	t.Logf("noticed after %v", time.Since(began).Round(time.Second))
	w.checkKilled(id, "b")
	w.checkOnce(1)
	w.clean()
}

// agents are the processes of all agents.
func (w *world) agents() (pids []int) {
	for _, p := range w.processes() {
		exe, err := os.Readlink(filepath.Join("/proc", p, "exe"))
		if pid, perr := strconv.Atoi(p); err == nil && perr == nil && exe == programs.worker {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) signalAgent(sig syscall.Signal) {
	w.t.Helper()
	pids := w.agents()
	if len(pids) != 1 {
		w.t.Fatalf("the agents are %v, want one", pids)
	}
	if err := syscall.Kill(pids[0], sig); err != nil {
		w.t.Fatal(err)
	}
}

func TestAgentIsKilledAndTheBuildIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", long.step())})
	_, id := w.running()
	w.signalAgent(syscall.SIGKILL)
	r := w.done(id, 40*time.Second)
	if r.Result != model.Success || r.Attempts != 2 {
		t.Errorf("got %s after %d attempts (%s), want success after 2", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, long)
	out, errs := talkText(long.Seed, long.Lines)
	if got := w.raw(r.Build-1, 0, "stdout"); !strings.HasPrefix(out, got) || len(got) == 0 {
		t.Errorf("the lost build's log is no beginning of the output: %.100q", got)
	}
	if got := w.raw(r.Build-1, 0, "stderr"); !strings.HasPrefix(errs, got) {
		t.Errorf("the lost build's log is no beginning of the output: %.100q", got)
	}
	if n := len(w.instances()); n != 2 {
		t.Errorf("%d instances were made", n)
	}
	w.clean()
}

func TestAgentIsKilledEveryTimeAndTheRequestEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: strings.Replace(builder("b", long.step()), "workers =", "max_attempts = 2\n  workers =", 1)})
	_, id := w.running()
	var killed []int
	w.until("the request is done", 90*time.Second, func() bool {
		for _, pid := range w.agents() {
			if !slices.Contains(killed, pid) && strings.Count(strings.Join(w.witnessed(), ","), "begin") > len(killed) {
				killed = append(killed, pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return w.request(id).State == model.RequestDone
	})
	if r := w.request(id); r.Result == model.Success || r.Attempts != 2 || len(killed) != 2 {
		t.Errorf("got %s after %d attempts and %d kills (%s)", r.Result, r.Attempts, len(killed), r.Text)
	}
	if n := len(w.instances()); n != 2 {
		t.Errorf("%d instances were made", n)
	}
	w.clean()
}

// TestAgentIsStoppedLongerThanTheDeadLive stops the agent until the master has given up its connection, and lets it go on.
func TestAgentIsStoppedLongerThanTheDeadLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", long.step())})
	_, id := w.running()
	w.signalAgent(syscall.SIGSTOP)
	w.until("the master takes the agent for dead", time.Minute, func() bool { return strings.Contains(w.said(), `"msg":"session: detached"`) })
	w.signalAgent(syscall.SIGCONT)
	w.resumed(id)
	w.clean()
}

func TestDaemonsEndWithTheirInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", `
  step "shell" "daemons" {
    command = ["`+programs.self+`"]
    env     = { E2E_ROLE = "daemon" }
  }
`)})
	w.up(nil)
	id := w.force("b")
	if r := w.done(id, 30*time.Second); r.Result != model.Success {
		t.Errorf("got %s (%s)", r.Result, r.Text)
	}
	daemons := w.witnessed()
	if n := len(daemons); n != 4 {
		t.Errorf("%d daemons were there, want 4", n)
	}
	w.clean()
	for _, d := range daemons { // by number: one of them does not carry the mark that clean looks for
		pid := strings.TrimPrefix(d, "deaf ")
		if cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && len(cmdline) > 0 { // the dead have none
			t.Errorf("daemon %s outlives its instance", pid)
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}
