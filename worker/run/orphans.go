package run

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	buryEvery = 2 * time.Second        // how often orphans that have ended are looked for without a signal
	settle    = 100 * time.Millisecond // from SIGCHLD to looking: most are commands, which exec has reaped by then
)

// own are the children that exec waits for. Waiting is a matter of the whole process, so there is one for all.
var own = registry{pids: map[int]int{}}

// registry keeps exec's children apart from orphans: only the latter may be reaped by somebody else.
//
// Invariant: who holds gate for writing sees every child of exec that nobody has waited for yet in pids.
type registry struct {
	gate sync.RWMutex // held for reading from before a child is made until it is in pids
	mu   sync.Mutex
	pids map[int]int // how often: a number is free for the next child a moment before the last one's forget
}

func (r *registry) start(cmd *exec.Cmd) error {
	r.gate.RLock()
	defer r.gate.RUnlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pids[cmd.Process.Pid]++
	return nil
}

// wait reaps a child that start has made. Its result is in cmd.ProcessState.
func (r *registry) wait(cmd *exec.Cmd) {
	_ = cmd.Wait() // the state says it all
	r.mu.Lock()
	defer r.mu.Unlock()
	pid := cmd.Process.Pid
	if r.pids[pid]--; r.pids[pid] == 0 {
		delete(r.pids, pid)
	}
}

// has needs gate to be held for writing, or the answer may come too early.
func (r *registry) has(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pids[pid] > 0
}

// Orphans are the processes that commands have left behind. As long as this process adopts them none of them gets away from it, whatever
// session, process group and environment they give themselves: they stay its descendants, for itself and for who ends it.
type Orphans struct {
	stop, stopped chan struct{}
}

// Adopt makes this process the parent of all orphans among its descendants, for good, and reaps them when they end, until End. A process that
// adopts must not start children but by Run: they would be taken for orphans.
func Adopt() (*Orphans, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt orphans: %w", err)
	}
	o := &Orphans{make(chan struct{}), make(chan struct{})}
	go o.undertake()
	return o, nil
}

func (o *Orphans) undertake() {
	defer close(o.stopped)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	tick := time.NewTicker(buryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
		case <-tick.C:
		case <-o.stop:
			return
		}
		select {
		case <-time.After(settle):
		case <-o.stop:
			return
		}
		_, _ = orphans(0) // an error: the next look may go better
	}
}

// End stops reaping and kills the orphans, theirs as well, until none is left or limit has passed. It must be called once. Commands must have
// ended: the children of one that has not are not orphans.
func (o *Orphans) End(limit time.Duration) error {
	close(o.stop)
	<-o.stopped
	over := time.Now().Add(limit)
	none := 0 // looks without an orphan; one is not enough, since a look takes time in which parents end
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		live, err := orphans(unix.SIGKILL)
		if err == nil && live == 0 {
			if none++; none == 2 {
				return nil
			}
			continue
		}
		none = 0
		if time.Now().After(over) {
			return errors.Join(fmt.Errorf("%d processes that commands left behind live still", live), err)
		}
		time.Sleep(pause)
	}
}

// orphans reaps the orphans that have ended and counts those that have not, which get sig if it is not 0. Without sig it does not look further
// if no child has ended.
func orphans(sig unix.Signal) (live int, err error) {
	if sig == 0 {
		var si unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || si.Signo == 0 {
			return 0, nil // ECHILD, or none has ended
		}
	}
	kids, err := children()
	if err != nil {
		return 0, err
	}
	own.gate.Lock() // after the look: what was seen is an orphan, or exec's and registered by now
	defer own.gate.Unlock()
	for _, c := range kids {
		switch {
		case own.has(c.pid):
		case c.dead:
			_, err = unix.Wait4(c.pid, nil, unix.WNOHANG, nil)
		default: // nobody else reaps it, so the number is still its own
			live++
			if sig != 0 {
				_ = unix.Kill(c.pid, sig) // an error: not ours to kill; it counts as alive
			}
		}
	}
	return live, err
}

type child struct {
	pid  int
	dead bool
}

// children looks through all processes: /proc/PID/task/TID/children is not there on every kernel, and skips some while others end.
func children() ([]child, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close() // only read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	self := strconv.Itoa(os.Getpid())
	var kids []child
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue // it has ended, and is not ours: nobody else reaps ours
		}
		// proc_pid_stat(5): the name before the last parenthesis may hold anything; state and parent follow it.
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(f) > 2 && string(f[1]) == self {
			kids = append(kids, child{pid, f[0][0] == 'Z' || f[0][0] == 'X'})
		}
	}
	return kids, nil
}
