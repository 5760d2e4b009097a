package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/rouse-ci/rouse/worker/proto"
	"github.com/rouse-ci/rouse/worker/run"
)

var errForgotten = errors.New("the master has no use for the command")

// handle does what one message asks for. It never waits: the reader must go on. An error ends the link.
func (s *session) handle(m proto.Message) error {
	switch m.Op {
	case proto.OpResponse:
		s.response(m)
		return nil
	case proto.OpAck:
		if c := s.command(m.CommandID); c != nil {
			return c.ack(s.link, m.Pos)
		}
		return nil
	}
	if !m.HasSeq {
		s.log.Warn("dropping a message without seq_number", "op", clip(m.Op))
		return nil
	}
	result, err := s.serve(m)
	if err != nil {
		s.log.Warn("request failed", "op", clip(m.Op), "command", clip(m.CommandID), "error", err)
		return s.send(proto.Exception(m.Seq, err.Error()))
	}
	if err := s.send(proto.Reply(m.Seq, result)); err != nil {
		return err
	}
	if m.Op == proto.OpShutdown {
		s.stop(errShutdown)
	}
	return nil
}

func (s *session) serve(m proto.Message) (any, error) {
	switch m.Op {
	case proto.OpPrint:
		s.log.Info("message from the master", "text", clip(m.Text("message")))
	case proto.OpKeepalive, proto.OpShutdown:
	case proto.OpGetWorkerInfo:
		return s.info(), nil
	case proto.OpSetWorkerSettings:
		set, err := parseSettings(m.Args())
		if err != nil {
			return nil, err
		}
		s.Agent.mu.Lock()
		s.settings = set
		s.Agent.mu.Unlock()
	case proto.OpStartCommand:
		return nil, s.startCommand(m)
	case proto.OpInterruptCommand:
		s.interrupt(m.CommandID, m.Text("why"))
	case proto.OpResume:
		c := s.command(m.CommandID)
		if c == nil || !m.HasPos {
			return nil, fmt.Errorf("resume: unknown command %q, or no position", clip(m.CommandID))
		}
		return nil, c.resume(s.link, m.Pos)
	case proto.OpForget:
		if c := s.command(m.CommandID); c != nil {
			s.remove(m.CommandID)
			c.drop(errForgotten)
		}
	default:
		return nil, fmt.Errorf("Command %s does not exist.", clip(m.Op)) //nolint:staticcheck // Buildbot's text
	}
	return nil, nil
}

func (s *session) interrupt(id, why string) {
	s.log.Info("interrupting", "command", clip(id), "reason", clip(why))
	cause := fmt.Errorf("interrupted by the master: %s", why)
	if c := s.command(id); c != nil {
		c.cancel(cause)
	}
	s.v7mu.Lock()
	defer s.v7mu.Unlock()
	if p := s.v7[id]; p != nil {
		p.cancel(cause)
	}
}

// startCommand starts a command, once: the master repeats the request if it did not get the response.
func (s *session) startCommand(m proto.Message) error {
	if m.CommandID == "" {
		return errors.New("start_command without command_id")
	}
	spec := run.Command{Name: m.Text("command_name"), Args: m.Args(), Basedir: s.cfg.Basedir, Env: s.childEnv(), Kill: s.kill,
		Master: caller{s.link, m.CommandID}}
	if err := run.Check(spec); err != nil {
		return err
	}
	if !s.extension {
		return s.startPlain(m.CommandID, spec)
	}
	s.Agent.mu.Lock()
	defer s.Agent.mu.Unlock()
	if c := s.commands[m.CommandID]; c != nil {
		return c.resume(s.link, -1)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &command{id: m.CommandID, cancel: cancel, wake: make(chan struct{}, 1), room: make(chan struct{}), link: s.link,
		spool: spool{path: s.spoolPath(), maxMem: s.cfg.SpoolMemory, maxFile: s.cfg.SpoolFile}}
	s.commands[c.id] = c
	s.log.Debug("starting", "command", c.id, "name", spec.Name)
	s.running.Go(c.pump)
	s.running.Go(func() {
		c.finish(run.Run(ctx, spec, c))
		cancel(nil)
	})
	return nil
}

// spoolPath gives each command's spool a file name of its own; IDs come from outside and are not used. The agent's lock is held.
func (a *Agent) spoolPath() string {
	a.spools++
	return filepath.Join(a.spool, fmt.Sprint(a.spools))
}

// childEnv marks every program, so that what it leaves behind can be found.
func (a *Agent) childEnv() []string {
	env := []string{"ROUSE_WORKER=" + a.cfg.Name}
	if a.cfg.Instance != "" {
		env = append(env, "ROUSE_INSTANCE="+a.cfg.Instance)
	}
	return env
}

// caller does a transfer's requests over the link on which its command was started, and no other: the master's end of the transfer is
// there.
type caller struct {
	link *link
	id   string
}

func (c caller) Call(ctx context.Context, op string, fields map[string]any) (any, error) {
	answer, err := c.link.call(ctx, op, c.id, fields)
	if errors.Is(err, errLost) {
		err = errors.New("transfer failed: the connection to the master was lost")
	}
	return answer, err
}
