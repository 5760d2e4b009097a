package core

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/core/queue"
	"github.com/rouse-ci/rouse/master/core/schedule"
	"github.com/rouse-ci/rouse/master/model"
)

// Rules that are not configurable.
const (
	ResumeGrace  = 2 * time.Minute  // how long a lost agent may take to come back before its builds are given up
	FirstBackoff = 10 * time.Second // pause of a worker after its first failed substantiation; doubles (Buildbot's quarantine)
	MaxBackoff   = time.Hour
	NoticeTries  = 3 // failures in a row before people are told
)

// State holds everything that is live. It is owned by one goroutine.
type State struct {
	owner      string
	generation model.Generation
	configured bool
	stopping   bool
	policy     StopPolicy

	workers   map[string]*worker
	order     []*worker // of the configuration, retired ones last
	builders  map[string]*builder
	bOrder    []*builder
	locks     map[string]*lock
	providers map[string]*provider
	pOrder    []*provider
	pools     map[string]*pool

	schedulers map[string]*schedule.Machine

	requests  map[model.RequestID]*request
	builds    map[model.BuildID]*Build
	instances map[model.InstanceKey]*worker
	lastDue   map[string]time.Time   // of schedulers
	former    map[string]WorkerState // of workers that are no longer configured
	ops       map[model.OpID]opRef
	timers    map[string]TimerSet

	nextBuild model.BuildID
	nextOp    model.OpID
	timerGen  uint64

	step // of the step that is running
}

// step collects what one Step changes.
type step struct {
	now       time.Time
	event     string
	batch     Batch
	dirtyReq  []*request
	dirtyBld  []*Build
	dirtyWork []*worker
	gone      []Instance
	touched   []*worker // to be reconciled
	trying    []*pool   // to be dispatched
}

type request struct {
	Request
	item  queue.Item
	pool  *pool // while it waits in a pool
	dirty bool
}

type worker struct {
	cfg       Worker
	st        WorkerState
	facts     latent.Facts
	lastState latent.State
	agent     string // digest of the live session's agent
	resumable bool
	lostAt    time.Time // standard worker: like Instance.LostAt
	told      bool      // that it is missing
	builds    []*Build
	pools     []*pool

	dirty, touched bool
}

type builder struct {
	cfg     Builder
	pool    *pool
	running int
}

// pool is the set of builders that share their workers and locks.
type pool struct {
	*queue.Pool
	workers []*worker       // in the order of the builder's list
	place   map[*worker]int // in workers
	freed   *worker         // had room last: the first to look at
	maybe   []*worker       // those that may have room, in the order of workers. Who is not among them had none when last looked at, and was not freed since
	trying  bool
}

type lock struct {
	cfg     Lock
	pools   []*pool
	holders map[string][]holder // by worker; "" when the lock is the master's
}

type holder struct {
	build     *Build
	exclusive bool
}

type provider struct {
	cfg      Provider
	listOp   model.OpID
	listedAt time.Time
	listErr  string
	orphans  map[model.InstanceKey]*orphan
}

// orphan is an instance that carries our tag and that no record knows.
type orphan struct {
	firstSeen time.Time
	sightings int
	tries     int
	notBefore time.Time
	op        model.OpID
}

type opRef struct {
	kind     latent.OpKind // NoOp: a list
	worker   *worker       // nil for lists and orphans
	provider *provider
	key      model.InstanceKey
}

// TimerSet is an armed deadline.
type TimerSet struct {
	Gen uint64
	At  time.Time
}

// New makes an empty state. owner is part of every instance's key.
func New(owner string) *State { return Restore(Saved{Owner: owner}) }

// Restore makes a state from what was stored. Nothing is certain until the events ConfigApplied and Restarted, in either order, have been stepped.
func Restore(sv Saved) *State {
	s := &State{
		owner: sv.Owner, nextBuild: max(sv.NextBuild, 1), nextOp: max(sv.NextOp, 1),
		workers: map[string]*worker{}, builders: map[string]*builder{}, locks: map[string]*lock{}, providers: map[string]*provider{},
		pools: map[string]*pool{}, requests: map[model.RequestID]*request{}, builds: map[model.BuildID]*Build{},
		instances: map[model.InstanceKey]*worker{}, former: map[string]WorkerState{}, lastDue: map[string]time.Time{}, ops: map[model.OpID]opRef{}, timers: map[string]TimerSet{},
	}
	for _, sc := range sv.Schedules {
		s.lastDue[sc.Name] = sc.Last
	}
	for _, st := range sv.Workers {
		w := s.addWorker(st.Name)
		w.st = st
		w.facts.Tries, w.facts.BackoffUntil = st.Tries, st.BackoffUntil
	}
	for _, in := range sv.Instances {
		w := s.addWorker(in.Worker)
		w.facts.Instance = &in
		w.cfg.Provider = in.Provider
		w.lastState = w.facts.State()
		s.instances[in.Key] = w
	}
	for _, b := range sv.Builds {
		w := s.addWorker(b.Worker)
		b = b.copy() // no runner is there, whatever the copy says
		w.builds = append(w.builds, &b)
		w.facts.Builds++
		if b.Phase == model.BuildRunning {
			w.facts.Running++
		}
		s.builds[b.ID] = &b
		s.nextBuild = max(s.nextBuild, b.ID+1)
	}
	for _, r := range sv.Requests {
		s.requests[r.ID] = &request{Request: r}
	}
	return s
}

func (s *State) addWorker(name string) *worker {
	w := s.workers[name]
	if w == nil {
		w = &worker{cfg: Worker{Name: name}, st: WorkerState{Name: name}}
		w.facts.Retired = true // until a configuration names it
		if st, ok := s.former[name]; ok {
			w.st.Generation, w.st.Paused = st.Generation, st.Paused
			delete(s.former, name)
		}
		s.workers[name] = w
		s.order = append(s.order, w)
	}
	return w
}

// configure replaces the configuration. What did not change is left alone.
func (s *State) configure(c Config) {
	s.generation, s.configured = c.Generation, true

	providers := map[string]*provider{}
	s.pOrder = s.pOrder[:0]
	for _, pc := range c.Providers {
		p := s.providers[pc.Name]
		if p == nil {
			p = &provider{orphans: map[model.InstanceKey]*orphan{}}
		}
		p.cfg = pc
		providers[pc.Name] = p
		s.pOrder = append(s.pOrder, p)
		if pc.SweepInterval > 0 && s.timers[sweepTimer+pc.Name].At.IsZero() && p.listOp == 0 {
			s.arm(sweepTimer+pc.Name, s.now)
		}
	}
	for name, p := range s.providers { // an instance may outlive its provider's block: keep what its end needs
		if providers[name] == nil && s.providerInUse(name) {
			providers[name] = p
		}
	}
	s.providers = providers

	named := map[string]bool{}
	order := make([]*worker, 0, len(c.Workers))
	for _, wc := range c.Workers {
		named[wc.Name] = true
		w := s.addWorker(wc.Name)
		if w.facts.Session != 0 && w.facts.Instance == nil && wc.Latent() {
			s.hangup(w, w.facts.Session, "the worker has become latent: it makes its own instances", false)
			w.facts.Session, w.agent = 0, ""
		}
		w.cfg, w.facts.Retired = wc, false
		w.facts.Outdated = w.facts.Instance != nil && w.facts.Instance.Spec != wc.Spec
		if !wc.Latent() && w.st.SeenAt.IsZero() {
			w.st.SeenAt = s.now
			s.dirtyWorker(w)
		}
		order = append(order, w)
		s.touch(w)
	}
	for _, w := range s.order {
		if named[w.cfg.Name] {
			continue
		}
		if !w.facts.Retired {
			s.entry(Entry{Kind: "worker", Worker: w.cfg.Name, To: "retired", Cause: "no longer configured"})
		}
		w.facts.Retired = true
		if w.facts.Instance == nil && len(w.builds) == 0 && w.facts.Op == 0 && w.facts.Session == 0 {
			delete(s.workers, w.cfg.Name)
			s.former[w.cfg.Name] = w.st // if the name comes back, its instances must have new keys
			continue
		}
		order = append(order, w)
		s.touch(w)
	}
	s.order = order

	s.configureLocks(c.Locks)
	s.configureSchedulers(c.Schedulers)
	s.configureBuilders(c.Builders)
}

func (s *State) providerInUse(name string) bool {
	for _, w := range s.order {
		if in := w.facts.Instance; in != nil && in.Provider == name {
			return true
		}
	}
	return false
}

// configureLocks rebuilds the holders from the builds that are live: a renamed lock is a new lock.
func (s *State) configureLocks(locks []Lock) {
	s.locks = map[string]*lock{}
	for _, lc := range locks {
		s.locks[lc.Name] = &lock{cfg: lc, holders: map[string][]holder{}}
	}
}

func (s *State) configureBuilders(builders []Builder) {
	s.builders, s.pools, s.bOrder = map[string]*builder{}, map[string]*pool{}, s.bOrder[:0]
	for _, w := range s.order {
		w.pools = nil
	}
	for _, bc := range builders {
		b := &builder{cfg: bc}
		key := poolKey(bc)
		p := s.pools[key]
		if p == nil {
			p = &pool{Pool: queue.NewPool(key)}
			for _, name := range bc.Workers {
				if w := s.workers[name]; w != nil && !w.facts.Retired && !slices.Contains(p.workers, w) {
					p.workers = append(p.workers, w)
					w.pools = append(w.pools, p)
					s.lockPools(w.cfg.Locks, p)
				}
			}
			s.lockPools(bc.Locks, p)
			p.maybe = slices.Clone(p.workers)
			p.place = make(map[*worker]int, len(p.workers))
			for i, w := range p.workers {
				p.place[w] = i
			}
			s.pools[key] = p
		}
		b.pool = p
		s.builders[bc.Name] = b
		s.bOrder = append(s.bOrder, b)
	}
	// Builds and requests take their places in the new order, in the order of their IDs: the result must not depend on a map.
	for _, id := range sortedKeys(s.builds) {
		b := s.builds[id]
		if bb := s.builders[b.Builder]; bb != nil {
			bb.running++
		}
		s.take(b)
	}
	for _, id := range sortedKeys(s.requests) {
		if r := s.requests[id]; r.State == model.RequestWaiting {
			r.pool = nil
			s.enqueue(r)
		}
	}
}

func (s *State) lockPools(uses []Access, p *pool) {
	for _, a := range uses {
		if l := s.locks[a.Lock]; l != nil && !slices.Contains(l.pools, p) {
			l.pools = append(l.pools, p)
		}
	}
}

func poolKey(b Builder) string {
	n := 0
	for _, w := range b.Workers {
		n += len(w) + 1
	}
	key := make([]byte, 0, n+16*len(b.Locks))
	for _, w := range b.Workers {
		key = append(append(key, w...), 0)
	}
	for _, a := range b.Locks {
		key = strconv.AppendBool(append(append(append(key, 1), a.Lock...), 0), a.Exclusive)
	}
	return string(key)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// enqueue puts a waiting request where a free worker will find it. A request for a builder that is not configured waits without a pool.
func (s *State) enqueue(r *request) {
	b := s.builders[r.Builder]
	if b == nil {
		return
	}
	r.pool = b.pool
	r.item = queue.Item{ID: r.ID, Priority: r.Priority, At: r.SubmittedAt}
	if b.cfg.Collapse {
		r.item.Key = r.SourceKey
	}
	b.pool.Push(r.Builder, r.Worker, &r.item)
	s.try(b.pool)
}

func (s *State) dequeue(r *request) {
	if r.pool != nil {
		r.pool.Remove(&r.item)
		r.pool = nil
	}
}
