package sim

import (
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
)

// Providers whose instances share hosts of a known size, and that tell of changes: late, twice, or never.

// planRooms gives some providers hosts. Each worker's instance fits on some host that is empty.
func (w *world) planRooms() {
	w.rooms, w.tells, w.placed, w.chose = map[string][]core.Room{}, map[string]bool{}, map[key]bool{}, map[key]string{}
	w.knows, w.hears, w.gave, w.cramped = map[string]bool{}, map[string]bool{}, map[string]bool{}, map[reqID]time.Time{}
	for _, name := range []string{"p0", "p1", "p2"} {
		w.tells[name] = w.chance(0.5)
	}
	if w.applies { // there, providers and workers come and go
		return
	}
	for _, p := range w.cfg.Providers {
		if !w.chance(0.4) {
			continue
		}
		for i := range 1 + w.rng.IntN(3) {
			w.rooms[p.Name] = append(w.rooms[p.Name], core.Room{Name: fmt.Sprintf("h%d", i), VCPUs: 2 + w.rng.IntN(4), Memory: int64(4+w.rng.IntN(6)) << 30, Slots: w.rng.IntN(4)})
		}
	}
	for i := range w.cfg.Workers {
		if k := &w.cfg.Workers[i]; k.Latent() {
			k.VCPUs, k.Memory = 1+w.rng.IntN(2), int64(1+w.rng.IntN(4))<<30
		}
	}
	if len(w.rooms) == 0 {
		return
	}
	for t := time.Duration(0); t < time.Duration(w.hours)*time.Hour; t += w.between(0, 40*time.Minute) {
		w.after(t, "host", w.hostGoes)
	}
}

// hostGoes makes a host unreachable for a while. What lives there goes on.
func (w *world) hostGoes() {
	names := sortedKeys(w.rooms)
	list := w.rooms[names[w.rng.IntN(len(names))]]
	r := &list[w.rng.IntN(len(list))]
	if r.Down || !w.fault("host-down") {
		return
	}
	r.Down = true
	w.trace("DOWN %s", r.Name)
	w.after(w.between(time.Minute, time.Hour), "host "+r.Name+" is back", func() { r.Down = false })
}

// sayRooms answers what hosts a provider has, some time after it was asked.
func (w *world) sayRooms(provider string) {
	list, ok := w.rooms[provider]
	if !ok {
		return
	}
	ev := core.RoomsKnown{Provider: provider, Rooms: append([]core.Room(nil), list...)}
	if w.fault("rooms-fail") {
		ev = core.RoomsKnown{Provider: provider, Error: "no answer"}
	}
	w.inMaster(w.between(0, 2*time.Second), "rooms of "+provider, func() {
		w.knows[provider] = w.knows[provider] || ev.Error == ""
		if ev.Error == "" {
			for _, r := range ev.Rooms {
				w.hears[provider+"/"+r.Name] = !r.Down
			}
		}
		w.deliver(ev)
	})
}

// settleIn is where a new machine goes: where it shall, or on the first host that has room. false: there is none.
func (w *world) settleIn(e core.CreateInstance) (room string, ok bool) {
	list := w.rooms[e.Provider]
	if e.Place != "" || len(list) == 0 || w.vms[e.Key] != nil {
		return e.Place, true
	}
	in := w.disk.instances[e.Key]
	for _, r := range list {
		if vcpus, memory, slots := w.lives(e.Provider, r.Name, func(*vm) bool { return true }); !r.Down && fits(r, vcpus+in.VCPUs, memory+in.Memory, slots+1) {
			return r.Name, true
		}
	}
	return "", false
}

func fits(r core.Room, vcpus int, memory int64, slots int) bool {
	return vcpus <= r.VCPUs && memory <= r.Memory && (r.Slots == 0 || slots <= r.Slots)
}

// lives adds up what machines take of a host.
func (w *world) lives(provider, room string, which func(*vm) bool) (vcpus int, memory int64, slots int) {
	for _, v := range w.sortedVMs() {
		if v.provider == provider && v.room == room && v.goneAt.IsZero() && !v.off && which(v) {
			in := w.disk.instances[v.key]
			vcpus, memory, slots = vcpus+in.VCPUs, memory+in.Memory, slots+1
		}
	}
	return vcpus, memory, slots
}

// checkRoom: no host is over-committed by what the master has placed there, as its records say and as it is. Who decides is bound by that from the moment at which the
// intent is stored until the instance is proven gone.
func (w *world) checkRoom(k key) {
	in := w.disk.instances[k]
	if v := w.vms[k]; in.Place == "" || v != nil && v.meddled {
		return
	}
	w.placed[k] = true
	for _, r := range w.rooms[in.Provider] {
		if r.Name != in.Place {
			continue
		}
		var vcpus, slots int
		var memory int64
		for _, id := range sortedKeys(w.disk.instances) {
			if o := w.disk.instances[id]; w.placed[id] && o.GoneAt.IsZero() && o.Power != latent.Stopped && o.Provider == in.Provider && o.Place == r.Name {
				vcpus, memory, slots = vcpus+o.VCPUs, memory+o.Memory, slots+1
			}
		}
		if !fits(r, vcpus, memory, slots) && !w.restarted(in.Provider) {
			w.fail("no host is over-committed", "%s: %d vcpus, %d MiB, %d instances on %+v", k, vcpus, memory>>20, slots, r)
		}
		vcpus, memory, slots = w.lives(in.Provider, r.Name, func(v *vm) bool { return w.placed[v.key] && v.key != k && w.explained[v.key] == "" && !v.meddled })
		if !fits(r, vcpus+in.VCPUs, memory+in.Memory, slots+1) {
			w.fail("no host is over-committed", "%s: with what lives there, %d vcpus, %d MiB, %d instances on %+v", k, vcpus+in.VCPUs, (memory+in.Memory)>>20, slots+1, r)
		}
	}
}

// restarted says whether some instance of a provider was woken where the master did not know the hosts, since its last start.
func (w *world) restarted(provider string) bool {
	for _, v := range w.sortedVMs() {
		if v.provider == provider && v.meddled && v.goneAt.IsZero() {
			return true
		}
	}
	return false
}

// tell lets a provider tell of a change, if it does that at all.
func (w *world) tell(v *vm) {
	if !w.tells[v.provider] || w.fault("told-never") {
		return
	}
	late := w.between(0, time.Second)
	if w.fault("told-late") {
		late = w.between(time.Second, 20*time.Minute)
	}
	ev := core.Observed{Provider: v.provider, Keys: []key{v.key, "sim-w9-9", "nobody"}}
	times := 1
	if w.fault("told-twice") {
		times = 2
	}
	for range times {
		w.inMaster(late, "told of "+string(v.key), func() { w.deliver(ev) })
		late += w.between(0, time.Minute)
	}
}

// calmRooms brings all hosts up.
func (w *world) calmRooms() {
	for _, list := range w.rooms {
		for i := range list {
			list[i].Down = false
		}
	}
}
