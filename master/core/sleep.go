package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// What becomes of a worker's idle instance after build_wait_timeout.
const (
	IdleTerminate = "terminate" // the default, as ""
	IdleStop      = "stop"      // it is switched off, its disks are kept, and the next build switches it on again
	IdleHibernate = "hibernate" // the same, but its memory is kept, too
)

// StopLimit is how long the order to stop an instance may take to take effect. Then it is ended instead: somebody pays for it meanwhile.
const StopLimit = 15 * time.Minute

func (w *worker) sleeps() bool { return w.cfg.Idle == IdleStop || w.cfg.Idle == IdleHibernate }

// power records that an instance is about to be switched off or on, or has been.
func (s *State) power(w *worker, to latent.Power, why string) {
	in := w.facts.Instance
	in.Slept = in.SleptBy(s.now)
	s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, From: in.Power.String(), To: to.String(), Cause: why})
	in.Power = to
	if to != latent.On { // then missing_timeout goes on counting from the wake
		in.PowerAt = s.now
	}
	s.dirtyWorker(w)
	s.account(w)
	s.freed(w)
}

// sleep decides that an idle instance is switched off. No agent may attach until it has been switched on again.
func (s *State) sleep(w *worker, why string) {
	s.power(w, latent.Stopping, why)
	w.facts.NotBefore, w.facts.Orders = noTime, 0
	if w.facts.Session != 0 {
		// A process that has ended would be missing after a hibernation: nothing boots then that could start it again.
		s.hangup(w, w.facts.Session, "the instance is switched off: "+why, w.cfg.Idle != IdleHibernate)
		w.facts.Session, w.agent = 0, ""
	}
}

// wake decides that an instance is switched on again. What is known of its last life is forgotten: its next agent is another process, and
// missing_timeout counts from now.
func (s *State) wake(w *worker, why string) {
	s.power(w, latent.Waking, why)
	in := w.facts.Instance
	in.Agent, in.AttachedAt, in.LostAt, in.Served = "", noTime, noTime, false
	w.facts.NotBefore, w.facts.Orders = noTime, 0
}

// orderPause is the time from one order about an instance's power to the next.
func (s *State) orderPause(w *worker) time.Duration {
	w.facts.Orders++
	return max(s.checkInterval(w), latent.Backoff(time.Second, time.Minute, w.facts.Orders-1))
}

// ordered to stop or to start, the provider has answered: it has taken the order, it has surely not, or nobody knows.
func (s *State) powered(w *worker, kind latent.OpKind, r OpResult) {
	in := w.facts.Instance
	pause := s.orderPause(w)
	if in.Doomed {
		return
	}
	switch r.Class {
	case OpOK:
		w.facts.Certain, w.facts.NotBefore = false, s.now.Add(s.checkInterval(w))
		s.learn(w, in, r)
		if kind == latent.Start && r.State == SightRunning && in.Power == latent.Waking {
			s.power(w, latent.On, "")
		}
	case OpUnknown:
		w.facts.Certain, w.facts.NotBefore = false, s.now.Add(pause)
	case OpNotFound:
		w.facts.Certain, w.facts.NotBefore = false, s.now // look at it before believing that
	case OpTransient, OpThrottled:
		w.facts.NotBefore = s.now.Add(pause)
	default:
		if kind == latent.Start && in.Power != latent.Waking {
			return // nobody waits for it any more, and it is to be stopped
		}
		if kind == latent.Stop {
			s.doom(w, "it can not be stopped ("+r.Class.String()+"): "+r.Detail, "")
		} else {
			s.doom(w, "it can not be started again ("+r.Class.String()+"): "+r.Detail, r.Class.String())
		}
	}
}

// sightedPower takes in what a provider says of an instance that is off, or on its way, or that is shown as stopped.
func (s *State) sightedPower(w *worker, in *latent.Instance, r OpResult) {
	if in.Doomed || w.facts.Session != 0 {
		return
	}
	switch r.State {
	case SightGone, SightFailed:
		class := "" // nobody waited for it
		if in.Power == latent.Waking || in.Power == latent.On {
			class = failEnded
		}
		s.ended(w, r, class)
	case SightPending, SightStopping: // on its way: look again
		if in.Power != latent.Stopped {
			w.facts.Certain = false
		}
	case SightRunning:
		switch in.Power {
		case latent.Stopped:
			s.power(w, latent.Stopping, "somebody has started it")
			w.facts.Orders, w.facts.NotBefore = 0, noTime
		case latent.Waking:
			s.power(w, latent.On, "")
		}
	case SightStopped:
		switch {
		case in.Power == latent.Stopping:
			s.power(w, latent.Stopped, "")
		case in.Power != latent.On:
		case !w.sleeps():
			s.doom(w, "the instance was stopped by somebody else: "+r.Detail, failEnded)
		case in.AttachedAt.IsZero(): // while it booted: start it once more, within the same missing_timeout
			since := in.PowerAt
			s.power(w, latent.Waking, "it was stopped by somebody else")
			in.PowerAt, w.facts.NotBefore = since, noTime
		default:
			s.power(w, latent.Stopped, "it was stopped by somebody else")
			s.stoppedUnder(w)
		}
	}
}

// stoppedUnder ends the builds that ran on an instance that is switched off. Those that have not begun wait until it is switched on again.
func (s *State) stoppedUnder(w *worker) {
	for _, b := range append([]*Build(nil), w.builds...) {
		if b.Phase == model.BuildRunning {
			s.endByOrder(b, "its instance was stopped by somebody else")
		}
	}
}

// listedPower compares a line of a list, which may be old, with what is known. Where they differ, the instance alone is looked at.
func (s *State) listedPower(w *worker, in *latent.Instance, state SightState) {
	if in.Power == latent.Stopped && state != SightStopped || in.Power == latent.On && state == SightStopped {
		w.facts.Certain, w.facts.NotBefore = false, s.now
		s.touch(w)
	}
}

// learn keeps what a provider says of an instance.
func (s *State) learn(w *worker, in *latent.Instance, r OpResult) {
	if r.Detail != "" {
		in.Detail = r.Detail
	}
	if len(r.Facts) > 0 {
		in.Facts = r.Facts
	}
	if r.Place != "" && r.Place != in.Place {
		in.Place = r.Place
		s.account(w)
	}
}

// Show is what people see of an instance.
func Show(in *Instance, state model.InstanceState) model.Instance {
	m := model.Instance{Key: in.Key, Worker: in.Worker, Provider: in.Provider, ProviderID: in.ProviderID, State: state, Reason: in.Reason, Detail: in.Detail,
		AskedAt: in.AskedAt, BootedAt: in.BootedAt, AttachedAt: in.AttachedAt, DoomedAt: in.DoomedAt, GoneAt: in.GoneAt, Price: in.Price,
		StoppedPrice: in.StoppedPrice, Place: in.Place, Stopped: in.Slept.Seconds(), Facts: in.Facts}
	if in.Power == latent.Stopped && in.GoneAt.IsZero() {
		m.StoppedAt = in.PowerAt
	}
	return m
}

// Cost is what an instance has cost until now, or until it was gone: the time that it was switched on at its price, and the rest at that for
// switched-off ones. Asked for what is not known, it is what is known.
func Cost(m *model.Instance, now time.Time) float64 {
	if !m.GoneAt.IsZero() {
		now = m.GoneAt
	}
	stopped := m.Stopped
	if !m.StoppedAt.IsZero() {
		stopped += max(0, now.Sub(m.StoppedAt).Seconds())
	}
	age := max(0, now.Sub(m.AskedAt).Seconds())
	if m.AskedAt.IsZero() {
		age = 0
	}
	stopped = min(stopped, age)
	return ((age-stopped)*m.Price + stopped*m.StoppedPrice) / 3600
}
