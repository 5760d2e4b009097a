package core

import (
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// attached decides whether an agent may have the name that it asks for.
func (s *State) attached(ev Attached) {
	w := s.workers[ev.Worker]
	if w == nil || w.facts.Retired && len(w.builds) == 0 { // a busy one goes on until its builds have ended
		s.refuse(ev, "no worker of this name is configured")
		return
	}
	agent := ev.Agent
	if agent == "" {
		agent = "password"
	}
	if why := s.mayAttach(w, ev, agent); why != "" {
		s.refuse(ev, why)
		return
	}
	if old := w.facts.Session; old != 0 {
		s.hangup(w, old, "the same agent has a newer connection", false)
	}
	w.facts.Session, w.agent, w.resumable, w.lostAt, w.told = ev.Session, agent, ev.Resumable, noTime, false
	w.sent = ev.Instance != ""
	w.attachedAt = s.now
	if len(w.builds) == 0 {
		w.facts.IdleSince = s.now
	}
	e := Entry{Kind: "worker", Worker: w.cfg.Name, To: "attached"}
	if in := w.facts.Instance; in != nil {
		e.Instance = in.Key
		in.Resolved, in.Agent, in.LostAt, w.facts.Certain, w.facts.Missed = true, agent, noTime, true, false
		if in.BootedAt.IsZero() {
			in.BootedAt = s.now
		}
		if in.AttachedAt.IsZero() {
			in.AttachedAt = s.now
		}
		if in.Power == latent.Waking {
			s.power(w, latent.On, "")
		}
	} else {
		w.st.SeenAt = s.now
	}
	s.account(w)
	s.dirtyWorker(w)
	s.entry(e)
	s.effect(Admit{Worker: w.cfg.Name, Session: ev.Session})

	for _, b := range append([]*Build(nil), w.builds...) {
		switch {
		case b.Phase == model.BuildPreparing:
			s.startBuild(w, b, false)
		case b.live: // its runner waits for this very agent
		case !ev.Resumable:
			s.stopBuild(b, verdict{result: model.Retry, text: "the worker's connection was lost and its commands do not survive that"})
		default:
			s.startBuild(w, b, true)
			if b.Cancelling != "" {
				s.stopBuild(b, verdict{result: model.Cancelled, text: b.Cancelling})
			}
		}
	}
	s.freed(w)
}

// mayAttach says why not, or "". A name is held by one agent at a time, and an instance's token is good for the first agent that used it.
func (s *State) mayAttach(w *worker, ev Attached, agent string) string {
	in := w.facts.Instance
	if w.cfg.Latent() || in != nil {
		switch {
		case in == nil:
			return "no instance of this worker is expected"
		case in.Doomed:
			return "the instance is about to end"
		case in.Power.Off():
			return "the instance is switched off, or about to be"
		case ev.Instance != "" && ev.Instance != in.Key:
			return "a stale instance: the worker has a newer one"
		case in.Agent != "" && in.Agent != agent:
			return "another agent has used this instance's token"
		}
	} else if ev.Instance != "" {
		return "this worker has no instances"
	}
	if w.facts.Session != 0 && (w.agent != agent || agent == "password") {
		return "another agent is attached under this name"
	}
	return ""
}

func (s *State) refuse(ev Attached, why string) {
	s.entry(Entry{Kind: "worker", Worker: ev.Worker, Instance: ev.Instance, To: "refused", Cause: why})
	s.effect(Hangup{Worker: ev.Worker, Session: ev.Session, Reason: why})
}

// hangup closes a session; with end its agent, which is an instance's, ends too. One that somebody else has started may have taken the place of an instance's
// where a worker makes no instances any more: it comes back.
func (s *State) hangup(w *worker, session model.SessionID, why string, end bool) {
	end = end && (w.cfg.Latent() || w.sent)
	s.ordered("Hangup", Entry{Worker: w.cfg.Name, Cause: why})
	s.effect(Hangup{Worker: w.cfg.Name, Session: session, Reason: why, End: end})
}

func (s *State) detached(ev Detached) {
	w := s.workers[ev.Worker]
	if w == nil || w.facts.Session != ev.Session {
		return // refused, replaced or hung up: the worker has moved on
	}
	w.facts.Session, w.lostAt = 0, s.now
	s.account(w)
	e := Entry{Kind: "worker", Worker: w.cfg.Name, To: "detached"}
	if in := w.facts.Instance; in != nil {
		in.LostAt, e.Instance = s.now, in.Key
		w.facts.Certain, w.facts.NotBefore = false, s.now // look whether it is still there
	} else {
		w.st.SeenAt = s.now
	}
	s.dirtyWorker(w)
	s.entry(e)
	s.touch(w)
}
