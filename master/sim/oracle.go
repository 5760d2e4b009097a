package sim

import (
	"reflect"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// restless is more steps than a core takes in one second, whatever happens in it: the most that was seen in two hundred days is 71.
const restless = 1000

// checkRest finds a core that wakes itself again and again.
func (w *world) checkRest() {
	if w.now.Sub(w.second) >= time.Second {
		w.second, w.stepped = w.now, 0
	}
	if w.stepped++; w.stepped > restless {
		w.fail("the core comes to rest", "%d steps since %s", w.stepped, w.second.Sub(epoch))
	}
}

// disk is what the store would hold.
type disk struct {
	next      core.Saved
	requests  map[reqID]core.Request
	builds    map[buildID]core.Build
	workers   map[string]core.WorkerState
	instances map[key]core.Instance
	schedules map[string]time.Time
}

func newDisk() *disk {
	return &disk{next: core.Saved{Owner: "sim"}, requests: map[reqID]core.Request{}, builds: map[buildID]core.Build{},
		workers: map[string]core.WorkerState{}, instances: map[key]core.Instance{}, schedules: map[string]time.Time{}}
}

// commit writes a delta, and holds what it changes against what must never change again.
func (w *world) commit(b core.Batch) {
	d := w.disk
	for _, r := range b.Delta.Requests {
		if old, ok := d.requests[r.ID]; ok && old.State == model.RequestDone {
			w.fail("I8 a request ends once", "request %d was %s and is written again as %s", r.ID, old.Result, r.State)
		}
		d.requests[r.ID] = r
	}
	for _, r := range b.Delta.Builds {
		if old, ok := d.builds[r.ID]; ok && old.Phase == model.BuildDone {
			w.fail("a build ends once", "build %d was %s and is written again", r.ID, old.Result)
		} else if !ok {
			w.checkLeaving(r)
			w.assigned[r.ID] = true
		}
		r.Requests = append([]reqID(nil), r.Requests...)
		d.builds[r.ID] = r
	}
	for _, s := range b.Delta.Workers {
		d.workers[s.Name] = s
	}
	for _, in := range b.Delta.Instances {
		old, known := d.instances[in.Key]
		switch {
		case known && !old.GoneAt.IsZero():
			w.fail("gone is final", "instance %s is written again", in.Key)
		case known && old.Doomed && !in.Doomed:
			w.fail("doom is final", "instance %s", in.Key)
		case !old.Doomed && in.Doomed:
			w.checkDoom(in)
		}
		w.checkPower(old, in)
		if !in.GoneAt.IsZero() {
			w.checkGone(in)
		}
		d.instances[in.Key] = in
	}
	for _, r := range b.Delta.Builds {
		w.checkGiven(r)
		w.checkLocks(r)
	}
	for _, s := range b.Delta.Schedules {
		d.schedules[s.Name] = s.Last
	}
	d.next.NextBuild, d.next.NextOp = b.Delta.NextBuild, b.Delta.NextOp
	gives := w.gives
	w.checkGivenUp(b.Delta.Journal)
	w.checkCramped(w.gives > gives || len(w.assigned) > 0)
	clear(w.assigned)
}

// checkLocks: a build that has just got its worker shares no lock that it or another build holds exclusively, whatever the lock was when the other got it.
func (w *world) checkLocks(b core.Build) {
	if !w.assigned[b.ID] || b.Phase == model.BuildDone {
		return
	}
	for _, a := range b.Locks {
		i := slices.IndexFunc(w.running.Locks, func(l core.Lock) bool { return l.Name == a.Lock })
		if i < 0 {
			continue
		}
		for _, id := range sortedKeys(w.disk.builds) {
			o := w.disk.builds[id]
			if o.Phase == model.BuildDone || id == b.ID || w.running.Locks[i].PerWorker && o.Worker != b.Worker {
				continue
			}
			for _, h := range o.Locks {
				if h.Lock == a.Lock && (h.Exclusive || a.Exclusive) {
					w.fail("an exclusive holder is the only one", "build %d gets lock %s, which build %d holds", b.ID, a.Lock, id)
				}
			}
		}
	}
}

func (d *disk) saved() core.Saved {
	sv := d.next
	for _, k := range sortedKeys(d.requests) {
		if r := d.requests[k]; r.State != model.RequestDone {
			sv.Requests = append(sv.Requests, r)
		}
	}
	for _, k := range sortedKeys(d.builds) {
		if b := d.builds[k]; b.Phase != model.BuildDone {
			b.Requests = append([]reqID(nil), b.Requests...)
			sv.Builds = append(sv.Builds, b)
		}
	}
	for _, k := range sortedKeys(d.workers) {
		sv.Workers = append(sv.Workers, d.workers[k])
	}
	for _, k := range sortedKeys(d.schedules) {
		sv.Schedules = append(sv.Schedules, core.ScheduleState{Name: k, Last: d.schedules[k]})
	}
	for _, k := range sortedKeys(d.instances) {
		if in := d.instances[k]; in.GoneAt.IsZero() {
			sv.Instances = append(sv.Instances, in)
		}
	}
	return sv
}

// The present.

// checkMade: at most one live machine per worker (I2).
func (w *world) checkMade(made *vm) {
	for _, v := range w.sortedVMs() {
		if v != made && v.worker == made.worker && v.live() && !v.stopping && w.explained[v.key] == "" && w.explained[made.key] == "" {
			w.fail("I2 one live instance per worker", "%s and %s", v.key, made.key)
		}
	}
}

// checkAdmit: only the first agent that used the live instance's token attaches, and one at a time (I6).
func (w *world) checkAdmit(s *session) {
	a := s.agent
	if a.vm != nil {
		in, known := w.disk.instances[a.vm.key]
		switch {
		case !known:
			w.fail("I6 no stale agent", "instance %s is in no record", a.vm.key)
		case in.Doomed && in.DoomedAt.Before(w.now) || !in.GoneAt.IsZero(): // an idle one may be doomed as it attaches
			w.fail("I6 no stale agent", "instance %s is doomed or gone", a.vm.key)
		case in.Power.Off() && in.PowerAt.Before(w.now): // or stopped, the same
			w.fail("I6 no agent while it is switched off", "instance %s is %s", a.vm.key, in.Power)
		case in.Agent != a.nonce():
			w.fail("I6 no second agent", "instance %s belongs to %s, not to %s", a.vm.key, in.Agent, a.nonce())
		case a.vm.first == nil:
			a.vm.first = a
		case a.vm.first != a:
			w.fail("I6 no second agent", "instance %s belongs to agent %d, not to %d", a.vm.key, a.vm.first.id, a.id)
		}
	}
	if old := w.admitted[a.worker]; old != nil && old.agent != a && !old.gone {
		w.fail("I6 no second agent", "%s has agent %d, and now %d", a.worker, old.agent.id, a.id)
	}
}

// checkCreate: the intent is stored, the key is new or not resolved, and a build waits for it.
func (w *world) checkCreate(e core.CreateInstance) {
	in, known := w.disk.instances[e.Key]
	if !known {
		w.fail("I1 intent before effect", "create of %s is not stored", e.Key)
	}
	if in.Doomed || !in.GoneAt.IsZero() {
		w.fail("never make what is doomed", "%s", e.Key)
	}
	for _, id := range sortedKeys(w.disk.builds) {
		if b := w.disk.builds[id]; b.Instance == e.Key && b.Phase == model.BuildPreparing {
			return
		}
	}
	w.fail("one instance per waiting build", "no build waits for %s", e.Key)
}

// checkDestroy: a stored intent, no running build (I3), never what is not ours (I7); an orphan only if a fault explains it (the past).
func (w *world) checkDestroy(e core.DestroyInstance) {
	in, known := w.disk.instances[e.Key]
	if !known || !in.GoneAt.IsZero() {
		if w.explained[e.Key] == "" {
			w.fail("the sweep never has to act", "%s was in no record (known %v, gone %s), and no fault explains it", e.Key, known, in.GoneAt)
		}
		return
	}
	if !in.Doomed {
		w.fail("intent before effect", "destroy of %s is not stored", e.Key)
	}
	for id, r := range w.runners {
		if r.build.Instance == e.Key {
			w.fail("I3 a busy instance is not destroyed", "%s under build %d", e.Key, id)
		}
	}
}

// checkDoom: an instance whose agent is there and whose builds run is doomed by order only.
func (w *world) checkDoom(in core.Instance) {
	if in.Reason == leaveReason && !w.asked[in.Key] {
		w.fail("an order ends what it names", "%s leaves, and nobody asked for that", in.Key)
	}
	s := w.admitted[in.Worker]
	if s == nil || s.gone || s.agent.vm == nil || s.agent.vm.key != in.Key || w.ordered[in.Key] {
		return
	}
	for id, r := range w.runners {
		if r.build.Instance == in.Key && !r.stopping {
			w.fail("I3 a busy instance is not doomed", "%s (%s) under build %d", in.Key, in.Reason, id)
		}
	}
}

// checkGone: capacity comes back only on proof of absence.
func (w *world) checkGone(in core.Instance) {
	if v := w.vms[in.Key]; v.live() && w.explained[in.Key] == "" {
		w.fail("gone means gone", "%s still lives (%s)", in.Key, in.Reason)
	}
	if w.pending[in.Key] > 0 && w.vms[in.Key] == nil && w.explained[in.Key] == "" {
		w.fail("gone means gone", "the create of %s is still to take effect (%s)", in.Key, in.Reason)
	}
}

// checkEnded: each request ends exactly once, and durably.
func (w *world) checkEnded(e core.Ended) {
	w.checkCancelled(e)
	w.checkRefused(e)
	w.ended[e.Request]++
	r, ok := w.disk.requests[e.Request]
	if w.ended[e.Request] > 1 || !ok || r.State != model.RequestDone || r.Result != e.Result {
		w.fail("I8 a request ends once", "request %d: told %d times, stored %s %s, told %s", e.Request, w.ended[e.Request], r.State, r.Result, e.Result)
	}
}

// checkCancelled: only what somebody cancelled ends so.
func (w *world) checkCancelled(e core.Ended) {
	if e.Result == model.Cancelled && !w.cancelled[e.Request] {
		w.fail("only an order cancels", "request %d", e.Request)
	}
}

// checkSchedules: never twice in a period, and never much later than due while a master was there.
func (w *world) checkSchedules() {
	if len(w.cfg.Schedulers) == 0 {
		return
	}
	period := w.cfg.Schedulers[0].Calendar.Next(epoch).Sub(epoch)
	last := epoch
	for i, at := range w.ran {
		if i > 0 && at.Sub(last) < period {
			w.fail("once in a period", "at %s and again %s later, with a period of %s", last, at.Sub(last), period)
		}
		last = at
	}
	// Beside what the world may cost: a restart, failures, a late timer; and in a jump of the clock nobody could do anything.
	late := w.now.Sub(last) - period
	for _, j := range w.jumps {
		if j.at.After(last) {
			late -= j.by
		}
	}
	if late > time.Hour {
		w.fail("no period is forgotten", "the last of %d runs was %s ago, with a period of %s", len(w.ran), w.now.Sub(last), period)
	}
}

// The end.

func (w *world) waiting() bool {
	for _, r := range w.disk.requests {
		if r.State != model.RequestDone && !w.forlorn(r) {
			return true
		}
	}
	return false
}

func (w *world) checkCalm() {
	if !w.up {
		w.fail("the end", "the master is down")
	}
	for _, id := range sortedKeys(w.disk.requests) {
		if r := w.disk.requests[id]; r.State != model.RequestDone && !w.forlorn(r) {
			ex, _ := w.core.Explain(w.now, id)
			w.fail("nothing waits after the calm", "request %d of %s is %s: %s %+v", id, r.Builder, r.State, ex.Text, ex.Candidates)
		}
	}
	for _, id := range sortedKeys(w.disk.builds) {
		if b := w.disk.builds[id]; b.Phase != model.BuildDone {
			w.fail("nothing waits after the calm", "build %d of %s on %s is %s since %s", id, b.Builder, b.Worker, b.Phase, b.AssignedAt.Sub(epoch))
		}
	}
	for _, v := range w.sortedVMs() {
		if w.explained[v.key] != "" && !w.sweeps(v.provider) {
			continue
		}
		if in, known := w.disk.instances[v.key]; v.goneAt.IsZero() && (!known || !in.GoneAt.IsZero()) {
			w.fail("I1 no instance outlives its record", "%s (%s)", v.key, w.explained[v.key])
		}
	}
	if len(w.runners) > 0 {
		w.fail("the end", "%d runners are left", len(w.runners))
	}
}

func (w *world) checkEnd() {
	for _, v := range w.sortedVMs() {
		if v.goneAt.IsZero() && (w.explained[v.key] == "" || w.sweeps(v.provider)) {
			w.fail("nothing lives after a drain", "%s", v.key)
		}
	}
	sv := w.disk.saved()
	if len(sv.Instances) > 0 {
		w.fail("nothing lives after a drain", "instance %s is not gone", sv.Instances[0].Key)
	}
	// What is stored is all that matters: a state made from it looks like the one that has lived through everything.
	if a, b := w.core.Snapshot(w.now), core.Restore(sv).Snapshot(w.now); len(a.Requests) != len(b.Requests) || !reflect.DeepEqual(a.Builds, b.Builds) {
		w.fail("stored = lived", "%d and %d requests, %d and %d builds", len(a.Requests), len(b.Requests), len(a.Builds), len(b.Builds))
	}
}
