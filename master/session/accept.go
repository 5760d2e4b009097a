package session

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// Server returns an http.Server for the worker port: the Hub behind deadlines and a bound on the connections that have not authenticated.
func (h *Hub) Server() *http.Server {
	var open atomic.Int64
	var http1 http.Protocols // HTTP/2 has no connection to take over
	http1.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &http1,
		ReadHeaderTimeout: h.opt.Handshake,
		ReadTimeout:       h.opt.Handshake, // ends with the upgrade
		IdleTimeout:       h.opt.Handshake,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		ConnState: func(c net.Conn, st http.ConnState) {
			switch st {
			case http.StateNew:
				if open.Add(1) > int64(h.opt.MaxUnauth) {
					_ = c.Close()
				}
			case http.StateHijacked, http.StateClosed:
				open.Add(-1)
			}
		},
	}
}

// ServeHTTP answers a worker's upgrade request. The refusals are those of Buildbot's master (WIRE 6.1): unmodified workers go by them.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
			return
		}
		_, _ = io.WriteString(w, "This is the worker port of a rouse master. Workers connect to it with WebSocket.\n")
		return
	}
	name, secret, ok := r.BasicAuth()
	now := time.Now()
	if !h.limit.allowed(r.RemoteAddr, name, now) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "Too many failed authentications", http.StatusTooManyRequests)
		return
	}
	nonce, ext := r.Header.Get(proto.HeaderAgent), r.Header.Get(proto.HeaderProtocol) == proto.Extension
	switch {
	case r.Header.Get("Authorization") == "":
		h.unauthorized(w, r, "no Authorization header")
		return
	case !ok || name == "" || ext && !validNonce(nonce):
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	id, err := h.opt.Auth.Authenticate(name, secret, model.InstanceKey(r.Header.Get(proto.HeaderInstance)))
	if err != nil {
		h.limit.failed(r.RemoteAddr, name, now)
		h.unauthorized(w, r, err.Error())
		return
	}
	select {
	case <-h.stopped:
		http.Error(w, "The master stops", http.StatusServiceUnavailable)
		return
	default:
	}
	s := &session{hub: h, id: model.SessionID(h.nextID.Add(1)), worker: id.Worker, instance: id.Instance, ext: ext,
		done: make(chan struct{}), admitted: make(chan struct{}), ready: make(chan struct{})}
	if ext {
		sum := sha256.Sum256([]byte(nonce))
		s.agent = hex.EncodeToString(sum[:])
		s.hello = make(chan proto.Hello, 1)
		w.Header().Set(proto.HeaderProtocol, proto.Extension)
	}
	hj := &hijacker{ResponseWriter: w, limit: h.opt.DeadAfter}
	s.conn, err = websocket.Accept(hj, r, nil)
	if err != nil {
		h.log.Debug("session: upgrade failed", "worker", s.worker, "remote", r.RemoteAddr, "error", err)
		return
	}
	s.net = hj.conn
	s.conn.SetReadLimit(proto.MaxMessage)
	h.adopt(s)
}

func (h *Hub) unauthorized(w http.ResponseWriter, r *http.Request, why string) {
	if ok, missed := h.turned.says(time.Now()); ok {
		name, _, _ := r.BasicAuth()
		h.log.Info("session: an agent was turned away", "worker", clip(name, 80), "remote", r.RemoteAddr, "error", why, "not_logged_before", missed)
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="rouse"`)
	http.Error(w, "Unauthorized", http.StatusUnauthorized)
}

func validNonce(s string) bool {
	return len(s) == 26 && strings.IndexFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) < 0
}

// adopt starts the session, or refuses it when its name is taken.
func (h *Hub) adopt(s *session) {
	h.mu.Lock()
	if h.stop != nil {
		h.mu.Unlock()
		_ = s.conn.CloseNow()
		return
	}
	p := h.peer(s.worker)
	why := p.taken(s)
	old, probe := p.cur, false
	switch {
	case why != "":
		if old != nil && !p.probing {
			p.probing, probe = true, true
		}
	default:
		for _, o := range []*session{p.pending, old} { // the same agent comes back through a new connection: the old one is half-open
			if o != nil {
				h.unlink(o)
				o.hangup(proto.StatusRefused, "replaced by a newer connection of the same agent")
			}
		}
		p.pending = s
	}
	h.shards[s.id%shards][s] = struct{}{}
	if !h.wheel {
		h.wheel = true
		h.wg.Go(h.turn)
	}
	h.wg.Go(s.serve)
	if probe {
		h.wg.Go(func() { h.probe(p, old) })
	}
	h.mu.Unlock()
	if why != "" {
		h.log.Warn("session: an agent was refused", "worker", s.worker, "remote", s.net.RemoteAddr().String(), "why", why)
		s.hangup(proto.StatusRefused, why)
		return
	}
	h.wg.Go(s.attach)
}

// taken says why the session may not have the name, or "". Hub.mu is held.
func (p *peer) taken(s *session) string {
	for _, o := range []*session{p.cur, p.pending} {
		if o != nil && (s.agent == "" || s.agent != o.agent) {
			return "another agent is attached under this name"
		}
	}
	return ""
}

// hijacker gives the WebSocket library small buffers: net/http's are 4 KiB each, and large payloads bypass them anyway.
type hijacker struct {
	http.ResponseWriter
	limit time.Duration
	conn  *liveConn
}

const bufSize = 512

// Hijack implements http.Hijacker.
func (j *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(j.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil || len(early) > 4096 {
		return nil, nil, errors.Join(errors.New("session: cannot take over the connection"), err, conn.Close())
	}
	j.conn = &liveConn{Conn: conn, early: bytes.Clone(early), limit: j.limit}
	j.conn.seen.Store(time.Now().UnixNano())
	return j.conn, bufio.NewReadWriter(bufio.NewReaderSize(j.conn, bufSize), bufio.NewWriterSize(j.conn, bufSize)), nil
}

// liveConn remembers when its peer was last heard of, and bounds every write: a peer that takes nothing for so long is dead.
type liveConn struct {
	net.Conn
	early []byte // read together with the request
	seen  atomic.Int64
	limit time.Duration
}

func (c *liveConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.seen.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *liveConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// silent returns for how long nothing was heard.
func (c *liveConn) silent(now time.Time) time.Duration { return now.Sub(time.Unix(0, c.seen.Load())) }
