package core

import "slices"

// Locks. All that a build needs are taken at once when it gets its worker, before an instance is launched, so a machine that is paid for never
// waits for one.

func (l *lock) scope(worker string) string {
	if l.cfg.PerWorker {
		return worker
	}
	return ""
}

func (l *lock) free(worker string, exclusive bool) bool {
	h := l.holders[l.scope(worker)]
	if len(h) == 0 {
		return true
	}
	return !exclusive && !h[0].exclusive && len(h) < max(l.cfg.Max, 1) && !(l.rekeyed && slices.ContainsFunc(h, holder.isExclusive))
}

func (h holder) isExclusive() bool { return h.exclusive }

// crowded says whether an exclusive holder has company.
func (l *lock) crowded() bool {
	for _, h := range l.holders {
		if len(h) > 1 && slices.ContainsFunc(h, holder.isExclusive) {
			return true
		}
	}
	return false
}

// blockedBy names a lock that a build of the builder on the worker would have to wait for, or "".
func (s *State) blockedBy(b *builder, w *worker) string {
	for _, uses := range [2][]Access{b.cfg.Locks, w.cfg.Locks} {
		for _, a := range uses {
			if l := s.locks[a.Lock]; l != nil && !l.free(w.cfg.Name, a.Exclusive) {
				return a.Lock
			}
		}
	}
	return ""
}

// blockedEverywhere says whether a lock of the builder, one for the whole master, keeps it from all workers.
func (s *State) blockedEverywhere(b *builder) bool {
	return slices.ContainsFunc(b.cfg.Locks, func(a Access) bool {
		l := s.locks[a.Lock]
		return l != nil && !l.cfg.PerWorker && !l.free("", a.Exclusive)
	})
}

// take gives the build all locks that its builder and its worker want: each once, exclusive if any use is. It keeps them to its end: a renamed
// lock is a new lock, and whoever holds the old one goes on holding that.
func (s *State) take(b *Build) {
	var list []Access
	if bb := s.builders[b.Builder]; bb != nil {
		list = append(list, bb.cfg.Locks...)
	}
	if w := s.workers[b.Worker]; w != nil {
		list = append(list, w.cfg.Locks...)
	}
	for _, a := range list {
		if s.locks[a.Lock] == nil {
			continue
		}
		if i := slices.IndexFunc(b.Locks, func(h Access) bool { return h.Lock == a.Lock }); i < 0 {
			b.Locks = append(b.Locks, a)
		} else if a.Exclusive {
			b.Locks[i].Exclusive = true
		}
	}
	s.hold(b)
}

// hold writes the build into its locks' lists of holders.
func (s *State) hold(b *Build) {
	for _, a := range b.Locks {
		l := s.locks[a.Lock]
		if l == nil { // it was removed, and the master restarted since
			l = &lock{cfg: Lock{Name: a.Lock, Max: 1}, holders: map[string][]holder{}, removed: true}
			s.locks[a.Lock] = l
		}
		k := l.scope(b.Worker)
		l.holders[k] = append(l.holders[k], holder{b, a.Exclusive})
	}
}

func (s *State) release(b *Build) {
	for _, a := range b.Locks {
		l := s.locks[a.Lock]
		if l == nil {
			continue // before there is a configuration nothing is held yet
		}
		k := l.scope(b.Worker)
		for i, h := range l.holders[k] {
			if h.build == b {
				l.holders[k] = append(l.holders[k][:i], l.holders[k][i+1:]...)
				break
			}
		}
		l.rekeyed = l.rekeyed && l.crowded()
		for _, p := range l.pools {
			s.try(p)
		}
	}
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
