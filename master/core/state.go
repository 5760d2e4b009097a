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
	RestartGrace = time.Minute      // of that, what is left at least when a master has started: agents ask for it every 10 s
	FirstBackoff = 10 * time.Second // pause of a worker after its first failed substantiation; doubles (Buildbot's quarantine)
	MaxBackoff   = time.Hour

	// FormerMissing is the missing_timeout of a worker that was removed before the master restarted, so that nobody knows its own: Buildbot's default.
	FormerMissing = 20 * time.Minute

	FormerSettle = 10 * time.Minute // the same of a provider: longer than any that is known needs
	FormerCheck  = 20 * time.Second

	// FormerSweep is how long the sweep goes on at a provider that is configured no more and has no instances: a create may take effect late, after its record was
	// closed. What is seen by then is looked after for as long as it is seen. While the provider does not answer, it is asked as often as the sweep asks in FormerGiveUp:
	// the time itself passes, too, while the machine of the master is suspended.
	FormerSweep  = time.Hour
	FormerGiveUp = 24 * time.Hour
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
	bOrder    []*builder // of the configuration
	retired   []*builder // those that were removed and have requests that wait or builds that run
	locks     map[string]*lock
	providers map[string]*provider
	pOrder    []*provider
	pools     map[uint64][]*pool // by the hash of what makes a pool; what is equal has one
	pOrdered  []*pool

	schedulers map[string]*schedule.Machine
	resting    map[string]*schedule.Machine // removed while their requests were being stored

	homeless map[model.RequestID]*request // wait for a builder that nobody has heard of

	requests  map[model.RequestID]*request
	builds    map[model.BuildID]*Build
	instances map[model.InstanceKey]*worker
	lastDue   map[string]time.Time   // of schedulers
	former    map[string]WorkerState // of workers that are no longer configured
	ops       map[model.OpID]opRef
	timers    map[string]TimerSet
	taken     map[site]share
	roomy     bool           // some provider has said what rooms it has
	spare     map[string]int // by provider: instances in its rooms that nothing needs

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
	pressed   bool      // a request may wait for a room that an idle instance could give up
}

type request struct {
	Request
	item  queue.Item
	pool  *pool // while it waits in a pool
	dirty bool
}

type worker struct {
	cfg        Worker
	st         WorkerState
	facts      latent.Facts
	lastState  latent.State
	agent      string // digest of the live session's agent
	resumable  bool
	sent       bool      // that agent has named its instance
	lostAt     time.Time // standard worker: like Instance.LostAt
	attachedAt time.Time // when the live session began
	takes      claim     // of its provider's rooms, as it is counted
	booked     claim     // the room of the instance that is about to be made or woken
	starves    *provider // there was no room when a request last looked at it
	sparing    string    // its instance counts as spare at this provider; "" = it does not
	told       bool      // that it is missing
	builds     []*Build
	pools      []*pool

	dirty, touched bool
}

type builder struct {
	cfg     Builder
	pool    *pool
	running int  // builds
	waiting int  // requests in its pool
	retired bool // no longer configured: takes no new requests, and goes when those that it has are done
}

// pool is the set of builders that share their workers and locks.
type pool struct {
	*queue.Pool
	spec    poolSpec
	used    bool            // by a builder of the configuration that is being applied
	dead    bool            // a worker of it has come, gone or changed its locks: to be made anew
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
	removed bool                // no longer configured; builds or retired builders still use it
	rekeyed bool                // its scope changed while it was held: an exclusive holder may have company until they end
}

type holder struct {
	build     *Build
	exclusive bool
}

type provider struct {
	cfg      Provider
	former   bool      // configured no more
	usedAt   time.Time // a former one: when it was last configured, or last known to have an instance
	unheard  int       // a former one: lists that failed since then or since one came, whichever is later
	listOp   model.OpID
	listedAt time.Time
	listErr  string
	lists    int // that have been answered, well or badly
	orphans  map[model.InstanceKey]*orphan
	rooms    []Room               // by name; none = not known
	downs    map[string]time.Time // since when rooms are down, as far as this process knows
	starved  []*worker            // those for which there was none
}

// orphan is an instance that carries our tag and that no record knows.
type orphan struct {
	firstSeen time.Time
	lastSeen  time.Time
	seen      Sighting // the last one
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
	at       time.Time // when it was asked for
	seen     bool      // the instance had been seen then
	looked   bool      // a check because something has changed
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
		pools: map[uint64][]*pool{}, requests: map[model.RequestID]*request{}, builds: map[model.BuildID]*Build{},
		homeless: map[model.RequestID]*request{}, resting: map[string]*schedule.Machine{},
		instances: map[model.InstanceKey]*worker{}, former: map[string]WorkerState{}, lastDue: map[string]time.Time{}, ops: map[model.OpID]opRef{}, timers: map[string]TimerSet{}, taken: map[site]share{},
		spare: map[string]int{},
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
		q := &request{Request: r}
		s.requests[r.ID] = q
		if r.State == model.RequestWaiting {
			s.homeless[r.ID] = q
		}
	}
	for _, w := range s.order {
		s.account(w)
	}
	return s
}

func (s *State) addWorker(name string) *worker {
	w := s.workers[name]
	if w == nil {
		w = &worker{cfg: Worker{Name: name, MissingTimeout: FormerMissing}, st: WorkerState{Name: name}}
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

// enqueue puts a waiting request where a free worker will find it. A request for a builder that is not configured waits without a pool.
func (s *State) enqueue(r *request) {
	b := s.builders[r.Builder]
	if b == nil {
		s.homeless[r.ID] = r
		return
	}
	delete(s.homeless, r.ID)
	r.pool = b.pool
	b.waiting++
	r.item = queue.Item{ID: r.ID, Priority: r.Priority, At: r.SubmittedAt}
	if b.cfg.Collapse && r.SourceKey != "" { // a build has one definition, so only requests of one generation can share it
		r.item.Key = r.SourceKey + "@" + strconv.FormatInt(int64(r.Generation), 10)
	}
	b.pool.Push(r.Builder, r.Worker, &r.item)
	s.try(b.pool)
}

func (s *State) dequeue(r *request) {
	delete(s.homeless, r.ID)
	if r.pool != nil {
		r.pool.Remove(&r.item)
		r.pool = nil
		s.builders[r.Builder].waiting--
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
