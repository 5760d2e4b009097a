package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	killGrace = 5 * time.Second        // Buildbot's: a process that lives this long after the last signal is given up
	leftDelay = 2 * time.Second        // how long descendants may hold the pipes open after the command has ended
	lastDelay = 500 * time.Millisecond // the same, after what was left of the process group has been killed
	gather    = 2 * time.Millisecond   // a program that writes little by little is read this often at most
)

var errUnkillable = errors.New("SIGKILL failed to kill process")

// program is one program to execute.
type program struct {
	argv           []string
	dir            string
	env            []string
	stdin          string
	pty            bool
	stdout, stderr bool // wanted
	logEnviron     bool
	timeout        time.Duration // without output; 0 is none, as for the next two
	maxTime        time.Duration
	sigtermTime    time.Duration // SIGTERM first, signal after this
	signal         syscall.Signal
	maxLines       int64 // -1 is no limit
}

// execution is a running program. One goroutine waits for its exit (without reaping it: as long as the zombie is there its number, which is
// the process group's, cannot be given to anybody else, so signals to the group are safe), one reads each pipe, and exec's own decides.
type execution struct {
	*job
	p       program
	cmd     *exec.Cmd
	files   []*os.File // our ends of the pipes
	readers sync.WaitGroup
	exited  chan struct{}

	begin    time.Time
	active   atomic.Int64 // time since begin of the last output
	blocked  atomic.Int32 // readers that are waiting for the sink
	lines    atomic.Int64
	tooMany  chan struct{}
	tooOnce  sync.Once
	reported bool // why it was killed has been said
	steps    []step
	rung     time.Time // when the ladder's current step is over
	killed   bool
}

// step is one rung of the ladder: a signal and how long it is given to work.
type step struct {
	signal syscall.Signal
	wait   time.Duration
}

// exec runs p to its end and returns its rc: -1 if a signal ended it or if we killed it and it ended with 0.
func (j *job) exec(ctx context.Context, p program) (int, error) {
	x := &execution{job: j, p: p, begin: time.Now(), exited: make(chan struct{}), tooMany: make(chan struct{})}
	if err := x.launch(); err != nil {
		j.text(proto.Stderr, "%v\n", err)
		return 1, nil
	}
	go func() {
		defer close(x.exited)
		for unix.Waitid(unix.P_PID, x.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	if !x.supervise(ctx) {
		x.stopReading()
		go func() { // whenever it does end, no zombie stays behind
			<-x.exited
			own.wait(x.cmd)
		}()
		j.header("SIGKILL failed to kill process\nusing fake rc=-1\n")
		return -1, errUnkillable
	}
	x.drain(ctx)
	_ = unix.Kill(-x.cmd.Process.Pid, unix.SIGKILL) // whatever is left of the group
	own.wait(x.cmd)
	status, _ := x.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		j.header("process killed by signal %d\n", status.Signal())
		return -1, nil
	}
	if rc := status.ExitStatus(); rc != 0 || !x.killed {
		return rc, nil
	}
	return -1, nil
}

// launch starts the program and the goroutines that read its output.
func (x *execution) launch() error {
	path, err := lookPath(x.p.argv[0], x.p.env, x.p.dir)
	if err != nil {
		return err
	}
	x.cmd = &exec.Cmd{Path: path, Args: x.p.argv, Env: x.p.env, Dir: x.p.dir, SysProcAttr: &syscall.SysProcAttr{}}
	var theirs []*os.File
	defer func() { closeAll(theirs) }()
	open := func(pair func() (*os.File, *os.File, error)) *os.File {
		if err != nil {
			return nil
		}
		var ours, other *os.File
		if ours, other, err = pair(); err != nil {
			return nil
		}
		x.files = append(x.files, ours)
		theirs = append(theirs, other)
		return other
	}
	if x.p.pty {
		tty := open(openPTY)
		x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
		x.cmd.SysProcAttr.Setsid, x.cmd.SysProcAttr.Setctty = true, true
	} else {
		x.cmd.Stdout, x.cmd.Stderr = open(os.Pipe), open(os.Pipe)
		x.cmd.SysProcAttr.Setpgid = true
	}
	var stdin *os.File
	if err == nil && x.p.stdin != "" {
		var r *os.File
		if r, stdin, err = os.Pipe(); err == nil {
			theirs = append(theirs, r)
			x.cmd.Stdin = r
		}
	}
	if err == nil {
		err = own.start(x.cmd)
	}
	if err != nil {
		closeAll(x.files)
		if stdin != nil {
			_ = stdin.Close()
		}
		return fmt.Errorf("cannot run %s: %w", x.p.argv[0], err)
	}
	if stdin != nil {
		x.readers.Go(func() {
			_, _ = io.WriteString(stdin, x.p.stdin) // a program need not read it
			_ = stdin.Close()
		})
		x.files = append(x.files, stdin)
	}
	x.readers.Go(func() { x.copy(x.files[0], proto.Stdout, x.p.stdout) })
	if !x.p.pty {
		x.readers.Go(func() { x.copy(x.files[1], proto.Stderr, x.p.stderr) })
	}
	return nil
}

// openPTY is pty.Open with a master end whose reads can be ended: the one that it opens is in blocking mode, and a read of it would
// outlast the command as long as any descendant has the terminal open.
func openPTY() (*os.File, *os.File, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = master.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = tty.Close()
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), tty, nil
}

// copy reads one pipe to its end. After a small piece it waits a moment, so that a program that writes line by line costs few wake-ups.
func (x *execution) copy(f *os.File, s proto.Stream, wanted bool) {
	d := new(decoder)
	emit := func(p []byte) {
		if x.p.maxLines >= 0 && x.lines.Add(int64(bytes.Count(p, []byte{'\n'}))) > x.p.maxLines {
			x.tooOnce.Do(func() { close(x.tooMany) })
		}
		if wanted {
			x.sink.Output(s, p)
		}
	}
	pause := time.NewTimer(gather)
	defer pause.Stop()
	for {
		n, err := d.read(f, func(p []byte) {
			x.blocked.Add(1)
			emit(p)
			x.blocked.Add(-1)
		})
		x.active.Store(int64(time.Since(x.begin)))
		if err != nil {
			break // EOF, EIO from a PTY, or the deadline of stopReading
		}
		if n < readSize/16 {
			pause.Reset(gather)
			select {
			case <-pause.C:
			case <-x.exited:
			}
		}
	}
	d.flush(emit)
}

// supervise waits until the program has ended, and sees to it that it does: false means that it could not be killed.
func (x *execution) supervise(ctx context.Context) bool {
	interrupted, ending, tooMany := ctx.Done(), x.Kill, x.tooMany
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if len(x.steps) == 0 {
			timer.Reset(x.limits())
		}
		select {
		case <-x.exited:
			return true
		case <-interrupted:
			interrupted = nil
			x.kill("command interrupted", "")
		case <-ending:
			ending = nil
			x.killed = true
			x.steps = []step{{unix.SIGKILL, killGrace}}
			timer.Reset(x.climb())
			continue
		case <-tooMany:
			tooMany = nil
			x.kill(fmt.Sprintf("command exceeded %d lines of output", x.p.maxLines), "max_lines_failure")
		case <-timer.C:
			if len(x.steps) == 0 {
				continue
			}
			if x.steps = x.steps[1:]; len(x.steps) == 0 {
				return false
			}
			timer.Reset(x.climb())
			continue
		}
		if len(x.steps) > 0 && !x.reported {
			x.reported = true
			timer.Reset(x.climb())
		}
	}
}

// limits returns how long to sleep until the next limit may be reached, or starts the ladder if one has been.
func (x *execution) limits() time.Duration {
	next := time.Hour
	elapsed := time.Since(x.begin)
	if x.p.maxTime > 0 {
		if elapsed >= x.p.maxTime {
			x.kill(fmt.Sprintf("command timed out: %g seconds elapsed", x.p.maxTime.Seconds()), "timeout")
			x.reported = true
			return x.climb()
		}
		next = min(next, x.p.maxTime-elapsed)
	}
	if x.p.timeout > 0 {
		idle := elapsed - time.Duration(x.active.Load())
		if x.blocked.Load() > 0 {
			idle = 0
		}
		if idle >= x.p.timeout {
			x.kill(fmt.Sprintf("command timed out: %g seconds without output", x.p.timeout.Seconds()), "timeout_without_output")
			x.reported = true
			return x.climb()
		}
		next = min(next, x.p.timeout-idle)
	}
	return next
}

// kill prepares the ladder, once.
func (x *execution) kill(why, reason string) {
	if x.killed {
		return
	}
	x.killed = true
	x.header("%s, attempting to kill\n", why)
	if reason != "" {
		x.sink.Update("failure_reason", reason)
	}
	if x.p.sigtermTime > 0 {
		x.steps = append(x.steps, step{unix.SIGTERM, x.p.sigtermTime})
	}
	x.steps = append(x.steps, step{x.p.signal, killGrace})
	if x.p.signal != unix.SIGKILL { // Buildbot leaves such a process alone for ever
		x.steps = append(x.steps, step{unix.SIGKILL, killGrace})
	}
}

// climb sends the signal of the first step and returns its time.
func (x *execution) climb() time.Duration {
	_ = unix.Kill(-x.cmd.Process.Pid, x.steps[0].signal)
	x.rung = time.Now().Add(x.steps[0].wait)
	return x.steps[0].wait
}

// drain reads what is left in the pipes of a program that has ended. Descendants that hold them open are given leftDelay and then killed;
// what has left the process group as well only loses its pipe. Time in which the sink takes nothing does not count. A signal that may be
// caught was sent to the whole group: then descendants have the rest of its step, even if the program itself has ended at once.
func (x *execution) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		x.readers.Wait()
		close(done)
	}()
	hurry, left := ctx.Done(), leftDelay
	if len(x.steps) > 0 && x.steps[0].signal != unix.SIGKILL {
		hurry, left = nil, time.Until(x.rung)
	}
	if x.patience(done, hurry, left) {
		closeAll(x.files)
		return
	}
	_ = unix.Kill(-x.cmd.Process.Pid, unix.SIGKILL)
	x.header("processes that the command left behind held its output open; killed them\n")
	x.patience(done, nil, lastDelay)
	x.stopReading()
	<-done
}

// patience waits until done, or until d has passed in which no reader was waiting for the sink.
func (x *execution) patience(done, hurry <-chan struct{}, d time.Duration) bool {
	const tick = 20 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for d > 0 {
		select {
		case <-done:
			return true
		case <-hurry:
			hurry = nil
			d = min(d, 2*tick)
		case <-ticker.C:
			if x.blocked.Load() == 0 {
				d -= tick
			}
		}
	}
	return false
}

// stopReading makes readers stop that would wait for ever.
func (x *execution) stopReading() {
	for _, f := range x.files {
		_ = f.SetDeadline(time.Unix(1, 0)) // wakes a blocked read even where Close alone would wait for it
	}
	closeAll(x.files)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// lookPath finds a program as execvpe does: in the PATH of its own environment, relative names with a slash from its working directory.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		p := filepath.Join(d, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: command not found in PATH (%s)", name, path)
}
