package sim

import (
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

const (
	createDeadline = 2 * time.Minute
	callDeadline   = 30 * time.Second
)

// vm is a machine at a provider.
type vm struct {
	key       key
	worker    string
	provider  string
	createdAt time.Time
	bootedAt  time.Time
	room      string
	meddled   bool // somebody has switched it on or off, so that it may take room that nobody knows of
	stopping  bool
	stubborn  time.Time // until then nobody is allowed to end it
	dead      bool      // ended by itself; the provider still shows it as failed
	goneAt    time.Time
	first     *agent // the first one that was admitted since it was made or woken

	off       bool      // switched off, or on its way there
	offAt     time.Time // when it is shown as stopped
	changedAt time.Time // when it was switched off or on
}

func (v *vm) live() bool { return v != nil && v.goneAt.IsZero() && !v.dead }

func (w *world) sortedVMs() []*vm {
	out := make([]*vm, 0, len(w.vms))
	for _, k := range sortedKeys(w.vms) {
		out = append(out, w.vms[k])
	}
	return out
}

// workerOf reads the worker's name from a key of the form owner-worker-n.
func workerOf(k key) string {
	p := strings.Split(string(k), "-")
	return p[len(p)-2]
}

// make takes effect at the provider, whoever still waits for the answer. It is idempotent under the key.
func (w *world) make(k key, provider string) {
	if w.vms[k] != nil {
		return // there, or used up: a key is never used again
	}
	v := &vm{key: k, worker: workerOf(k), provider: provider, createdAt: w.now}
	v.room = w.disk.instances[k].Place
	if v.room == "" {
		v.room = w.chose[k]
	}
	w.vms[k] = v
	w.made++
	w.trace("MADE %s", k)
	w.checkMade(v)
	w.after(w.between(time.Second, 30*time.Second), "booted "+string(k), func() {
		if !v.live() || v.stopping {
			return
		}
		v.bootedAt = w.now
		w.tell(v)
		w.bootAgent(v)
	})
}

func (w *world) makeLater(d time.Duration, k key, provider string) {
	w.pending[k]++
	w.after(d, "takes effect: "+string(k), func() {
		if w.pending[k]--; w.pending[k] == 0 {
			delete(w.pending, k)
		}
		w.make(k, provider)
	})
}

// answer delivers the one result of an op, unless the master has died meanwhile.
func (w *world) answer(d time.Duration, op opID, r core.OpResult) {
	w.inMaster(d, "answer", func() {
		delete(w.creating, op)
		w.deliver(core.OpDone{Op: op, Result: r})
	})
}

func (w *world) create(e core.CreateInstance) {
	unknown := core.OpResult{Class: core.OpUnknown, Detail: "reply lost"}
	ok := core.OpResult{Class: core.OpOK, ProviderID: "id-" + string(e.Key)}
	took := w.between(0, 3*time.Second)
	room, fit := w.settleIn(e)
	if !fit {
		w.answer(took, e.Op, core.OpResult{Class: core.OpNoCapacity, Detail: "no host has room"})
		return
	}
	if room != "" {
		w.chose[e.Key], ok.Place = room, room
	}
	switch {
	case w.fault("create-fails-before"):
		classes := []core.OpClass{core.OpUnknown, core.OpTransient, core.OpThrottled, core.OpNoCapacity, core.OpOverQuota, core.OpBadConfig, core.OpUnauthorized}
		w.answer(took, e.Op, core.OpResult{Class: classes[w.rng.IntN(len(classes))], Detail: "no"})
	case w.fault("create-fails-after"):
		w.make(e.Key, e.Provider)
		w.answer(took, e.Op, unknown)
	case w.fault("create-late"):
		w.makeLater(w.between(time.Second, settle-5*time.Second), e.Key, e.Provider)
		w.answer(0, e.Op, unknown)
	case w.fault("create-very-late"):
		w.explained[e.Key] = "its create took effect after the settle time"
		w.makeLater(settle+w.between(time.Second, 5*time.Minute), e.Key, e.Provider)
		w.answer(0, e.Op, unknown)
	case w.fault("create-hangs"):
		if w.chance(0.5) {
			w.make(e.Key, e.Provider)
		}
		w.answer(createDeadline, e.Op, unknown)
	case w.fault("create-duplicated"):
		w.make(e.Key, e.Provider)
		w.makeLater(w.between(0, 3*time.Second), e.Key, e.Provider)
		w.answer(took, e.Op, ok)
	default:
		w.makeLater(w.between(0, took), e.Key, e.Provider)
		w.answer(took, e.Op, ok)
	}
}

func (w *world) destroy(e core.DestroyInstance) {
	v := w.vms[e.Key]
	took := w.between(0, 2*time.Second)
	unknown := core.OpResult{Class: core.OpUnknown, Detail: "reply lost"}
	switch {
	case v == nil || !v.goneAt.IsZero():
		w.answer(took, e.Op, core.OpResult{Class: core.OpNotFound})
	case w.now.Before(v.stubborn):
		w.answer(took, e.Op, core.OpResult{Class: core.OpUnauthorized, Detail: "not now"})
	case w.fault("destroy-refused"):
		v.stubborn = w.now.Add(w.between(time.Minute, time.Hour))
		w.answer(took, e.Op, core.OpResult{Class: core.OpUnauthorized, Detail: "not now"})
	case w.fault("destroy-fails-before"):
		w.answer(took, e.Op, core.OpResult{Class: core.OpTransient, Detail: "try again"})
	case w.fault("destroy-fails-after"):
		w.end(v)
		w.answer(took, e.Op, unknown)
	case w.fault("destroy-forgotten"):
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK})
	case w.fault("destroy-hangs"):
		if w.chance(0.5) {
			w.end(v)
		}
		w.answer(callDeadline, e.Op, unknown)
	default:
		w.end(v)
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK})
	}
}

// end lets an accepted destroy take effect: the agent dies at once, the record a little later.
func (w *world) end(v *vm) {
	v.stopping = true
	w.killAgents(v)
	w.after(w.between(0, 20*time.Second), "gone "+string(v.key), func() {
		if v.goneAt.IsZero() {
			v.goneAt = w.now
			w.trace("GONE %s", v.key)
			w.tell(v)
		}
	})
}

func (w *world) vmDies() {
	var live []*vm
	for _, v := range w.sortedVMs() {
		if v.live() {
			live = append(live, v)
		}
	}
	if len(live) == 0 || !w.fault("vm-dies") {
		return
	}
	v := live[w.rng.IntN(len(live))]
	v.dead = true
	w.trace("DIES %s", v.key)
	w.killAgents(v)
	w.tell(v)
}

// spotNotice takes a machine back: its agent hears of it two minutes before.
func (w *world) spotNotice() {
	for _, name := range sortedKeys(w.admitted) {
		s := w.admitted[name]
		v := s.agent.vm
		if v == nil || s.gone || !v.live() || !w.fault("spot-notice") {
			continue
		}
		w.ordered[v.key] = true
		w.after(2*time.Minute, "taken back: "+string(v.key), func() {
			if v.live() && !v.stopping {
				v.dead = true
				w.killAgents(v)
			}
		})
		w.deliver(core.EndAsked{Worker: v.worker, Reason: "the provider takes the instance back", Interrupted: core.InterruptedSpot})
		return
	}
}

func (v *vm) sight(now time.Time) core.SightState {
	switch {
	case v.dead:
		return core.SightFailed
	case v.stopping:
		return core.SightStopping
	case v.off && now.Before(v.offAt):
		return core.SightStopping
	case v.off:
		return core.SightStopped
	case v.bootedAt.IsZero():
		return core.SightPending
	}
	return core.SightRunning
}

func (w *world) check(e core.CheckInstance) {
	v := w.vms[e.Key]
	took := w.between(0, time.Second)
	if w.fault("check-slow") { // what it says was so when it was asked, and much may have happened since
		took = w.between(time.Second, callDeadline)
	}
	switch {
	case w.fault("check-fails"):
		w.answer(took, e.Op, core.OpResult{Class: core.OpTransient, Detail: "try again"})
	case v == nil || !v.goneAt.IsZero(), w.now.Sub(v.createdAt) < settle/3 && v.bootedAt.IsZero() && w.fault("check-stale"):
		w.answer(took, e.Op, core.OpResult{Class: core.OpNotFound})
	default:
		w.answer(took, e.Op, core.OpResult{Class: core.OpOK, ProviderID: "id-" + string(e.Key), State: v.sight(w.now), Detail: "seen", Place: v.room})
	}
}

func (w *world) list(e core.ListInstances) {
	ev := core.Listed{Op: e.Op, AskedAt: w.now}
	took := w.between(0, 2*time.Second)
	if w.fault("list-fails") {
		ev.Error = "a page is missing"
	} else {
		stale := w.fault("list-stale")
		for _, v := range w.sortedVMs() {
			if v.provider != e.Provider {
				continue
			}
			state := v.sight(w.now)
			switch {
			case !v.goneAt.IsZero() && (!stale || w.now.Sub(v.goneAt) > time.Minute):
				continue
			case !v.goneAt.IsZero():
				state = core.SightRunning // an old answer
			case stale && w.now.Sub(v.createdAt) < settle/3:
				continue
			case stale && !v.stopping && !v.dead && !v.changedAt.IsZero() && w.now.Sub(v.changedAt) < time.Minute:
				state = core.SightRunning // as it was before
				if !v.off {
					state = core.SightStopped
				}
			}
			ev.Instances = append(ev.Instances, core.Sighting{Key: v.key, State: state, CreatedAt: v.createdAt, Detail: "listed"})
		}
	}
	w.inMaster(took, "listed", func() { w.deliver(ev) })
}
