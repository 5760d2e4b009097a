//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// restrict can set only the niceness of another process here.
func restrict(pid int, s Spec, log *slog.Logger) {
	if s.Nice > 0 {
		if err := unix.Setpriority(unix.PRIO_PGRP, pid, int(s.Nice)); err != nil {
			log.Warn("cannot set a limit", "limit", "nice", "pid", pid, "error", err)
		}
	}
	if s.MaxMemory > 0 || s.MaxProcesses > 0 || s.MaxOpenFiles > 0 {
		log.Warn("max_memory, max_processes and max_open_files have no effect on this system")
	}
}
