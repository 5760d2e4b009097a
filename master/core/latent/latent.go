// Package latent is the machine of one latent worker: from independent facts it derives the state that people see and the one thing to do
// next.
//
// It is level-triggered. Whatever happened, and in whatever order, Next looks at the facts as they are now and says what to do, so a lost
// reply, a restart or a clock jump needs no case of its own. It knows nothing of requests, builders or other workers.
package latent

import (
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Instance is what is stored of an instance that is not proven gone.
type Instance struct {
	Key          model.InstanceKey
	Worker       string
	Provider     string
	ProviderID   string    // the provider's own name, once known
	Spec         string    // digest of the configuration it was made with
	Price        float64   // per hour
	AskedAt      time.Time // when the intent was stored
	Resolved     bool      // the provider said yes to the create, or the instance was seen since
	UnresolvedAt time.Time // when the provider last answered a create (or failed to): from here the settle time counts
	BootedAt     time.Time // when it was first seen to exist; zero if it never was
	AttachedAt   time.Time // first attach
	LostAt       time.Time // when the last session ended; zero while one is live
	Agent        string    // digest of the agent that used the token first
	Served       bool      // a build has begun on it
	Doomed       bool      // its end is decided and never undone
	DoomedAt     time.Time
	Reason       string // why it was doomed
	DestroyTries int
	GoneAt       time.Time // proven absent
}

// OpKind is what a call in flight does.
type OpKind uint8

const (
	NoOp OpKind = iota
	Create
	Check
	Destroy
)

func (k OpKind) String() string { return [...]string{"", "create", "check", "destroy"}[k] }

// Facts are independent of each other and are what decisions are made from. State is derived from them and never stored.
type Facts struct {
	Builds   int    // builds assigned to the worker, whether they wait for its agent or run
	Running  int    // those that run
	Retired  bool   // no longer in the configuration
	Outdated bool   // the configuration of its instance has changed
	Frozen   bool   // the master is stopping: make nothing new
	Draining bool   // the master is stopping: end what is idle
	Leaving  string // not empty: no build is begun on the instance any more and it ends when it is idle, and why

	Instance *Instance
	Session  model.SessionID // the attached agent, or zero
	Op       model.OpID      // the call in flight, or zero
	OpKind   OpKind
	Certain  bool // false after a lost reply or a restart: look before acting
	Missed   bool // the last look did not find it
	Repeats  int  // creates repeated under the same key

	Tries        int       // failed substantiations in a row
	BackoffUntil time.Time // make nothing new before this
	IdleSince    time.Time // when the last build ended, or when the agent attached
	NotBefore    time.Time // the earliest time of the next check or destroy
}

// State is what people see.
type State uint8

const (
	NotSubstantiated State = iota
	Substantiating
	Substantiated
	Insubstantiating
	ShutDown
)

func (s State) String() string {
	return [...]string{"not-substantiated", "substantiating", "substantiated", "insubstantiating", "shut-down"}[s]
}

// State derives the state from the facts.
func (f *Facts) State() State {
	switch in := f.Instance; {
	case in == nil && f.Retired:
		return ShutDown
	case in == nil && f.Builds > 0 && !f.Frozen:
		return Substantiating
	case in == nil:
		return NotSubstantiated
	case in.Doomed:
		return Insubstantiating
	case in.AttachedAt.IsZero():
		return Substantiating
	default:
		return Substantiated
	}
}

// Policy is a worker's configuration and its provider's, as far as the machine needs it. Durations of zero mean "never" unless stated.
type Policy struct {
	Missing        time.Duration // from the intent to the first attach
	BuildWait      time.Duration // idle time; 0 = ends after every build, negative = kept
	Grace          time.Duration // how long a lost agent may take to come back
	Settle         time.Duration // how long an unresolved create may take to show up
	CheckInterval  time.Duration // between two checks
	DestroyBackoff time.Duration // before a destroy is repeated; doubles
}

// MaxDestroyBackoff bounds the pause between two destroys of one instance: somebody pays for it meanwhile.
const MaxDestroyBackoff = time.Minute

// Action is the one thing to do now.
type Action uint8

const (
	Wait     Action = iota
	DoCreate        // with the instance's key if there is one (the provider makes no second instance), else with a new key
	DoCheck
	DoDestroy
	Doom // decide its end; ask again afterwards
)

// Decision is what Next says.
type Decision struct {
	Action Action
	Why    string    // of Doom
	Fault  bool      // of Doom: the substantiation failed or the agent was lost, which counts against the worker
	Wake   time.Time // of Wait: ask again then; zero = only after the next event
}

// Next says what to do. It changes nothing.
func (f *Facts) Next(now time.Time, p Policy) Decision {
	in := f.Instance
	if in == nil {
		switch {
		case f.Op != 0:
			return Decision{}
		case now.Before(f.BackoffUntil):
			return Decision{Wake: f.BackoffUntil} // also when nothing waits: a request may be looking for a worker then
		case f.Builds == 0 || f.Retired || f.Frozen:
			return Decision{}
		}
		return Decision{Action: DoCreate}
	}

	var wake time.Time
	if !in.Doomed {
		why, fault, at := f.doom(now, p)
		if why != "" {
			return Decision{Action: Doom, Why: why, Fault: fault}
		}
		wake = at
	}
	switch {
	case f.Op != 0: // one call at a time; its result asks again
		return Decision{Wake: wake}
	case in.Doomed && f.Running > 0: // a busy instance is never destroyed: its runners have been told to end, and will
		return Decision{}
	case in.Doomed || f.Session == 0 && f.wantsCheck():
		if now.Before(f.NotBefore) {
			return Decision{Wake: earliest(wake, f.NotBefore)}
		}
		switch {
		case in.Doomed:
			return Decision{Action: DoDestroy}
		case f.Missed && !in.Resolved && !f.Frozen:
			return Decision{Action: DoCreate} // looked, not there: repeat under the same key
		}
		return Decision{Action: DoCheck}
	}
	return Decision{Wake: wake}
}

// wantsCheck says whether an instance without an agent should be looked at: it may have died while booting.
func (f *Facts) wantsCheck() bool {
	return !f.Certain || f.Instance.AttachedAt.IsZero()
}

// doom says why the instance must end now, or else when to ask again.
func (f *Facts) doom(now time.Time, p Policy) (why string, fault bool, wake time.Time) {
	in := f.Instance
	after := func(since time.Time, d time.Duration) bool {
		at := since.Add(d)
		if !now.Before(at) {
			return true
		}
		wake = earliest(wake, at)
		return false
	}
	if f.Builds == 0 {
		switch {
		case f.Retired:
			return "the worker is no longer configured", false, wake
		case f.Outdated:
			return "its configuration has changed", false, wake
		case f.Draining:
			return "the master is stopping", false, wake
		case f.Leaving != "":
			return f.Leaving, false, wake
		case in.AttachedAt.IsZero() && !f.Frozen:
			return "no build needs it any more", false, wake
		case f.Session != 0 && p.BuildWait == 0 && !f.Frozen:
			return "the build has ended (build_wait_timeout = 0)", false, wake
		case f.Session != 0 && p.BuildWait > 0 && !f.Frozen && after(f.IdleSince, p.BuildWait):
			return "idle for " + p.BuildWait.String() + " (build_wait_timeout)", false, wake
		}
	}
	if f.Session == 0 && (!f.Frozen || f.Draining) {
		switch {
		case in.AttachedAt.IsZero():
			if p.Missing > 0 && after(in.AskedAt, p.Missing) {
				return "no agent attached within " + p.Missing.String() + " (missing_timeout)", true, wake
			}
		case !in.LostAt.IsZero() && after(in.LostAt, p.Grace):
			return "its agent was lost and did not come back within " + p.Grace.String(), true, wake
		}
	}
	return "", false, wake
}

// Proven says whether a NotFound now proves that the instance is gone. After a create whose answer is not known, or right after one that was
// accepted, it proves nothing until the provider's settle time has passed, unless the instance was seen in between.
func (in *Instance) Proven(now time.Time, p Policy) bool {
	if !in.BootedAt.IsZero() {
		return true
	}
	return !in.UnresolvedAt.IsZero() && !now.Before(in.UnresolvedAt.Add(p.Settle))
}

// DestroyPause is how long to wait before the destroy is repeated for the n-th time (n from 0).
func DestroyPause(p Policy, n int) time.Duration {
	return Backoff(max(p.DestroyBackoff, 10*time.Millisecond), MaxDestroyBackoff, n)
}

// Backoff doubles from first, n times, up to limit.
func Backoff(first, limit time.Duration, n int) time.Duration {
	d := first
	for ; n > 0 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
