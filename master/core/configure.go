package core

import (
	"cmp"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/schedule"
	"github.com/rouse-ci/rouse/master/model"
)

// configure replaces the configuration. What did not change is left alone, and costs no more than a comparison: sessions, instances, queues and timers
// stay as they are. A build keeps the locks that it holds, and a queued request the generation that it was queued under; where it runs, and which
// locks it takes, the configuration in force says.
func (s *State) configure(c Config, p *Prepared) {
	if p == nil {
		p = Prepare(c)
	}
	first := !s.configured
	s.generation, s.configured = c.Generation, true
	stale := make([]bool, len(p.pools)) // pools that cannot stay, though they are named as before
	s.configureProviders(c.Providers, c.Former, first)
	s.configureWorkers(c.Workers, p, stale, first)
	s.configureLocks(c)
	s.configureSchedulers(c.Schedulers)
	s.configureBuilders(c, p, stale)
	if first {
		for _, id := range sortedKeys(s.builds) {
			b := s.builds[id]
			s.builders[b.Builder].ran(1)
			s.hold(b)
		}
		for _, l := range s.locks { // the last master may have changed its scope
			l.rekeyed = l.crowded()
		}
	}
	s.dropLocks()
}

func (s *State) configureProviders(list, former []Provider, first bool) {
	providers := make(map[string]*provider, len(list))
	s.pOrder = s.pOrder[:0]
	for _, pc := range list {
		p := s.providers[pc.Name]
		if p == nil {
			p = &provider{orphans: map[model.InstanceKey]*orphan{}}
		}
		if p.cfg != pc && !first {
			for _, w := range s.order { // their deadlines count with it
				if in := w.facts.Instance; in != nil && in.Provider == pc.Name {
					s.touch(w)
				}
			}
		}
		p.cfg, p.former = pc, false
		providers[pc.Name] = p
		s.pOrder = append(s.pOrder, p)
		s.keepSweeping(p)
	}
	for _, pc := range former {
		if providers[pc.Name] == nil && s.providers[pc.Name] == nil && s.providerInUse(pc.Name) {
			s.providers[pc.Name] = &provider{cfg: pc, orphans: map[model.InstanceKey]*orphan{}}
			for _, w := range s.order { // now somebody can end them: what failed for want of that is tried at once
				if in := w.facts.Instance; in != nil && in.Provider == pc.Name {
					w.facts.NotBefore = noTime
					s.touch(w)
				}
			}
		}
	}
	for _, name := range sortedKeys(s.providers) { // an instance may outlive its provider's block: keep what its end needs, and look for strays a while longer
		p := s.providers[name]
		if providers[name] != nil {
			continue
		}
		if !p.former {
			p.former, p.usedAt, p.unheard = true, s.now, 0
		}
		if s.needsFormer(p) {
			providers[name] = p
			s.keepSweeping(p)
		}
	}
	s.providers = providers
}

// keepSweeping arms a provider's sweep if none is under way.
func (s *State) keepSweeping(p *provider) {
	if p.cfg.SweepInterval > 0 && s.timers[sweepTimer+p.cfg.Name].At.IsZero() && p.listOp == 0 {
		s.arm(sweepTimer+p.cfg.Name, s.now)
	}
}

// needsFormer says whether a provider that is configured no more is still needed: it has instances, or was not yet seen without strays for long enough.
func (s *State) needsFormer(p *provider) bool {
	if s.providerInUse(p.cfg.Name) {
		p.usedAt, p.unheard = s.now, 0
		return true
	}
	if p.cfg.SweepInterval == 0 || time.Duration(p.unheard)*p.cfg.SweepInterval >= FormerGiveUp {
		return false
	}
	clean := p.usedAt.Add(FormerSweep)
	return p.listedAt.Before(clean) || len(p.orphans) > 0
}

func (s *State) providerInUse(name string) bool {
	for _, w := range s.order {
		if in := w.facts.Instance; in != nil && in.Provider == name {
			return true
		}
	}
	return false
}

func (s *State) configureWorkers(list []Worker, p *Prepared, stale []bool, first bool) {
	order := make([]*worker, 0, max(len(list), len(s.order)))
	for i := range list {
		wc := &list[i]
		w := s.workers[wc.Name]
		if w != nil && !first && !w.facts.Retired && w.cfg.equal(wc) {
			order = append(order, w)
			continue
		}
		if w == nil {
			w = s.addWorker(wc.Name)
		}
		if w.facts.Retired || !slices.Equal(w.cfg.Locks, wc.Locks) {
			for _, old := range w.pools {
				old.dead = true
			}
			for _, n := range p.naming[wc.Name] {
				stale[n] = true
			}
		}
		in := w.facts.Instance
		w.cfg, w.facts.Retired = *wc, false
		w.facts.Outdated = in != nil && (in.Spec != wc.Spec || in.Provider != wc.Provider)
		if in != nil && !w.facts.Outdated {
			s.priced(w, in)
		}
		if !wc.Latent() && w.st.SeenAt.IsZero() {
			w.st.SeenAt = s.now
			s.dirtyWorker(w)
		}
		order = append(order, w)
		s.freed(w)
	}
	for _, w := range s.order {
		if _, named := p.workers[w.cfg.Name]; named {
			continue
		}
		if !w.facts.Retired {
			s.entry(Entry{Kind: "worker", Worker: w.cfg.Name, To: "retired", Cause: "no longer configured"})
			for _, old := range w.pools {
				old.dead = true
			}
		}
		w.facts.Retired = true
		order = append(order, w)
		s.touch(w)
	}
	s.order = order
}

// priced gives an instance the price that was not known when it was asked for: a price comes from the provider, later than the first builds after a start. A
// price that an instance has does not change.
func (s *State) priced(w *worker, in *latent.Instance) {
	if in.Price == 0 && w.cfg.Price > 0 || in.StoppedPrice == 0 && w.cfg.StoppedPrice > 0 {
		in.Price, in.StoppedPrice = cmp.Or(in.Price, w.cfg.Price), cmp.Or(in.StoppedPrice, w.cfg.StoppedPrice)
		s.dirtyWorker(w)
	}
}

// dropWorker lets go of a retired worker that has nothing any more.
func (s *State) dropWorker(w *worker) {
	if w.facts.Instance != nil || len(w.builds) > 0 || w.facts.Op != 0 || w.facts.Session != 0 || s.workers[w.cfg.Name] != w {
		return
	}
	delete(s.workers, w.cfg.Name)
	s.former[w.cfg.Name] = w.st // if the name comes back, its instances must have new keys
	s.arm(workerTimer+w.cfg.Name, noTime)
	s.order = slices.DeleteFunc(s.order, func(o *worker) bool { return o == w })
}

// configureSchedulers keeps the machines of schedulers that stay: a new calendar counts from the same last time.
func (s *State) configureSchedulers(list []Scheduler) {
	old := s.schedulers
	s.schedulers = make(map[string]*schedule.Machine, len(list))
	for _, c := range list {
		m := old[c.Name]
		if m == nil { // it may have been removed while its requests were being stored
			m = s.resting[c.Name]
			delete(s.resting, c.Name)
		}
		if m == nil {
			m = &schedule.Machine{Last: s.past(s.lastDue[c.Name])}
			if m.Last.IsZero() {
				m.Last = s.now
				s.due(c.Name, m)
			}
		}
		m.Calendar = c.Calendar
		s.schedulers[c.Name] = m
		s.arm(scheduleTimer+c.Name, m.Next())
	}
	for _, name := range sortedKeys(old) {
		if s.schedulers[name] == nil {
			if old[name].Busy {
				s.resting[name] = old[name]
			}
			s.arm(scheduleTimer+name, noTime)
		}
	}
}
