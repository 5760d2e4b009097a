package core

import (
	"cmp"
	"slices"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/queue"
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
		p.cfg = pc
		providers[pc.Name] = p
		s.pOrder = append(s.pOrder, p)
		if pc.SweepInterval > 0 && s.timers[sweepTimer+pc.Name].At.IsZero() && p.listOp == 0 {
			s.arm(sweepTimer+pc.Name, s.now)
		}
	}
	for _, pc := range former {
		if providers[pc.Name] == nil && s.providers[pc.Name] == nil && s.providerInUse(pc.Name) {
			providers[pc.Name] = &provider{cfg: pc, orphans: map[model.InstanceKey]*orphan{}}
			for _, w := range s.order { // now somebody can end them: what failed for want of that is tried at once
				if in := w.facts.Instance; in != nil && in.Provider == pc.Name {
					w.facts.NotBefore = noTime
					s.touch(w)
				}
			}
		}
	}
	for name, p := range s.providers { // an instance may outlive its provider's block: keep what its end needs
		if providers[name] == nil && s.providerInUse(name) {
			providers[name] = p
		}
	}
	s.providers = providers
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

// configureLocks keeps who holds what. A renamed lock is a new lock.
func (s *State) configureLocks(c Config) {
	for _, l := range s.locks {
		l.removed = true
	}
	for _, lc := range c.Locks {
		l := s.lock(lc)
		l.removed = false
		if l.cfg == lc {
			continue
		}
		rescoped := l.cfg.PerWorker != lc.PerWorker
		l.cfg = lc
		if rescoped {
			l.rescope()
		}
		for _, p := range l.pools {
			s.try(p)
		}
	}
	for _, lc := range c.RetiredLocks {
		if s.locks[lc.Name] == nil {
			s.lock(lc).removed = true
		}
	}
}

func (s *State) lock(lc Lock) *lock {
	l := s.locks[lc.Name]
	if l == nil {
		l = &lock{cfg: lc, holders: map[string][]holder{}}
		s.locks[lc.Name] = l
	}
	return l
}

// rescope sorts the holders anew after the lock has become one per worker, or one for all.
func (l *lock) rescope() {
	old := l.holders
	l.holders = map[string][]holder{}
	for _, scope := range sortedKeys(old) {
		for _, h := range old[scope] {
			k := l.scope(h.build.Worker)
			l.holders[k] = append(l.holders[k], h)
		}
	}
	l.rekeyed = l.crowded()
}

// dropLocks forgets the locks that are not configured, not held, and not wanted by a retired builder.
func (s *State) dropLocks() {
	wanted := map[string]bool{}
	for _, b := range s.retired {
		for _, a := range b.cfg.Locks {
			wanted[a.Lock] = true
		}
	}
	for name, l := range s.locks {
		if l.removed && !wanted[name] && !l.held() {
			for _, p := range l.pools { // a lock of the same name would not know them
				p.dead = true
			}
			delete(s.locks, name)
		}
	}
}

func (l *lock) held() bool {
	for _, h := range l.holders {
		if len(h) > 0 {
			return true
		}
	}
	return false
}

// configureBuilders keeps the pools whose workers and locks are what they were, and moves the requests of the others.
func (s *State) configureBuilders(c Config, p *Prepared, stale []bool) {
	retired := s.retire(c, p)
	for _, old := range s.pOrdered {
		old.used = false
	}
	specs := make([]*pool, len(p.pools))
	for i := range p.pools {
		if old := s.findPool(&p.pools[i]); old != nil && !stale[i] && !old.dead {
			old.used = true
			specs[i] = old
		}
	}
	moving := s.sweepPools()
	order := make([]*builder, 0, len(c.Builders))
	for i := range c.Builders {
		bc := &c.Builders[i]
		b := s.builders[bc.Name]
		if b == nil {
			b = &builder{}
			s.builders[bc.Name] = b
		}
		n := p.poolOf[i]
		if specs[n] == nil {
			specs[n] = s.newPool(p.pools[n], bc.Name)
		}
		if b.pool == specs[n] && b.cfg.Collapse != bc.Collapse {
			moving = append(moving, b.waitingIn()...)
		} else if b.pool != nil && b.pool != specs[n] && b.pool.used {
			moving = append(moving, b.waitingIn()...) // its old pool stays for others
		}
		b.cfg, b.pool, b.retired = *bc, specs[n], false
		order = append(order, b)
	}
	s.bOrder, s.retired = order, retired
	for _, b := range retired {
		spec := specOf(b.cfg)
		to := s.findPool(&spec)
		if to == nil {
			to = s.newPool(spec, b.cfg.Name)
		}
		if b.pool != nil && b.pool != to && b.pool.used {
			moving = append(moving, b.waitingIn()...)
		}
		b.pool = to
	}
	s.requeue(moving)
}

// retire finds the builders that are configured no more but still have something to do, in the order in which they will be listed, and forgets those
// that have not.
func (s *State) retire(c Config, p *Prepared) (out []*builder) {
	for _, list := range [2][]*builder{s.bOrder, s.retired} {
		for _, b := range list {
			if _, configured := p.builders[b.cfg.Name]; configured {
				continue
			}
			if b.waiting == 0 && b.running == 0 {
				delete(s.builders, b.cfg.Name)
				continue
			}
			b.retired = true
			out = append(out, b)
		}
	}
	for _, bc := range c.Retired { // after a restart
		if _, configured := p.builders[bc.Name]; !configured && s.builders[bc.Name] == nil {
			b := &builder{cfg: bc, retired: true}
			s.builders[bc.Name] = b
			out = append(out, b)
		}
	}
	return out
}

// forgetRetired lets go of the retired builders that have served their last request.
func (s *State) forgetRetired() {
	if len(s.retired) == 0 {
		return
	}
	n := len(s.retired)
	s.retired = slices.DeleteFunc(s.retired, func(b *builder) bool {
		done := b.waiting == 0 && b.running == 0
		if done {
			delete(s.builders, b.cfg.Name)
		}
		return done
	})
	if len(s.retired) < n {
		s.dropLocks()
	}
}

func (b *builder) ran(n int) {
	if b != nil {
		b.running += n
	}
}

// waitingIn are the requests of the builder in its pool.
func (b *builder) waitingIn() (ids []model.RequestID) {
	if b.waiting == 0 {
		return nil
	}
	b.pool.Each(func(it *queue.Item) bool {
		if it.Lane().Builder == b.cfg.Name {
			ids = append(ids, it.ID)
		}
		return true
	})
	return ids
}

func (s *State) findPool(spec *poolSpec) *pool {
	for _, p := range s.pools[spec.hash] {
		if p.spec.equal(spec) && !p.dead {
			return p
		}
	}
	return nil
}

// sweepPools lets go of the pools that nobody uses any more, or that must be made anew, and returns the requests in them.
func (s *State) sweepPools() (moving []model.RequestID) {
	var gone []*pool
	keep := s.pOrdered[:0]
	for _, p := range s.pOrdered {
		if p.used {
			keep = append(keep, p)
			continue
		}
		p.dead = true
		gone = append(gone, p)
		p.Each(func(it *queue.Item) bool {
			moving = append(moving, it.ID)
			return true
		})
		s.pools[p.spec.hash] = slices.DeleteFunc(s.pools[p.spec.hash], func(o *pool) bool { return o == p })
		if len(s.pools[p.spec.hash]) == 0 {
			delete(s.pools, p.spec.hash)
		}
	}
	clear(s.pOrdered[len(keep):])
	if len(keep) < len(s.pOrdered) {
		dead := func(p *pool) bool { return p.dead }
		for _, p := range gone {
			for _, w := range p.workers {
				w.pools = slices.DeleteFunc(w.pools, dead)
			}
		}
		for _, l := range s.locks {
			l.pools = slices.DeleteFunc(l.pools, dead)
		}
		s.trying = slices.DeleteFunc(s.trying, dead)
	}
	s.pOrdered = keep
	return moving
}

func (s *State) newPool(spec poolSpec, name string) *pool {
	p := &pool{Pool: queue.NewPool(name), spec: spec, used: true, place: make(map[*worker]int, len(spec.workers))}
	for _, name := range spec.workers {
		w := s.workers[name]
		if w == nil || w.facts.Retired {
			continue
		}
		if _, again := p.place[w]; again {
			continue
		}
		p.place[w] = len(p.workers)
		p.workers = append(p.workers, w)
		w.pools = append(w.pools, p)
		s.lockPools(w.cfg.Locks, p)
	}
	s.lockPools(spec.locks, p)
	p.maybe = slices.Clone(p.workers)
	s.pools[spec.hash] = append(s.pools[spec.hash], p)
	s.pOrdered = append(s.pOrdered, p)
	return p
}

// lockPools says that the pool is to be tried when the locks are released. A pool is made at one go, so if a lock knows it, it is the last.
func (s *State) lockPools(uses []Access, p *pool) {
	for _, a := range uses {
		if l := s.locks[a.Lock]; l != nil && (len(l.pools) == 0 || l.pools[len(l.pools)-1] != p) {
			l.pools = append(l.pools, p)
		}
	}
}

// requeue gives requests their places in the pools of now, in the order of their IDs: the result must not depend on a map. Those whose builder was not
// known get one if it is known now.
func (s *State) requeue(moving []model.RequestID) {
	for id, r := range s.homeless {
		if s.builders[r.Builder] != nil {
			moving = append(moving, id)
		}
	}
	slices.SortFunc(moving, cmp.Compare)
	for _, id := range slices.Compact(moving) {
		r := s.requests[id]
		s.dequeue(r)
		s.enqueue(r)
	}
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
