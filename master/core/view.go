package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/queue"
	"github.com/rouse-ci/rouse/master/model"
)

// Snapshot copies what is live. It shares nothing with the state.
func (s *State) Snapshot(now time.Time) *Snapshot {
	sn := &Snapshot{Time: now, Generation: s.generation, Stopping: s.stopping}
	oldest := map[string]time.Time{}
	waiting := map[string]int{}
	for _, r := range s.requests {
		sn.Requests = append(sn.Requests, r.Request)
		if r.State == model.RequestWaiting {
			waiting[r.Builder]++
			if o := oldest[r.Builder]; o.IsZero() || r.SubmittedAt.Before(o) {
				oldest[r.Builder] = r.SubmittedAt
			}
		}
	}
	slices.SortFunc(sn.Requests, func(a, b Request) int {
		return queue.Compare(&queue.Item{ID: a.ID, Priority: a.Priority, At: a.SubmittedAt}, &queue.Item{ID: b.ID, Priority: b.Priority, At: b.SubmittedAt})
	})
	for _, id := range sortedKeys(s.builds) {
		sn.Builds = append(sn.Builds, s.builds[id].copy())
	}
	for _, w := range s.order {
		sn.Workers = append(sn.Workers, w.view())
		if in := w.facts.Instance; in != nil {
			sn.Instances = append(sn.Instances, InstanceView{Instance: *in, State: w.instanceState(), Builds: len(w.builds), Op: w.facts.OpKind.String()})
		}
	}
	for _, list := range [2][]*builder{s.bOrder, s.retired} {
		for _, b := range list {
			n := b.cfg.Name
			sn.Builders = append(sn.Builders, BuilderView{Name: n, Waiting: waiting[n], Running: b.running, Oldest: oldest[n], Retired: b.retired})
		}
	}
	for _, p := range s.pOrder {
		sn.Providers = append(sn.Providers, ProviderView{Name: p.cfg.Name, LastListAt: p.listedAt, LastListErr: p.listErr, Lists: p.lists, Orphans: len(p.orphans), Rooms: s.roomViews(p)})
		sn.Strays = append(sn.Strays, p.strays(now)...)
	}
	for _, name := range sortedKeys(s.locks) {
		l := s.locks[name]
		for _, scope := range sortedKeys(l.holders) {
			v := LockView{Name: name, Worker: scope, Max: l.cfg.Max}
			for _, h := range l.holders[scope] {
				v.Holders = append(v.Holders, h.build.ID)
			}
			sn.Locks = append(sn.Locks, v)
		}
	}
	for _, name := range sortedKeys(s.timers) {
		sn.Timers = append(sn.Timers, TimerView{Name: name, At: s.timers[name].At})
	}
	return sn
}

func (w *worker) view() WorkerView {
	v := WorkerView{Worker: w.cfg, State: w.state(), Attached: w.facts.Session != 0, Session: w.facts.Session, Tries: w.facts.Tries,
		BackoffUntil: w.facts.BackoffUntil, LastError: w.st.LastError, FailClass: w.st.FailClass, ClassTries: w.st.ClassTries, Paused: w.st.Paused, Leaving: w.facts.Leaving, Retired: w.facts.Retired}
	if in := w.facts.Instance; in != nil {
		v.Instance = in.Key
	}
	for _, b := range w.builds {
		v.Builds = append(v.Builds, b.ID)
	}
	if since := w.awaySince(); !since.IsZero() {
		v.AwaySince, v.AwayUntil = since, since.Add(ResumeGrace)
	}
	return v
}

// awaySince is when the agent was lost that running builds wait for; zero if none does.
func (w *worker) awaySince() time.Time {
	if w.facts.Session != 0 || w.facts.Running == 0 {
		return time.Time{}
	}
	switch in := w.facts.Instance; {
	case in == nil:
		return w.lostAt
	case in.Doomed: // its builds are being stopped
		return time.Time{}
	default:
		return in.LostAt
	}
}

func (w *worker) state() string {
	switch {
	case w.guest():
		return "attached"
	case w.cfg.Latent() || w.facts.Instance != nil:
		return w.facts.State().String()
	case w.facts.Session != 0:
		return "attached"
	}
	return "detached"
}

func (w *worker) instanceState() model.InstanceState {
	switch in := w.facts.Instance; {
	case in.Doomed:
		return model.InstanceDoomed
	case in.Power == latent.Stopping:
		return model.InstanceStopping
	case in.Power == latent.Stopped:
		return model.InstanceStopped
	case w.facts.Session != 0:
		return model.InstanceAttached
	case !in.AttachedAt.IsZero():
		return model.InstanceLost
	case !in.BootedAt.IsZero():
		return model.InstanceBooting
	}
	return model.InstanceRequested
}

// Explain says why a request waits: each candidate, and what stands in its way. false: no such request is live.
func (s *State) Explain(now time.Time, id model.RequestID) (Explanation, bool) {
	r := s.requests[id]
	if r == nil {
		return Explanation{}, false
	}
	s.now = now
	ex := Explanation{Request: r.Request}
	if r.State != model.RequestWaiting {
		ex.Text = fmt.Sprintf("build %d works on it", r.Build)
		b := s.builds[r.Build]
		if b == nil {
			return ex, true
		}
		w := s.workers[b.Worker]
		since := w.awaySince()
		switch {
		case b.Phase == model.BuildPreparing:
			ex.Text = fmt.Sprintf("build %d has worker %s, which is being substantiated", r.Build, b.Worker)
		case !since.IsZero():
			ex.Text += fmt.Sprintf("; the agent of worker %s has been away for %s: the build waits for it another %s, and is then tried again", w.cfg.Name,
				now.Sub(since).Round(time.Second), since.Add(ResumeGrace).Sub(now).Round(time.Second))
		}
		ex.Text += r.interruptions()
		return ex, true
	}
	b := s.builders[r.Builder]
	if b == nil {
		ex.Text = fmt.Sprintf("builder %s is not in the configuration; the request waits until it is", r.Builder)
		return ex, true
	}
	b.pool.Each(func(it *queue.Item) bool {
		if queue.Compare(it, &r.item) < 0 {
			ex.Ahead++
		}
		return true
	})
	tenants := s.tenants()
	for _, w := range b.pool.workers {
		ex.Candidates = append(ex.Candidates, Candidate{Worker: w.cfg.Name, State: w.state(), Blocks: s.blocks(r, b, w, tenants)})
	}
	switch {
	case s.stopping:
		ex.Text = "the master is stopping; the next one will serve it"
	case len(ex.Candidates) == 0 && b.retired:
		ex.Text = fmt.Sprintf("builder %s and its workers (%s) are no longer configured; the request waits until one of them is again, or until it is cancelled",
			r.Builder, strings.Join(b.cfg.Workers, ", "))
	case len(ex.Candidates) == 0:
		ex.Text = fmt.Sprintf("builder %s has no worker", r.Builder)
	case r.Worker != "" && !slices.ContainsFunc(b.pool.workers, func(w *worker) bool { return w.cfg.Name == r.Worker }):
		ex.Text = fmt.Sprintf("it is for worker %s, which is no longer configured for builder %s", r.Worker, r.Builder)
	case ex.Ahead > 0:
		ex.Text = "others for the same workers come first (higher priority, or older)"
	default:
		ex.Text = "it is next; no worker can take it now"
	}
	ex.Text += r.interruptions()
	if b.retired && len(ex.Candidates) > 0 {
		ex.Text += fmt.Sprintf("; builder %s is no longer configured, its last requests are served as they were queued", r.Builder)
	}
	return ex, true
}

func (s *State) blocks(r *request, b *builder, w *worker, tenants map[site]*tenancy) []string {
	var out []string
	if rank, why := s.room(w); rank == noRoom {
		switch {
		case why == "busy":
			why = fmt.Sprintf("busy with %d of %d builds", len(w.builds), max(w.cfg.MaxBuilds, 1))
		case w.st.Paused != "":
			why = "paused: " + w.st.Paused
		case why == lacking:
			texts := s.noRoomTexts(w, tenants)
			out, why = texts[:len(texts)-1], texts[len(texts)-1]
		case why == backingOff:
			// For how long, not until when: who reads it may be in another time zone than the master.
			left := (w.facts.BackoffUntil.Sub(s.now) + time.Second - 1).Truncate(time.Second)
			why = fmt.Sprintf("backing off for another %s after %s; the last (%s): %s", left, of(w.facts.Tries, w.facts.Tries, "failure"),
				w.st.FailClass, w.st.LastError)
		}
		out = append(out, why)
	}
	if r.Worker != "" && r.Worker != w.cfg.Name {
		out = append(out, "the request is for worker "+r.Worker)
	}
	if w.runs(r.Builder) {
		out = append(out, "it already runs a build of this builder")
	}
	if l := s.blockedBy(b, w); l != "" {
		out = append(out, "lock "+l+" is held by "+s.holding(l, w))
	}
	return out
}

func (s *State) holding(name string, w *worker) string {
	l := s.locks[name]
	text := ""
	for i, h := range l.holders[l.scope(w.cfg.Name)] {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("build %d", h.build.ID)
	}
	return text
}

// Check verifies the invariants that can be seen in the state alone. It is for tests and the simulator.
func (s *State) Check() error {
	for _, w := range s.order {
		if err := s.checkWorker(w); err != nil {
			return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
		}
	}
	for _, id := range sortedKeys(s.builds) {
		b := s.builds[id]
		if w := s.workers[b.Worker]; w == nil || !slices.Contains(w.builds, b) {
			return fmt.Errorf("build %d: its worker %s does not know it", id, b.Worker)
		}
		for _, rid := range b.Requests {
			if r := s.requests[rid]; r == nil || r.Build != id || r.State != model.RequestClaimed {
				return fmt.Errorf("build %d: request %d is not claimed by it", id, rid)
			}
		}
	}
	for _, id := range sortedKeys(s.requests) {
		r := s.requests[id]
		if r.State == model.RequestClaimed && s.builds[r.Build] == nil {
			return fmt.Errorf("request %d: claimed by build %d, which is not live", id, r.Build)
		}
		if s.configured && r.State == model.RequestWaiting && s.builders[r.Builder] != nil && (r.pool == nil || r.pool != s.builders[r.Builder].pool) {
			return fmt.Errorf("request %d: waits in no queue, or in another's", id)
		}
		if r.State == model.RequestWaiting && r.pool == nil && s.homeless[id] == nil {
			return fmt.Errorf("request %d: is in nobody's keeping", id)
		}
	}
	waiting, running := map[string]int{}, map[string]int{}
	for _, r := range s.requests {
		waiting[r.Builder] += btoi(r.State == model.RequestWaiting)
	}
	for _, b := range s.builds {
		running[b.Builder]++
	}
	for _, name := range sortedKeys(s.builders) {
		if b := s.builders[name]; b.waiting != waiting[name] || b.running != running[name] {
			return fmt.Errorf("builder %s: counts %d waiting, %d running; has %d, %d", name, b.waiting, b.running, waiting[name], running[name])
		}
	}
	for _, name := range sortedKeys(s.locks) {
		l := s.locks[name]
		for scope, hs := range l.holders {
			for _, h := range hs {
				if s.builds[h.build.ID] != h.build {
					return fmt.Errorf("lock %s: held by build %d, which is not live", name, h.build.ID)
				}
				if h.exclusive && len(hs) > 1 && !l.rekeyed {
					return fmt.Errorf("lock %s (%s): exclusive and shared by %d", name, scope, len(hs))
				}
			}
		}
	}
	if err := s.checkRooms(); err != nil {
		return err
	}
	return s.checkIdle()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *State) checkWorker(w *worker) error {
	running := 0
	for i, b := range w.builds {
		if b.Phase == model.BuildRunning {
			running++
		}
		for _, other := range w.builds[:i] {
			if other.Builder == b.Builder {
				return fmt.Errorf("two builds of builder %s", b.Builder)
			}
		}
	}
	f := &w.facts
	in := f.Instance
	switch {
	case f.Builds != len(w.builds) || f.Running != running:
		return fmt.Errorf("counts %d builds, %d running; has %d, %d", f.Builds, f.Running, len(w.builds), running)
	case f.Op != 0 && s.ops[f.Op].worker != w:
		return fmt.Errorf("op %d is not in flight", f.Op)
	case in != nil && in.Doomed && f.Session != 0:
		return fmt.Errorf("an agent is attached to doomed instance %s", in.Key)
	case in != nil && f.OpKind == latent.Destroy && running > 0:
		return fmt.Errorf("instance %s is being destroyed under %d running builds", in.Key, running)
	case in != nil && in.Power.Off() && f.Session != 0:
		return fmt.Errorf("an agent is attached to instance %s, which is %s", in.Key, in.Power)
	case s.configured && in == nil && f.Session == 0 && f.Builds > running && (f.Retired || !w.cfg.Latent()):
		return fmt.Errorf("nobody comes for %d builds", f.Builds-running)
	case in != nil && s.instances[in.Key] != w:
		return fmt.Errorf("instance %s is not indexed", in.Key)
	case s.configured && f.OpKind == latent.NoOp && in != nil && f.Session == 0 && running == 0 && !f.Frozen && in.Power != latent.Stopped && s.timers[workerTimer+w.cfg.Name].At.IsZero():
		return fmt.Errorf("instance %s waits for an agent with no deadline", in.Key)
	}
	return nil
}

// checkIdle verifies that no request waits beside a worker that could take it (I5).
func (s *State) checkIdle() (err error) {
	if s.stopping || !s.configured {
		return nil
	}
	for _, p := range s.pOrdered {
		p.Each(func(it *queue.Item) bool {
			w := s.place(p, p.workers, s.requests[it.ID])
			if w == nil {
				return true
			}
			if at := s.timers[workerTimer+w.cfg.Name].At; at.IsZero() || at.After(s.now) { // else its timer is about to fire
				err = fmt.Errorf("request %d waits although worker %s could take it", it.ID, w.cfg.Name)
			}
			return err == nil
		})
	}
	return err
}
