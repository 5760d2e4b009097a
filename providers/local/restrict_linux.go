package local

import (
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// restrict sets a new process's limits; its children inherit them. It comes microseconds after the start, long before the agent runs anything.
// Limits are only ever lowered, which needs no privilege.
func restrict(pid int, s Spec, log *slog.Logger) {
	// By group: by process would reach only one of its threads. And twice, before and after the limits: a thread that is being made meanwhile has its maker's old
	// niceness, and is not in the group yet.
	lower := func() {
		if err := unix.Setpriority(unix.PRIO_PGRP, pid, int(s.Nice)); err != nil {
			log.Warn("cannot set a limit", "limit", "nice", "pid", pid, "error", err)
		}
	}
	if s.Nice > 0 {
		lower()
	}
	for _, l := range []struct {
		name     string
		resource int
		value    int64
	}{
		{"max_memory", unix.RLIMIT_DATA, s.MaxMemory},
		{"max_processes", unix.RLIMIT_NPROC, s.MaxProcesses},
		{"max_open_files", unix.RLIMIT_NOFILE, s.MaxOpenFiles},
	} {
		if l.value == 0 {
			continue
		}
		var now unix.Rlimit
		err := unix.Prlimit(pid, l.resource, nil, &now)
		if err == nil {
			v := min(uint64(l.value), now.Max)
			err = unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: v, Max: v}, nil)
		}
		if err != nil {
			log.Warn("cannot set a limit", "limit", l.name, "pid", pid, "error", err)
		}
	}
	if s.Nice > 0 {
		// Where sessions are scheduled as groups (sched_autogroup_enabled), only the group's own niceness counts against other sessions.
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/autogroup", []byte(strconv.FormatInt(s.Nice, 10)), 0)
		lower()
	}
}
