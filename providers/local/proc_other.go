//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootID needs no boot here: start times are of the calendar.
func bootID() string { return "ps" }

// collectEvery: not at all. Agents cannot adopt orphans here, and a look costs a process.
const collectEvery = 0

// stat is a line of the table of processes.
type stat struct {
	pid, ppid, pgrp, session int
	state                    byte
	start                    uint64 // seconds of the Unix epoch
}

func (s stat) dead() bool { return s.state == 'Z' }

func readStat(pid int) (stat, error) {
	all, err := ps("-p", strconv.Itoa(pid))
	if err != nil {
		return stat{}, err
	}
	if len(all) == 0 {
		return stat{}, unix.ESRCH
	}
	return all[0], nil
}

// status cannot be seen here without waiting for the process.
func (p process) status() string { return "" }

// scan returns all processes, the dead that nobody has waited for included.
func scan() ([]stat, error) { return ps("-ax") }

func ps(args ...string) ([]stat, error) {
	cmd := exec.Command("ps", append(args, "-o", "pid=,ppid=,pgid=,state=,lstart=")...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/bin:/usr/bin"}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) { // ps fails when nothing matches
		return nil, err
	}
	var all []stat
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 9 {
			continue
		}
		var s stat
		if _, err := fmt.Sscan(strings.Join(f[:3], " "), &s.pid, &s.ppid, &s.pgrp); err != nil {
			continue
		}
		t, err := time.ParseInLocation("Mon Jan 2 15:04:05 2006", strings.Join(f[4:9], " "), time.Local)
		if err != nil {
			continue
		}
		s.session, s.state, s.start = s.pgrp, f[3][0], uint64(t.Unix())
		all = append(all, s)
	}
	return all, nil
}

// tagged cannot be told here: the environment of a process is not readable by all these systems' ps.
func tagged(int, ...string) bool { return false }

func (s stat) signal(sig unix.Signal) error { return unix.Kill(s.pid, sig) }

func (p process) awaitExit(ctx context.Context) bool { return p.pollExit(ctx) }
