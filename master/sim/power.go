package sim

import (
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Switching machines off and on, and everything that may go wrong with that.

func (w *world) stop(e core.StopInstance) {
	v := w.vms[e.Key]
	took := w.between(0, 2*time.Second)
	switch {
	case v == nil || !v.goneAt.IsZero():
		w.answer(took, e.Op, core.OpResult{Class: core.OpNotFound})
	case w.fault("stop-fails-before"):
		classes := []core.OpClass{core.OpUnknown, core.OpTransient, core.OpThrottled, core.OpUnauthorized}
		w.answer(took, e.Op, core.OpResult{Class: classes[w.rng.IntN(len(classes))], Detail: "no"})
	case w.fault("stop-fails-after"):
		w.switchOff(v, 0)
		w.answer(took, e.Op, core.OpResult{Class: core.OpUnknown, Detail: "reply lost"})
	case w.fault("stop-forgotten"):
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK})
	case w.fault("stop-hangs"):
		w.after(w.between(0, 2*callDeadline), "late stop of "+string(v.key), func() { w.switchOff(v, 0) })
		w.answer(callDeadline, e.Op, core.OpResult{Class: core.OpUnknown, Detail: "reply lost"})
	case w.fault("stop-slow"):
		w.switchOff(v, w.between(time.Minute, 2*core.StopLimit))
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK})
	default:
		w.switchOff(v, w.between(0, 20*time.Second))
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK})
	}
}

// switchOff ends the agents at once; for a while the machine is shown as on its way.
func (w *world) switchOff(v *vm, takes time.Duration) {
	if !v.live() || v.stopping || v.off {
		return
	}
	v.off, v.changedAt = true, w.now
	v.offAt = w.now.Add(takes)
	w.trace("OFF %s", v.key)
	w.killAgents(v)
	w.after(takes, "off: "+string(v.key), func() { w.tell(v) })
}

func (w *world) startVM(e core.StartInstance) {
	v := w.vms[e.Key]
	took := w.between(0, 2*time.Second)
	state := core.OpResult{Class: core.OpOK, State: core.SightPending}
	switch {
	case v == nil || !v.goneAt.IsZero():
		w.answer(took, e.Op, core.OpResult{Class: core.OpNotFound})
	case w.fault("start-fails-before"):
		classes := []core.OpClass{core.OpUnknown, core.OpTransient, core.OpThrottled, core.OpNoCapacity, core.OpOverQuota, core.OpBadConfig, core.OpUnauthorized}
		w.answer(took, e.Op, core.OpResult{Class: classes[w.rng.IntN(len(classes))], Detail: "no"})
	case w.fault("start-fails-after"):
		w.switchOn(v)
		w.answer(took, e.Op, core.OpResult{Class: core.OpUnknown, Detail: "reply lost"})
	case w.fault("start-forgotten"):
		w.answer(took, e.Op, state)
	case w.fault("start-hangs"):
		w.after(w.between(0, 2*callDeadline), "late start of "+string(v.key), func() { w.switchOn(v) })
		w.answer(callDeadline, e.Op, core.OpResult{Class: core.OpUnknown, Detail: "reply lost"})
	default:
		w.after(w.between(0, took), "start "+string(v.key), func() { w.switchOn(v) })
		w.answer(took, e.Op, state)
	}
}

// switchOn boots a machine that is off. One that is still on its way there cannot be started.
func (w *world) switchOn(v *vm) {
	if !v.live() || v.stopping || !v.off || w.now.Before(v.offAt) {
		return
	}
	v.off, v.changedAt = false, w.now
	changed := v.changedAt
	w.trace("ON %s", v.key)
	w.tell(v)
	w.after(w.between(time.Second, 30*time.Second), "booted again "+string(v.key), func() {
		if v.live() && !v.stopping && !v.off && v.changedAt.Equal(changed) {
			w.bootAgent(v)
		}
	})
}

// removeWaking takes a worker out of the configuration while its instance is being started, or lets its provider end it, or both.
func (w *world) removeWaking(in core.Instance) {
	if v := w.vms[in.Key]; v.live() && v.off && w.fault("sleeper-vanishes") {
		w.trace("VANISHES %s", v.key)
		v.goneAt = w.now
	}
	c := w.running
	if i := slices.IndexFunc(c.Workers, func(k core.Worker) bool { return k.Name == in.Worker }); i >= 0 && len(c.Workers) > 1 {
		c.Workers = without(slices.Clone(c.Workers), i)
		c.Builders = slices.Clone(c.Builders)
		w.mend(&c)
		w.apply(c)
	}
}

// somebody stops, starts or ends a machine behind our back.
func (w *world) somebody() {
	var live []*vm
	for _, v := range w.sortedVMs() {
		if v.live() && !v.stopping && !v.bootedAt.IsZero() {
			live = append(live, v)
		}
	}
	if len(live) == 0 {
		return
	}
	v := live[w.rng.IntN(len(live))]
	switch {
	case v.off && w.fault("sleeper-vanishes"):
		w.trace("VANISHES %s", v.key)
		v.goneAt = w.now
		w.tell(v)
	case v.off && w.fault("somebody-starts"):
		v.meddled = true
		w.switchOn(v)
	case !v.off && w.fault("somebody-stops"):
		v.meddled = true
		w.switchOff(v, w.between(0, 20*time.Second))
	}
}

// Oracles.

// checkPower holds each change of an instance's power against what it was, and keeps its own account of the time that it was off.
func (w *world) checkPower(old, in core.Instance) {
	if old.Power == latent.Stopped && old.GoneAt.IsZero() && (in.Power != latent.Stopped || !in.GoneAt.IsZero()) {
		w.slept[in.Key] += w.now.Sub(w.offSince[in.Key])
	}
	if in.Power == latent.Stopped && old.Power != latent.Stopped {
		w.offSince[in.Key] = w.now
	}
	if in.Power != latent.Stopped || !in.GoneAt.IsZero() {
		if in.Slept != w.slept[in.Key] {
			w.fail("cost is exact", "%s was off for %s and is charged for %s", in.Key, w.slept[in.Key], in.Slept)
		}
	}
	stopped := in.Power == latent.Stopped && old.Power != latent.Stopped || in.Power == latent.Waking && old.Power == latent.Stopping // a build waited for that
	if in.Power == latent.On && old.Power.Off() {
		w.fail("a stop is carried out", "%s was %s and is %s", in.Key, old.Power, in.Power)
	}
	if stopped {
		w.checkOff(in)
	}
	if in.Power == latent.Waking && old.Power != latent.Waking {
		if v := w.vms[in.Key]; v != nil {
			v.meddled = v.meddled || !w.knows[in.Provider] // before the hosts are known again after a restart, its provider is trusted to refuse
			v.first = nil                                  // its token is good for one more agent
		}
	}
	if in.Power == latent.Waking && old.Power.Off() && !in.Doomed {
		w.checkWake(in)
	}
	if in.Power == latent.Stopping && old.Power == latent.On && !in.Doomed {
		w.checkNotBusy(in.Key, "is to be stopped")
	}
	if old.Doomed && in.Power != old.Power && in.Power != latent.On {
		w.fail("doom is final", "%s is %s", in.Key, in.Power)
	}
}

// checkOff: what counts as switched off is, but for what happened while the provider's answer was on its way.
func (w *world) checkOff(in core.Instance) {
	const way = 3 * time.Second
	v := w.vms[in.Key]
	recent := func(t time.Time) bool { return w.now.Sub(t) < way }
	if !v.live() || v.stopping || recent(v.changedAt) || len(w.jumps) > 0 && recent(w.jumps[len(w.jumps)-1].at) {
		return
	}
	if !v.off || w.now.Before(v.offAt) {
		w.fail("stopped means stopped", "%s still runs", in.Key)
	}
}

// checkWake: only what is still as it is configured is switched on again, and only for a build.
func (w *world) checkWake(in core.Instance) {
	for _, c := range w.running.Workers {
		if c.Name == in.Worker && c.Spec == in.Spec && (c.Idle == core.IdleStop || c.Idle == core.IdleHibernate) {
			w.wakes++
			if w.applies && !w.quiet && w.chance(0.15) {
				w.after(w.between(0, 10*time.Second), "remove what wakes", func() { w.removeWaking(in) })
			}
			return
		}
	}
	w.fail("never wake what is outdated", "%s (spec %s)", in.Key, in.Spec)
}

func (w *world) checkNotBusy(k key, what string) {
	for id, r := range w.runners {
		if r.build.Instance == k && !r.stopping {
			w.fail("I3 a busy instance is not stopped", "%s %s under build %d", k, what, id)
		}
	}
}

// checkStop: a stored intent, and nothing runs there.
func (w *world) checkStop(e core.StopInstance) {
	in, known := w.disk.instances[e.Key]
	if !known || !in.GoneAt.IsZero() || in.Power != latent.Stopping {
		w.fail("intent before effect", "stop of %s is not stored (known %v, %s)", e.Key, known, in.Power)
	}
	w.checkNotBusy(e.Key, "is being stopped")
}

// checkStart: a stored intent, and a build that waits for it.
func (w *world) checkStart(e core.StartInstance) {
	in, known := w.disk.instances[e.Key]
	if !known || !in.GoneAt.IsZero() || in.Doomed || in.Power != latent.Waking {
		w.fail("intent before effect", "start of %s is not stored (known %v, doomed %v, %s)", e.Key, known, in.Doomed, in.Power)
	}
	for _, id := range sortedKeys(w.disk.builds) {
		if b := w.disk.builds[id]; b.Instance == e.Key && b.Phase == model.BuildPreparing {
			return
		}
	}
	w.fail("one instance per waiting build", "no build waits for %s", e.Key)
}

// checkGiven: no build is given to an instance that is being stopped.
func (w *world) checkGiven(b core.Build) {
	if in := w.disk.instances[b.Instance]; b.Phase == model.BuildPreparing && in.Power == latent.Stopping && !in.Doomed {
		w.fail("no build on what is being stopped", "build %d waits for %s", b.ID, in.Key)
	}
}

// checkBegun: a build begins only on an instance that is on.
func (w *world) checkBegun(e core.StartBuild) {
	if in, known := w.disk.instances[e.Build.Instance]; known && in.Power.Off() {
		w.fail("no build on what is being stopped", "build %d on %s, which is %s", e.Build.ID, in.Key, in.Power)
	}
}
