//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const lookEvery = 100 * time.Millisecond // while an agent is given time to end

// identify returns the lasting name of a process that cannot have been waited for yet.
func identify(pid int) (process, error) {
	s, err := readStat(pid)
	return process{PID: pid, Start: s.start, Boot: bootID()}, err
}

// alive says whether that very process runs still.
func (p process) alive() bool {
	if p.PID <= 0 || p.Boot != bootID() {
		return false
	}
	s, err := readStat(p.PID)
	return err == nil && s.start == p.Start && !s.dead()
}

// terminate asks the agent to end and gives it time to. Its descendants are noted before, while and as long as it lives: when it ends they
// become init's.
func (e *entry) terminate(ctx context.Context, grace time.Duration) {
	look := func(tags bool) {
		if all, err := scan(); err == nil { // an error: sweep meets it again
			e.collect(all, tags)
		}
	}
	if !e.process.alive() {
		return
	}
	look(true)
	_ = stat{pid: e.process.PID, start: e.process.Start}.signal(unix.SIGTERM) // an error: it has ended
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for ctx.Err() == nil {
		turn, stop := context.WithTimeout(ctx, lookEvery)
		ended := e.process.awaitExit(turn)
		stop()
		if ended {
			return
		}
		look(false)
	}
}

// pollExit is awaitExit for systems that cannot wait for other processes' children.
func (p process) pollExit(ctx context.Context) bool {
	for p.alive() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(200 * time.Millisecond):
		}
	}
	return true
}

// reap collects the exit status of a child of ours that has ended.
func (p process) reap() (text string, ok bool) {
	if s, err := readStat(p.PID); err != nil || s.start != p.Start || s.ppid != os.Getpid() || p.Boot != bootID() {
		return "", false
	}
	var ws unix.WaitStatus
	if pid, err := unix.Wait4(p.PID, &ws, unix.WNOHANG, nil); err != nil || pid != p.PID {
		return "", false
	}
	return describe(ws), true
}

// exitStatus begins the text of an agent that has ended itself.
const exitStatus = "exit status "

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf(exitStatus+"%d", ws.ExitStatus())
}

// members picks the processes that belong to an instance and live. They are
//
//   - those in the session or process group of the agent, while the agent can be proven to be the one that was recorded: a pid is not
//     used again as long as a session or group of that number exists, but without the agent nobody can say whose session it is;
//   - those that were seen before (kin), whoever their parent is by now;
//   - those that carry the instance's tags, wherever they went, if tags is true;
//   - the descendants of all these. On Linux the agent adopts the orphans among its own, so as long as it lives nothing gets away from it.
//
// So a process is missed that hides from its tags, session and parent, all three, between the last look (collectEvery) and a death of the agent
// that gave it no time, such as by SIGKILL from somebody else; also if that was while no handle was open, or with another agent than ours. What
// another service starts on request, such as a user's systemd, was never the instance's.
func (e *entry) members(all []stat, tags bool) []stat {
	thisBoot := e.process.PID != 0 && e.process.Boot == bootID()
	known := false // the agent is there, be it dead
	for _, s := range all {
		known = known || thisBoot && s.pid == e.process.PID && s.start == e.process.Start
	}
	self := os.Getpid()
	in := map[int]stat{}
	for _, s := range all {
		switch {
		case s.pid == self || s.pid <= 1:
		case thisBoot && s.start < e.process.Start: // older than the agent
		case known && (s.pid == e.process.PID || s.session == e.process.PID || s.pgrp == e.process.PID),
			e.kin[s.id()],
			tags && tagged(s.pid, tagInstance+"="+string(e.Key), tagOwner+"="+string(e.Owner)):
			in[s.pid] = s
		}
	}
	for grown := len(in) > 0; grown; {
		grown = false
		for _, s := range all {
			parent, child := in[s.ppid]
			if _, already := in[s.pid]; child && !already && s.pid != self && s.pid > 1 && s.start >= parent.start {
				in[s.pid], grown = s, true
			}
		}
	}
	live := make([]stat, 0, len(in))
	for _, s := range in {
		if !s.dead() {
			live = append(live, s)
		}
	}
	return live
}

// id names a process within this boot.
type id struct {
	pid   int
	start uint64
}

func (s stat) id() id { return id{s.pid, s.start} }

// collect is members, which it remembers for the next time. The agent, if it is there, is the last.
func (e *entry) collect(all []stat, tags bool) []stat {
	live := e.members(all, tags)
	e.kin = make(map[id]bool, len(live)) // a new one: the old may be in use elsewhere
	for _, s := range live {
		e.kin[s.id()] = true
	}
	if i := slices.IndexFunc(live, func(s stat) bool { return s.pid == e.process.PID }); i >= 0 {
		last := len(live) - 1
		live[i], live[last] = live[last], live[i]
	}
	return live
}

// find looks for the agent of an instance whose process was started but not recorded: the oldest of its processes.
func (e *entry) find() (process, bool) {
	all, err := scan()
	if err != nil {
		return process{}, false
	}
	var oldest stat
	for _, s := range e.members(all, true) {
		if oldest.pid == 0 || s.start < oldest.start || s.start == oldest.start && s.session == s.pid {
			oldest = s
		}
	}
	return process{PID: oldest.pid, Start: oldest.start, Boot: bootID()}, oldest.pid != 0
}

// sweep kills every process of an instance until none is left. All are stopped before any is killed: what is stopped can neither fork
// nor notice that its siblings die. ctx bounds it; the error says what would not die.
func (e *entry) sweep(ctx context.Context) error {
	stopped := map[id]bool{}
	for pause := time.Millisecond; ; {
		all, err := scan()
		if err != nil {
			return err
		}
		live := e.collect(all, true)
		if len(live) == 0 {
			if len(stopped) == 0 {
				return nil
			}
			clear(stopped) // look once more: a process is without an environment for a moment while it executes another program
			continue
		}
		fresh := false
		for _, s := range live {
			if k := s.id(); !stopped[k] {
				stopped[k], fresh = true, true
				err = errors.Join(err, s.signal(unix.SIGSTOP))
			}
		}
		if !fresh {
			for _, s := range live { // the agent comes last
				err = errors.Join(err, s.signal(unix.SIGKILL))
			}
			select {
			case <-time.After(pause):
				pause = min(2*pause, 50*time.Millisecond)
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d processes of %s live still (one has pid %d): %w", len(live), e.Key, live[0].pid, errors.Join(ctx.Err(), err))
		}
	}
}
