package core

import (
	"slices"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/queue"
	"github.com/rouse-ci/rouse/master/model"
)

func (s *State) submitted(ev Submitted) {
	for _, in := range ev.Requests {
		if s.requests[in.ID] != nil {
			continue // already known: submitting is idempotent under the request's ID
		}
		r := &request{Request: in}
		r.State, r.Result = model.RequestWaiting, model.NoResult
		if r.Generation == 0 {
			r.Generation = s.generation
		}
		s.requests[r.ID] = r
		s.dirtyRequest(r)
		s.entry(Entry{Kind: "request", Request: r.ID, To: r.State.String(), Cause: r.Builder})
		if b := s.builders[r.Builder]; s.configured && (b == nil || b.retired) { // it was removed a moment ago, or by the time an old build triggers it
			s.endRequest(r, model.Exception, "builder "+r.Builder+" is not configured (any more)")
			continue
		}
		s.enqueue(r)
	}
}

// dispatch gives waiting requests to workers: of all that may be served now, the best first.
func (s *State) dispatch() {
	for {
		var best *pool
		var top *queue.Item
		n := 0
		for _, p := range s.trying {
			l := p.Best()
			if l == nil || s.stopping || len(p.maybe) == 0 {
				p.trying = false
				p.Release()
				s.pressed = s.pressed || s.roomy && p.Len() > 0
				continue
			}
			s.trying[n] = p
			n++
			if it := l.Top(); top == nil || queue.Compare(it, top) < 0 {
				best, top = p, it
			}
		}
		clear(s.trying[n:])
		s.trying = s.trying[:n]
		if best == nil {
			return
		}
		r := s.requests[top.ID]
		if w := s.place(best, best.maybe, r); w != nil {
			s.assign(r, w)
			continue
		}
		// Nobody for this one. Who has no room for anybody is not looked at again until it is freed, so a full house costs nothing.
		best.maybe = slices.DeleteFunc(best.maybe, func(w *worker) bool {
			rank, why := s.room(w)
			if rank == noRoom && why == lacking {
				s.starve(w)
			}
			return rank == noRoom
		})
		best.Hold(top.Lane()) // the next lane of the pool may still be served
	}
}

// Ranks of a worker for one more build: warm before cold.
const (
	noRoom = iota
	cold   // an instance must be made
	asleep // its instance is switched off
	coming // an instance is on its way
	warm   // an agent is attached
)

const backingOff = "backing off after a failure"

// room says whether a worker can take one more build of some builder, and if not, why.
func (s *State) room(w *worker) (rank int, why string) {
	f, in := &w.facts, w.facts.Instance
	limit := w.cfg.MaxBuilds
	if w.cfg.Latent() && w.cfg.BuildWaitTimeout == 0 {
		limit = 1 // a fresh instance for every build
	}
	switch {
	case f.Retired:
		return noRoom, "it is no longer configured"
	case w.st.Paused != "":
		return noRoom, "paused"
	case limit > 0 && len(w.builds) >= limit:
		return noRoom, "busy"
	case !w.cfg.Latent() && in != nil: // became standard while an instance of it lives
		return noRoom, "its instance is being destroyed"
	case !w.cfg.Latent() && f.Session == 0:
		return noRoom, "not attached"
	case !w.cfg.Latent():
		return warm, ""
	case w.guest():
		return noRoom, "its agent was started by somebody else, and ends its last builds"
	case in == nil && f.Op != 0:
		return noRoom, "a call to its provider is in flight"
	case in == nil && s.now.Before(f.BackoffUntil):
		return noRoom, backingOff
	case in == nil && s.roomy && !s.hasRoom(w):
		return noRoom, lacking
	case in == nil:
		return cold, ""
	case in.Doomed:
		return noRoom, "its instance is being destroyed"
	case f.Outdated:
		return noRoom, "its instance has an old configuration and is being replaced"
	case f.Leaving != "":
		return noRoom, "its instance ends when it is idle: " + f.Leaving
	case in.Power == latent.Stopping:
		return noRoom, "its instance is being stopped"
	case in.Power == latent.Stopped && !w.sleeps():
		return noRoom, "its instance is switched off and about to be destroyed"
	case in.Power == latent.Stopped && f.Running > 0:
		return noRoom, "its instance was stopped, and the builds on it are ending"
	case in.Power == latent.Stopped && s.now.Before(f.BackoffUntil):
		return noRoom, backingOff
	case in.Power == latent.Stopped && s.roomy && !s.hasRoom(w):
		return noRoom, lacking
	case in.Power == latent.Stopped:
		return asleep, ""
	case in.Served && w.cfg.BuildWaitTimeout == 0:
		return noRoom, "its instance has served its one build (build_wait_timeout = 0)"
	case f.Session != 0:
		return warm, ""
	case !in.AttachedAt.IsZero():
		return noRoom, "its agent is lost and may come back"
	}
	return coming, ""
}

// place finds the best of some of a pool's workers for a request, or nil.
func (s *State) place(p *pool, among []*worker, r *request) (best *worker) {
	b := s.builders[r.Builder]
	if w := p.freed; w != nil && len(w.builds) == 0 && (r.Worker == "" || r.Worker == w.cfg.Name) {
		if rank, _ := s.room(w); rank == warm && s.blockedBy(b, w) == "" {
			return w // there is no better one
		}
	}
	bestRank := noRoom
	for _, w := range among {
		rank, _ := s.room(w)
		if rank == noRoom || rank < bestRank || r.Worker != "" && r.Worker != w.cfg.Name {
			continue
		}
		if rank == bestRank && !lighter(w, best) {
			continue
		}
		if w.builds != nil && w.runs(r.Builder) || s.blockedBy(b, w) != "" {
			continue
		}
		best, bestRank = w, rank
		if rank == warm && len(w.builds) == 0 {
			break
		}
	}
	return best
}

func lighter(a, b *worker) bool {
	if len(a.builds) != len(b.builds) {
		return len(a.builds) < len(b.builds)
	}
	return a.facts.Tries < b.facts.Tries
}

// runs says whether a build of the builder is on the worker: there is never a second one, since they would share a directory.
func (w *worker) runs(builder string) bool {
	for _, b := range w.builds {
		if b.Builder == builder {
			return true
		}
	}
	return false
}

func (w *worker) preparing() []*Build {
	var out []*Build
	for _, b := range w.builds {
		if b.Phase == model.BuildPreparing {
			out = append(out, b)
		}
	}
	return out
}

// assign makes a build for a request, and for those that collapse into it.
func (s *State) assign(r *request, w *worker) {
	b := s.builders[r.Builder]
	bld := &Build{ID: s.nextBuild, Builder: r.Builder, Worker: w.cfg.Name, Generation: r.Generation, Attempt: r.Attempts + 1,
		Phase: model.BuildPreparing, AssignedAt: s.now, Result: model.NoResult}
	s.nextBuild++
	same := r.item.Lane().Same(&r.item)
	s.claim(r, bld)
	for _, it := range same {
		s.claim(s.requests[it.ID], bld)
	}
	if in := w.facts.Instance; in != nil {
		bld.Instance = in.Key
	}
	s.builds[bld.ID] = bld
	s.dirtyBuild(bld)
	b.ran(1)
	w.builds = append(w.builds, bld)
	w.facts.Builds++
	s.account(w)
	if in := w.facts.Instance; s.roomy && (in == nil || in.Power == latent.Stopped) {
		s.book(w)
	}
	s.take(bld)
	s.entry(Entry{Kind: "build", Build: bld.ID, Request: r.ID, Worker: w.cfg.Name, Instance: bld.Instance, To: bld.Phase.String()})
	if w.facts.Session != 0 {
		s.startBuild(w, bld, false)
	}
	s.touch(w)
	if rank, _ := s.room(w); rank != noRoom {
		s.freed(w) // it may have become available by the clock alone, and its other pools were not told
	}
}

func (s *State) claim(r *request, b *Build) {
	s.dequeue(r)
	r.State, r.Build, r.Attempts = model.RequestClaimed, b.ID, r.Attempts+1
	b.Requests = append(b.Requests, r.ID)
	s.dirtyRequest(r)
	s.entry(Entry{Kind: "request", Request: r.ID, Build: b.ID, Worker: b.Worker, From: "waiting", To: "claimed"})
}
