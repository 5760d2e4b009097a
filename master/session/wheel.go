package session

import (
	"context"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// shards is into how many parts the sessions are cut for the wheel, so that ten thousand pings are spread over a heartbeat.
const shards = 10

// turn looks at every session once per heartbeat: one goroutine for all of them, and no timer of their own.
func (h *Hub) turn() {
	tick := time.NewTicker(h.opt.Heartbeat / shards)
	defer tick.Stop()
	var silent, due []*session
	for i := 0; ; i = (i + 1) % shards {
		select {
		case <-h.stopped:
			return
		case <-tick.C:
		}
		silent, due = silent[:0], due[:0]
		now := time.Now()
		h.mu.Lock()
		for s := range h.shards[i] {
			if s.silent(now) >= h.opt.Heartbeat*9/10 {
				silent = append(silent, s)
			}
			if !s.ext && h.opt.Keepalive != nil {
				due = append(due, s)
			}
		}
		h.mu.Unlock()
		for _, s := range due {
			s.keepAlive(now, h.opt.Keepalive(s.worker))
		}
		for _, s := range silent {
			if s.silent(now) >= h.opt.DeadAfter {
				h.log.Warn("session: the agent is silent; closing", "worker", s.worker, "session", s.id, "after", h.opt.DeadAfter)
				s.abort()
				continue
			}
			h.wg.Go(func() { s.ping(h.opt.DeadAfter) })
		}
	}
}

// keepAlive sends Buildbot's keepalive to a worker that expects it (Buildbot sends it every hour). Pings have already told whether it lives; this is for what its operator
// has configured, such as a connection tracker that looks at payload only.
func (s *session) keepAlive(now time.Time, every time.Duration) {
	if every <= 0 || !s.isReady() {
		return
	}
	if s.kept.IsZero() {
		s.kept = now
	}
	if now.Sub(s.kept) >= every {
		s.kept = now
		s.hub.wg.Go(func() { _ = s.ask(proto.OpKeepalive, "", nil, func(proto.Message) {}) })
	}
}

func (s *session) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// silent returns for how long the peer said nothing, 0 while we are the ones who do not listen.
func (s *session) silent(now time.Time) time.Duration {
	if s.busy.Load() {
		return 0
	}
	return s.net.silent(now)
}

// ping sends a ping and waits for its pong, or for anything else that the wheel would see.
func (s *session) ping(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.conn.Ping(ctx) // the wheel judges by what was heard
}

// probe finds out quickly whether the holder of a name that another agent wants is still there.
func (h *Hub) probe(p *peer, s *session) {
	begin := time.Now()
	h.wg.Go(func() { s.ping(h.opt.Probe) })
	timer := time.NewTimer(h.opt.Probe)
	defer timer.Stop()
	select {
	case <-timer.C:
		if now := time.Now(); s.silent(now) > now.Sub(begin) {
			h.log.Warn("session: the agent did not answer a probe, and another one wants its name; closing", "worker", s.worker, "session", s.id)
			s.abort()
		}
	case <-s.done:
	}
	h.mu.Lock()
	p.probing = false
	h.mu.Unlock()
}
