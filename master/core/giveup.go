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
	known := s.outlook()
	if !s.anyWay(known) {
		return
	}
	for _, it := range s.tops() {
		r := s.requests[it.ID]
		list := s.roomFor(r, known)
		for _, w := range list {
			d := w.facts.GiveUp(s.policyOf(w), fmt.Sprintf("its room is needed by request %d", r.ID))
			if d.Action == latent.Sleep {
				s.sleep(w, d.Why)
			} else {
				s.doom(w, d.Why, "")
			}
		}
		if len(list) > 0 {
			known.changed()
			if !s.anyWay(known) {
				return
			}
		}
	}
}

// tops are the best requests of all lanes, best first.
func (s *State) tops() (list []*queue.Item) {
	for _, p := range s.pOrdered {
		if p.Len() > 0 {
			list = append(list, p.Tops()...)
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

// outlook is what is known of ways: most requests look at the same workers, and most workers claim the same. So where nothing helps, a lane costs as little
// for thousands of workers as for one. While instances are given up, the ways change, but nobody comes to lack room, and no lock is taken.
type outlook struct {
	groups  []*group // those to which room is all that is lacking
	of      map[*worker]*group
	tenants map[site]*tenancy // nil: not yet looked at
	without map[visit]bool    // pools without a worker of a group that could take a request
}

// group is the workers that claim the same.
type group struct {
	claim
	workers []*worker
	way     way
	asked   bool // way is known
}

type visit struct {
	pool  *pool
	group *group
}

func (s *State) outlook() *outlook {
	o := &outlook{of: map[*worker]*group{}, without: map[visit]bool{}}
	ofClaim := map[claim]*group{}
	for _, w := range s.order {
		var c claim
		switch rank, why := s.room(w); {
		case rank != noRoom: // its timer is about to fire, and then it takes the request
		case why != lacking:
			continue
		default:
			c = claim{site{provider: w.home()}, w.needs()}
			if in := w.facts.Instance; in != nil {
				c.at.room = in.Place
			}
		}
		g := ofClaim[c]
		if g == nil {
			g = &group{claim: c, asked: c == (claim{}), way: way{comes: c == (claim{})}}
			ofClaim[c] = g
			o.groups = append(o.groups, g)
		}
		g.workers = append(g.workers, w)
		o.of[w] = g
	}
	return o
}

// changed says that instances have been given up.
func (o *outlook) changed() {
	o.tenants = nil
	for _, g := range o.groups {
		g.asked = g.claim == (claim{})
	}
}

func (s *State) ask(g *group, known *outlook) {
	if !g.asked {
		g.way, g.asked = s.wayFor(g.claim, known), true
	}
}

// anyWay says whether there is anything to be gained by giving up instances.
func (s *State) anyWay(known *outlook) bool {
	return slices.ContainsFunc(known.groups, func(g *group) bool {
		s.ask(g, known)
		return g.way.list != nil
	})
}

// roomFor chooses the idle instances that make room for a request by giving up theirs: as few as possible. None: it needs none, or none would help.
func (s *State) roomFor(r *request, known *outlook) (best []*worker) {
	b := s.builders[r.Builder]
	for _, g := range known.groups {
		s.ask(g, known)
		switch {
		case !g.way.comes && (g.way.list == nil || best != nil && !rather(g.way.list, best)):
		case !s.anyOf(g, b, r, known):
		case g.way.comes:
			return nil
		default:
			best = g.way.list
		}
	}
	return best
}

// anyOf says whether a worker of the group could take the request if it had room.
func (s *State) anyOf(g *group, b *builder, r *request, known *outlook) bool {
	pl := b.pool
	if r.Worker != "" {
		w := s.workers[r.Worker]
		_, ours := pl.place[w]
		return ours && known.of[w] == g && !w.runs(r.Builder) && s.blockedBy(b, w) == ""
	}
	if known.without[visit{pl, g}] || s.blockedEverywhere(b) {
		return false
	}
	list := g.workers
	if len(pl.workers) < len(list) {
		list = pl.workers
	}
	runs := false
	for _, w := range list {
		if _, ours := pl.place[w]; !ours || known.of[w] != g || s.blockedBy(b, w) != "" {
			continue
		}
		if !w.runs(r.Builder) {
			return true
		}
		runs = true
	}
	if !runs { // all builders of a pool use the same locks
		known.without[visit{pl, g}] = true
	}
	return false
}

// wayFor looks for a way to give an instance what it claims: in one room, or in any.
func (s *State) wayFor(c claim, known *outlook) (best way) {
	if known.tenants == nil {
		known.tenants = s.tenants()
	}
	p := s.providers[c.at.provider]
	for i := range p.rooms {
		r := &p.rooms[i]
		if r.Down || c.at.room != "" && c.at.room != r.Name {
			continue
		}
		at := site{p.cfg.Name, r.Name}
		in := known.tenants[at].orNone()
		free := r.free(s.taken[at]).plus(in.going)
		if free.holds(c.share) {
			return way{comes: true}
		}
		if list := fewest(in.idle, free, c.share); list != nil && (best.list == nil || rather(list, best.list)) {
			best.list = list
		}
	}
	return best
}

// tenancy is who takes a room.
type tenancy struct {
	all   []*worker // in the order of the configuration
	idle  []*worker // those that could give it up, the one that has been idle longest first
	going share     // what those take that are leaving it
}

func (t *tenancy) orNone() *tenancy {
	if t == nil {
		return &tenancy{}
	}
	return t
}

// tenants are those of all rooms.
func (s *State) tenants() map[site]*tenancy {
	all := make(map[site]*tenancy, len(s.taken))
	for _, w := range s.order {
		if w.takes.at.room == "" {
			continue
		}
		t := all[w.takes.at]
		if t == nil {
			t = &tenancy{}
			all[w.takes.at] = t
		}
		t.all = append(t.all, w)
		switch in := w.facts.Instance; {
		case in == nil || s.stuck(in):
		case in.Doomed || in.Power == latent.Stopping:
			t.going = t.going.plus(w.takes.share)
		case w.sparing != "":
			t.idle = append(t.idle, w)
		}
	}
	for _, t := range all {
		slices.SortStableFunc(t.idle, func(a, b *worker) int { return a.facts.IdleSince.Compare(b.facts.IdleSince) })
	}
	return all
}

// GoingLimit is how long an instance whose end is decided counts as one that makes room. Where its destroy has failed for longer than that, others are asked.
const GoingLimit = 15 * time.Minute

// stuck says whether the instance ought to be gone by now.
func (s *State) stuck(in *latent.Instance) bool {
	return in.Doomed && s.now.Sub(in.DoomedAt) > GoingLimit
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
