package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// master is one process of `rouse master`.
type master struct {
	w      *world
	cmd    *exec.Cmd
	ready  chan struct{} // closed when it serves
	dead   chan struct{} // closed when it has ended and its log is read to the end
	worker string        // address of its worker port, once it is ready
}

// line is one line of a master's log.
type line struct {
	Msg      string `json:"msg"`
	Level    string `json:"level"`
	Workers  string `json:"workers"`
	Event    string `json:"event"`
	Instance string `json:"instance"`
	From     string `json:"from"`
}

// start starts a master. Its log is a pipe with room for one line: hook sees a line when the master is at most one further, and while hook does not
// return, the master gets no further than that.
func (w *world) start(hook func(m *master, l line), args ...string) *master {
	w.t.Helper()
	m := &master{w: w, ready: make(chan struct{}), dead: make(chan struct{})}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_DIRECT); err != nil {
		w.t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		w.t.Fatal(err)
	}
	r, wr := os.NewFile(uintptr(fds[0]), "log"), os.NewFile(uintptr(fds[1]), "log")
	m.cmd = exec.Command(programs.rouse, append([]string{"master", "-config", filepath.Join(w.dir, "config"), "-state", w.state, "-log-json", "-log-level", "debug"},
		args...)...)
	m.cmd.Env = append(append(os.Environ(), "E2E_MARK="+w.mark), w.env...)
	m.cmd.Stderr = wr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := m.cmd.Start()
	_ = wr.Close()
	if err != nil {
		_ = r.Close()
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.masters = append(w.masters, m)
	fmt.Fprintf(&w.log, "--- master %d is process %d\n", len(w.masters), m.cmd.Process.Pid)
	w.mu.Unlock()
	go m.read(r, hook)
	return m
}

func (m *master) read(r *os.File, hook func(*master, line)) {
	defer close(m.dead)
	defer r.Close()
	in := bufio.NewReader(r)
	serving := false
	for {
		text, err := in.ReadString('\n')
		m.w.mu.Lock()
		m.w.log.WriteString(text)
		m.w.mu.Unlock()
		var l line
		if json.Unmarshal([]byte(text), &l) == nil {
			if l.Msg == "master: serving" && !serving {
				serving = true
				m.worker = l.Workers
				m.w.proxy.point(l.Workers)
				close(m.ready)
			}
			if hook != nil {
				hook(m, l)
			}
		}
		if err != nil {
			break
		}
	}
	_ = m.cmd.Wait()
	if serving {
		m.w.proxy.mu.Lock()
		mine := m.w.proxy.target == m.worker
		m.w.proxy.mu.Unlock()
		if mine {
			m.w.proxy.point("")
		}
	}
}

// up starts a master and waits until it serves.
func (w *world) up(hook func(*master, line), args ...string) *master {
	w.t.Helper()
	m := w.start(hook, args...)
	select {
	case <-m.ready:
	case <-m.dead:
		w.t.Fatalf("the master ended at its start (%v)", m.cmd.ProcessState)
	case <-time.After(30 * time.Second):
		w.t.Fatal("the master does not come up")
	}
	return m
}

// kill kills the master as -9 does, from any goroutine.
func (m *master) kill() { _ = m.cmd.Process.Kill() }

func (m *master) isDead() bool {
	select {
	case <-m.dead:
		return true
	default:
		return false
	}
}

// awaitDeath waits for the master's end.
func (m *master) awaitDeath(within time.Duration) {
	m.w.t.Helper()
	select {
	case <-m.dead:
	case <-time.After(within):
		m.w.t.Fatalf("the master has not ended in %v", within)
	}
}

// stop ends the master in order.
func (m *master) stop(within time.Duration) {
	m.w.t.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.w.t.Errorf("the master is not there to be stopped: %v", err)
		return
	}
	m.awaitDeath(within)
	if code := m.cmd.ProcessState.ExitCode(); code != 0 {
		m.w.t.Errorf("the master ended with %v", m.cmd.ProcessState)
	}
}

// match says whether a line is the one that a test waits for: its message begins so.
func (l line) match(prefix string) bool { return strings.HasPrefix(l.Msg, prefix) }
