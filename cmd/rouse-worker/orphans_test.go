package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/session"
)

// The tests in this file let commands of an instance's agent leave processes behind.

// fields are what /proc/PID/stat has after the name, state and parent first; nil without such a process.
func fields(pid string) []string {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// children returns a process's children, and how many of them have ended without being waited for.
func children(pid int) (all []string, zombies int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		child := filepath.Base(filepath.Dir(name))
		if f := fields(child); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			all = append(all, child)
			if f[0] == "Z" {
				zombies++
			}
		}
	}
	return all, zombies
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (p *port) shell(ctx context.Context, base, id, line string) (session.Outcome, error) {
	out, err := p.hub.Run(ctx, "w1", session.Command{ID: id, Name: "shell", Args: map[string]any{"workdir": base, "logEnviron": false, "command": line}})
	p.hub.Forget("w1", id)
	return out, err
}

func TestOrphansStayBelowTheAgentAndEndWithIt(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	base := t.TempDir()
	cmd, stop := p.launch(t, base, "-instance", "k")
	defer func() { // once
		if stop != nil {
			stop()
		}
	}()
	file := filepath.Join(base, "pid")
	line := `(env -i setsid /bin/sh -c 'trap "" TERM HUP; (sleep 120 & ); echo $$ >` + file + `.part; mv ` + file + `.part ` + file + `; exec sleep 120' >/dev/null 2>&1 &)
while ! [ -e ` + file + ` ]; do sleep 0.05; done` // until it has left the command's process group, which ends with the command
	if out, err := p.shell(t.Context(), base, "c1", line); err != nil || out.RC != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	var pids []string
	until(t, "the daemon and what it left behind itself are the agent's children", func() bool {
		if _, err := os.Stat(file); err != nil {
			return false
		}
		pids, _ = children(cmd.Process.Pid)
		return len(pids) == 2
	})
	t.Cleanup(func() {
		for _, pid := range pids {
			if f := fields(pid); len(f) > 0 && f[0] != "Z" {
				t.Errorf("process %s outlives the agent", pid)
				n, _ := strconv.Atoi(pid)
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})
	stop()
	stop = nil
}

func TestOrphansThatEndAreBuried(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	base := t.TempDir()
	cmd, stop := p.launch(t, base, "-instance", "k")
	defer stop()
	out, err := p.shell(t.Context(), base, "c1", `i=0; while [ $i -lt 200 ]; do (setsid sh -c 'echo >>begun; sleep 0.3; echo >>ended' >/dev/null 2>&1 &); i=$((i+1)); done
while ! [ $(wc -l <begun) = 200 ]; do sleep 0.05; done`)
	if err != nil || out.RC != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	until(t, "all orphans have ended", func() bool {
		b, _ := os.ReadFile(filepath.Join(base, "ended"))
		return len(b) == 200
	})
	until(t, "none of them is left as a zombie", func() bool {
		all, _ := children(cmd.Process.Pid)
		return len(all) == 0
	})
}

func TestOrphansTakeNoCommandsExitCode(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	base := t.TempDir()
	_, stop := p.launch(t, base, "-instance", "k")
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	seats := make(chan struct{}, 20)
	for rc := range 200 {
		seats <- struct{}{}
		all.Go(func() {
			defer func() { <-seats }()
			// The first orphan holds the output open, so the command is a zombie while it is there; the second ends meanwhile.
			out, err := p.shell(ctx, base, fmt.Sprint("c", rc), fmt.Sprintf("(sleep 0.3 &); (sleep 0.1 >/dev/null 2>&1 &); exit %d", rc))
			if err != nil || out.RC != rc {
				t.Errorf("exit %d: got %+v %v", rc, out, err)
			}
		})
	}
	all.Wait()
}
