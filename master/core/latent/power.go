package latent

import "time"

// Power says whether an instance is switched on, or on its way to or from being switched off. Stopping and Waking are intents: they are stored
// before the first call, and the call is repeated until the provider shows that it has taken effect.
type Power uint8

const (
	On       Power = iota // switched on, or being made
	Stopping              // to be switched off: its agent was hung up, and none is admitted
	Stopped               // the provider has said so: nothing runs, and nothing is waited for
	Waking                // to be switched on again; its next agent may be another process than the last one
)

func (p Power) String() string { return [...]string{"on", "stopping", "stopped", "waking"}[p] }

// Off says that no agent is admitted and no build begun.
func (p Power) Off() bool { return p == Stopping || p == Stopped }

// SleptBy is how long the instance was switched off until a moment, or until it was gone.
func (in *Instance) SleptBy(now time.Time) time.Duration {
	if in.Power == Stopped && in.GoneAt.IsZero() && now.After(in.PowerAt) {
		return in.Slept + now.Sub(in.PowerAt)
	}
	return in.Slept
}

// since is when the wait for an agent began.
func (in *Instance) since() time.Time {
	if in.PowerAt.IsZero() {
		return in.AskedAt
	}
	return in.PowerAt // of the wake
}

// sleepable says whether an idle instance is to be switched off instead of ended. One that never had an agent has not proved to be worth it.
func (f *Facts) sleepable(p Policy) bool {
	return p.Sleep && (!f.Instance.AttachedAt.IsZero() || f.Instance.Power == Waking || !f.Instance.PowerAt.IsZero())
}

// power says which order about an instance's power is due now; Wait if none is. No call is in flight, and it is time for one.
func (f *Facts) power() Action {
	switch {
	case !f.Certain:
		return Wait // look first: the last order may have taken effect
	case f.Instance.Power == Stopping:
		return DoStop
	case f.Instance.Power == Waking && !f.Frozen:
		return DoStart
	}
	return Wait
}
