package sim

import (
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/schedule"
)

// settle is how late a create may take effect. The world keeps this promise: a provider that breaks it is a fault that needs the orphan sweep.
const settle = 30 * time.Second

// sweepGrace is how old an instance must be that no record knows, before anything is done about it.
const sweepGrace = 3 * time.Minute

// The kinds of fault, and how often each may happen at most.
var faultKinds = []struct {
	name string
	most float64
}{
	{"create-fails-before", 0.3}, {"create-fails-after", 0.3}, {"create-late", 0.2}, {"create-duplicated", 0.2}, {"create-hangs", 0.2}, {"create-very-late", 0.02},
	{"destroy-fails-before", 0.3}, {"destroy-fails-after", 0.3}, {"destroy-forgotten", 0.3}, {"destroy-hangs", 0.2}, {"destroy-refused", 0.1},
	{"stop-fails-before", 0.3}, {"stop-fails-after", 0.3}, {"stop-forgotten", 0.3}, {"stop-hangs", 0.2}, {"stop-slow", 0.1},
	{"start-fails-before", 0.3}, {"start-fails-after", 0.3}, {"start-forgotten", 0.3}, {"start-hangs", 0.2},
	{"sleeper-vanishes", 0.5}, {"somebody-starts", 0.5}, {"somebody-stops", 0.3},
	{"check-fails", 0.3}, {"check-stale", 0.2}, {"check-slow", 0.2}, {"list-fails", 0.3}, {"list-stale", 0.3},
	{"agent-never-attaches", 0.15}, {"agent-attaches-twice", 0.2}, {"agent-drops", 0.3}, {"agent-half-open", 0.2}, {"agent-dies", 0.1}, {"thief-attaches", 0.2},
	{"vm-dies", 0.15}, {"crash-before-effects", 0.01}, {"crash-after-effects", 0.01}, {"spot-notice", 0.1}, {"schedule-fails", 0.3}, {"clock-jump", 0.002}, {"timer-late", 0.3},
	{"host-down", 0.7}, {"rooms-fail", 0.5}, {"told-never", 0.5}, {"told-late", 0.5}, {"told-twice", 0.5},
}

// plan draws the fleet, the work and which faults this day has.
func (w *world) plan() {
	for _, k := range faultKinds {
		if w.chance(0.4) {
			w.rates[k.name] = w.rng.Float64() * k.most
		}
	}
	if w.applies {
		w.cfg = w.firstConfig()
		return
	}
	w.cfg = core.Config{Generation: 1}
	for i := range 1 + w.rng.IntN(2) {
		w.cfg.Providers = append(w.cfg.Providers, core.Provider{Name: fmt.Sprintf("p%d", i), Interruptible: i == 0, Settle: settle, CheckInterval: 20 * time.Second,
			DestroyBackoff: time.Second, SweepInterval: time.Minute, SweepGrace: sweepGrace})
	}
	if w.chance(0.5) {
		w.cfg.Schedulers = []core.Scheduler{{Name: "clock", Calendar: schedule.Every(w.between(10*time.Minute, 2*time.Hour))}}
	}
	nlocks := w.rng.IntN(3)
	for i := range nlocks {
		w.cfg.Locks = append(w.cfg.Locks, core.Lock{Name: fmt.Sprintf("l%d", i), Max: 1 + w.rng.IntN(3), PerWorker: w.chance(0.3)})
	}
	access := func() (out []core.Access) {
		if nlocks > 0 && w.chance(0.3) {
			out = append(out, core.Access{Lock: fmt.Sprintf("l%d", w.rng.IntN(nlocks)), Exclusive: w.chance(0.3)})
		}
		return out
	}
	waits := []time.Duration{0, 0, time.Minute, 10 * time.Minute, -1}
	idles := []string{"", core.IdleTerminate, core.IdleStop, core.IdleHibernate}
	var names []string
	for i := range 1 + w.rng.IntN(6) {
		wk := core.Worker{Name: fmt.Sprintf("w%d", i), MaxBuilds: w.rng.IntN(3), MissingTimeout: w.between(2*time.Minute, 20*time.Minute),
			BuildWaitTimeout: waits[w.rng.IntN(len(waits))], Locks: access(), Spec: "1", Idle: idles[w.rng.IntN(len(idles))], Price: 1, StoppedPrice: 0.1}
		if w.chance(0.85) {
			wk.Provider = w.cfg.Providers[w.rng.IntN(len(w.cfg.Providers))].Name
		}
		names = append(names, wk.Name)
		w.cfg.Workers = append(w.cfg.Workers, wk)
	}
	for i := range 1 + w.rng.IntN(5) {
		b := core.Builder{Name: fmt.Sprintf("b%d", i), Locks: access(), Collapse: w.chance(0.3), MaxAttempts: 3 + w.rng.IntN(4)}
		for _, n := range names {
			if w.chance(0.7) {
				b.Workers = append(b.Workers, n)
			}
		}
		if len(b.Workers) == 0 {
			b.Workers = append(b.Workers, names[w.rng.IntN(len(names))])
		}
		w.cfg.Builders = append(w.cfg.Builders, b)
	}
}

// people submit, cancel, pause, end instances and change the configuration, at random moments.
func (w *world) people() {
	horizon := time.Duration(w.hours) * time.Hour
	for t := time.Duration(0); t < horizon; t += w.between(0, 10*time.Minute) {
		if w.applies && w.chance(0.3) {
			w.after(t, "reshape", w.reshape)
			continue
		}
		switch x := w.rng.Float64(); {
		case x < 0.73:
			w.after(t, "submit", w.submit)
		case x < 0.83:
			w.after(t, "cancel", w.cancel)
		case x < 0.87:
			w.after(t, "pause", w.pause)
		case x < 0.90:
			w.after(t, "end instance", w.endInstance)
		case x < 0.94:
			w.after(t, "reconfigure", w.reconfigure)
		case x < 0.955:
			w.after(t, "vm dies", w.vmDies)
		case x < 0.985:
			w.after(t, "somebody", w.somebody)
		default:
			w.after(t, "spot notice", w.spotNotice)
		}
	}
}

func (w *world) submit() {
	var reqs []core.Request
	list := w.cfg.Builders
	if w.applies {
		list = w.running.Builders
		if old := w.history[w.rng.IntN(len(w.history))].Builders; w.chance(0.05) {
			list = old // somebody who has not heard of the change
		}
	}
	for range 1 + w.rng.IntN(4) {
		w.nextReq++
		b := list[w.rng.IntN(len(list))]
		r := core.Request{ID: w.nextReq, Builder: b.Name, Priority: w.rng.IntN(3), SubmittedAt: w.now, SourceKey: fmt.Sprintf("rev%d", w.rng.IntN(3))}
		if w.chance(0.1) {
			r.Worker = b.Workers[w.rng.IntN(len(b.Workers))]
		}
		reqs = append(reqs, r)
	}
	w.submittedUnder(reqs)
	w.deliver(core.Submitted{Requests: reqs})
}

// due submits what a scheduler asks for. The requests and the time are stored together, whatever happens next.
func (w *world) due(e core.Due) {
	if w.fault("schedule-fails") {
		w.deliver(core.Scheduled{Scheduler: e.Scheduler, At: e.At, Error: "no"})
		return
	}
	w.ran = append(w.ran, e.At)
	w.disk.schedules[e.Scheduler] = e.At
	epoch := w.epoch
	if !w.quiet || !w.applies { // in the calm, schedulers go on and people do not
		w.submit()
	}
	if w.epoch == epoch {
		w.deliver(core.Scheduled{Scheduler: e.Scheduler, At: e.At})
	}
}

func (w *world) cancel() {
	if w.nextReq == 0 {
		return
	}
	id := 1 + reqID(w.rng.Int64N(int64(w.nextReq)))
	w.cancelled[id] = true
	w.deliver(core.CancelAsked{Request: id, Reason: "not wanted"})
}

// anyWorker is the name of one that is configured.
func (w *world) anyWorker() string {
	list := w.cfg.Workers
	if w.applies {
		list = w.running.Workers
	}
	return list[w.rng.IntN(len(list))].Name
}

func (w *world) pause() {
	name := w.anyWorker()
	w.deliver(core.PauseAsked{Worker: name, Reason: "maintenance"})
	w.after(w.between(time.Minute, time.Hour), "unpause", func() { w.insist(core.PauseAsked{Worker: name}) })
}

// insist repeats an order until the master is there to take it.
func (w *world) insist(ev core.Event) {
	if !w.deliver(ev) {
		w.after(time.Minute, "again", func() { w.insist(ev) })
	}
}

func (w *world) endInstance() {
	name := w.anyWorker()
	for _, v := range w.sortedVMs() {
		if v.worker == name {
			w.ordered[v.key] = true
		}
	}
	w.deliver(core.EndAsked{Worker: name, Reason: "ordered"})
}

// reconfigure changes a worker's machine, takes a worker away for a while, or changes a timeout.
func (w *world) reconfigure() {
	if w.applies {
		w.reshape()
		return
	}
	c := w.cfg
	c.Workers = append([]core.Worker(nil), c.Workers...)
	i := w.rng.IntN(len(c.Workers))
	switch w.rng.IntN(4) {
	case 0:
		c.Workers[i].Spec += "x"
	case 1:
		c.Workers[i].BuildWaitTimeout = time.Duration(w.rng.IntN(3)-1) * time.Minute
	case 2:
		c.Workers[i].Idle = []string{core.IdleTerminate, core.IdleStop}[w.rng.IntN(2)]
	case 3:
		all := w.cfg
		c.Workers = append(c.Workers[:i], c.Workers[i+1:]...)
		w.apply(c)
		w.after(w.between(time.Minute, 30*time.Minute), "restore worker", func() { w.apply(all) })
		return
	}
	w.cfg = c
	w.apply(c)
}

func (w *world) apply(c core.Config) {
	w.generation++
	c.Generation = w.generation
	w.running = c
	w.deliver(core.ConfigApplied{Config: w.withFormer(c)})
}
