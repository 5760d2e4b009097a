package core

import (
	"cmp"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

const (
	workerTimer   = "worker:"
	sweepTimer    = "sweep:"
	scheduleTimer = "schedule:"
)

// Step takes one event in and returns what to store and then to do. now must not go backwards.
func (s *State) Step(now time.Time, ev Event) Batch {
	s.step = step{now: now, dirtyReq: s.dirtyReq[:0], dirtyBld: s.dirtyBld[:0], dirtyWork: s.dirtyWork[:0],
		touched: s.touched[:0], trying: s.trying[:0]}

	switch ev := ev.(type) {
	case ConfigApplied:
		s.event = "ConfigApplied"
		s.configure(ev.Config, ev.Prepared)
	case Submitted:
		s.event = "Submitted"
		s.submitted(ev)
	case CancelAsked:
		s.event = "CancelAsked"
		s.cancelAsked(ev)
	case PauseAsked:
		s.event = "PauseAsked"
		s.pauseAsked(ev)
	case EndAsked:
		s.event = "EndAsked"
		if w := s.workers[ev.Worker]; w != nil && w.facts.Instance != nil && !w.facts.Instance.Doomed {
			switch {
			case ev.Interrupted == "":
				s.doom(w, ev.Reason, "")
			case s.interruptible(w):
				s.interrupted(w, ev.Interrupted, ev.Reason)
			default:
				s.doom(w, "its agent says that it is taken back, which its provider does not do to such instances: "+ev.Reason, failEnded)
			}
		}
	case SweepAsked:
		s.event = "SweepAsked"
		s.sweepAsked(ev)
	case ReapAsked:
		s.event = "ReapAsked"
		s.reapAsked(ev)
	case LeaveAsked:
		s.event = "LeaveAsked"
		s.leaveAsked(ev)
	case OpDone:
		s.event = "OpDone"
		s.opDone(ev)
	case Attached:
		s.event = "Attached"
		s.attached(ev)
	case Detached:
		s.event = "Detached"
		s.detached(ev)
	case BuildEnded:
		s.event = "BuildEnded"
		s.buildEnded(ev)
	case Listed:
		s.event = "Listed"
		s.listed(ev)
	case Observed:
		s.event = "Observed"
		s.observed(ev)
	case RoomsKnown:
		s.event = "RoomsKnown"
		s.roomsKnown(ev)
	case Scheduled:
		s.event = "Scheduled"
		s.scheduled(ev)
	case TimerFired:
		s.event = "TimerFired"
		s.timerFired(ev.Timer)
	case Restarted:
		s.event = "Restarted"
		s.restarted(ev.First)
	case Stopping:
		s.event = "Stopping"
		s.stop(ev.Policy)
	}
	if s.configured {
		s.settle()
	} else {
		s.forget()
	}
	return s.finish()
}

// settle gives builds to workers and lets each touched worker take its next action, until nothing moves. Only what nobody has room for by then makes idle
// instances give up theirs.
func (s *State) settle() {
	for len(s.trying)+len(s.touched) > 0 {
		s.dispatch()
		touched := s.touched
		s.touched = nil
		for _, w := range touched {
			w.touched = false
			s.reconcile(w)
			if w.facts.Retired {
				s.dropWorker(w)
			}
		}
		if s.pressed && len(s.trying)+len(s.touched) == 0 {
			s.makeRoom()
		}
	}
}

// forget drops what was marked for settling: before there is a configuration nothing is decided, and configuring marks everything.
func (s *State) forget() {
	for _, w := range s.touched {
		w.touched = false
	}
	for _, p := range s.trying {
		p.trying = false
	}
	s.touched, s.trying = s.touched[:0], s.trying[:0]
}

// finish turns what changed into a delta.
func (s *State) finish() Batch {
	s.forgetRetired()
	d := &s.batch.Delta
	if n := len(s.dirtyReq); n > 0 {
		d.Requests = make([]Request, n)
		for i, r := range s.dirtyReq {
			d.Requests[i], r.dirty = r.Request, false
			if r.State == model.RequestDone {
				delete(s.requests, r.ID)
			}
		}
	}
	if n := len(s.dirtyBld); n > 0 {
		d.Builds = make([]Build, n)
		for i, b := range s.dirtyBld {
			b.dirty = false
			d.Builds[i] = *b
			if b.Phase == model.BuildDone {
				delete(s.builds, b.ID)
			}
		}
	}
	for _, w := range s.dirtyWork {
		w.dirty = false
		w.st.Tries, w.st.BackoffUntil = w.facts.Tries, w.facts.BackoffUntil
		d.Workers = append(d.Workers, w.st)
		if w.facts.Instance != nil {
			d.Instances = append(d.Instances, *w.facts.Instance)
		}
	}
	d.Instances = append(d.Instances, s.gone...)
	d.NextBuild, d.NextOp = s.nextBuild, s.nextOp
	return s.batch
}

func (s *State) effect(e Effect) { s.batch.Effects = append(s.batch.Effects, e) }
func (s *State) entry(e Entry) {
	e.Event = s.event
	s.batch.Delta.Journal = append(s.batch.Delta.Journal, e)
}

// ordered writes an order to the outside into the journal.
func (s *State) ordered(what string, e Entry) { e.Kind, e.To = "effect", what; s.entry(e) }

func (s *State) dirtyRequest(r *request) {
	if !r.dirty {
		r.dirty = true
		s.dirtyReq = append(s.dirtyReq, r)
	}
}

func (s *State) dirtyBuild(b *Build) {
	if !b.dirty {
		b.dirty = true
		s.dirtyBld = append(s.dirtyBld, b)
	}
}

func (s *State) dirtyWorker(w *worker) {
	if !w.dirty {
		w.dirty = true
		s.dirtyWork = append(s.dirtyWork, w)
	}
}

// touch makes settle look at the worker's next action.
func (s *State) touch(w *worker) {
	if !w.touched {
		w.touched = true
		s.touched = append(s.touched, w)
	}
}

// try makes settle look for a worker for the pool's requests.
func (s *State) try(p *pool) {
	if !p.trying {
		p.trying = true
		s.trying = append(s.trying, p)
	}
}

// freed says that a worker may have room for another build.
func (s *State) freed(w *worker) {
	for _, p := range w.pools {
		p.freed = w
		if i, known := slices.BinarySearchFunc(p.maybe, w, func(a, b *worker) int { return cmp.Compare(p.place[a], p.place[b]) }); !known {
			p.maybe = slices.Insert(p.maybe, i, w)
		}
		s.try(p)
	}
	s.touch(w)
}

// arm sets the one deadline of a name; the zero time disarms it.
func (s *State) arm(name string, at time.Time) {
	old, ok := s.timers[name]
	if at.IsZero() {
		delete(s.timers, name)
		return
	}
	if ok && old.At.Equal(at) {
		return
	}
	s.timerGen++
	s.timers[name] = TimerSet{Gen: s.timerGen, At: at}
	s.effect(SetTimer{Timer: Timer{Name: name, Gen: s.timerGen}, At: at})
}

func (s *State) timerFired(t Timer) {
	set, ok := s.timers[t.Name]
	if !ok || set.Gen != t.Gen {
		return // replaced or disarmed meanwhile
	}
	delete(s.timers, t.Name)
	switch {
	case len(t.Name) > len(workerTimer) && t.Name[:len(workerTimer)] == workerTimer:
		if w := s.workers[t.Name[len(workerTimer):]]; w != nil {
			s.freed(w)
		}
	case len(t.Name) > len(sweepTimer) && t.Name[:len(sweepTimer)] == sweepTimer:
		s.sweep(t.Name[len(sweepTimer):])
	case len(t.Name) > len(scheduleTimer) && t.Name[:len(scheduleTimer)] == scheduleTimer:
		s.scheduleDue(t.Name[len(scheduleTimer):])
	}
}

func (s *State) restarted(first bool) {
	for _, w := range s.order {
		w.lostAt = s.now
		s.orphaned(w)
		if limit := s.now.Add(MaxBackoff); w.facts.BackoffUntil.After(limit) {
			w.facts.BackoffUntil = limit
			s.dirtyWorker(w)
		}
		w.st.SeenAt = s.past(w.st.SeenAt)
		if in := w.facts.Instance; in != nil {
			w.facts.Certain = false
			in.AskedAt, in.UnresolvedAt, in.PowerAt, in.DoomedAt = s.past(in.AskedAt), s.past(in.UnresolvedAt), s.past(in.PowerAt), s.past(in.DoomedAt)
			if !in.Resolved {
				in.UnresolvedAt = s.now // the dead master's call may still be on its way
			}
			if !in.AttachedAt.IsZero() {
				in.LostAt = s.lostSince(in.LostAt)
			}
			if !in.Doomed && in.Power.Off() {
				s.stoppedUnder(w)
			}
			if in.Doomed { // its agent will be refused, so nobody can resume its builds
				for _, b := range append([]*Build(nil), w.builds...) {
					s.endByOrder(b, in.Reason)
				}
			}
			s.dirtyWorker(w)
		}
		s.freed(w)
	}
	to := "restarted"
	if first {
		to = "started"
	}
	s.entry(Entry{Kind: "master", To: to})
}

// lostSince is when a new master says that an agent was lost: now, if it was there when the old master ended. One that had been lost before
// does not get all its time again, or it would hold its builds for as long as masters are restarted; but it gets enough of it to find the new master.
func (s *State) lostSince(lost time.Time) time.Time {
	least := s.now.Add(RestartGrace - ResumeGrace)
	switch {
	case lost.IsZero() || lost.After(s.now):
		return s.now
	case lost.Before(least):
		return least
	}
	return lost
}

// past is a stored time, but not later than now: between two masters the clock may have been set back, and deadlines that count from a time
// to come would not come for as long.
func (s *State) past(t time.Time) time.Time {
	if t.After(s.now) {
		return s.now
	}
	return t
}

func (s *State) stop(p StopPolicy) {
	s.stopping, s.policy = true, p
	s.entry(Entry{Kind: "master", To: "stopping", Cause: "on_master_stop = " + p.String()})
	for _, w := range s.order {
		w.facts.Frozen = true
		w.facts.Draining = p != StopKeep
		if p != StopKeep {
			for _, b := range w.preparing() {
				s.endBuild(b, verdict{result: model.Retry, text: "the master is stopping", free: true})
			}
		}
		if p == StopTerminate {
			const why = "the master is stopping (on_master_stop = terminate)"
			if in := w.facts.Instance; in != nil && !in.Doomed {
				s.doom(w, why, "")
			} else if in == nil {
				for _, b := range append([]*Build(nil), w.builds...) {
					s.endByOrder(b, why)
				}
			}
		}
		s.touch(w)
	}
}

func (s *State) pauseAsked(ev PauseAsked) {
	if st, ok := s.former[ev.Worker]; ok {
		st.Paused = ev.Reason
		s.former[ev.Worker] = st
		s.batch.Delta.Workers = append(s.batch.Delta.Workers, st)
	}
	w := s.workers[ev.Worker]
	if w == nil || w.st.Paused == ev.Reason {
		return
	}
	w.st.Paused = ev.Reason
	to := "paused"
	if ev.Reason == "" {
		to = "unpaused"
	}
	s.entry(Entry{Kind: "worker", Worker: w.cfg.Name, To: to, Cause: ev.Reason})
	s.dirtyWorker(w)
	s.freed(w)
}

func (s *State) leaveAsked(ev LeaveAsked) {
	w := s.workers[ev.Worker]
	if w == nil || w.facts.Instance == nil || w.facts.Instance.Doomed || w.facts.Leaving != "" ||
		ev.Instance != "" && ev.Instance != w.facts.Instance.Key {
		return
	}
	w.facts.Leaving = ev.Reason
	s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: w.facts.Instance.Key, To: "leaving", Cause: ev.Reason})
	s.touch(w)
}

// newOp registers a call to a provider.
func (s *State) newOp(ref opRef) model.OpID {
	id := s.nextOp
	s.nextOp++
	ref.at = s.now
	s.ops[id] = ref
	return id
}

func (s *State) policyOf(w *worker) latent.Policy {
	p := latent.Policy{Missing: w.cfg.MissingTimeout, BuildWait: w.cfg.BuildWaitTimeout, Grace: ResumeGrace,
		Sleep: w.sleeps(), StopLimit: StopLimit}
	name := w.cfg.Provider
	if w.facts.Instance != nil {
		name = w.facts.Instance.Provider
	}
	if w.facts.Instance != nil { // its block may have been removed before a restart: then nobody knows how it counts
		p.Settle, p.CheckInterval, p.DestroyBackoff = FormerSettle, FormerCheck, FormerCheck
	}
	if pr := s.providers[name]; pr != nil {
		p.Settle, p.CheckInterval, p.DestroyBackoff = pr.cfg.Settle, pr.cfg.CheckInterval, pr.cfg.DestroyBackoff
	}
	return p
}
