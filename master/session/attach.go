package session

import (
	"context"
	"fmt"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

// settings are the reference values of Buildbot's master (WIRE 6.5).
var settings = map[string]any{"args": map[string]any{
	"newline_re":      `(\r\n|\r(?=.)|\033\[u|\033\[[0-9]+;[0-9]+[Hf]|\033\[2J|\x08+)`,
	"max_line_length": 4096,
	"buffer_timeout":  5,
	"buffer_size":     64 << 10,
}}

// attach carries out the introduction and asks the core. Its goroutine ends with the core's verdict.
func (s *session) attach() {
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.hub.opt.Handshake, fmt.Errorf("no introduction within %s", s.hub.opt.Handshake))
	defer cancel()
	var err error
	if s.ext {
		err = s.awaitHello(ctx)
	} else {
		err = s.interview(ctx)
	}
	if err != nil {
		select {
		case <-s.done:
			return
		default:
		}
		s.hub.log.Warn("session: the agent did not introduce itself; closing", "worker", s.worker, "session", s.id, "error", err)
		s.hangup(websocket.StatusPolicyViolation, "no proper introduction: "+err.Error())
		return
	}
	if !s.announce() {
		return
	}
	select {
	case <-s.admitted:
	case <-s.done:
		return
	}
	s.begin()
}

// interview is Buildbot's attach sequence, without the bookkeeping of builder directories, which rouse does not need.
func (s *session) interview(ctx context.Context) error {
	// "attached", exactly: buildbot-worker start reports success only then.
	if _, err := s.call(ctx, proto.OpPrint, "", map[string]any{"message": "attached"}); err != nil {
		return err
	}
	info, err := s.call(ctx, proto.OpGetWorkerInfo, "", nil)
	if err != nil {
		return err
	}
	m, ok := info.(map[string]any)
	if !ok {
		return fmt.Errorf("the worker's info is a %T, want a map", info)
	}
	if err := s.keepInfo(m); err != nil {
		return err
	}
	_, err = s.call(ctx, proto.OpSetWorkerSettings, "", settings)
	return err
}

// takeHello handles the agent's first message. Its response follows when the agent is admitted.
func (s *session) takeHello(m *proto.Message) error {
	hello, err := proto.ParseHello(m.Fields)
	switch {
	case m.Op != proto.OpHello:
		return protocolErrorf("%s before hello", clip(m.Op, 80))
	case s.met || m.Seq != 0:
		return protocolErrorf("unexpected hello")
	case err != nil:
		return &protocolError{err.Error()}
	}
	s.met = true
	s.hello <- hello // has room for this one
	return nil
}

func (s *session) awaitHello(ctx context.Context) error {
	select {
	case hello := <-s.hello:
		s.known = make(map[string]proto.Running, len(hello.Commands))
		for _, c := range hello.Commands {
			s.known[c.ID] = c
		}
		if len(s.known) == 0 {
			s.known = nil
		}
		return s.keepInfo(hello.Info)
	case <-s.done:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) keepInfo(info map[string]any) (err error) {
	s.basedir, _ = info["basedir"].(string)
	s.info, err = proto.Encode(proto.Message{Op: "info", Fields: map[string]any{"info": info}})
	return err
}

// announce delivers Attached, unless the connection has ended or lost its name meanwhile.
func (s *session) announce() bool {
	h := s.hub
	s.deliver.Lock()
	defer s.deliver.Unlock()
	h.mu.Lock()
	p := h.peer(s.worker)
	live := p.pending == s
	if live {
		h.waits[s.id] = s
	}
	h.mu.Unlock()
	if s.ended || !live {
		return false
	}
	s.attached = true
	h.opt.Deliver(core.Attached{Worker: s.worker, Session: s.id, Instance: s.instance, Agent: s.agent, Resumable: s.ext})
	return true
}

// begin tells the agent that it is admitted, lets commands in, and disposes of those that nobody wants.
func (s *session) begin() {
	h := s.hub
	if s.ext {
		if s.send(proto.Reply(0, nil)) != nil {
			return
		}
	}
	close(s.ready)
	h.log.Info("session: attached", "worker", s.worker, "session", s.id, "instance", s.instance, "remote", s.net.RemoteAddr().String(),
		"resumable", s.ext, "commands", len(s.known))
	if len(s.known) == 0 {
		return
	}
	h.mu.Lock()
	p := h.peer(s.worker)
	var forget []string
	for id := range p.forget {
		forget = append(forget, id)
	}
	unclaimed := len(p.unclaimed) > 0
	h.mu.Unlock()
	for _, id := range forget {
		h.sendForget(s, p, id)
	}
	if unclaimed {
		h.wg.Go(func() { h.disown(s, p) })
	}
}

// disown forgets the commands that no Run has asked for in time: they belong to builds that have ended without this connection.
func (h *Hub) disown(s *session, p *peer) {
	timer := time.NewTimer(h.opt.Claim)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
		return
	}
	h.mu.Lock()
	var ids []string
	if p.cur == s {
		for id := range p.unclaimed {
			ids = append(ids, id)
		}
		p.unclaimed = nil
	}
	h.mu.Unlock()
	for _, id := range ids {
		h.log.Warn("session: a command that no build asks for is disposed of", "worker", s.worker, "command", id)
		h.Forget(s.worker, id)
	}
}
