package core

import (
	"strconv"

	"github.com/rouse-ci/rouse/master/model"
)

// startBuild hands a build to a runner. The worker's agent is attached.
func (s *State) startBuild(w *worker, b *Build, resume bool) {
	if b.Phase == model.BuildPreparing {
		s.entry(Entry{Kind: "build", Build: b.ID, Request: b.Requests[0], Worker: b.Worker, Instance: b.Instance, From: b.Phase.String(), To: "running"})
		b.Phase, b.StartedAt = model.BuildRunning, s.now
		w.facts.Running++
		s.dirtyBuild(b)
	}
	if in := w.facts.Instance; in != nil && !in.Served {
		in.Served = true
		s.dirtyWorker(w)
	}
	b.live = true
	what := "StartBuild"
	if resume {
		what = "ResumeBuild"
	}
	s.ordered(what, Entry{Build: b.ID, Request: b.Requests[0], Worker: b.Worker, Instance: b.Instance})
	s.effect(StartBuild{Build: b.copy(), Resume: resume})
}

func (b *Build) copy() Build {
	c := *b
	c.Requests = append([]model.RequestID(nil), b.Requests...)
	c.live, c.free, c.taken, c.dirty = false, false, false, false
	return c
}

// stopBuild tells a live runner to end; a build without a runner ends at once.
func (s *State) stopBuild(b *Build, v verdict) {
	if !b.live {
		if b.Cancelling != "" {
			v = verdict{result: model.Cancelled, text: b.Cancelling}
		}
		s.endBuild(b, v)
		return
	}
	b.free = v.free
	s.ordered("StopBuild", Entry{Build: b.ID, Request: b.Requests[0], Worker: b.Worker, Instance: b.Instance, Cause: v.text})
	s.effect(StopBuild{Build: b.ID, Result: v.result, Reason: v.text})
}

// verdict is how a build ends.
type verdict struct {
	result model.Result
	text   string
	free   bool // a retry for which the build cannot be blamed: no attempt is charged
}

func (s *State) buildEnded(ev BuildEnded) {
	b := s.builds[ev.Build]
	if b == nil || !b.live {
		return
	}
	v := verdict{result: ev.Result, text: ev.Text}
	if v.result == model.Retry {
		v.free = b.free || s.stopping
		if b.Cancelling != "" {
			v = verdict{result: model.Cancelled, text: b.Cancelling}
		}
	}
	s.endBuild(b, v)
}

// endBuild is the one place where a build ends, and where its requests end or go back to the queue.
func (s *State) endBuild(b *Build, v verdict) {
	w := s.workers[b.Worker]
	s.entry(Entry{Kind: "build", Build: b.ID, Request: b.Requests[0], Worker: b.Worker, Instance: b.Instance,
		From: b.Phase.String(), To: v.result.String(), Cause: v.text})
	s.release(b)
	if b.Phase == model.BuildRunning {
		w.facts.Running--
	}
	for i, other := range w.builds {
		if other == b {
			w.builds = append(w.builds[:i], w.builds[i+1:]...)
			break
		}
	}
	w.facts.Builds--
	w.facts.IdleSince = s.now
	s.account(w)
	s.builders[b.Builder].ran(-1)
	if v.result != model.Retry && v.result != model.Exception && w.facts.Tries > 0 {
		w.facts.Tries, w.facts.BackoffUntil, w.st.LastError, w.st.FailClass, w.st.ClassTries = 0, noTime, "", "", 0
		s.dirtyWorker(w)
	}
	b.Phase, b.FinishedAt, b.Result, b.Text, b.live = model.BuildDone, s.now, v.result, v.text, false
	s.dirtyBuild(b)
	s.freed(w)

	for _, id := range b.Requests {
		r := s.requests[id]
		switch {
		case r == nil || r.State == model.RequestDone:
		case v.result != model.Retry:
			s.endRequest(r, v.result, v.text)
		default:
			if free := s.free(b, r, v); free {
				r.Attempts--
			} else if r.Attempts >= s.maxAttempts(r.Builder) {
				s.endRequest(r, model.Exception, "gave up after "+strconv.Itoa(r.Attempts)+" attempts: "+v.text+r.interruptions())
				continue
			}
			r.State = model.RequestWaiting
			s.dirtyRequest(r)
			s.entry(Entry{Kind: "request", Request: r.ID, Build: b.ID, From: "claimed", To: "waiting", Cause: v.text})
			s.enqueue(r)
		}
	}
}

func (s *State) maxAttempts(builder string) int {
	if b := s.builders[builder]; b != nil && b.cfg.MaxAttempts > 0 {
		return b.cfg.MaxAttempts
	}
	return 5
}

func (s *State) endRequest(r *request, result model.Result, text string) {
	s.dequeue(r)
	s.entry(Entry{Kind: "request", Request: r.ID, Build: r.Build, From: r.State.String(), To: result.String(), Cause: text})
	r.State, r.Result, r.Text, r.FinishedAt = model.RequestDone, result, text, s.now
	s.dirtyRequest(r)
	s.effect(Ended{Request: r.ID, Result: result})
}

func (s *State) cancelAsked(ev CancelAsked) {
	reason := ev.Reason
	if reason == "" {
		reason = "by hand"
	}
	if r := s.requests[ev.Request]; r != nil {
		b := s.builds[r.Build]
		switch {
		case r.State == model.RequestWaiting:
			s.endRequest(r, model.Cancelled, reason)
			return
		case b != nil && len(b.Requests) > 1: // others were collapsed into the build: it goes on for them
			for i, id := range b.Requests {
				if id == r.ID {
					b.Requests = append(b.Requests[:i:i], b.Requests[i+1:]...)
					break
				}
			}
			s.dirtyBuild(b)
			s.endRequest(r, model.Cancelled, reason)
			return
		}
		ev.Build = r.Build
	}
	b := s.builds[ev.Build]
	if b == nil || b.Cancelling != "" {
		return
	}
	if b.Phase == model.BuildPreparing {
		s.endBuild(b, verdict{result: model.Cancelled, text: reason})
		return
	}
	b.Cancelling = reason
	s.dirtyBuild(b)
	s.entry(Entry{Kind: "build", Build: b.ID, Request: b.Requests[0], Worker: b.Worker, From: "running", To: "cancelling", Cause: reason})
	if b.live {
		s.stopBuild(b, verdict{result: model.Cancelled, text: reason})
	}
	// Without a runner the agent is away: its command is interrupted when it comes back, or the build ends when it does not.
}
