package core

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Some providers' instances share machines of a known size: rooms. An instance takes what it needs of one room from the moment at which a worker is given a
// build that needs it, until it is proven gone. One that is switched off takes nothing but its disk, which ties it to its room. While a provider has
// not said what rooms it has, it is asked for whatever is wanted, and refuses what does not fit.

// Room is one machine on which instances live. A limit of 0 is none.
type Room struct {
	Name   string
	VCPUs  int
	Memory int64 // bytes
	Slots  int   // instances at once
	Down   bool  // nothing new is made there
}

// RoomsKnown says what rooms a provider has: all of them.
type RoomsKnown struct {
	Provider string
	Rooms    []Room
	Error    string // not empty: the call failed, and what was known stays
}

func (RoomsKnown) event() {}

// RoomView is a room, and what is taken of it.
type RoomView struct {
	Room
	TakenVCPUs  int
	TakenMemory int64
	Instances   int
	DownSince   time.Time // zero while it is up; at the earliest, when this process first heard of it
}

// site is a room of a provider.
type site struct{ provider, room string }

// share is what is taken of a room.
type share struct {
	vcpus  int
	memory int64
	slots  int
}

// claim is what a worker takes. Without a room it is nothing.
type claim struct {
	at site
	share
}

// lacking is why no instance can be made although nothing else is in the way.
const lacking = "no room at its provider"

func (s *State) roomsKnown(ev RoomsKnown) {
	p := s.providers[ev.Provider]
	if p == nil || ev.Error != "" {
		return
	}
	rooms := slices.Clone(ev.Rooms)
	slices.SortStableFunc(rooms, func(a, b Room) int { return cmp.Compare(a.Name, b.Name) })
	rooms = slices.CompactFunc(rooms, func(a, b Room) bool { return a.Name == b.Name })
	if slices.Equal(rooms, p.rooms) {
		return
	}
	for _, r := range rooms {
		at := slices.IndexFunc(p.rooms, func(o Room) bool { return o.Name == r.Name })
		if was := at >= 0 && p.rooms[at].Down; was != r.Down {
			states := map[bool]string{false: "up", true: "down"}
			s.entry(Entry{Kind: "provider", From: states[was], To: states[r.Down], Cause: r.title() + " of provider " + model.ProviderName(p.cfg.Name)})
		}
	}
	downs := map[string]time.Time{}
	for _, r := range rooms {
		if since, was := p.downs[r.Name]; r.Down && was {
			downs[r.Name] = since
		} else if r.Down {
			downs[r.Name] = s.now
		}
	}
	p.rooms, p.downs = rooms, downs
	if p.limited() { // it counts the instances that were made before it was set
		for _, w := range s.order {
			if in := w.facts.Instance; in != nil && in.Provider == p.cfg.Name && in.Place == "" {
				in.Place = limitRoom
				s.dirtyWorker(w)
				s.account(w)
			}
		}
	}
	s.roomy = false
	for _, p := range s.providers {
		s.roomy = s.roomy || len(p.rooms) > 0
	}
	s.roomFreed(p.cfg.Name)
}

// account notes what a worker takes now. It is called whenever that may have changed.
func (s *State) account(w *worker) {
	var now claim
	switch in := w.facts.Instance; {
	case in != nil && in.Power != latent.Stopped:
		w.booked = claim{}
		if in.Place != "" {
			now = claim{site{in.Provider, in.Place}, share{in.VCPUs, in.Memory, 1}}
		}
	case w.facts.Builds > w.facts.Running: // it is about to be made, or woken
		now = w.booked
	default:
		w.booked = claim{}
	}
	s.countSpare(w)
	old := w.takes
	if now == old {
		return
	}
	w.takes = now
	s.takeRoom(old, -1)
	s.takeRoom(now, 1)
	if old.at.room != "" {
		s.roomFreed(old.at.provider)
	}
}

func (s *State) takeRoom(c claim, sign int) {
	if c.at.room == "" {
		return
	}
	t := s.taken[c.at]
	t.vcpus += sign * c.vcpus
	t.memory += int64(sign) * c.memory
	t.slots += sign * c.slots
	if t == (share{}) {
		delete(s.taken, c.at)
	} else {
		s.taken[c.at] = t
	}
}

// starve remembers a worker for which there is no room.
func (s *State) starve(w *worker) {
	if p := s.providers[w.home()]; p != nil && w.starves != p {
		w.starves = p
		p.starved = append(p.starved, w)
	}
	s.pressed = true
}

// roomFreed tells the workers for which there was no room.
func (s *State) roomFreed(provider string) {
	p := s.providers[provider]
	if p == nil {
		return
	}
	starved := p.starved
	p.starved = nil
	for _, w := range starved {
		if w.starves == p {
			w.starves = nil
			if s.workers[w.cfg.Name] == w {
				s.freed(w)
			}
		}
	}
}

// home is the provider of a worker's instance, or of its next one.
func (w *worker) home() string {
	if w.facts.Instance != nil {
		return w.facts.Instance.Provider
	}
	return w.cfg.Provider
}

// needs is what the worker's next instance takes, or the one that is woken.
func (w *worker) needs() share {
	if in := w.facts.Instance; in != nil {
		return share{in.VCPUs, in.Memory, 1}
	}
	return share{w.cfg.VCPUs, w.cfg.Memory, 1}
}

// findRoom looks for a room for an instance that is to be made or woken: the one with most free memory. An instance that exists has its disk in one room, and can be
// woken only there. ok without a name: there are no rooms, as far as is known.
func (s *State) findRoom(w *worker) (name string, ok bool) {
	if !s.roomy || w.booked.at.room != "" && w.booked.at.provider == w.home() {
		return w.booked.at.room, true
	}
	p := s.providers[w.home()]
	if p == nil || len(p.rooms) == 0 {
		return "", true
	}
	tied := ""
	if in := w.facts.Instance; in != nil {
		if tied = in.Place; !slices.ContainsFunc(p.rooms, func(r Room) bool { return r.Name == tied }) {
			return "", true // its provider knows where it is
		}
	}
	need := w.needs()
	var best share
	for i := range p.rooms {
		r := &p.rooms[i]
		free := r.free(s.taken[site{p.cfg.Name, r.Name}])
		if tied != "" && tied != r.Name || r.Down || !free.holds(need) {
			continue
		}
		if !ok || free.memory > best.memory || free.memory == best.memory && free.slots > best.slots {
			name, best, ok = r.Name, free, true
		}
	}
	return name, ok
}

// hasRoom says whether an instance of the worker could be made or woken now.
func (s *State) hasRoom(w *worker) bool {
	_, ok := s.findRoom(w)
	return ok
}

// free is what is left of a room. It may be negative: limits can be lowered under living instances.
func (r *Room) free(taken share) share {
	f := share{math.MaxInt32, math.MaxInt64, math.MaxInt32}
	if r.VCPUs > 0 {
		f.vcpus = r.VCPUs
	}
	if r.Memory > 0 {
		f.memory = r.Memory
	}
	if r.Slots > 0 {
		f.slots = r.Slots
	}
	return share{f.vcpus - taken.vcpus, f.memory - taken.memory, f.slots - taken.slots}
}

func (f share) holds(need share) bool {
	return need.vcpus <= f.vcpus && need.memory <= f.memory && need.slots <= f.slots
}

// book takes a room for the instance that a worker is about to make or to wake. false: there is none.
func (s *State) book(w *worker) bool {
	name, ok := s.findRoom(w)
	if at := (site{w.home(), name}); ok && w.booked.at != at && (name != "" || w.booked.at.room != "") { // its provider may have changed since it was booked
		if w.booked = (claim{}); name != "" {
			w.booked = claim{at, w.needs()}
		}
		s.account(w)
	}
	return ok
}

// turnAway gives the builds that wait for a worker's instance back to the queue: there is no room for it (any more), and another worker may have some.
func (s *State) turnAway(w *worker) {
	why := strings.Join(s.noRoomTexts(w, s.tenants()), "; ")
	for _, b := range w.preparing() {
		s.endBuild(b, verdict{result: model.Retry, text: why, free: true})
	}
}

func (s *State) roomViews(p *provider) (out []RoomView) {
	for _, r := range p.rooms {
		t := s.taken[site{p.cfg.Name, r.Name}]
		out = append(out, RoomView{Room: r, TakenVCPUs: t.vcpus, TakenMemory: t.memory, Instances: t.slots, DownSince: p.downs[r.Name]})
	}
	return out
}

// checkRooms verifies the sums.
func (s *State) checkRooms() error {
	sums := map[site]share{}
	for _, w := range s.order {
		in, want := w.facts.Instance, claim{}
		if in != nil && in.Power != latent.Stopped && in.Place != "" {
			want = claim{site{in.Provider, in.Place}, share{in.VCPUs, in.Memory, 1}}
		} else if in == nil || in.Power == latent.Stopped {
			want = w.booked
		}
		if w.takes != want {
			return fmt.Errorf("worker %s: takes %+v, counted as %+v", w.cfg.Name, want, w.takes)
		}
		if w.takes.at.room != "" {
			t := sums[w.takes.at]
			sums[w.takes.at] = share{t.vcpus + w.takes.vcpus, t.memory + w.takes.memory, t.slots + 1}
		}
	}
	for at, t := range s.taken {
		if sums[at] != t {
			return fmt.Errorf("room %s of provider %s: %+v is taken, counted as %+v", at.room, at.provider, sums[at], t)
		}
	}
	if len(sums) != len(s.taken) {
		return fmt.Errorf("%d rooms are used, %d counted", len(sums), len(s.taken))
	}
	return s.checkSpare()
}
