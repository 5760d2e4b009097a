package core

import (
	"cmp"
	"slices"

	"github.com/rouse-ci/rouse/master/core/queue"
	"github.com/rouse-ci/rouse/master/model"
)

// Builders that share their workers and locks share a pool. What an apply does not change keeps its pool, with the requests in it.

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
