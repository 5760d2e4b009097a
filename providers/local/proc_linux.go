package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootID names this boot and pid namespace: pids and start times mean something only there.
var bootID = sync.OnceValue(func() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(boot)) + " " + ns
})

// collectEvery is how often each handle looks for new descendants of its agents.
const collectEvery = 2 * time.Second

// stat is a line of the table of processes.
type stat struct {
	pid, ppid, pgrp, session int
	state                    byte
	start                    uint64 // clock ticks since boot
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// readStat reads /proc/PID/stat (proc_pid_stat(5)): the second field may hold anything, so fields count from the last parenthesis.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(pid, data)
}

func parseStat(pid int, data []byte) (stat, error) {
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errors.New("malformed /proc/PID/stat")
	}
	s := stat{pid: pid, state: f[0][0]}
	var errs [4]error
	s.ppid, errs[0] = strconv.Atoi(f[1])
	s.pgrp, errs[1] = strconv.Atoi(f[2])
	s.session, errs[2] = strconv.Atoi(f[3])
	s.start, errs[3] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

// status says how a process ended that nobody has waited for yet; "" if that cannot be seen. It does not wait for it.
func (p process) status() string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
	if err != nil || p.Boot != bootID() {
		return ""
	}
	s, err := parseStat(p.PID, data)
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if err != nil || s.start != p.Start || !s.dead() || len(f) < 50 {
		return ""
	}
	ws, err := strconv.ParseUint(f[49], 10, 32) // field 52, as of waitpid(2)
	if err != nil {
		return ""
	}
	return describe(unix.WaitStatus(ws))
}

// scan returns all processes, the dead that nobody has waited for included.
func scan() ([]stat, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make([]stat, 0, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil { // an error: it has ended meanwhile
			all = append(all, s)
		}
	}
	return all, nil
}

// tagged says whether a process was started with all these variables. Processes of other users cannot be looked into; they are not ours.
func tagged(pid int, tags ...string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil || len(env) == 0 {
		return false
	}
	env = append([]byte{0}, env...)
	for _, t := range tags {
		if !bytes.Contains(env, []byte("\x00"+t+"\x00")) {
			return false
		}
	}
	return true
}

// signal sends a signal to exactly that process: the pidfd holds on to it while its start time is compared.
func (s stat) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if now, e := readStat(s.pid); e != nil || now.start != s.start {
		if err == nil {
			_ = unix.Close(fd)
		}
		return unix.ESRCH
	}
	if err != nil { // before Linux 5.3
		return unix.Kill(s.pid, sig)
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// awaitExit returns true when the process has ended, whoever's child it is, and false when ctx ends first.
func (p process) awaitExit(ctx context.Context) bool {
	if !p.alive() {
		return true
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return p.pollExit(ctx)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if !p.alive() { // the pidfd may be of a process that came after ours
		return true
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return p.pollExit(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(uintptr) bool { return !p.alive() })
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, fs.ErrClosed) {
		return p.pollExit(ctx)
	}
	return err == nil
}
