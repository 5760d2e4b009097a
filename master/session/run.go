package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// DefaultMaxUpload is the bound on what a command may upload when the caller states none.
const DefaultMaxUpload = 4 << 30

// Command is one command for an agent.
type Command struct {
	ID     string         // unique for ever, e.g. "b12.s3.0"
	Name   string         // v7's name: shell, upload_file, upload_directory, download_file, mkdir, rmdir, …
	Args   map[string]any // as WIRE 7.1 and 7.2, msgpack column: paths are absolute (see Abs)
	Resume bool           // an earlier master process started it: go on from Pos
	Pos    int64          // with Resume: output position that the log already has

	// Output is called in order, never concurrently, and never after Run has returned. p is valid during the call only, end is the position
	// after p. When it returns, the bytes count as logged and are acknowledged, up to Durable. Its error ends the command. It may be nil.
	Output func(s proto.Stream, p []byte, end int64) error

	// Durable is the position up to which output is in the log, if that may lag behind what Output was given. The agent keeps what follows
	// it, if need be until Forget. It must not block for long. It may be nil.
	Durable func() int64

	Upload    io.Writer // takes what the agent uploads: the file's bytes, or a directory's tar stream
	MaxUpload int64     // bytes; more fails the command. 0 = DefaultMaxUpload
	Download  io.Reader // gives what the agent downloads
}

// Outcome is how a command ended on the agent.
type Outcome struct {
	RC            int // -1 if the agent told none
	Elapsed       time.Duration
	FailureReason string           // timeout_without_output, timeout, max_lines_failure; "" otherwise
	Updates       map[string][]any // everything else that it reported: files, stat, utime, …
	Text          string           // why the command could not be carried out; "" if it was
}

// run is one call of Run.
type run struct {
	c    Command
	ctl  context.Context // ends with the reason why Run must return at once
	stop context.CancelCauseFunc

	done   chan struct{} // closed when out is complete
	failed chan struct{} // closed when err is set

	// Only Run's own goroutine uses these.
	sent     bool   // start_command may have reached an agent
	accepted bool   // an agent has, or had, the command
	agent    string // the agent that start_command was sent to

	mu       sync.Mutex
	sess     *session // whose messages count
	over     bool     // nothing counts any more
	pos      int64    // after the last byte given to Output
	acked    int64
	ackTimer *time.Timer
	ackArmed bool
	out      Outcome
	err      error // the master's own failure
	kept     int   // bytes of messages that went into out.Updates
	uploaded int64
}

// Run runs a command on the worker's agent to its end. While no agent is attached it waits for one. With an agent that speaks rouse's
// extension it survives lost connections; an agent that is attached again is asked for the command's output from where the log ends.
//
// When ctx is cancelled the command is interrupted, and Run waits for its end for a bounded time (Options.Interrupt); without a connection
// it returns at once. With the cause Options.Detach it returns ErrDetached at once and leaves the command alone.
//
// After Run has returned an Outcome, the agent keeps the completion until the caller has stored it and calls Forget. After an error there is
// nothing to forget: ErrLost (no agent knows the command), ErrBroken (a transfer, see there), ErrDetached, the context's cause (the command was interrupted and did not end in
// time; the agent is told to kill and forget it), or a failure of the master's own, such as Output's error.
func (h *Hub) Run(ctx context.Context, worker string, c Command) (Outcome, error) {
	if worker == "" || c.ID == "" || c.Name == "" {
		return Outcome{}, errors.New("session: a command needs a worker, an ID and a name")
	}
	if c.MaxUpload <= 0 {
		c.MaxUpload = DefaultMaxUpload
	}
	r := &run{c: c, done: make(chan struct{}), failed: make(chan struct{}), pos: c.Pos, acked: c.Pos, accepted: c.Resume, out: Outcome{RC: -1}}
	r.ctl, r.stop = context.WithCancelCause(context.Background())
	defer r.stop(nil)
	p, err := h.enter(worker, r)
	if err != nil {
		return Outcome{}, err
	}
	defer h.leave(p, r)
	out, err := h.follow(ctx, p, r)
	if err != nil && r.ctl.Err() != nil {
		err = context.Cause(r.ctl) // what follows from it, such as a connection that ends, is not the reason
	}
	if err != nil && (r.sent || r.accepted) && !errors.Is(err, ErrLost) && !errors.Is(err, ErrDetached) {
		h.Forget(worker, r.c.ID)
	}
	return out, err
}

// follow follows the command from session to session until its end.
func (h *Hub) follow(ctx context.Context, p *peer, r *run) (Outcome, error) {
	var bound *session
	for {
		s, changed, err := h.current(p)
		if err != nil {
			return r.result(err)
		}
		if s != nil && s != bound {
			if bound != nil && r.sent && (r.c.Upload != nil || r.c.Download != nil) {
				return r.result(ErrBroken)
			}
			if err := r.bind(ctx, s); err != nil {
				return r.result(err)
			}
			bound = s
		}
		select {
		case <-r.done:
			return r.result(nil)
		case <-r.ctl.Done():
			return r.result(context.Cause(r.ctl))
		case <-changed:
		case <-r.failed:
			return h.interrupt(r, bound, r.err)
		case <-ctx.Done():
			if h.detaches(ctx) {
				return r.result(ErrDetached)
			}
			return h.interrupt(r, bound, context.Cause(ctx))
		}
	}
}

// enter registers the run under its worker.
func (h *Hub) enter(worker string, r *run) (*peer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != nil {
		return nil, h.stop
	}
	p := h.peer(worker)
	if _, there := p.runs[r.c.ID]; there {
		return nil, fmt.Errorf("session: command %q runs already", r.c.ID)
	}
	if p.runs == nil {
		p.runs = make(map[string]*run)
	}
	p.runs[r.c.ID] = r
	delete(p.unclaimed, r.c.ID)
	return p, nil
}

// leave takes the run out again. It waits for an Output that is under way.
func (h *Hub) leave(p *peer, r *run) {
	h.mu.Lock()
	delete(p.runs, r.c.ID)
	h.mu.Unlock()
	r.mu.Lock()
	r.over = true
	s := r.sess
	if r.ackTimer != nil {
		r.ackTimer.Stop()
	}
	r.mu.Unlock()
	if s != nil {
		s.unbind(r)
	}
}

// current returns the worker's admitted session, nil if there is none, and what will be closed when that changes.
func (h *Hub) current(p *peer) (*session, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.cur == nil && p.plain {
		return nil, nil, ErrLost
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.cur, p.changed, nil
}

// bind starts or resumes the command on a session. It returns nil also when that did not come to an end: the caller's loop sees why.
func (r *run) bind(ctx context.Context, s *session) error {
	select {
	case <-s.ready:
	case <-s.done:
		return nil
	case <-r.ctl.Done():
		return nil
	case <-ctx.Done():
		return nil
	}
	_, known := s.known[r.c.ID]
	if !known && (r.accepted || r.sent && (!s.ext || r.agent != s.agent)) {
		return ErrLost
	}
	r.mu.Lock()
	r.sess = s
	pos := r.pos
	r.mu.Unlock()
	s.bind(r) // first: a plain worker's output may come before the response

	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctl, cancel)()
	var err error
	if known {
		_, err = s.call(both, proto.OpResume, r.c.ID, map[string]any{"pos": pos})
	} else {
		r.sent, r.agent = true, s.agent
		_, err = s.call(both, proto.OpStartCommand, r.c.ID, map[string]any{"command_name": r.c.Name, "args": r.c.Args})
	}
	var no *refusal
	switch {
	case err == nil:
		r.accepted = true
	case errors.As(err, &no) && known:
		s.hub.log.Warn("session: a command cannot be resumed", "worker", s.worker, "command", r.c.ID, "position", pos, "error", err)
		return ErrLost
	case errors.As(err, &no):
		return err
	case !errors.Is(err, errEnded) && both.Err() == nil:
		return err // it could not even be encoded
	}
	return nil
}

// result is what Run returns: the outcome if there is one, else err.
func (r *run) result(err error) (Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	select {
	case <-r.done:
		return r.out, r.err
	default:
	}
	if r.err != nil {
		err = r.err
	}
	return Outcome{}, err
}

// interrupt ends a command that is not wanted any more. If it does not end in time, or there is no connection, the cause is returned.
func (h *Hub) interrupt(r *run, s *session, cause error) (Outcome, error) {
	r.mu.Lock() // complete holds it from the first failure to the end
	over := r.over
	r.mu.Unlock()
	if s == nil || over {
		return r.result(cause)
	}
	_ = s.ask(proto.OpInterruptCommand, r.c.ID, map[string]any{"why": clip(cause.Error(), 1000)}, func(proto.Message) {})
	timer := time.NewTimer(h.opt.Interrupt)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-s.done:
	case <-timer.C:
	case <-r.ctl.Done():
	}
	return r.result(cause)
}

// Forget tells the worker's agent that it need not keep the command any longer: its outcome is stored. It is repeated until the agent has
// confirmed it, across connections. It is no error for a command or a worker that is not known.
func (h *Hub) Forget(worker, id string) {
	h.mu.Lock()
	p := h.peers[worker]
	if p == nil || p.plain {
		h.mu.Unlock()
		return
	}
	if p.forget == nil {
		p.forget = make(map[string]struct{})
	}
	p.forget[id] = struct{}{}
	s := p.cur
	h.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case <-s.ready:
		h.sendForget(s, p, id)
	default: // begin will
	}
}

func (h *Hub) sendForget(s *session, p *peer, id string) {
	_ = s.ask(proto.OpForget, id, nil, func(proto.Message) {
		h.mu.Lock()
		delete(p.forget, id)
		h.mu.Unlock()
	})
}
