package sim

import (
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// crampedLimit is how long a request may wait for a room that only idle instances have, while nobody moves: a destroy that fails is repeated within that time.
const crampedLimit = 5 * time.Minute

// checkCramped: a request does not go on waiting for a room that idle instances could give up. What checkGivenUp holds against those that do, this holds against those that
// do not; it looks at the records, as they are after a step.
func (w *world) checkCramped(moved bool) {
	if moved || w.stopping || len(w.jumps) != w.jumped || w.now.Sub(w.looked) > time.Minute {
		clear(w.cramped) // what nobody has looked at for long may have changed
		w.jumped = len(w.jumps)
	} else if w.now.Sub(w.looked) < 20*time.Second {
		return
	}
	w.looked = w.now
	if len(w.rooms) == 0 || w.stopping {
		return
	}
	for _, id := range sortedKeys(w.disk.requests) {
		if w.disk.requests[id].State != model.RequestWaiting || !w.couldBeServed(w.disk.requests[id]) {
			delete(w.cramped, id)
		} else if since, was := w.cramped[id]; !was {
			w.cramped[id] = w.now
		} else if w.now.Sub(since) > crampedLimit {
			w.fail("idle instances give up their room", "request %d has waited since %s for a room that idle instances have", id, since.Sub(epoch))
		}
	}
}

// couldBeServed says whether all that a request lacks is a room that idle instances have, and that nobody is leaving.
func (w *world) couldBeServed(r core.Request) (could bool) {
	i := slices.IndexFunc(w.running.Builders, func(b core.Builder) bool { return b.Name == r.Builder })
	if i < 0 {
		return false
	}
	for _, k := range w.running.Workers {
		if w.unable(k, w.running.Builders[i], r) != "" || slices.ContainsFunc(w.live(), func(b core.Build) bool { return b.Worker == k.Name }) {
			continue
		}
		wants, has := core.Instance{Provider: k.Provider, VCPUs: k.VCPUs, Memory: k.Memory}, false
		for _, in := range w.disk.instances {
			if in.Worker == k.Name && in.GoneAt.IsZero() {
				wants, has = in, true
			}
		}
		if has && (wants.Doomed || wants.Power != latent.Stopped || wants.Spec != k.Spec || k.Idle != core.IdleStop && k.Idle != core.IdleHibernate) {
			continue
		}
		for _, h := range w.rooms[wants.Provider] {
			if !w.hears[wants.Provider+"/"+h.Name] || has && wants.Place != h.Name {
				continue
			}
			all, busy := w.takenOf(wants.Provider, h.Name)
			if fits(h, wants.VCPUs+all.VCPUs, wants.Memory+all.Memory, 1+all.Slots) {
				return false // it has room, or gets some
			}
			could = could || fits(h, wants.VCPUs+busy.VCPUs, wants.Memory+busy.Memory, 1+busy.Slots)
		}
	}
	return could
}

// takenOf is what instances take of a host that stay there, and what those of them take that are not idle.
func (w *world) takenOf(provider, host string) (all, busy core.Room) {
	for _, in := range w.disk.instances {
		if in.Provider != provider || in.Place != host || !w.stays(in) {
			continue
		}
		all.VCPUs, all.Memory, all.Slots = all.VCPUs+in.VCPUs, all.Memory+in.Memory, all.Slots+1
		if in.Doomed || in.Power != latent.On || in.AttachedAt.IsZero() || !in.LostAt.IsZero() || slices.ContainsFunc(w.live(), func(b core.Build) bool { return b.Worker == in.Worker }) {
			busy.VCPUs, busy.Memory, busy.Slots = busy.VCPUs+in.VCPUs, busy.Memory+in.Memory, busy.Slots+1
		}
	}
	return all, busy
}
