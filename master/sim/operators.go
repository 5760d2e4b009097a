package sim

import (
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// What people do about single machines: they let them end when they are idle, and they look for what no record knows and end it by hand.

const leaveReason = "it is likely to be taken back"

// operators give their orders at random moments.
func (w *world) operators() {
	horizon := time.Duration(w.hours) * time.Hour
	for t := w.between(0, 40*time.Minute); t < horizon; t += w.between(0, 40*time.Minute) {
		switch x := w.rng.Float64(); {
		case x < 0.4:
			w.after(t, "leave", w.leaveInstance)
		case x < 0.5:
			w.after(t, "lost state", w.loseState)
			w.after(t+w.between(time.Second, 4*time.Minute), "look for strays", func() { w.lookForStrays(3) })
		case x < 0.8:
			w.after(t, "look for strays", func() { w.lookForStrays(3) })
		default:
			w.after(t, "reap", w.reapKnown)
		}
	}
}

// leaveInstance lets an instance end when it is idle. Now and then who asks for it knows of one that is gone by now.
func (w *world) leaveInstance() {
	var all []core.Instance
	for _, k := range sortedKeys(w.disk.instances) {
		if in := w.disk.instances[k]; in.GoneAt.IsZero() || w.now.Sub(in.GoneAt) < time.Hour && w.chance(0.3) {
			all = append(all, in)
		}
	}
	if len(all) == 0 {
		return
	}
	in := all[w.rng.IntN(len(all))]
	epoch := w.epoch
	w.asked[in.Key] = true
	if !w.deliver(core.LeaveAsked{Worker: in.Worker, Reason: leaveReason, Instance: in.Key}) {
		return
	}
	if w.epoch == epoch && in.GoneAt.IsZero() && !in.Doomed { // it is not stored
		w.leaving[in.Key] = true
		w.leaves++
	}
}

// checkLeaving: no build is begun on what leaves.
func (w *world) checkLeaving(b core.Build) {
	if in := w.disk.instances[b.Instance]; w.leaving[b.Instance] && in.GoneAt.IsZero() {
		w.fail("what leaves gets no new build", "build %d on %s", b.ID, b.Instance)
	}
}

// checkLeft: what leaves ends as soon as nothing runs on it and nothing waits for it.
func (w *world) checkLeft() {
	for _, k := range sortedKeys(w.leaving) {
		in := w.disk.instances[k]
		if in.Doomed || !in.GoneAt.IsZero() {
			delete(w.leaving, k)
			continue
		}
		busy := false
		for _, v := range w.core.Snapshot(w.now).Builds {
			busy = busy || v.Instance == k
		}
		if !busy {
			w.fail("what leaves ends when it is idle", "%s", k)
		}
	}
}

// loseState makes a machine that carries our tag and that no record knows, as a state that was lost would leave behind.
func (w *world) loseState() {
	list := w.running.Providers
	if len(list) == 0 {
		return
	}
	w.lost++
	k := key(fmt.Sprintf("sim-lost-%d", w.lost))
	w.explained[k] = "a state that was lost knew it"
	w.vms[k] = &vm{key: k, worker: "lost", provider: list[w.rng.IntN(len(list))].Name, createdAt: w.now.Add(-w.between(0, 10*time.Minute)), bootedAt: w.now}
	w.trace("LOST %s", k)
}

// lookForStrays asks for lists a few times, and then orders the end of what seems to be nobody's.
func (w *world) lookForStrays(times int) {
	if !w.up {
		return
	}
	ev := core.SweepAsked{}
	if list := w.running.Providers; w.chance(0.3) {
		ev.Provider = model.ProviderName(list[w.rng.IntN(len(list))].Name)
	}
	epoch := w.epoch
	if w.deliver(ev); w.epoch != epoch {
		return
	}
	if times > 1 {
		w.after(w.between(time.Second, 20*time.Second), "look for strays again", func() { w.lookForStrays(times - 1) })
		return
	}
	for _, s := range w.core.Snapshot(w.now).Strays {
		if w.chance(0.8) && w.up {
			w.reap(s.Key)
		}
	}
}

// reapKnown orders the end of an instance that the records know, which must have no effect: also of one that is only about to be made.
func (w *world) reapKnown() {
	for _, k := range sortedKeys(w.disk.instances) {
		if w.disk.instances[k].GoneAt.IsZero() && w.up && w.chance(0.5) {
			w.reap(k)
		}
	}
}

func (w *world) reap(k key) {
	w.reaping = k
	w.deliver(core.ReapAsked{Key: k})
	w.reaping = ""
}

// checkReap: an order by hand ends what it names, and only what no record knows and is older than the grace.
func (w *world) checkReap(e core.DestroyInstance) {
	in, known := w.disk.instances[e.Key]
	v := w.vms[e.Key]
	switch {
	case e.Key != w.reaping:
		w.fail("an order ends what it names", "%s was named, %s is destroyed", w.reaping, e.Key)
	case known && in.GoneAt.IsZero():
		w.fail("nothing that a record knows is reaped", "%s", e.Key)
	case v == nil || w.now.Sub(v.createdAt) < sweepGrace:
		w.fail("nothing young is reaped", "%s", e.Key)
	case v.goneAt.IsZero() && w.explained[e.Key] == "":
		w.fail("I1 no instance outlives its record", "%s had to be reaped", e.Key)
	}
	w.reaps++
}

// checkWhere: an instance is looked for, and ended, where it was made.
func (w *world) checkWhere(k key, provider string) {
	if v := w.vms[k]; v != nil && v.provider != provider {
		w.fail("what was made somewhere is ended there", "%s is of %s, and %s is asked", k, v.provider, provider)
	}
}

// sweeps says whether a provider is listed: one that was removed is, for as long as anything may show up there; the next process does so if it had instances.
func (w *world) sweeps(provider string) bool { return w.opened[provider] }
