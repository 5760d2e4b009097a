package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Snapshot is an immutable copy of what is live: all that metrics, web, api and plan ever read. History is read from the store.
type Snapshot struct {
	Time       time.Time
	Generation model.Generation
	Stopping   bool
	Workers    []WorkerView   // in the order of the configuration, retired ones last
	Builders   []BuilderView  // in the order of the configuration, retired ones last
	Requests   []Request      // waiting and claimed, best first
	Builds     []Build        // preparing and running
	Instances  []InstanceView // not gone
	Providers  []ProviderView
	Strays     []StrayView
	Locks      []LockView
	Timers     []TimerView // every deadline that is armed
}

// WorkerView is one worker as people see it.
type WorkerView struct {
	Worker       Worker
	State        string // latent.State's name; for a standard worker "attached" or "detached"
	Attached     bool
	Session      model.SessionID
	AwaySince    time.Time // zero unless builds wait for an agent that was lost
	AwayUntil    time.Time // then they are tried again
	Instance     model.InstanceKey
	Builds       []model.BuildID
	Tries        int
	BackoffUntil time.Time
	LastError    string
	FailClass    string // of the last failure
	ClassTries   int    // failures of this class in a row
	Paused       string
	Leaving      string // not empty: its instance ends when it is idle, and why
	Retired      bool
}

// BuilderView is one builder and its queue.
type BuilderView struct {
	Name    string
	Waiting int
	Running int
	Oldest  time.Time // SubmittedAt of the oldest waiting request; zero if none
	Retired bool      // no longer configured; its last requests are being served
}

// InstanceView is one instance that is not gone.
type InstanceView struct {
	Instance Instance
	State    model.InstanceState
	Builds   int
	Op       string // "create", "check", "destroy", "stop", "start", or "" when no call is in flight
}

// ProviderView is one provider.
type ProviderView struct {
	Name        string
	LastListAt  time.Time
	LastListErr string
	Lists       int        // that have been answered since the master began, well or badly
	Orphans     int        // instances with our tag that no record knows
	Rooms       []RoomView // by name; none: it has none, or has not said so yet
}

// LockView is one lock, for one worker if it is per worker.
type LockView struct {
	Name    string
	Worker  string
	Max     int
	Holders []model.BuildID
}

// TimerView is one armed deadline.
type TimerView struct {
	Name string
	At   time.Time
}

// Explanation says why a request waits.
type Explanation struct {
	Request    Request
	Ahead      int // waiting requests of the same pool of workers that come first
	Text       string
	Candidates []Candidate
}

// Candidate is one worker that could serve a request, and what stands in the way.
type Candidate struct {
	Worker string
	State  string
	Blocks []string // empty: nothing, it is next
}
