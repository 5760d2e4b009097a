package sim

import (
	"container/heap"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

type (
	key     = model.InstanceKey
	reqID   = model.RequestID
	buildID = model.BuildID
	sesID   = model.SessionID
	opID    = model.OpID
)

// world is everything outside the core.
type world struct {
	seed  uint64
	rng   *rand.Rand
	now   time.Time
	queue events
	seq   int
	hours int
	calm  bool // for the whole run
	quiet bool // no faults from here on

	rates  map[string]float64
	faults map[string]int

	// The master's process. epoch counts its lives: what a dead one had in flight is dropped.
	core       *core.State
	up         bool
	epoch      int
	crashes    int
	steps      int
	second     time.Time // since when stepped counts
	stepped    int
	disk       *disk
	cfg        core.Config // what people want
	running    core.Config // what is applied
	generation model.Generation
	history    []core.Config // what was ever in force
	inForce    int           // 1 + the life of the master in which the last of them was applied
	applies    bool          // see Options.Applies
	runners    map[buildID]*runner
	creating   map[opID]key

	// The outside.
	vms       map[key]*vm
	agents    map[string][]*agent // by worker
	sessions  map[sesID]*session
	admitted  map[string]*session
	nextSes   sesID
	nextAgent int
	nextReq   reqID
	made      int
	pending   map[key]int // creates that are still to take effect

	// What the oracles remember.
	ended     map[reqID]int
	ordered   map[key]bool   // somebody ordered its end
	cancelled map[reqID]bool // somebody asked for that
	queued    map[reqID]model.Generation
	refusable map[reqID]bool        // its builder was not configured when it came
	jumps     []jump                // of the clock
	ran       []time.Time           // when the scheduler's requests were stored
	slept     map[key]time.Duration // how long an instance was off, before the last time
	offSince  map[key]time.Time     // since when it was off, the last time
	wakes     int
	rooms     map[string][]core.Room // of providers that have hosts
	tells     map[string]bool        // providers that tell of changes
	placed    map[key]bool           // by the master
	chose     map[key]string         // hosts that providers have chosen
	knows     map[string]bool        // providers whose hosts this life of the master has heard of
	asked     map[key]bool           // to leave, ever
	leaving   map[key]bool           // the master of now was asked for it
	reaping   key                    // that somebody orders the end of
	hears     map[string]bool        // hosts that the master of now has last heard of as up
	gives     int                    // instances that gave up their room
	cramped   map[reqID]time.Time    // requests that wait for rooms of idle instances, since when
	looked    time.Time              // for those
	jumped    int                    // jumps of the clock until then
	stopping  bool                   // the master has been told to end
	gave      map[string]bool        // workers whose instances did so in the last step
	leaves    int
	reaps     int
	lost      int              // machines of lost states
	assigned  map[buildID]bool // in the step that is being stored
	opened    map[string]bool  // providers that this process can ask: those of its configurations, and those that had instances when it began
	explained map[key]string   // a fault broke the provider's promise for this instance: the sweep may have to act

	out  io.Writer
	hash hash.Hash64
	line *strings.Builder
}

type jump struct {
	at time.Time // after it
	by time.Duration
}

type event struct {
	at    time.Time
	seq   int
	epoch int // of the master that it belongs to; -1 = none
	name  string
	do    func()
}

type events []*event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].seq < h[j].seq
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(*event)) }
func (h *events) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// after schedules something that happens whether the master lives or not.
func (w *world) after(d time.Duration, name string, do func()) {
	w.schedule(w.now.Add(d), -1, name, do)
}

// inMaster schedules something that dies with the master's process.
func (w *world) inMaster(d time.Duration, name string, do func()) {
	w.schedule(w.now.Add(d), w.epoch, name, do)
}

func (w *world) schedule(at time.Time, epoch int, name string, do func()) {
	w.seq++
	heap.Push(&w.queue, &event{at: at, seq: w.seq, epoch: epoch, name: name, do: do})
}

// runUntil lets the world go on until a time.
func (w *world) runUntil(end time.Time) {
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(*event)
		if e.at.After(w.now) {
			w.now = e.at
		}
		if e.epoch >= 0 && e.epoch != w.epoch {
			continue
		}
		w.trace("%s", e.name)
		e.do()
		if w.up && w.fault("clock-jump") {
			w.clockJump()
		}
	}
	if end.After(w.now) {
		w.now = end
	}
}

// clockJump moves the clock forward. Promises in terms of time, like the settle time of a create in flight, cannot be kept then.
func (w *world) clockJump() {
	for k := range w.pending {
		w.explained[k] = "the clock jumped while its create was in flight"
	}
	for _, k := range w.creating {
		w.explained[k] = "the clock jumped while its create was in flight"
	}
	d := w.between(time.Minute, 2*time.Hour)
	w.now = w.now.Add(d)
	w.jumps = append(w.jumps, jump{w.now, d})
	w.trace("CLOCK JUMP")
}

func (w *world) run() {
	w.pending, w.creating, w.runners = map[key]int{}, map[opID]key{}, map[buildID]*runner{}
	w.running, w.generation = w.cfg, 1
	w.start()
	for _, wk := range w.cfg.Workers {
		if !wk.Latent() && !w.applies {
			w.bootStandard(wk.Name)
		}
	}
	if w.applies {
		for i := range standards {
			w.bootStandard(fmt.Sprintf("s%d", i))
		}
	}
	w.people()
	w.operators()
	w.runUntil(epoch.Add(time.Duration(w.hours) * time.Hour))

	// The calm: faults stop, people go home, everything must come to its end by itself.
	w.quiet = true
	w.trace("CALM")
	if w.applies {
		w.apply(w.running)
	} else {
		w.checkSchedules()
		w.cfg.Schedulers = nil
		w.calmRooms()
		w.apply(w.cfg)
	}
	for h := 0; h < 3 || h < 36 && w.waiting(); h++ {
		w.runUntil(w.now.Add(time.Hour))
	}
	if w.applies { // away from the moments when schedulers are due
		w.runUntil(w.now.Truncate(time.Hour).Add(67 * time.Minute))
	}
	w.checkCalm()
	if w.applies {
		w.checkSame()
	}
	w.stopping = true
	w.deliver(core.Stopping{Policy: core.StopDrain})
	w.runUntil(w.now.Add(time.Hour))
	w.checkEnd()
}

func (w *world) start() {
	w.up = true
	w.core = core.Restore(w.disk.saved())
	w.openAgain()
	if w.epoch == 0 {
		w.deliver(core.ConfigApplied{Config: w.withFormer(w.running)})
	} else if w.chance(0.5) { // both orders must do
		w.deliver(core.Restarted{})
		w.deliver(core.ConfigApplied{Config: w.withFormer(w.withRetired(w.running))})
	} else {
		w.deliver(core.ConfigApplied{Config: w.withFormer(w.withRetired(w.running))})
		w.deliver(core.Restarted{})
	}
}

// crash kills the master's process, as kill -9 does: what is on disk stays, everything else is gone.
func (w *world) crash() {
	w.trace("CRASH")
	w.crashes++
	w.up = false
	w.epoch++
	w.runners, w.creating = map[buildID]*runner{}, map[opID]key{}
	clear(w.knows)
	clear(w.hears)
	clear(w.cramped)
	w.admitted = map[string]*session{}
	clear(w.leaving)
	for _, id := range sortedKeys(w.sessions) {
		s := w.sessions[id]
		delete(w.sessions, id)
		if s.agent.session == s {
			s.agent.session = nil
			w.reconnect(s.agent, w.between(100*time.Millisecond, 20*time.Second))
		}
	}
	w.after(w.between(time.Second, 5*time.Minute), "restart", w.start)
}

// deliver gives an event to the master, if it lives, and carries out what it answers. It reports whether the event was taken.
func (w *world) deliver(ev core.Event) bool {
	if !w.up {
		return false
	}
	if c, ok := ev.(core.ConfigApplied); ok {
		w.trace("EVENT ConfigApplied %d", c.Config.Generation)
	} else {
		w.trace("EVENT %T %+v", ev, ev)
	}
	w.steps++
	w.checkRest()
	b := w.core.Step(w.now, ev)
	w.commit(b)
	if c, ok := ev.(core.ConfigApplied); ok {
		if w.inForce == w.epoch+1 {
			w.checkUntouched(w.history[len(w.history)-1], c.Config, b.Effects)
		}
		w.inForce = w.epoch + 1
		c.Config.Retired, c.Config.RetiredLocks, c.Config.Former = nil, nil, nil
		w.history = append(w.history, c.Config)
	}
	if err := w.core.Check(); err != nil {
		w.fail("invariant", "after %T: %v", ev, err)
	}
	w.checkLeft()
	if w.fault("crash-before-effects") {
		w.crash()
		return true
	}
	epoch := w.epoch
	for _, e := range b.Effects {
		if w.effect(e); w.epoch != epoch {
			return true
		}
	}
	if w.fault("crash-after-effects") {
		w.crash()
	}
	return true
}

// effect carries out one effect. Those that go to other goroutines happen a little later, in any order.
func (w *world) effect(e core.Effect) {
	if t, ok := e.(core.SetTimer); ok {
		late := w.between(0, 100*time.Millisecond) // other events come in between
		if w.fault("timer-late") {
			late = w.between(0, time.Minute) // a busy machine, or one that slept
		}
		w.schedule(t.At.Add(late), w.epoch, "timer "+t.Timer.Name, func() { w.deliver(core.TimerFired{Timer: t.Timer}) })
		return
	}
	w.trace("EFFECT %T %+v", e, e)
	soon := w.between(0, 50*time.Millisecond)
	switch e := e.(type) {
	case core.CreateInstance:
		w.checkCreate(e)
		w.checkRoom(e.Key)
		w.creating[e.Op] = e.Key
		w.inMaster(soon, "create "+string(e.Key), func() { w.create(e) })
	case core.DestroyInstance:
		w.checkWhere(e.Key, e.Provider)
		if w.reaping != "" {
			w.checkReap(e)
		} else {
			w.checkDestroy(e)
		}
		w.inMaster(soon, "destroy "+string(e.Key), func() { w.destroy(e) })
	case core.CheckInstance:
		w.checkWhere(e.Key, e.Provider)
		w.inMaster(soon, "check "+string(e.Key), func() { w.check(e) })
	case core.StopInstance:
		w.checkWhere(e.Key, e.Provider)
		w.checkStop(e)
		w.inMaster(soon, "stop "+string(e.Key), func() { w.stop(e) })
	case core.StartInstance:
		w.checkWhere(e.Key, e.Provider)
		w.checkStart(e)
		w.checkRoom(e.Key)
		w.inMaster(soon, "start "+string(e.Key), func() { w.startVM(e) })
	case core.ListInstances:
		w.sayRooms(e.Provider)
		w.inMaster(soon, "list "+e.Provider, func() { w.list(e) })
	case core.Admit:
		w.admit(e)
	case core.Hangup:
		w.hangup(e)
	case core.StartBuild:
		w.checkDefinition(e.Build)
		w.checkBegun(e)
		w.inMaster(soon, fmt.Sprintf("start build %d", e.Build.ID), func() { w.startBuild(e) })
	case core.StopBuild:
		w.inMaster(soon+time.Millisecond*50, fmt.Sprintf("stop build %d", e.Build), func() { w.stopBuild(e) })
	case core.Ended:
		w.checkEnded(e)
	case core.Due:
		w.inMaster(soon, "due "+e.Scheduler, func() { w.due(e) })
	case core.Notify, core.ReadConsole, core.TellInterrupted:
	}
}

func sortedKeys[K ~int64 | ~string, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
