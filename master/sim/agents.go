package sim

import (
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// agent is one process of the worker agent.
type agent struct {
	id        int
	worker    string
	vm        *vm // nil for a standard worker
	thief     bool
	resumable bool
	dead      bool
	session   *session
	procs     map[buildID]*proc
}

func (a *agent) nonce() string { return fmt.Sprintf("agent%d", a.id) }

// proc is a build's command on the agent. It runs on while the connection is away.
type proc struct {
	end  time.Time
	done bool
}

type session struct {
	id    sesID
	agent *agent
	met   bool // it was admitted
	gone  bool // the agent has left, whether the master knows or not
}

// runner is the master's end of a build. It dies with the master's process.
type runner struct {
	build    core.Build
	stopping bool
}

func (w *world) newAgent(worker string, v *vm) *agent {
	w.nextAgent++
	a := &agent{id: w.nextAgent, worker: worker, vm: v, resumable: w.nextAgent%5 != 0, procs: map[buildID]*proc{}}
	w.agents[worker] = append(w.agents[worker], a)
	return a
}

func (w *world) bootAgent(v *vm) {
	if w.fault("agent-never-attaches") {
		return
	}
	a := w.newAgent(v.worker, v)
	w.reconnect(a, w.between(time.Second, 90*time.Second))
	if w.fault("thief-attaches") {
		t := w.newAgent(v.worker, v)
		t.thief = true
		w.reconnect(t, w.between(time.Second, 10*time.Minute))
	}
}

// bootStandard starts an agent that somebody else looks after: when it dies, it is started again.
func (w *world) bootStandard(worker string) {
	w.reconnect(w.newAgent(worker, nil), w.between(0, 5*time.Minute))
}

func (w *world) killAgents(v *vm) {
	for _, a := range w.agents[v.worker] {
		if a.vm == v {
			w.kill(a)
		}
	}
}

func (w *world) kill(a *agent) {
	if a.dead {
		return
	}
	a.dead = true
	if s := a.session; s != nil {
		a.session = nil
		w.leave(s, w.between(0, time.Second))
	}
	if a.vm == nil {
		w.after(w.between(time.Minute, 20*time.Minute), "restart agent of "+a.worker, func() { w.bootStandard(a.worker) })
	}
}

func (w *world) reconnect(a *agent, d time.Duration) {
	w.after(d, fmt.Sprintf("agent %d of %s connects", a.id, a.worker), func() { w.connect(a) })
}

// connect opens a session. An agent that is refused comes back later, for as long as its machine lives.
func (w *world) connect(a *agent) {
	if a.dead || a.session != nil || w.idle(a) {
		return
	}
	if !w.up {
		w.reconnect(a, w.between(time.Second, 20*time.Second))
		return
	}
	if c := workerNamed(&w.running, a.worker); a.vm == nil && c != nil && c.Latent() { // it has a password, and the worker has none now
		w.reconnect(a, w.between(time.Second, 5*time.Minute))
		return
	}
	w.open(a)
}

// idle says whether the agent has given up: its machine is gone.
func (w *world) idle(a *agent) bool {
	return a.vm != nil && (!a.vm.live() || a.vm.stopping || a.vm.off)
}

func (w *world) open(a *agent) {
	w.nextSes++
	s := &session{id: w.nextSes, agent: a}
	w.sessions[s.id] = s
	a.session = s
	ev := core.Attached{Worker: a.worker, Session: s.id, Agent: a.nonce(), Resumable: a.resumable}
	if a.vm != nil {
		ev.Instance = a.vm.key
	}
	w.deliver(ev)
}

// leave ends a session from the agent's side; the master learns of it a little later.
func (w *world) leave(s *session, d time.Duration) {
	s.gone = true
	w.inMaster(d, fmt.Sprintf("detached %d", s.id), func() { w.detach(s) })
}

func (w *world) detach(s *session) {
	if w.sessions[s.id] == nil {
		return
	}
	delete(w.sessions, s.id)
	if w.admitted[s.agent.worker] == s {
		delete(w.admitted, s.agent.worker)
	}
	w.deliver(core.Detached{Worker: s.agent.worker, Session: s.id})
	if !s.agent.resumable && s.met {
		for _, id := range sortedKeys(w.runners) {
			if r := w.runners[id]; r.build.Worker == s.agent.worker {
				w.endRunner(id, w.between(0, time.Second), model.Retry, "connection lost")
			}
		}
		clear(s.agent.procs)
	}
}

func (w *world) admit(e core.Admit) {
	s := w.sessions[e.Session]
	if s == nil {
		return
	}
	w.checkAdmit(s)
	s.met = true
	w.admitted[e.Worker] = s
	a := s.agent
	w.inMaster(0, "resume commands of "+a.worker, func() { w.resumeProcs(a) })
	switch {
	case w.fault("agent-dies"):
		w.after(w.between(time.Second, 30*time.Minute), fmt.Sprintf("agent %d dies", a.id), func() { w.kill(a) })
	case w.fault("agent-drops"):
		w.after(w.between(time.Second, 30*time.Minute), fmt.Sprintf("agent %d drops", a.id), func() { w.drop(a, s, w.between(0, time.Second)) })
	case w.fault("agent-half-open"):
		w.after(w.between(time.Second, 30*time.Minute), fmt.Sprintf("agent %d half-open", a.id), func() { w.drop(a, s, 30*time.Second) })
	case w.fault("agent-attaches-twice"):
		w.after(w.between(time.Second, 10*time.Minute), fmt.Sprintf("agent %d attaches twice", a.id), func() {
			if a.session == s && !a.dead && w.up {
				s.gone = true
				w.open(a)
			}
		})
	}
}

// drop cuts a connection; the agent comes back, mostly in time.
func (w *world) drop(a *agent, s *session, noticed time.Duration) {
	if a.session != s || a.dead {
		return
	}
	a.session = nil
	w.leave(s, noticed)
	back := w.between(100*time.Millisecond, time.Minute)
	if w.chance(0.1) {
		back = w.between(time.Minute, 10*time.Minute)
	}
	w.reconnect(a, back)
}

func (w *world) hangup(e core.Hangup) {
	s := w.sessions[e.Session]
	if s == nil {
		return
	}
	a := s.agent
	if a.session == s {
		a.session = nil
		if e.End && w.chance(0.5) { // the order may get lost with the connection: the machine is destroyed anyway
			a.dead = true
			clear(a.procs)
		} else {
			w.reconnect(a, w.between(time.Second, 30*time.Second))
		}
	}
	w.leave(s, w.between(0, time.Second))
}

func (w *world) startBuild(e core.StartBuild) {
	if w.runners[e.Build.ID] != nil {
		w.fail("one runner", "build %d has two", e.Build.ID)
	}
	w.runners[e.Build.ID] = &runner{build: e.Build}
	a := w.agentOf(e.Build.Worker)
	switch {
	case a == nil: // it has just left: the runner waits for it
	case !e.Resume:
		a.procs[e.Build.ID] = &proc{end: w.now.Add(w.between(time.Second, 4*time.Minute))}
		w.watch(a, e.Build.ID)
	case a.procs[e.Build.ID] == nil: // never started, or another agent process
		w.endRunner(e.Build.ID, w.between(0, time.Second), model.Retry, "the agent does not know the command")
	default:
		w.watch(a, e.Build.ID)
	}
}

func (w *world) agentOf(worker string) *agent {
	if s := w.admitted[worker]; s != nil && !s.gone {
		return s.agent
	}
	return nil
}

// watch ends a proc at its time, and tells the runner if both ends of the link are there.
func (w *world) watch(a *agent, id buildID) {
	p := a.procs[id]
	w.schedule(p.end, -1, fmt.Sprintf("command of build %d ends", id), func() {
		if a.dead || a.procs[id] != p {
			return
		}
		p.done = true
		w.report(a, id)
	})
}

func (w *world) report(a *agent, id buildID) {
	p, r := a.procs[id], w.runners[id]
	if p == nil || !p.done || r == nil || r.stopping || w.agentOf(a.worker) != a {
		return
	}
	delete(a.procs, id)
	results := []model.Result{model.Success, model.Success, model.Success, model.Failure, model.Warnings, model.Exception}
	w.endRunner(id, w.between(0, 100*time.Millisecond), results[w.rng.IntN(len(results))], "ended")
}

// resumeProcs brings runners and commands together after an agent has come back.
func (w *world) resumeProcs(a *agent) {
	if w.agentOf(a.worker) != a {
		return
	}
	for _, id := range sortedKeys(w.runners) {
		r := w.runners[id]
		if r.build.Worker != a.worker || r.stopping {
			continue
		}
		if a.procs[id] == nil {
			w.endRunner(id, w.between(0, time.Second), model.Retry, "the agent does not know the command")
		} else {
			w.report(a, id)
		}
	}
}

func (w *world) endRunner(id buildID, d time.Duration, result model.Result, text string) {
	r := w.runners[id]
	if r == nil || r.stopping {
		return
	}
	r.stopping = true
	w.inMaster(d, fmt.Sprintf("build %d ended", id), func() {
		delete(w.runners, id)
		w.deliver(core.BuildEnded{Build: id, Result: result, Text: text})
	})
}

func (w *world) stopBuild(e core.StopBuild) {
	r := w.runners[e.Build]
	if r == nil {
		return // its BuildEnded is on its way, or was taken
	}
	for _, a := range w.agents[r.build.Worker] {
		delete(a.procs, e.Build)
	}
	w.endRunner(e.Build, w.between(0, 10*time.Second), e.Result, e.Reason)
}
