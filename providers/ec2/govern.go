package ec2

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"
)

// class is a kind of call with a budget of its own. Each operation has its own bucket of its class's size, as EC2 counts by operation.
type class struct {
	burst   int           // requests at once
	perSec  float64       // refill, requests per second
	attempt time.Duration // the first try takes no longer; then it is tried again, with twice the time, while the call's deadline allows
	read    bool          // changes nothing, so a lost reply leaves nothing uncertain
}

// The sizes are EC2's defaults for an account and region, from AWS's page "Request throttling for the Amazon EC2 API" (request token buckets).
// Those that it lists by name are here by name; StopInstances, AssociateAddress and the like are of its class of mutating actions, 50 at 5/s.
// Its resource buckets (RunInstances and StartInstances 1000 at 2/s, TerminateInstances and StopInstances 1000 at 20/s) count instances; since a
// run asks for one instance, its resource bucket is never the first to run dry. Terminations are merged into few requests, and no more can end than were
// launched: only the end of more than a thousand at once is throttled, and repeated.
var (
	classDescribe  = class{burst: 100, perSec: 20, attempt: 10 * time.Second, read: true}
	classConsole   = class{burst: 50, perSec: 10, attempt: 10 * time.Second, read: true}
	classOther     = class{burst: 10, perSec: 5, attempt: 10 * time.Second, read: true} // of other services
	classMutate    = class{burst: 50, perSec: 5, attempt: 15 * time.Second}
	classRun       = class{burst: 5, perSec: 2, attempt: 30 * time.Second}
	classStart     = class{burst: 5, perSec: 2, attempt: 15 * time.Second}
	classTerminate = class{burst: 100, perSec: 5, attempt: 10 * time.Second}
)

// What is used of a bucket. Requests do not arrive as evenly as they are sent: of two that leave one after the other, the second may be there first,
// and then EC2's bucket has not been refilled yet.
const (
	burstShare = 0.8
	rateShare  = 0.95
)

// governor keeps every operation within its bucket and repeats what was throttled or lost, inside the caller's deadline. Every call of this
// package may be repeated: reads change nothing, RunInstances carries a token, and the others are idempotent by their nature.
type governor struct {
	factor float64 // of all rates

	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	limit *rate.Limiter
	full  rate.Limit // what the limit is when nobody throttles us
}

func newGovernor(factor float64) *governor {
	return &governor{factor: factor, buckets: map[string]*bucket{}}
}

func (g *governor) bucket(op string, c class) *bucket {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.buckets[op]
	if b == nil {
		full := rate.Limit(c.perSec * g.factor * rateShare)
		b = &bucket{limit: rate.NewLimiter(full, max(int(float64(c.burst)*g.factor*burstShare), 1)), full: full}
		g.buckets[op] = b
	}
	return b
}

// throttled empties the bucket and halves its refill, down to an eighth: somebody else uses the account's budget, too.
func (b *bucket) throttled() {
	now := time.Now()
	if n := int(b.limit.TokensAt(now)); n > 0 {
		b.limit.ReserveN(now, n)
	}
	b.limit.SetLimitAt(now, max(b.limit.Limit()/2, b.full/8))
}

// passed gives back a tenth of the refill.
func (b *bucket) passed() {
	if l := b.limit.Limit(); l < b.full {
		b.limit.SetLimit(min(l+b.full/10, b.full))
	}
}

// callError is what a call of AWS ended with.
type callError struct {
	op        string
	err       error // of the last try
	uncertain bool  // some try may have had its effect
}

func (e *callError) Error() string { return e.op + ": " + describe(e.err) }
func (e *callError) Unwrap() error { return e.err }

// errNoTurn is the end of a call that got no token of its bucket before its deadline: it was never sent.
var errNoTurn = errors.New("the request limit of EC2 left no turn before the deadline")

// nameTries is how often a call in haste looks for a name that does not exist.
const nameTries = 3

type haste struct{}

// inHaste is for calls that somebody waits for at a terminal, or that are repeated in any case: that there is no such service (a region is misspelt) is said
// after some tries, and not when the deadline is over.
func inHaste(ctx context.Context) context.Context { return context.WithValue(ctx, haste{}, true) }

type optionally struct{}

// optional is for calls whose answer is only worth knowing: what fails is repeated once, and not for as long as the deadline allows.
func optional(ctx context.Context) context.Context { return context.WithValue(ctx, optionally{}, true) }

// governed wraps one operation of a client.
func governed[I, O, Opt any](g *governor, c class, op string, f func(context.Context, *I, ...func(*Opt)) (*O, error)) call[I, O] {
	return func(ctx context.Context, in *I) (*O, error) {
		b := g.bucket(op, c)
		pause := backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(100*time.Millisecond), // with a randomization of 1: full jitter up to twice the interval
			backoff.WithRandomizationFactor(1), backoff.WithMultiplier(2), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
		failed, patience := &callError{op: op}, c.attempt
		nameless, failures := 0, 0
		for {
			if err := b.limit.Wait(ctx); err != nil {
				if failed.err == nil {
					failed.err = errNoTurn
					if ctx.Err() != nil {
						failed.err = ctx.Err()
					}
				}
				return nil, failed
			}
			try, cancel := context.WithTimeout(ctx, patience)
			out, err := f(try, in)
			if try.Err() != nil {
				patience *= 2 // a service that is slow, and not deaf, must have time to answer: asked the same way again it would never come to it
			}
			cancel()
			if err == nil {
				b.passed()
				return out, nil
			}
			fate := fateOf(err)
			if fate == fateThrottled {
				b.throttled()
			}
			failed.err = err
			failed.uncertain = failed.uncertain || fate == fateUncertain && !c.read
			if fate == fateRefused {
				return nil, failed
			}
			if noSuchName(err) {
				if nameless++; nameless >= nameTries && ctx.Value(haste{}) != nil {
					return nil, failed
				}
			}
			if fate != fateThrottled {
				if failures++; failures > 1 && ctx.Value(optionally{}) != nil {
					return nil, failed
				}
			}
			if !sleep(ctx, pause.NextBackOff()) {
				return nil, failed
			}
		}
	}
}

// sleep waits and says whether the context still lives, with time left for another try.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
