package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/queue"
)

// An idle instance is kept until its build_wait_timeout is over, or for good, but not against work: where a request waits for nothing but a room, idle
// instances give up theirs. build_wait_timeout saves a boot for a build that may come; a build that is there comes first.
//
// No more are given up than that request needs, those that have been idle longest first, and none at all if that would not do, if room is coming anyway, or if
// anything else stands in its way. An instance that has a build is never given up, so nothing goes round in circles without a build being served each time.

// countSpare notes whether the worker's instance is one that could give up its room.
func (s *State) countSpare(w *worker) {
	at := ""
	if w.facts.Spare() && w.facts.Instance.Place != "" {
		at = w.facts.Instance.Provider
	}
	if at == w.sparing {
		return
	}
	if s.spare[w.sparing]--; s.spare[w.sparing] <= 0 {
		delete(s.spare, w.sparing)
	}
	if w.sparing = at; at != "" {
		s.spare[at]++
		s.pressed = true
	}
}

// makeRoom lets idle instances end, or be switched off, for requests that nothing else keeps waiting. It looks at the best request of each lane only: what the
// others need is known when that one has its room.
func (s *State) makeRoom() {
	s.pressed = false
	if s.stopping || len(s.spare) == 0 {
		return
	}
	var known outlook
	known.forget()
	for _, it := range s.cramped() {
		r := s.requests[it.ID]
		list := s.roomFor(r, &known)
		if len(list) > 0 {
			known.forget()
		}
		for _, w := range list {
			d := w.facts.GiveUp(s.policyOf(w), fmt.Sprintf("its room is needed by request %d", r.ID))
			if d.Action == latent.Sleep {
				s.sleep(w, d.Why)
			} else {
				s.doom(w, d.Why, "")
			}
		}
	}
}

// cramped are the requests, best first, that may wait for a room which idle instances have.
func (s *State) cramped() (list []*queue.Item) {
	seen := map[*pool]bool{}
	for _, p := range s.pOrder {
		if s.spare[p.cfg.Name] == 0 {
			continue
		}
		for _, w := range p.starved {
			for _, pl := range w.pools {
				if !seen[pl] {
					seen[pl] = true
					list = append(list, pl.Tops()...)
				}
			}
		}
	}
	slices.SortFunc(list, queue.Compare)
	return list
}

// way is how an instance gets room.
type way struct {
	comes bool      // what is on its way out is enough, or it has room
	list  []*worker // else: whose instances must be given up for it; none if that would not do
}

// outlook is what is known of ways until the next instance is given up: most requests look at the same workers, and most workers need the same.
type outlook struct {
	ofWorker map[*worker]way
	ofClaim  map[claim]way
}

func (o *outlook) forget() { o.ofWorker, o.ofClaim = map[*worker]way{}, map[claim]way{} }

// roomFor chooses the idle instances that make room for a request by giving up theirs: as few as possible. None: it needs none, or none would help.
func (s *State) roomFor(r *request, known *outlook) (best []*worker) {
	b := s.builders[r.Builder]
	for _, w := range b.pool.workers {
		if r.Worker != "" && r.Worker != w.cfg.Name || w.runs(r.Builder) || s.blockedBy(b, w) != "" {
			continue
		}
		to, asked := known.ofWorker[w]
		if !asked {
			to = s.wayOf(w, known)
			known.ofWorker[w] = to
		}
		if to.comes {
			return nil
		}
		if to.list != nil && (best == nil || rather(to.list, best)) {
			best = to.list
		}
	}
	return best
}

// wayOf is how the worker's instance gets room, if that is all that it lacks.
func (s *State) wayOf(w *worker, known *outlook) way {
	rank, why := s.room(w)
	if rank != noRoom {
		return way{comes: true} // its timer is about to fire, and then it takes the request
	}
	if why != lacking {
		return way{}
	}
	c := claim{site{provider: w.home()}, w.needs()}
	if in := w.facts.Instance; in != nil {
		c.at.room = in.Place
	}
	to, asked := known.ofClaim[c]
	if !asked {
		to = s.wayFor(c)
		known.ofClaim[c] = to
	}
	return to
}

// wayFor looks for a way to give an instance what it claims: in one room, or in any.
func (s *State) wayFor(c claim) (best way) {
	p := s.providers[c.at.provider]
	for i := range p.rooms {
		r := &p.rooms[i]
		if r.Down || c.at.room != "" && c.at.room != r.Name {
			continue
		}
		at := site{p.cfg.Name, r.Name}
		idle, going := s.tenants(at)
		free := r.free(s.taken[at]).plus(going)
		if free.holds(c.share) {
			return way{comes: true}
		}
		if list := fewest(idle, free, c.share); list != nil && (best.list == nil || rather(list, best.list)) {
			best.list = list
		}
	}
	return best
}

// tenants are the instances in a room that could give it up, the one that has been idle longest first, and what those take that are leaving it.
func (s *State) tenants(at site) (idle []*worker, going share) {
	for _, w := range s.order {
		in := w.facts.Instance
		switch {
		case in == nil || w.takes.at != at:
		case in.Doomed || in.Power == latent.Stopping:
			going = going.plus(w.takes.share)
		case w.sparing != "":
			idle = append(idle, w)
		}
	}
	slices.SortStableFunc(idle, func(a, b *worker) int { return a.facts.IdleSince.Compare(b.facts.IdleSince) })
	return idle, going
}

// fewest chooses from the idle ones in a room, in their order: one if one is enough, or else so many that none of them can be left out. nil: all are not enough.
func fewest(idle []*worker, free, need share) (list []*worker) {
	for _, w := range idle {
		if free.plus(w.takes.share).holds(need) {
			return []*worker{w}
		}
	}
	for _, w := range idle {
		if free.holds(need) {
			break
		}
		free, list = free.plus(w.takes.share), append(list, w)
	}
	if !free.holds(need) {
		return nil
	}
	for i := len(list) - 1; i >= 0; i-- { // the one that was idle for the shortest time stays first of all
		if less := free.minus(list[i].takes.share); less.holds(need) {
			free, list = less, slices.Delete(list, i, i+1)
		}
	}
	return list
}

// rather compares two lists: the shorter one, or else the one whose last has been idle for longer.
func rather(a, b []*worker) bool {
	since := func(list []*worker) time.Time { return list[len(list)-1].facts.IdleSince }
	return cmp.Or(cmp.Compare(len(a), len(b)), since(a).Compare(since(b))) < 0
}

func (f share) plus(o share) share {
	return share{f.vcpus + o.vcpus, f.memory + o.memory, f.slots + o.slots}
}

func (f share) minus(o share) share {
	return share{f.vcpus - o.vcpus, f.memory - o.memory, f.slots - o.slots}
}

// checkSpare verifies the counts.
func (s *State) checkSpare() error {
	n := map[string]int{}
	for _, w := range s.order {
		if w.facts.Spare() && w.facts.Instance.Place != "" {
			n[w.facts.Instance.Provider]++
		}
	}
	for _, p := range sortedKeys(n) {
		if s.spare[p] != n[p] {
			return fmt.Errorf("provider %s: %d instances are idle, %d counted", p, n[p], s.spare[p])
		}
	}
	if len(n) != len(s.spare) {
		return fmt.Errorf("idle instances of %d providers, of %d counted", len(n), len(s.spare))
	}
	return nil
}
