package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Reaping is the sweep by hand. An operator asks for lists now, sees what no record knows, and orders its end. The order passes through here, where
// the records are: the intent of every instance is in them before its create is called, so what is listed and not in them is not about to be
// used. The grace is for the calls of an earlier master, which may be answered late.

// ReapApart is how far apart the two sightings must be that an order needs.
const ReapApart = 2 * time.Second

type (
	// SweepAsked asks for a list of a provider's instances now ("": of every one).
	SweepAsked struct{ Provider string }

	// ReapAsked orders the end of an instance that no record knows and that is Sure (see StrayView). Anything else is left alone.
	ReapAsked struct{ Key model.InstanceKey }
)

func (SweepAsked) event() {}
func (ReapAsked) event()  {}

// StrayView is an instance that carries our tag and that no record knows.
type StrayView struct {
	Sighting
	Provider  string
	FirstSeen time.Time
	Sightings int
	Grace     time.Duration // how old it must be
	Sure      bool          // an order may end it: seen twice, and older than the grace
	Ending    bool          // a destroy is in flight or was accepted
}

func (s *State) sweepAsked(ev SweepAsked) {
	for _, p := range s.pOrder {
		if ev.Provider == "" || ev.Provider == model.ProviderName(p.cfg.Name) {
			s.sweep(p.cfg.Name)
		}
	}
}

func (s *State) reapAsked(ev ReapAsked) {
	if s.instances[ev.Key] != nil {
		return
	}
	for _, p := range s.pOrder {
		if o := p.orphans[ev.Key]; o != nil && o.op == 0 && p.sure(o, s.now) {
			s.endOrphan(p, ev.Key, o, "orphan: tagged as ours, in no record; ended by hand")
		}
	}
}

// sure says whether an orphan may be ended by hand. Its age is the provider's word, or else the time since it was first seen.
func (p *provider) sure(o *orphan, now time.Time) bool {
	born := o.seen.CreatedAt
	if born.IsZero() {
		born = o.firstSeen
	}
	return o.sightings >= 2 && !o.lastSeen.Before(o.firstSeen.Add(ReapApart)) && !now.Before(born.Add(p.cfg.SweepGrace))
}

func (p *provider) strays(now time.Time) []StrayView {
	var out []StrayView
	for _, key := range sortedKeys(p.orphans) {
		o := p.orphans[key]
		out = append(out, StrayView{Sighting: o.seen, Provider: p.cfg.Name, FirstSeen: o.firstSeen, Sightings: o.sightings, Grace: p.cfg.SweepGrace,
			Sure: p.sure(o, now), Ending: o.op != 0 || o.tries > 0})
	}
	return out
}
