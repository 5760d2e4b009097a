// Package core makes every decision about queueing and about latent workers: Step(now, event) -> (delta, effects).
//
// It is pure: no clock, no I/O, no goroutine, no lock, no log. One goroutine, in master/engine, owns a State. It stores each batch's
// Delta before it starts any of the batch's Effects; results come back as events. Everything that blocks is outside.
// A simulator (master/sim) drives the same Step from a seed.
//
// What it promises of build_wait_timeout: an idle instance is kept until that is over (below 0: for good), unless it is ordered to end, its configuration changes,
// its provider takes it back, or a request that waits for nothing else needs its room (giveup.go).
package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Config is the part of a configuration that decisions depend on.
type Config struct {
	Generation model.Generation
	Workers    []Worker
	Builders   []Builder
	Locks      []Lock
	Providers  []Provider
	Schedulers []Scheduler // those that go by the clock

	// Retired are builders that are configured no more, as they were when they last were, with the locks that only they use. They are needed after a
	// restart, for requests that still wait and builds that still run; within one process the core remembers them itself and uses its own.
	Retired      []Builder
	RetiredLocks []Lock

	// Former are providers that are configured no more, or at another place, but are still there to end what they made. Like Retired, they are needed after a
	// restart only. One that is missing here settles with caution (see FormerSettle).
	Former []Provider
}

// Worker is a named slot for at most one instance (latent) or one session (standard).
type Worker struct {
	Name             string
	Provider         string        // name of the provider block; "" for a standard worker, which somebody else starts
	MaxBuilds        int           // builds at once; 0 = no limit. Never more than one of each builder
	MissingTimeout   time.Duration // latent: from asking for the instance to attach; standard: absence before notifying. 0 = never
	BuildWaitTimeout time.Duration // latent: how long an idle instance is kept, if nobody needs its room. 0 = ends after every build; negative = kept
	Locks            []Access      // taken for every build on this worker
	Spec             string        // digest of the instance's configuration; another digest makes idle instances be replaced
	Price            float64       // per hour
	StoppedPrice     float64       // per hour, while its instance is switched off
	Idle             string        // what becomes of an idle instance: one of the Idle constants; "" is IdleTerminate
	VCPUs            int           // what its instance takes of a room of its provider; 0 = not known
	Memory           int64         // bytes, likewise
}

// Latent says whether instances are made for the worker.
func (w *Worker) Latent() bool { return w.Provider != "" }

// Builder matches requests to workers.
type Builder struct {
	Name        string
	Workers     []string
	Locks       []Access
	Collapse    bool // waiting requests with the same SourceKey are served by one build
	MaxAttempts int  // attempts that may end without a verdict (no instance, lost worker) before the request ends; at least 1
}

// Lock is counting: at most Max holders at once, per master or per worker. An exclusive holder is the only holder.
type Lock struct {
	Name      string
	Max       int
	PerWorker bool
}

// Access is one use of a lock.
type Access struct {
	Lock      string
	Exclusive bool
}

// Provider is what the core must know of a provider.
type Provider struct {
	Name           string
	Interruptible  bool          // it may take instances back. Else an agent that says so is not believed
	Settle         time.Duration // an unresolved create may still show up for this long
	CheckInterval  time.Duration // between two checks of an instance that boots
	DestroyBackoff time.Duration // first pause before a destroy is repeated
	SweepInterval  time.Duration // between two lists; 0 = no sweeps
	SweepGrace     time.Duration // how old an unknown instance must be before it is destroyed
}

// Request is the part of a build request that decisions depend on; the rest is in the store.
type Request struct {
	ID          model.RequestID
	Builder     string
	Priority    int
	SubmittedAt time.Time
	Worker      string           // pinned to this worker, if not empty
	SourceKey   string           // requests of one builder and one generation with equal keys may be collapsed; "" = never
	Generation  model.Generation // whose definition its builds follow, also when they are retried; 0 = the one in force when it is submitted
	State       model.RequestState
	Attempts    int
	Build       model.BuildID // the last build
	Interrupted int           // attempts that ended because their instance was taken back: the first FreeInterruptions of them are not in Attempts
	Result      model.Result
	Text        string
	FinishedAt  time.Time
}

// Build is the part of a build that decisions depend on.
type Build struct {
	ID         model.BuildID
	Requests   []model.RequestID
	Builder    string
	Worker     string
	Instance   model.InstanceKey
	Generation model.Generation // of its first request
	Attempt    int
	Locks      []Access // what it holds, each lock once: taken when it was assigned, whatever is configured since
	Phase      model.BuildPhase
	AssignedAt time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	Result     model.Result
	Text       string
	Cancelling string // not empty: somebody cancelled the build while it ran, and this is why

	live  bool // a runner works on it in this process
	free  bool // it is being stopped by an order: its retry charges no attempt
	taken bool // its instance is taken back by its provider
	dirty bool
}

// WorkerState is what is stored of a worker besides its instance.
type WorkerState struct {
	Name         string
	Generation   int       // number of the last instance; part of its key
	Tries        int       // failed substantiations in a row
	BackoffUntil time.Time // no new instance and no new build before this
	LastError    string    // the last failure, for people
	FailClass    string    // its class: that of the provider's answer, or one of the fail constants
	ClassTries   int       // failures of this class in a row
	Paused       string    // not empty: no new builds, and why
	SeenAt       time.Time // standard worker: when it was last attached or detached
}

// Saved is everything that Restore needs: what is live. History stays in the store.
type Saved struct {
	Owner     string
	Requests  []Request // not done
	Builds    []Build   // not done
	Workers   []WorkerState
	Instances []Instance // not gone
	Schedules []ScheduleState
	NextBuild model.BuildID
	NextOp    model.OpID
}

// Event is something that has happened. Events are sealed: only this package defines them.
type Event interface{ event() }

type (
	// ConfigApplied replaces the configuration. What did not change is left alone. Prepared is what Prepare made of it, beforehand and elsewhere; nil: it
	// is done here.
	ConfigApplied struct {
		Config   Config
		Prepared *Prepared
	}

	// Submitted adds requests. The engine chose their IDs, which grow. One for a builder that is not configured (any more) ends at once.
	Submitted struct{ Requests []Request }

	// CancelAsked orders the end of a request (in whatever state it is) or of a build; the other ID is 0.
	CancelAsked struct {
		Request model.RequestID
		Build   model.BuildID
		Reason  string
	}

	// PauseAsked stops (Reason not empty) or resumes (Reason empty) giving builds to a worker; running builds go on.
	PauseAsked struct{ Worker, Reason string }

	// EndAsked orders the end of a worker's instance, whatever it does: its builds are told to stop and are retried.
	EndAsked struct {
		Worker, Reason string
		Interrupted    string // not empty: the provider takes the instance back, says its agent; one of the Interrupted constants
	}

	// LeaveAsked orders the end of a worker's instance as soon as it is idle: running builds go on, and no other is begun on it. It is not stored: who
	// asks for it asks again after a restart.
	LeaveAsked struct {
		Worker, Reason string
		Instance       model.InstanceKey // only this one, if not empty
	}

	// OpDone is the one result of an effect that has an OpID.
	OpDone struct {
		Op     model.OpID
		Result OpResult
	}

	// Attached says that an agent has authenticated and finished its handshake.
	Attached struct {
		Worker    string
		Session   model.SessionID
		Instance  model.InstanceKey // proven by the instance's token; "" when it came with the worker's password
		Agent     string            // digest of what identifies this agent's process; the same agent may come back, another may not
		Resumable bool              // its commands survive the loss of a connection
	}

	// Detached says that a session has ended. It is delivered exactly once for each Attached, also when the core refused it.
	Detached struct {
		Worker  string
		Session model.SessionID
	}

	// BuildEnded is the one result of a StartBuild.
	BuildEnded struct {
		Build  model.BuildID
		Result model.Result // Retry: no verdict (worker lost), try again
		Text   string
	}

	// Listed is the result of a ListInstances: OpDone's twin, because it carries a list. AskedAt is when the call began.
	Listed struct {
		Op        model.OpID
		AskedAt   time.Time
		Instances []Sighting
		Error     string // not empty: the call failed, Instances says nothing
	}

	// Scheduled is the one result of a Due: the requests were stored together with At as the scheduler's last time, or they were not.
	Scheduled struct {
		Scheduler string
		At        time.Time
		Error     string
	}

	// TimerFired brings back a SetTimer. Stale ones are recognised and dropped.
	TimerFired struct{ Timer Timer }

	// Restarted is the first event after Restore: nothing is certain, no session and no runner is there.
	Restarted struct{ First bool } // First: no master was there before

	// Stopping says that the master is about to stop. No new build is started and no instance is made from here on.
	Stopping struct{ Policy StopPolicy }
)

// StopPolicy says what becomes of instances and builds when the master stops.
type StopPolicy uint8

const (
	StopKeep      StopPolicy = iota // keep both for the next master
	StopDrain                       // let running builds end, then end all instances
	StopTerminate                   // stop builds (they are retried by the next master) and end all instances
)

func (p StopPolicy) String() string { return [...]string{"keep", "drain", "terminate"}[p] }

// OpResult says how a provider call ended.
type OpResult struct {
	Class      OpClass
	ProviderID string // create and check: the provider's name for the instance
	State      SightState
	Detail     string            // the error or the provider's detail, for people
	Facts      map[string]string // what the instance is, as the provider says; bounded, and not changed after it was handed over
	Place      string            // the room that it is in, as the provider says; "" if it says nothing

	// Interrupted: it has failed because its provider has taken it back. That is nobody's failure.
	Interrupted bool
}

// OpClass is the class of a provider's answer. It mirrors providers.Class, with OK in front.
// The zero value is Unknown: look before acting again.
type OpClass uint8

const (
	OpUnknown OpClass = iota
	OpOK
	OpTransient
	OpThrottled
	OpNoCapacity
	OpOverQuota
	OpBadConfig
	OpUnauthorized
	OpNotFound
)

func (c OpClass) String() string {
	return [...]string{"unknown", "ok", "transient", "throttled", "no-capacity", "over-quota", "bad-config", "unauthorized", "not-found"}[c]
}

// SightState is what a provider said of an instance's machine. It mirrors providers.State.
type SightState uint8

const (
	SightPending SightState = iota
	SightRunning
	SightStopping
	SightGone
	SightFailed
	SightStopped
)

// Sighting is one line of a provider's list.
type Sighting struct {
	Key        model.InstanceKey
	ProviderID string
	State      SightState
	Detail     string
	CreatedAt  time.Time // zero if the provider does not know
}

// Kinds of Interrupted.
const (
	InterruptedSpot = "spot" // a machine that was lent for a lower price is taken back
)

// Batch is the result of one step. Delta is durable before any Effect starts.
type Batch struct {
	Delta   Delta
	Effects []Effect
}

// Delta is what changed, as whole rows to be written over the old ones.
type Delta struct {
	Requests  []Request
	Builds    []Build
	Workers   []WorkerState
	Instances []Instance // a row with GoneAt set is kept as history
	Schedules []ScheduleState
	NextBuild model.BuildID
	NextOp    model.OpID
	Journal   []Entry
}

// Empty says whether there is nothing to store.
func (d *Delta) Empty() bool {
	return len(d.Requests)+len(d.Builds)+len(d.Workers)+len(d.Instances)+len(d.Schedules)+len(d.Journal) == 0
}

// Entry is one line of the journal: one transition of one thing. Log lines, `rouse trace`, `rouse explain` and the transition
// metrics are rendered from entries. It never holds a secret.
type Entry struct {
	Event    string // the event that caused it: "Submitted", "OpDone", …
	Kind     string // what changed: "request", "build", "worker", "instance", "provider", or "effect" for an order to the outside
	Request  model.RequestID
	Build    model.BuildID
	Worker   string
	Instance model.InstanceKey
	Op       model.OpID
	From, To string // states; for an effect, To is its name
	Cause    string // why, for people

	Type, Market string // of an instance that is seen for the first time, as its facts say, for whoever watches; not stored
}

// Instance is the stored part of an instance that decisions depend on.
type Instance = latent.Instance

func (ConfigApplied) event() {}
func (Submitted) event()     {}
func (CancelAsked) event()   {}
func (PauseAsked) event()    {}
func (EndAsked) event()      {}
func (LeaveAsked) event()    {}
func (OpDone) event()        {}
func (Attached) event()      {}
func (Detached) event()      {}
func (BuildEnded) event()    {}
func (Listed) event()        {}
func (TimerFired) event()    {}
func (Scheduled) event()     {}
func (Restarted) event()     {}
func (Stopping) event()      {}
