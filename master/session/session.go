// Package session is the master's end of the agents' connections: it authenticates them, keeps them alive, turns their coming and going into
// events for the core, and carries commands to them and output back.
//
// It decides nothing: whether an agent may have its name is the core's business (Attached is answered by Admit or Hangup), what a command
// means is the build's. Output goes from a connection's read loop straight to the caller's Output function; it never passes through the core,
// and a slow log slows only the connection that it belongs to.
//
// The logical end of a worker (peer) outlives connections (session): a command (run) moves from one session to the next one of the same
// worker. Locks are taken in the order Hub.mu, run.mu, session's; none is held while waiting for a peer, except that run.mu is held while
// one piece of output is written to its log.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// ErrLost is returned by Run when there is no agent any more that knows the command: a plain worker's connection has ended, the agent does
// not list the command, or Lost was called.
var ErrLost = errors.New("the worker's agent is lost")

// ErrDetached is returned by Run when this master has let go of the command, which goes on without it.
var ErrDetached = errors.New("this master has let go of the command, which goes on")

// ErrBroken is returned by Run when the connection ended under an upload or a download, which only the connection that it began on can carry.
// The agent is told to forget it; it may be begun again under another ID.
var ErrBroken = errors.New("the connection to the worker ended under the transfer")

// Options configure a Hub. Auth and Deliver are required.
type Options struct {
	Log     *slog.Logger
	Auth    Authenticator
	Deliver func(core.Event) // may block
	Notice  func(worker, kind, text string)
	Detach  error // a context of Run that is cancelled with this cause (or ErrDetached) leaves the command alone

	// Keepalive is a worker's keepalive_interval: how often one without our extension gets Buildbot's keepalive message; 0 = never. It may be nil.
	Keepalive func(worker string) time.Duration

	Heartbeat time.Duration // a silent peer is pinged this often; default proto.Heartbeat
	DeadAfter time.Duration // a peer that is silent for so long is dead; default proto.DeadAfter
	Probe     time.Duration // how quickly the holder of a name must answer when a second agent wants it; default 2 s
	Handshake time.Duration // from the upgrade to the end of an agent's introduction; default 15 s
	Close     time.Duration // how long the other side has to answer a close frame; default 2 s
	Interrupt time.Duration // how long Run waits for the end of an interrupted command; default 15 s
	Claim     time.Duration // a command that an agent lists is disposed of if no Run has asked for it by then; default 2 min
	MaxUnauth int           // connections at once that have not authenticated (see Server); default 1024
}

// Hub holds all live agents. It is an http.Handler for the worker port.
type Hub struct {
	opt     Options
	log     *slog.Logger
	limit   *limiter
	turned  sayer // of agents that were turned away
	detach  []error
	nextID  atomic.Int64
	stopped chan struct{}
	wg      sync.WaitGroup // goroutines of sessions and the wheel

	mu     sync.Mutex
	stop   error // not nil: why Runs end and newcomers are turned away
	peers  map[string]*peer
	waits  map[model.SessionID]*session // delivered as Attached and not judged yet
	shards [shards]map[*session]struct{}
	wheel  bool
}

// peer is the logical end of one worker. Its fields belong to Hub.mu.
type peer struct {
	name      string
	cur       *session // admitted and live
	pending   *session // introduces itself or waits for the core's verdict
	plain     bool     // the last admitted session spoke plain v7
	probing   bool
	info      []byte // of the last introduction, encoded: a fifth of the memory of a map
	basedir   string
	runs      map[string]*run
	unclaimed map[string]struct{} // listed by the agent, asked for by nobody so far
	forget    map[string]struct{} // to be forgotten by the agent, which has not confirmed it
	changed   chan struct{}       // closed at the next change of cur; nil while nobody waits
}

// New makes a Hub.
func New(o Options) *Hub {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notice == nil {
		o.Notice = func(string, string, string) {}
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.Heartbeat, proto.Heartbeat}, {&o.DeadAfter, proto.DeadAfter}, {&o.Probe, 2 * time.Second}, {&o.Handshake, 15 * time.Second}, {&o.Close, 2 * time.Second},
		{&o.Interrupt, 15 * time.Second}, {&o.Claim, 2 * time.Minute}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.MaxUnauth <= 0 {
		o.MaxUnauth = 1024
	}
	h := &Hub{opt: o, log: o.Log, limit: newLimiter(), detach: []error{ErrDetached}, stopped: make(chan struct{}),
		peers: make(map[string]*peer), waits: make(map[model.SessionID]*session)}
	if o.Detach != nil {
		h.detach = append(h.detach, o.Detach)
	}
	for i := range h.shards {
		h.shards[i] = make(map[*session]struct{})
	}
	return h
}

// peer returns the worker's peer, which it makes if need be. Names come from the configuration: the map is bounded by it.
func (h *Hub) peer(worker string) *peer {
	p := h.peers[worker]
	if p == nil {
		p = &peer{name: worker}
		h.peers[worker] = p
	}
	return p
}

// broadcast wakes everybody who waits for a change of the peer's session.
func (p *peer) broadcast() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Admit is the core's yes to an Attached. It never blocks.
func (h *Hub) Admit(worker string, id model.SessionID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.waits[id]
	if s == nil || s.worker != worker {
		return // its connection has ended in the meantime
	}
	delete(h.waits, id)
	p := h.peer(worker)
	if p.pending == s {
		p.pending = nil
	}
	if old := p.cur; old != nil {
		old.hangup(proto.StatusRefused, "replaced by a newer connection")
	}
	p.cur, p.plain = s, !s.ext
	p.basedir, p.info = s.basedir, s.info
	s.info = nil
	p.unclaimed = nil
	for id := range p.forget {
		if _, ok := s.known[id]; !ok {
			delete(p.forget, id) // the agent does not have it any more
		}
	}
	for id := range s.known {
		_, running := p.runs[id]
		_, forget := p.forget[id]
		if !running && !forget {
			if p.unclaimed == nil {
				p.unclaimed = make(map[string]struct{})
			}
			p.unclaimed[id] = struct{}{}
		}
	}
	close(s.admitted)
	p.broadcast()
}

// Hangup closes a session; an agent that is not admitted yet is thereby refused. end says that its instance is about to be destroyed: the
// agent ends. A session that is not live any more is no error. It never blocks.
func (h *Hub) Hangup(worker string, id model.SessionID, reason string, end bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.waits[id]
	if s == nil {
		if p := h.peers[worker]; p != nil && p.cur != nil && p.cur.id == id {
			s = p.cur
		}
	}
	if s == nil || s.worker != worker {
		return
	}
	code := websocket.StatusCode(proto.StatusRefused)
	if end {
		code = proto.StatusEnd
	}
	h.unlink(s)
	s.hangup(code, reason)
}

// unlink takes the session out of the registry, so that its name is free. Hub.mu is held.
func (h *Hub) unlink(s *session) {
	delete(h.waits, s.id)
	p := h.peer(s.worker)
	if p.pending == s {
		p.pending = nil
	}
	if p.cur == s {
		p.cur = nil
		p.broadcast()
	}
}

// Lost says that the worker's instance is given up: all its Runs end with ErrLost.
func (h *Hub) Lost(worker string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[worker]
	if p == nil {
		return
	}
	for _, r := range p.runs {
		r.stop(ErrLost)
	}
	p.forget, p.unclaimed = nil, nil
}

// Info returns what the worker's last admitted agent said of its machine (basedir, environ, system, numcpus, version, …), nil if none
// was. The caller owns the map.
func (h *Hub) Info(worker string) map[string]any {
	h.mu.Lock()
	var b []byte
	if p := h.peers[worker]; p != nil {
		b = p.info
	}
	h.mu.Unlock()
	if b == nil {
		return nil
	}
	m, err := proto.Decode(b)
	if err != nil {
		return nil // cannot be: Admit stored what Encode made
	}
	info, _ := m.Fields["info"].(map[string]any)
	return info
}

// Abs returns rel as an absolute path below the worker's basedir and builddir, with the rules of POSIX: an absolute builddir or rel stands
// for itself. Workers that speak msgpack want absolute paths. It is relative still if the worker has never attached.
func (h *Hub) Abs(worker, builddir, rel string) string {
	h.mu.Lock()
	base := ""
	if p := h.peers[worker]; p != nil {
		base = p.basedir
	}
	h.mu.Unlock()
	out := base
	for _, e := range []string{builddir, rel} {
		if path.IsAbs(e) {
			out = path.Clean(e)
		} else {
			out = path.Join(out, e)
		}
	}
	return out
}

// Live returns the number of admitted sessions.
func (h *Hub) Live() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, p := range h.peers {
		if p.cur != nil {
			n++
		}
	}
	return n
}

// Shutdown closes all connections with status 1001 (going away) and turns newcomers away. Commands are not interrupted; their Runs return
// ErrDetached, or ErrLost if detach is false. It waits for the sessions to end, for at most 5 s.
func (h *Hub) Shutdown(detach bool) error {
	h.mu.Lock()
	if h.stop == nil {
		h.stop = ErrLost
		if detach {
			h.stop = ErrDetached
		}
		close(h.stopped)
	}
	for _, p := range h.peers {
		for _, r := range p.runs {
			r.stop(h.stop)
		}
	}
	for _, shard := range h.shards {
		for s := range shard {
			h.unlink(s)
			s.hangup(websocket.StatusGoingAway, "the master stops")
		}
	}
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() { h.wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("session: some connections did not end within 5 s")
	}
}

// detaches says whether a context was cancelled in order to leave the command alone.
func (h *Hub) detaches(ctx context.Context) bool {
	cause := context.Cause(ctx)
	for _, d := range h.detach {
		if errors.Is(cause, d) {
			return true
		}
	}
	return false
}

// clip bounds text from outside before it is shown or sent on.
func clip(s string, n int) string {
	if len(s) > n {
		return fmt.Sprintf("%s… (%d bytes)", s[:n], len(s))
	}
	return s
}
