package ec2

import (
	"fmt"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// refusals remembers, for all workers of a provider, where EC2 had no machine: such a choice is passed over until its cool-down is over, and
// then one launch tries whether it is still so before others follow.
//
// Beside that it remembers what EC2 has taken back. A machine that is taken back costs its build no attempt and its worker no pause, so a place in which that
// goes on would be launched in again and again.
type refusals struct {
	mu    sync.Mutex
	m     map[string]*refusal
	taken map[string]*taken
}

// taken is a choice of which EC2 has taken instances back.
type taken struct {
	times int // each within takenFor of the one before
	at    time.Time
	until time.Time // not tried before; zero after the first one, which says little
}

type refusal struct {
	why     string
	class   providers.Class // NoCapacity or OverQuota
	at      time.Time
	times   int
	until   time.Time
	probing time.Time // when a launch was let through to see; zero if none is under way
}

const (
	coolFirst = 30 * time.Second // after the first refusal; it doubles…
	coolMost  = 10 * time.Minute // …up to this
	probeTime = time.Minute      // a probe that has not come back counts as lost

	takenFirst = 5 * time.Minute  // after the second instance that was taken back; it doubles…
	takenMost  = 40 * time.Minute // …up to this
	takenFor   = time.Hour        // without another one it is forgotten
)

// interrupted notes that EC2 has taken an instance back. What is taken together counts once more at the most.
func (r *refusals) interrupted(c choice, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken == nil {
		r.taken = map[string]*taken{}
	}
	t := r.taken[c.String()]
	if t == nil || now.Sub(t.at) > takenFor && now.After(t.until) {
		t = &taken{}
		r.taken[c.String()] = t
	}
	t.at = now
	if now.Before(t.until) {
		return
	}
	if t.times++; t.times > 1 {
		t.until = now.Add(min(takenFirst<<min(t.times-2, 8), takenMost))
	}
}

// pass says whether a choice may be tried now, or why not.
func (r *refusals) pass(c choice, now time.Time) (why string, class providers.Class, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.taken[c.String()]; t != nil && now.Before(t.until) {
		return fmt.Sprintf("EC2 has taken back %d instances there, the last one %s ago (tried again in %s)", t.times, now.Sub(t.at).Round(time.Second), t.until.Sub(now).Round(time.Second)),
			providers.NoCapacity, false
	}
	e := r.m[c.String()]
	switch {
	case e == nil:
		return "", 0, true
	case now.Before(e.until):
		return fmt.Sprintf("%s (refused %s ago; tried again in %s)", e.why, now.Sub(e.at).Round(time.Second), e.until.Sub(now).Round(time.Second)), e.class, false
	case !e.probing.IsZero() && now.Sub(e.probing) < probeTime:
		return e.why + " (another launch is trying it now)", e.class, false
	}
	e.probing = now
	return "", 0, true
}

// refused notes that EC2 said no.
func (r *refusals) refused(c choice, class providers.Class, why string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string]*refusal{}
	}
	e := r.m[c.String()]
	if e == nil {
		e = &refusal{}
		r.m[c.String()] = e
	}
	if now.Before(e.until) {
		return // launches that were under way together count once
	}
	cool := min(coolFirst<<min(e.times, 8), coolMost)
	e.times++
	e.why, e.class, e.at, e.until, e.probing = why, class, now, now.Add(cool), time.Time{}
}

// settled notes that a launch of this choice was made, or failed for a reason that has nothing to do with capacity.
func (r *refusals) settled(c choice, made bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.m[c.String()]
	if e == nil {
		return
	}
	e.probing = time.Time{}
	if made {
		delete(r.m, c.String())
	}
}
