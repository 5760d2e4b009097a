//go:build linux

package local

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

func TestWhateverAnInstanceDoesNothingIsLeft(t *testing.T) {
	for how, atLeast := range map[string]int{"plain": 1, "ignore": 1, "daemon": 2, "bare": 1, "storm": 201, "readonly": 1} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, `grace = "100ms"`)
			p := r.open()
			bystander := r.create(p, "")
			key := r.create(p, standin(how))
			r.ready(p, key)
			if n := len(bearing(key)); n < atLeast {
				t.Fatalf("%d processes, want at least %d", n, atLeast)
			}
			e, err := load(p.dir(key), key)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := p.Destroy(context.Background(), key); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("Destroy took %s", d)
			}
			r.destroy(p, key)
			all, err := scan()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if !s.dead() && (s.session == e.process.PID || s.pgrp == e.process.PID) { // the dead are init's to bury
					t.Errorf("pid %d of its session is left in state %c", s.pid, s.state)
				}
			}
			if got := r.stateOf(p, bystander); got != "running" {
				t.Errorf("the instance beside it is %s", got)
			}
		})
	}
}

func TestGraceLetsTheAgentEndByItself(t *testing.T) {
	t.Parallel()
	r := newRig(t, `grace = "30s"`)
	p := r.open()
	key := r.create(p, "")
	r.ready(p, key)
	start := time.Now()
	r.destroy(p, key)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("an agent that ends at once was waited for %s", d)
	}
}

func TestMasterDiesBetweenStartAndRecord(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"get", "create", "destroy"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "")
			p := r.open()
			key := r.create(p, standin("ignore"))
			r.ready(p, key)
			_ = p.Close()
			if err := os.Remove(filepath.Join(p.dir(key), fileProcess)); err != nil {
				t.Fatal(err)
			}
			p = r.open()
			switch then {
			case "get":
				r.until("running", func() bool { return r.stateOf(p, key) == "running" }) // pending while it is being adopted
			case "create":
				if in, err := p.Create(context.Background(), r.request(key, "")); err != nil || in.State != providers.Running {
					t.Errorf("%v %v", in, err)
				}
				if n := len(bearing(key)); n != 1 {
					t.Errorf("%d processes, want 1", n)
				}
			}
			r.destroy(p, key)
		})
	}
}

func TestMasterDiesBetweenIntentAndStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	intend := func(key providers.Key) {
		if err := os.MkdirAll(filepath.Join(p.dir(key), dirWork), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeJSON(p.dir(key), fileIntent, record{Key: key, Owner: "o", Worker: "w", Created: time.Now()}, true); err != nil {
			t.Fatal(err)
		}
	}
	intend("o-w-a")
	intend("o-w-b")
	if got := r.stateOf(p, "o-w-a"); got != "not-found" { // so that the core looks, and creates it again
		t.Errorf("state %s, want not-found", got)
	}
	r.destroy(p, "o-w-a")
	if in, err := p.Create(context.Background(), r.request("o-w-b", "")); err != nil || in.State != providers.Running {
		t.Errorf("Create again: %v %v, want it running", in, err)
	}
}

func TestMasterDiesDuringDestroy(t *testing.T) {
	t.Parallel()
	r := newRig(t, `grace = "30s"`)
	p := r.open()
	key := r.create(p, standin("ignore"))
	r.ready(p, key)
	if err := p.Destroy(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	_ = p.Close() // in the middle of the grace
	if n := len(bearing(key)); n != 1 {
		t.Fatalf("%d processes, want 1", n)
	}
	r.cfg = `grace = "10ms"`
	p = r.open()
	if got := r.stateOf(p, key); got != "stopping" {
		t.Errorf("state %s, want stopping", got)
	}
	r.destroy(p, key)
}

func TestAgentThatEndedWithoutAMasterIsFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("daemon"))
	r.ready(p, key)
	_ = p.Close()
	e, err := load(p.dir(key), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p = r.open()
	r.until("failed", func() bool { return r.stateOf(p, key) == "failed" })
	r.until("what it left behind is killed", func() bool { return len(bearing(key)) == 0 })
}

func TestReusedPidIsNotTouched(t *testing.T) {
	t.Parallel()
	victim := exec.Command("sleep", "600")
	victim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	real, err := identify(victim.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	newRig(t, "").until("the clock of start times has gone on by more than what is forged", func() bool { return ticks(t) > real.Start+1 })
	for name, forged := range map[string]process{
		"started later":     {PID: real.PID, Start: real.Start - 1, Boot: real.Boot},
		"started earlier":   {PID: real.PID, Start: real.Start + 1, Boot: real.Boot},
		"another boot":      {PID: real.PID, Start: real.Start, Boot: "another"},
		"impossible":        {PID: -1, Start: real.Start, Boot: real.Boot},
		"this very process": {PID: os.Getpid(), Start: 1, Boot: real.Boot},
	} {
		r := newRig(t, `grace = "10ms"`)
		p := r.open()
		key := r.create(p, "")
		r.ready(p, key)
		_ = p.Close()
		if err := writeJSON(p.dir(key), fileProcess, forged, false); err != nil {
			t.Fatal(err)
		}
		p = r.open()
		r.until(name+": not taken for running", func() bool { return r.stateOf(p, key) == "failed" })
		r.destroy(p, key)
		if !real.alive() {
			t.Fatalf("%s: the process that has the pid now was killed", name)
		}
	}
}

// ticks is the start time of a process that starts now.
func ticks(t *testing.T) uint64 {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := readStat(cmd.Process.Pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return s.start
}
