package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// The sweep is the safety net below everything else: it lists what carries our tag. An instance that no record knows is destroyed after two
// sightings and a grace. If nothing is broken it never has to act, because every intent is stored before it is carried out.

func (s *State) sweep(name string) {
	p := s.providers[name]
	if p == nil || p.listOp != 0 {
		return
	}
	if p.former && !s.needsFormer(p) {
		delete(s.providers, name)
		return
	}
	p.listOp = s.newOp(opRef{provider: p})
	s.effect(ListInstances{Op: p.listOp, Provider: name})
}

func (s *State) listed(ev Listed) {
	ref, ok := s.ops[ev.Op]
	if !ok || ref.provider == nil {
		return
	}
	delete(s.ops, ev.Op)
	p := ref.provider
	p.listOp = 0
	p.listErr = ev.Error
	p.lists++
	if p.cfg.SweepInterval > 0 && s.providers[p.cfg.Name] == p {
		s.arm(sweepTimer+p.cfg.Name, s.now.Add(p.cfg.SweepInterval))
	}
	if ev.Error != "" {
		p.unheard++
		return // a failed list says nothing, least of all that something is gone
	}
	p.listedAt, p.unheard = s.now, 0

	seen := make(map[model.InstanceKey]bool, len(ev.Instances))
	for _, sg := range ev.Instances {
		seen[sg.Key] = true
		if w := s.instances[sg.Key]; w != nil {
			switch in := w.facts.Instance; {
			case in.Doomed || w.facts.Op != 0 || w.facts.Session != 0:
			case in.Power != latent.On || sg.State == SightStopped:
				s.listedPower(w, in, sg.State)
			case sg.State != SightPending:
				s.dirtyWorker(w)
				s.sighted(w, in, OpResult{Class: OpOK, State: sg.State, Detail: sg.Detail})
				s.touch(w)
			}
			delete(p.orphans, sg.Key)
		} else if sg.State == SightPending || sg.State == SightRunning || sg.State == SightFailed || sg.State == SightStopped {
			s.stray(p, sg)
		}
	}
	for _, w := range s.order { // what should be there and is not: look at it alone before believing it
		in := w.facts.Instance
		if in != nil && in.Provider == p.cfg.Name && !seen[in.Key] && in.Resolved && !in.Doomed && w.facts.Op == 0 && w.facts.Session == 0 &&
			in.AskedAt.Add(p.cfg.Settle).Before(ev.AskedAt) {
			w.facts.Certain, w.facts.NotBefore = false, s.now
			s.touch(w)
		}
	}
	for _, key := range sortedKeys(p.orphans) {
		if !seen[key] && p.orphans[key].op == 0 {
			delete(p.orphans, key)
		}
	}
}

// stray handles a sighting of an instance that no record knows.
func (s *State) stray(p *provider, sg Sighting) {
	o := p.orphans[sg.Key]
	if o == nil {
		o = &orphan{firstSeen: s.now}
		p.orphans[sg.Key] = o
	}
	o.sightings++
	o.lastSeen, o.seen = s.now, sg
	old := func(t time.Time) bool { return t.IsZero() || !s.now.Before(t.Add(p.cfg.SweepGrace)) }
	if o.op != 0 || o.sightings < 2 || !old(o.firstSeen) || !old(sg.CreatedAt) || s.now.Before(o.notBefore) {
		return
	}
	s.endOrphan(p, sg.Key, o, "orphan: tagged as ours, in no record")
}

// endOrphan calls for an orphan's end, once more.
func (s *State) endOrphan(p *provider, key model.InstanceKey, o *orphan, why string) {
	o.op = s.newOp(opRef{kind: latent.Destroy, provider: p, key: key})
	o.notBefore = s.now.Add(latent.DestroyPause(latent.Policy{DestroyBackoff: p.cfg.DestroyBackoff}, o.tries))
	if o.tries++; o.tries == 1 {
		s.effect(Notify{Kind: NoticeOrphan, Text: "instance " + string(key) + " at provider " + p.cfg.Name + " is tagged as ours and in no record: destroying it"})
	}
	s.ordered("DestroyInstance", Entry{Instance: key, Op: o.op, Cause: why})
	s.effect(DestroyInstance{Op: o.op, Provider: p.cfg.Name, Key: key})
}

func (s *State) orphanDone(ref opRef, ev OpDone) {
	o := ref.provider.orphans[ref.key]
	if o == nil {
		return
	}
	o.op = 0
	if ev.Result.Class == OpNotFound {
		delete(ref.provider.orphans, ref.key)
		s.entry(Entry{Kind: "instance", Instance: ref.key, From: "orphan", To: "gone"})
	}
}
