package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Idle instances give up their room to work. That no request waits for ever for a room that only idle instances have is seen at the end: nothing waits there,
// however long idle instances are kept. Here, each that gives up its room is held against the work that it is said to do so for.

const giveUp = "room is given up for work only"

// checkGivenUp looks at what was decided in one step, after it was stored.
func (w *world) checkGivenUp(journal []core.Entry) {
	given := map[reqID][]core.Instance{}
	clear(w.gave)
	for _, e := range journal {
		var id reqID
		if e.Kind != "instance" || e.To != "doomed" && e.To != latent.Stopping.String() {
			continue
		}
		if _, err := fmt.Sscanf(e.Cause, "its room is needed by request %d", &id); err == nil {
			given[id] = append(given[id], w.disk.instances[e.Instance])
			w.gave[e.Worker] = true
			w.gives++
		}
	}
	for _, id := range sortedKeys(given) {
		w.checkGivenTo(id, given[id])
		if len(given) == 1 { // else the instances of the others are leaving, too, and were not when this was decided, or were
			w.checkNeeded(id, given[id])
		}
	}
}

// checkGivenTo: the request waits, and the instances are idle and in one room.
func (w *world) checkGivenTo(id reqID, list []core.Instance) {
	if r := w.disk.requests[id]; r.State != model.RequestWaiting {
		w.fail(giveUp, "%s, for request %d, which is %s", list[0].Key, id, r.State)
	}
	for _, in := range list {
		for _, b := range w.live() {
			if b.Instance == in.Key {
				w.fail(giveUp, "%s, under build %d", in.Key, b.ID)
			}
		}
		if in.Provider != list[0].Provider || in.Place != list[0].Place {
			w.fail(giveUp, "%s and %s are on different hosts", in.Key, list[0].Key)
		}
	}
}

// checkNeeded: some worker could take the request if only it had that room, all of it, and none has any.
func (w *world) checkNeeded(id reqID, list []core.Instance) {
	r, helped := w.disk.requests[id], false
	i := slices.IndexFunc(w.running.Builders, func(b core.Builder) bool { return b.Name == r.Builder })
	if i < 0 {
		return // it is retired
	}
	b := w.running.Builders[i]
	var why []string
	for _, k := range w.running.Workers {
		text := w.unable(k, b, r)
		if text == "" {
			text = w.unhelped(k, list)
			helped = helped || text == ""
		}
		why = append(why, k.Name+" "+text)
	}
	if !helped {
		w.fail(giveUp, "%d instances on %s, which does not help request %d of %s: %s", len(list), list[0].Place, id, r.Builder, strings.Join(why, "; "))
	}
}

// unable says what else keeps a request from a worker, as far as the records tell.
func (w *world) unable(k core.Worker, b core.Builder, r core.Request) string {
	st := w.disk.workers[k.Name]
	switch {
	case !slices.Contains(b.Workers, k.Name) || r.Worker != "" && r.Worker != k.Name:
		return "is not for it"
	case !k.Latent():
		return "has no instances"
	case st.Paused != "" || st.BackoffUntil.After(w.now):
		return "is paused or backing off"
	}
	for _, a := range append(slices.Clone(b.Locks), k.Locks...) {
		i := slices.IndexFunc(w.running.Locks, func(l core.Lock) bool { return l.Name == a.Lock })
		if i < 0 {
			continue
		}
		l, held := w.running.Locks[i], 0
		for _, o := range w.live() {
			for _, h := range o.Locks {
				if h.Lock != l.Name || l.PerWorker && o.Worker != k.Name {
					continue
				}
				if held++; a.Exclusive || h.Exclusive {
					return "needs a lock"
				}
			}
		}
		if held >= max(l.Max, 1) {
			return "needs a lock"
		}
	}
	return ""
}

// unhelped says why a worker's instance has no use for the room, or could do with less of it. What was leaving anyway counts as gone, unless that takes too long.
func (w *world) unhelped(k core.Worker, list []core.Instance) string {
	wants, tied, why := core.Instance{Provider: k.Provider, VCPUs: k.VCPUs, Memory: k.Memory}, "", "can not be there, or the host is down"
	for _, key := range sortedKeys(w.disk.instances) {
		in := w.disk.instances[key]
		if in.Worker != k.Name || !in.GoneAt.IsZero() {
			continue
		}
		if in.Doomed || in.Power != latent.Stopped {
			return "has an instance"
		}
		wants, tied = in, in.Place
	}
	for _, h := range w.rooms[wants.Provider] {
		if !w.hears[wants.Provider+"/"+h.Name] || tied != "" && tied != h.Name {
			continue
		}
		here := wants.Provider == list[0].Provider && h.Name == list[0].Place
		vcpus, memory, slots := wants.VCPUs, wants.Memory, 1
		for _, in := range w.disk.instances {
			if w.stays(in) && in.Provider == wants.Provider && in.Place == h.Name {
				vcpus, memory, slots = vcpus+in.VCPUs, memory+in.Memory, slots+1
			}
		}
		switch {
		case !here && fits(h, vcpus, memory, slots):
			return "has room on " + h.Name
		case !here:
		case !fits(h, vcpus, memory, slots):
			why = "has no room even then"
		default:
			for _, in := range list {
				if fits(h, vcpus+in.VCPUs, memory+in.Memory, slots+1) {
					return "does not need the room of " + string(in.Key)
				}
			}
			why = ""
		}
	}
	return why
}

// stays says whether an instance takes its room, and nobody counts on that to change.
func (w *world) stays(in core.Instance) bool {
	if in.Doomed {
		return in.GoneAt.IsZero() && in.Power != latent.Stopped && w.now.Sub(in.DoomedAt) > core.GoingLimit
	}
	return in.GoneAt.IsZero() && in.Power != latent.Stopped && in.Power != latent.Stopping
}

// live are the builds that are not done.
func (w *world) live() (out []core.Build) {
	for _, id := range sortedKeys(w.disk.builds) {
		if b := w.disk.builds[id]; b.Phase != model.BuildDone {
			out = append(out, b)
		}
	}
	return out
}
