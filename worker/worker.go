// Package worker is the agent: it dials the master, runs the commands it is given, sends their output and ends itself when nobody needs
// it any more. It is copied into every instance, so it stays small and knows nothing of masters, providers or configuration.
//
// A command outlives the connection that started it. Its output goes into a spool (memory, then a file); one goroutine per command, its
// pump, sends from the spool over whatever connection there is, and the master's acknowledgements trim it. When the connection is lost
// nothing happens to the command; the next one begins with a list of what runs, and the master says from where each goes on.
// With a master that speaks plain Buildbot (v7) there is no spool: commands die with their connection.
package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/imds"
	"github.com/rouse-ci/rouse/worker/proto"
	"github.com/rouse-ci/rouse/worker/run"
)

// Config is what an agent needs to know. Zero durations and sizes get the defaults that are named.
type Config struct {
	Master   string        // ws:// or wss:// URL
	Name     string        // the worker's name
	Secret   string        // its password, or the instance's token. Never logged, never in a child's environment
	Instance string        // instance key; "" for a standard worker
	Basedir  string        // made if missing
	Adopt    bool          // this process is the agent's alone: what its commands leave behind stays below it, and ends with it
	InfoDir  string        // files for the worker's information; Basedir/info
	Orphan   time.Duration // without a master for this long it ends itself; 10 min for an instance, 0 (never) otherwise. Negative is never
	OnEnd    string        // shell command that an orphan runs at its end, for instance poweroff
	TLS      *tls.Config
	Version  string
	Watch    string // whom to ask whether this machine is taken back: WatchEC2, or "" for nobody
	Metadata string // URL of the metadata service that is asked; "" is the cloud's own
	Log      *slog.Logger

	WatchEvery  time.Duration // imds.Every
	Heartbeat   time.Duration // proto.Heartbeat
	DeadAfter   time.Duration // proto.DeadAfter
	SpoolMemory int64         // bytes per command kept in memory; 4 MiB
	SpoolFile   int64         // bytes per command kept in a file; 1 GiB

	backoff func(failures int) time.Duration // tests only
}

const leftLimit = 5 * time.Second // to kill what commands have left behind

// Reasons for which Run ends without an error.
var (
	errOrphan   = errors.New("no master for too long")
	errEnd      = errors.New("the master says that this instance ends")
	errShutdown = errors.New("the master asked for a shutdown")
)

// Agent is one running agent.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	imds  *imds.Watcher // nil: nobody is asked
	nonce string
	spool string // directory of the spool's files
	lock  *os.File

	stop context.CancelCauseFunc // ends Run
	kill chan struct{}           // closed when Run ends: running programs are killed

	mu       sync.Mutex
	commands map[string]*command
	spools   int            // names given to spool files
	running  sync.WaitGroup // commands and pumps
	settings settings       // of plain v7
	notices  []imds.Notice  // what is announced now
	admitted *session       // hears of what is announced; nil while there is none
}

// New prepares an agent: it makes the base directory and locks it. Close must follow if Run does not.
func New(cfg Config) (*Agent, error) {
	if cfg.Name == "" || cfg.Master == "" || cfg.Basedir == "" {
		return nil, errors.New("worker: master, name and basedir must be given")
	}
	var err error
	if cfg.Basedir, err = filepath.Abs(cfg.Basedir); err != nil {
		return nil, fmt.Errorf("worker: basedir: %w", err)
	}
	cfg.InfoDir = cmp.Or(cfg.InfoDir, filepath.Join(cfg.Basedir, "info"))
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, proto.Heartbeat)
	cfg.DeadAfter = cmp.Or(cfg.DeadAfter, proto.DeadAfter)
	cfg.SpoolMemory = cmp.Or(cfg.SpoolMemory, 4<<20)
	cfg.SpoolFile = cmp.Or(cfg.SpoolFile, 1<<30)
	if cfg.Orphan == 0 && cfg.Instance != "" {
		cfg.Orphan = 10 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.backoff == nil {
		cfg.backoff = backoff
	}
	a := &Agent{cfg: cfg, log: cfg.Log, nonce: rand.Text(), kill: make(chan struct{}), commands: map[string]*command{}, settings: defaultSettings}
	if a.imds, err = a.watcher(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	a.spool = filepath.Join(cfg.Basedir, ".spool")
	if a.lock, err = lockSpool(a.spool); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return a, nil
}

// Close releases what New took.
func (a *Agent) Close() error {
	return errors.Join(os.RemoveAll(a.spool), a.lock.Close())
}

// Run works until ctx is cancelled, the master ends the instance or asks for a shutdown, or the agent has been without a master for too
// long. All of these are no error. When it returns, no command is running and no spool is left.
func (a *Agent) Run(ctx context.Context) error {
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	var left *run.Orphans
	if a.cfg.Adopt {
		var err error
		if left, err = run.Adopt(); err != nil {
			a.log.Warn("what commands leave behind may outlive this agent", "error", err)
		}
	}
	var watching sync.WaitGroup
	if a.imds != nil {
		watching.Go(func() { a.watch(ctx, a.imds) })
	}
	orphan := newOrphan(a.cfg.Orphan, func() { a.stop(errOrphan) })
	for failures := 0; ctx.Err() == nil; failures++ {
		admitted, err := a.attach(ctx, orphan)
		if ctx.Err() != nil {
			break
		}
		if websocket.CloseStatus(err) == proto.StatusEnd {
			a.stop(errEnd)
			break
		}
		if admitted {
			failures = 0
		}
		delay := a.cfg.backoff(failures)
		a.log.Warn("no connection to the master", "error", err, "admitted", admitted, "retry", delay.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	orphan.stop()
	why := context.Cause(ctx)
	a.log.Info("ending", "reason", why)
	watching.Wait()
	a.end()
	if left != nil {
		if err := left.End(leftLimit); err != nil {
			a.log.Warn("not everything has ended", "error", err)
		}
	}
	err := a.Close()
	if errors.Is(why, errOrphan) {
		a.onEnd()
	}
	return err
}

// end kills every command and waits for it, for a while: a process that even SIGKILL does not end must not keep the agent.
func (a *Agent) end() {
	close(a.kill)
	a.mu.Lock()
	for _, c := range a.commands {
		c.drop(errors.New("the worker ends"))
	}
	a.mu.Unlock()
	done := make(chan struct{})
	go func() {
		a.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		a.log.Warn("commands are still running, leaving them")
	}
}

func (a *Agent) onEnd() {
	if a.cfg.OnEnd == "" {
		return
	}
	a.log.Info("running the end command", "command", a.cfg.OnEnd)
	if out, err := exec.Command("/bin/sh", "-c", a.cfg.OnEnd).CombinedOutput(); err != nil {
		a.log.Error("the end command failed", "error", err, "output", string(out[:min(len(out), 1000)]))
	}
}

// snapshot lists the commands for a hello. They stay silent until the master resumes them.
func (a *Agent) snapshot() []proto.Running {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []proto.Running
	for _, c := range a.commands {
		list = append(list, c.state())
	}
	return list
}

func (a *Agent) command(id string) *command {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.commands[id]
}

func (a *Agent) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.commands, id)
}

// orphan ends the agent when there has been no master for limit.
type orphan struct {
	limit time.Duration
	timer *time.Timer
}

func newOrphan(limit time.Duration, end func()) *orphan {
	if limit <= 0 {
		return &orphan{}
	}
	return &orphan{limit, time.AfterFunc(limit, end)}
}

func (o *orphan) stop() {
	if o.timer != nil {
		o.timer.Stop()
	}
}

func (o *orphan) start() {
	if o.timer != nil {
		o.timer.Reset(o.limit)
	}
}
