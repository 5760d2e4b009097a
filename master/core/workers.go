package core

import (
	"strconv"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

var noTime time.Time

// reconcile lets a worker take its next action.
func (s *State) reconcile(w *worker) {
	s.stranded(w)
	if w.facts.Instance == nil && (!w.cfg.Latent() || w.guest()) {
		s.reconcileStandard(w)
		return
	}
	for {
		d := w.facts.Next(s.now, s.policyOf(w))
		switch d.Action {
		case latent.Doom:
			s.doom(w, d.Why, w.faultClass(d))
			continue
		case latent.Sleep:
			s.sleep(w, d.Why)
			continue
		case latent.Wake:
			if !s.book(w) {
				s.turnAway(w)
				continue
			}
			s.wake(w, "a build waits for it")
			continue
		case latent.DoCreate:
			if w.facts.Instance == nil && !s.book(w) {
				s.turnAway(w)
				continue
			}
			s.create(w)
		case latent.DoCheck:
			s.call(w, latent.Check, "CheckInstance")
		case latent.DoDestroy:
			s.call(w, latent.Destroy, "DestroyInstance")
		case latent.DoStop:
			s.call(w, latent.Stop, "StopInstance")
		case latent.DoStart:
			s.call(w, latent.Start, "StartInstance")
		}
		if d.Action != latent.Wait {
			continue // asks for the wake-up time, now that a call is in flight
		}
		s.arm(workerTimer+w.cfg.Name, d.Wake)
		break
	}
	s.showState(w)
}

// showState writes the derived state into the journal when it has changed.
func (s *State) showState(w *worker) {
	if st := w.facts.State(); st != w.lastState {
		e := Entry{Kind: "worker", Worker: w.cfg.Name, From: w.lastState.String(), To: st.String()}
		if in := w.facts.Instance; in != nil {
			e.Instance, e.Cause = in.Key, in.Reason
		}
		s.entry(e)
		w.lastState = st
	}
}

// reconcileStandard watches a worker that somebody else starts.
func (s *State) reconcileStandard(w *worker) {
	if w.facts.Session != 0 {
		switch {
		case len(w.builds) > 0:
		case w.facts.Retired:
			s.hangup(w, w.facts.Session, "the worker is no longer configured", false)
			w.facts.Session, w.agent = 0, ""
		case w.guest():
			s.hangup(w, w.facts.Session, "the worker has become latent: it makes its own instances", false)
			w.facts.Session, w.agent = 0, ""
			s.freed(w)
		}
		s.arm(workerTimer+w.cfg.Name, noTime)
		return
	}
	var wake time.Time
	if len(w.builds) > 0 && !w.lostAt.IsZero() {
		if at := w.lostAt.Add(ResumeGrace); s.now.Before(at) {
			wake = at
		} else {
			s.giveUp(w, verdict{result: model.Retry, text: "the worker was lost and did not come back within " + ResumeGrace.String()})
		}
	}
	if m := w.cfg.MissingTimeout; m > 0 && !w.told && !w.facts.Retired {
		if at := w.st.SeenAt.Add(m); s.now.Before(at) {
			if wake.IsZero() || at.Before(wake) {
				wake = at
			}
		} else {
			w.told = true
			s.notify(NoticeMissing, w, "the worker has been away for "+m.String()+" (missing_timeout)")
		}
	}
	s.arm(workerTimer+w.cfg.Name, wake)
}

func (s *State) notify(kind string, w *worker, text string) {
	s.ordered("Notify", Entry{Worker: w.cfg.Name, Cause: text})
	s.effect(Notify{Kind: kind, Worker: w.cfg.Name, Text: text})
}

// giveUp ends all builds of a worker for a retry: at once those without a runner, by order the others.
func (s *State) giveUp(w *worker, v verdict) {
	for _, b := range append([]*Build(nil), w.builds...) {
		s.stopBuild(b, v)
	}
}

// create stores the intent and asks for the instance: a new one, or once more the one whose creation is not certain.
func (s *State) create(w *worker) {
	in := w.facts.Instance
	if in == nil {
		w.st.Generation++
		key := model.InstanceKey(s.owner + "-" + w.cfg.Name + "-" + strconv.Itoa(w.st.Generation))
		in = &latent.Instance{Key: key, Worker: w.cfg.Name, Provider: w.cfg.Provider, Spec: w.cfg.Spec, Price: w.cfg.Price,
			StoppedPrice: w.cfg.StoppedPrice, AskedAt: s.now, Place: w.booked.at.room, VCPUs: w.cfg.VCPUs, Memory: w.cfg.Memory}
		w.facts.Leaving, w.facts.Look, w.facts.LookAfter = "", false, noTime
		w.facts.Instance, w.facts.Outdated, w.facts.NotBefore, w.facts.Missed, w.facts.Repeats = in, false, noTime, false, 0
		s.instances[key] = w
		s.account(w)
		for _, b := range w.preparing() {
			b.Instance = key
			s.dirtyBuild(b)
		}
	}
	w.facts.Certain = false
	in.UnresolvedAt = noTime
	s.call(w, latent.Create, "CreateInstance")
}

func (s *State) call(w *worker, kind latent.OpKind, what string) {
	in := w.facts.Instance
	ref := opRef{kind: kind, worker: w, key: in.Key, seen: !in.BootedAt.IsZero()}
	if kind == latent.Check {
		ref.looked = w.facts.Look
		w.facts.Look, w.facts.LookAfter = false, s.now.Add(lookPause)
	}
	op := s.newOp(ref)
	w.facts.Op, w.facts.OpKind = op, kind
	s.dirtyWorker(w)
	if kind != latent.Check { // checks change nothing and would only fill the journal
		s.ordered(what, Entry{Worker: w.cfg.Name, Instance: in.Key, Op: op})
	}
	switch kind {
	case latent.Create:
		s.effect(CreateInstance{Op: op, Provider: in.Provider, Worker: w.cfg.Name, Key: in.Key, Place: in.Place})
	case latent.Check:
		s.effect(CheckInstance{Op: op, Provider: in.Provider, Key: in.Key})
	case latent.Destroy:
		s.effect(DestroyInstance{Op: op, Provider: in.Provider, Key: in.Key})
	case latent.Stop:
		s.effect(StopInstance{Op: op, Provider: in.Provider, Key: in.Key, Hibernate: w.cfg.Idle == IdleHibernate})
	case latent.Start:
		s.effect(StartInstance{Op: op, Provider: in.Provider, Worker: w.cfg.Name, Key: in.Key})
	}
}

func (s *State) opDone(ev OpDone) {
	ref, ok := s.ops[ev.Op]
	if !ok {
		return
	}
	delete(s.ops, ev.Op)
	if ref.worker == nil {
		s.orphanDone(ref, ev)
		return
	}
	w := ref.worker
	in := w.facts.Instance
	w.facts.Op, w.facts.OpKind = 0, latent.NoOp
	s.touch(w)
	if in == nil || in.Key != ref.key {
		return
	}
	s.dirtyWorker(w)
	if ev.Result.ProviderID != "" {
		in.ProviderID = ev.Result.ProviderID
	}
	switch ref.kind {
	case latent.Create:
		s.created(w, in, ev.Result)
	case latent.Check:
		if ref.looked {
			s.looked(w, in, ref, ev.Result)
		}
		s.checked(w, in, ref, ev.Result)
	case latent.Destroy:
		s.destroyed(w, in, ref, ev.Result)
		return
	case latent.Stop, latent.Start:
		s.powered(w, ref.kind, ev.Result)
	}
	if w.facts.Instance == in && in.Doomed {
		w.facts.NotBefore = noTime // doomed while the call was in flight: destroy now
	}
}

func (s *State) created(w *worker, in *latent.Instance, r OpResult) {
	in.UnresolvedAt = s.now
	switch r.Class {
	case OpOK:
		in.Resolved, w.facts.Certain, w.facts.Missed, w.facts.Repeats = true, true, false, 0
		w.facts.NotBefore = s.now.Add(s.checkInterval(w))
		s.sighted(w, in, r)
	case OpUnknown, OpNotFound:
		w.facts.Certain, w.facts.NotBefore = false, s.now
		s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, To: "unresolved", Cause: r.Detail})
	default: // certainly not made
		if in.Resolved || !in.BootedAt.IsZero() {
			w.facts.Certain, w.facts.NotBefore = false, s.now // an earlier create of the same key went through
			return
		}
		why := "could not create an instance (" + r.Class.String() + "): " + r.Detail
		ordered := in.Doomed
		switch {
		case w.facts.Repeats == 0:
			s.vanish(w, why)
			if !ordered {
				s.fail(w, r.Class.String(), why)
			}
		case !ordered: // the call that was repeated may still take effect: no is the answer to this one only
			s.doom(w, why, r.Class.String())
		}
	}
}

func (s *State) checkInterval(w *worker) time.Duration {
	return max(s.policyOf(w).CheckInterval, time.Second)
}

// sighted takes in what a provider says of an instance that it has.
func (s *State) sighted(w *worker, in *latent.Instance, r OpResult) {
	in.Resolved = true
	s.learn(w, in, r)
	if in.Power != latent.On || r.State == SightStopped || r.State == SightStopping && w.sleeps() {
		s.sightedPower(w, in, r)
		return
	}
	switch r.State {
	case SightRunning:
		if in.BootedAt.IsZero() {
			in.BootedAt = s.now
			s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, From: "requested", To: "booting",
				Type: in.Facts["type"], Market: in.Facts["market"]})
		}
	case SightGone, SightFailed, SightStopping:
		if in.BootedAt.IsZero() {
			in.BootedAt = s.now
		}
		if !in.Doomed && w.facts.Session == 0 {
			s.ended(w, r, failEnded)
		}
	}
}

func (s *State) checked(w *worker, in *latent.Instance, ref opRef, r OpResult) {
	w.facts.NotBefore = s.now.Add(s.checkInterval(w))
	switch r.Class {
	case OpOK:
		w.facts.Certain, w.facts.Missed = true, false
		s.sighted(w, in, r)
	case OpNotFound:
		w.facts.Missed = true
		switch p := s.policyOf(w); {
		case w.facts.Session != 0: // its agent speaks to us: the provider is wrong
		case in.Resolved && in.Proven(ref.at, ref.seen, p):
			const why = "the instance vanished before its agent attached or came back"
			blamed := !in.Doomed && in.Power == latent.On
			if blamed {
				s.readConsole(w, why)
			}
			s.vanish(w, "the provider has it no more")
			if blamed { // one that was switched off is replaced, and the build goes on to wait
				s.fail(w, failVanished, why)
			}
		case !in.Resolved && !w.facts.Frozen: // not made yet: make it, under the same key; at once the first time
			if w.facts.Repeats == 0 {
				w.facts.NotBefore = s.now
			} else {
				w.facts.NotBefore = s.now.Add(latent.Backoff(time.Second, time.Minute, w.facts.Repeats-1))
			}
			w.facts.Repeats++
		case in.UnresolvedAt.IsZero():
			in.UnresolvedAt = s.now
		}
	}
}

// destroyed takes in the answer to a destroy. A NotFound says how it was when it was asked for: a create may have taken effect since.
func (s *State) destroyed(w *worker, in *latent.Instance, ref opRef, r OpResult) {
	p := s.policyOf(w)
	w.facts.NotBefore = s.now.Add(latent.DestroyPause(p, in.DestroyTries))
	in.DestroyTries++
	if r.Class != OpNotFound {
		if w.facts.Look {
			s.hurry(w)
		}
		if r.Class != OpOK {
			s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, From: "doomed", To: "doomed", Cause: "destroy failed: " + r.Detail})
		}
		s.pressed = s.pressed || s.stuck(in) // who counted on its room may ask others
		return
	}
	if in.Proven(ref.at, ref.seen, p) {
		s.vanish(w, in.Reason)
		return
	}
	if at := in.UnresolvedAt.Add(p.Settle); !in.UnresolvedAt.IsZero() && at.Before(w.facts.NotBefore) {
		w.facts.NotBefore = at
	}
}

// vanish records that an instance is proven absent. Only here does its capacity come back.
func (s *State) vanish(w *worker, why string) {
	in := w.facts.Instance
	from := "booting"
	in.Slept = in.SleptBy(s.now)
	switch {
	case in.Doomed:
		from = "doomed"
	case in.Power != latent.On:
		from = in.Power.String()
	case in.BootedAt.IsZero():
		from = "requested"
	}
	in.GoneAt = s.now
	if in.Reason == "" {
		in.Reason = why
	}
	s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, From: from, To: "gone", Cause: why})
	s.gone = append(s.gone, *in)
	delete(s.instances, in.Key)
	if p := s.providers[in.Provider]; p != nil {
		p.usedAt = s.now
	}
	w.facts.Instance, w.facts.Certain, w.facts.Missed, w.facts.Outdated, w.facts.Look = nil, true, false, false, false
	w.facts.Leaving = ""
	s.account(w)
	s.dirtyWorker(w)
	s.freed(w)
}

// ended decides on an instance that its provider shows as over, although nobody here ended it. A fault is what it counts as against the worker, unless the
// provider has taken it back.
func (s *State) ended(w *worker, r OpResult, fault string) {
	if r.Interrupted && r.State == SightFailed {
		s.interrupted(w, InterruptedSpot, "interrupted: the provider has taken the instance back: "+r.Detail)
		return
	}
	s.doom(w, "the instance ended by itself: "+r.Detail, fault)
}

// interrupted ends an instance that its provider takes back. Its builds are retried and not blamed (but see FreeInterruptions), and the worker does not back off.
func (s *State) interrupted(w *worker, kind, why string) {
	for _, b := range w.builds {
		b.taken = true
	}
	s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: w.facts.Instance.Key, From: kind, To: "interrupted", Cause: why})
	s.effect(TellInterrupted{Provider: w.facts.Instance.Provider, Key: w.facts.Instance.Key})
	s.doom(w, why, "")
}

// doom decides the end of an instance. It is never undone. A fault, if not empty, is the class of a failure that counts against the worker.
func (s *State) doom(w *worker, why, fault string) {
	in := w.facts.Instance
	in.Doomed, in.DoomedAt, in.Reason = true, s.now, why
	s.account(w)
	w.facts.NotBefore = noTime
	s.dirtyWorker(w)
	s.entry(Entry{Kind: "instance", Worker: w.cfg.Name, Instance: in.Key, To: "doomed", Cause: why})
	if w.facts.Session != 0 {
		s.hangup(w, w.facts.Session, "the instance ends: "+why, true)
		w.facts.Session, w.agent = 0, ""
	}
	if fault != "" {
		s.readConsole(w, why)
		s.fail(w, fault, why)
		if in.AttachedAt.IsZero() {
			s.notify(NoticeMissing, w, why)
		}
	} else {
		for _, b := range append([]*Build(nil), w.builds...) {
			s.endByOrder(b, why)
		}
	}
	s.touch(w)
}

// endByOrder ends a build because its instance ends by order: the build is retried and not blamed.
func (s *State) endByOrder(b *Build, why string) {
	s.stopBuild(b, verdict{result: model.Retry, text: why, free: true})
}
