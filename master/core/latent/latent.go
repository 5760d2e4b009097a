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
	StoppedPrice float64   // per hour, while it is switched off
	AskedAt      time.Time // when the intent was stored
	Resolved     bool      // the provider said yes to the create, or the instance was seen since
	UnresolvedAt time.Time // when the provider last answered a create (or failed to): from here the settle time counts
	BootedAt     time.Time // when it was first seen to exist; zero if it never was
	AttachedAt   time.Time // first attach since it was made or woken
	LostAt       time.Time // when the last session ended; zero while one is live
	Agent        string    // digest of the agent that used the token first since it was made or woken
	Served       bool      // a build has begun on it since it was made or woken
	Doomed       bool      // its end is decided and never undone
	DoomedAt     time.Time
	Reason       string // why it was doomed
	DestroyTries int
	GoneAt       time.Time // proven absent

	Power   Power
	PowerAt time.Time     // when the last stop was decided, seen, or the wake was decided; zero if it was never stopped
	Slept   time.Duration // switched off so far, without the present time

	Detail string            // what the provider last said of it, for people
	Facts  map[string]string // what it is, as the provider says; replaced, never changed, so that copies may share it

	Place  string // the room that it is in, or was asked for in; "" if the provider has none, or none was known
	VCPUs  int    // what it takes of its room, as it was configured when it was made
	Memory int64  // bytes
}

// OpKind is what a call in flight does.
type OpKind uint8

const (
	NoOp OpKind = iota
	Create
	Check
	Destroy
	Stop
	Start
)

func (k OpKind) String() string {
	return [...]string{"", "create", "check", "destroy", "stop", "start"}[k]
}

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
	Orders   int  // stops or starts given since the last decision about its power

	Look      bool      // something has changed, says its provider: look, even if all seems well
	LookAfter time.Time // but not before

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
	Asleep // its instance is switched off: Buildbot has no word for that
)

func (s State) String() string {
	return [...]string{"not-substantiated", "substantiating", "substantiated", "insubstantiating", "shut-down", "stopped"}[s]
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
	case in.Doomed, in.Power == Stopping:
		return Insubstantiating
	case in.Power == Stopped && (f.Builds == f.Running || f.Frozen):
		return Asleep
	case in.Power != On, in.AttachedAt.IsZero():
		return Substantiating
	default:
		return Substantiated
	}
}

// Policy is a worker's configuration and its provider's, as far as the machine needs it. Durations of zero mean "never" unless stated.
type Policy struct {
	Missing        time.Duration // from the intent (or the wake) to the first attach
	BuildWait      time.Duration // idle time; 0 = ends after every build, negative = kept
	Grace          time.Duration // how long a lost agent may take to come back
	Settle         time.Duration // how long an unresolved create may take to show up
	CheckInterval  time.Duration // between two checks
	DestroyBackoff time.Duration // before a destroy is repeated; doubles
	Sleep          bool          // what is idle is switched off instead of ended
	StopLimit      time.Duration // how long a stop may take to take effect
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
	DoStop
	DoStart
	Doom  // decide its end; ask again afterwards
	Sleep // decide to switch it off; ask again afterwards
	Wake  // decide to switch it on again; ask again afterwards
)

// Decision is what Next says.
type Decision struct {
	Action Action
	Why    string    // of Doom and Sleep
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
		case f.Builds == f.Running || f.Retired || f.Frozen:
			return Decision{}
		}
		return Decision{Action: DoCreate}
	}

	var wake time.Time
	if !in.Doomed {
		d := f.decide(now, p)
		if d.Action != Wait {
			return d
		}
		wake = d.Wake
	}
	switch {
	case f.Op != 0: // one call at a time; its result asks again
		return Decision{Wake: wake}
	case in.Doomed && f.Running > 0: // a busy instance is never destroyed: its runners have been told to end, and will
		return Decision{}
	case f.Look && !in.Doomed:
		if !now.Before(f.LookAfter) {
			return Decision{Action: DoCheck}
		}
		wake = earliest(wake, f.LookAfter)
	}
	switch {
	case in.Doomed || f.Session == 0 && f.wantsCall():
		if now.Before(f.NotBefore) {
			return Decision{Wake: earliest(wake, f.NotBefore)}
		}
		switch {
		case in.Doomed:
			return Decision{Action: DoDestroy}
		case f.Missed && !in.Resolved && !f.Frozen:
			return Decision{Action: DoCreate} // looked, not there: repeat under the same key
		}
		if a := f.power(); a != Wait {
			return Decision{Action: a}
		}
		return Decision{Action: DoCheck}
	}
	return Decision{Wake: wake}
}

// wantsCall says whether an instance without an agent should be looked at, since it may have died while booting, or be given an order about
// its power.
func (f *Facts) wantsCall() bool {
	in := f.Instance
	return !f.Certain || in.Power == Stopping || in.Power != Stopped && in.AttachedAt.IsZero()
}

// decide says whether the instance must end, be switched off or be switched on again now, or else when to ask again.
func (f *Facts) decide(now time.Time, p Policy) Decision {
	in := f.Instance
	var wake time.Time
	after := func(since time.Time, d time.Duration) bool {
		at := since.Add(d)
		if !now.Before(at) {
			return true
		}
		wake = earliest(wake, at)
		return false
	}
	doom := func(why string, fault bool) Decision { return Decision{Action: Doom, Why: why, Fault: fault} }
	idle := func(why string) Decision { return f.GiveUp(p, why) }
	if f.Builds == 0 || in.Power == Stopped && f.Running == 0 { // one that is off is never switched on only to be ended
		switch {
		case f.Retired:
			return doom("the worker is no longer configured", false)
		case f.Outdated:
			return doom("its configuration has changed", false)
		case f.Draining:
			return doom("the master is stopping", false)
		case f.Leaving != "":
			return doom(f.Leaving, false)
		case in.Power.Off() && !p.Sleep && !f.Frozen:
			return doom("idle instances of this worker are not kept switched off any more", false)
		}
	}
	if f.Builds == 0 && !in.Power.Off() && !f.Frozen {
		switch {
		case in.AttachedAt.IsZero():
			return idle("no build needs it any more")
		case f.Session != 0 && p.BuildWait == 0:
			return idle("the build has ended (build_wait_timeout = 0)")
		case f.Session != 0 && p.BuildWait > 0 && after(f.IdleSince, p.BuildWait):
			return idle("idle for " + p.BuildWait.String() + " (build_wait_timeout)")
		}
	}
	if in.Power == Stopped && !f.Frozen && after(f.BackoffUntil, 0) && f.Builds > 0 && f.Running == 0 { // the time is asked for before the builds: as above
		return Decision{Action: Wake}
	}
	if f.Session == 0 && (!f.Frozen || f.Draining) {
		switch {
		case in.Power == Stopping:
			if after(in.PowerAt, p.StopLimit) {
				return doom("the order to stop it had no effect within "+p.StopLimit.String(), false)
			}
		case in.Power == Stopped: // it waits for nobody
		case in.AttachedAt.IsZero():
			if p.Missing > 0 && after(in.since(), p.Missing) {
				return doom("no agent attached within "+p.Missing.String()+" (missing_timeout)", true)
			}
		case !in.LostAt.IsZero() && after(in.LostAt, p.Grace):
			return doom("its agent was lost and did not come back within "+p.Grace.String(), true)
		}
	}
	return Decision{Wake: wake}
}

// Spare says whether the instance is switched on and attached, and nothing needs it: only build_wait_timeout keeps it.
func (f *Facts) Spare() bool {
	in := f.Instance
	return in != nil && f.Builds == 0 && f.Session != 0 && !in.Doomed && in.Power == On
}

// GiveUp says how an idle instance is parted with: it is ended, or switched off.
func (f *Facts) GiveUp(p Policy, why string) Decision {
	if f.sleepable(p) {
		return Decision{Action: Sleep, Why: why}
	}
	return Decision{Action: Doom, Why: why}
}

// Proven says whether a NotFound proves that the instance is gone. After a create whose answer is not known, or right after one that was
// accepted, it proves nothing until the provider's settle time has passed, unless the instance was seen in between. An answer is about the moment at
// which it was asked for, and an answer can be slow: seen says that the instance had been seen by then.
func (in *Instance) Proven(asked time.Time, seen bool, p Policy) bool {
	return seen || !in.UnresolvedAt.IsZero() && !asked.Before(in.UnresolvedAt.Add(p.Settle))
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
