package ec2

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

type nothing struct{}

// service is an operation that answers with one error after another, then well.
func service(g *governor, c class, errs ...error) (call[nothing, nothing], *[]time.Time) {
	var sent []time.Time
	return governed(g, c, "Op", func(context.Context, *nothing, ...func(*nothing)) (*nothing, error) {
		sent = append(sent, time.Now())
		if n := len(sent); n <= len(errs) && errs[n-1] != nil {
			return nil, errs[n-1]
		}
		return &nothing{}, nil
	}), &sent
}

func TestCallsKeepToTheirBucket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do, sent := service(newGovernor(1), classRun)
		began := time.Now()
		for range 25 {
			if _, err := do(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d < 10*time.Second || d > 12*time.Second {
			t.Errorf("25 launches took %s; 5 at once and then 2 in a second take 10 s, and a share of that is not used", d)
		}
		if (*sent)[3].Sub(began) > 0 || (*sent)[4].Sub(began) == 0 {
			t.Error("of the burst of 5, 4 are used")
		}
	})
}

func TestThrottledCallsAreRepeatedSlower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		throttle := reply(503, "RequestLimitExceeded", "")
		g := newGovernor(1)
		do, sent := service(g, classDescribe, throttle, throttle, throttle)
		if _, err := do(t.Context(), nil); err != nil || len(*sent) != 4 {
			t.Errorf("%v after %d requests", err, len(*sent))
		}
		b := g.bucket("Op", classDescribe)
		if b.limit.Limit() >= b.full || b.limit.Limit() < b.full/8 {
			t.Errorf("the refill is %v of %v after three throttles", b.limit.Limit(), b.full)
		}
		for range 20 {
			_, _ = do(t.Context(), nil)
		}
		if b.limit.Limit() != b.full {
			t.Errorf("the refill is %v after 20 good calls, want %v", b.limit.Limit(), b.full)
		}
	})
}

func TestANameThatDoesNotExistIsBelievedSoonByWhoIsInHaste(t *testing.T) {
	t.Parallel()
	for _, hasty := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			gone := &net.DNSError{Err: "no such host", Name: "ec2.eu-centrl-1.amazonaws.com", IsNotFound: true}
			do, sent := service(newGovernor(1), classDescribe, gone, gone, gone, gone, gone)
			ctx := t.Context()
			if hasty {
				ctx = inHaste(ctx)
			}
			began := time.Now()
			_, err := do(ctx, nil)
			switch took := time.Since(began); {
			case hasty && (len(*sent) != nameTries || took > 2*time.Second || classOfAnswer(err) != providers.Transient):
				t.Errorf("in haste: %v after %d requests and %s", err, len(*sent), took)
			case !hasty && (err != nil || len(*sent) != 6): // a resolver may be broken for a while
				t.Errorf("%v after %d requests", err, len(*sent))
			}
		})
	}
}

func TestCapacityIsAskedForOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do, sent := service(newGovernor(1), classRun, reply(500, "InsufficientInstanceCapacity", ""), nil)
		_, err := do(t.Context(), nil)
		if len(*sent) != 1 || codeOf(err) != "InsufficientInstanceCapacity" {
			t.Errorf("%d requests, %v", len(*sent), err)
		}
	})
}

func TestLostReplyLeavesACallUncertainWhateverComesNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do, sent := service(newGovernor(1), classRun, errLost, reply(400, "InvalidParameterValue", ""))
		_, err := do(t.Context(), nil)
		wantClass(t, fail("create", err, "launch"), providers.Unknown)
		if len(*sent) != 2 {
			t.Errorf("%d requests: a lost one is repeated", len(*sent))
		}
		do, _ = service(newGovernor(1), classDescribe, errLost, reply(400, "InvalidParameterValue", ""))
		_, err = do(t.Context(), nil)
		wantClass(t, fail("get", err, "look"), providers.BadConfig) // a read changes nothing
	})
}

// TestTheSecondTryIsGivenTheRest: neither one lost request nor a service that takes longer than the first try is waited for in vain until the deadline.
func TestTheSecondTryIsGivenTheRest(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		class    class
		answered func(ctx context.Context, try int) bool
	}{
		"the first request hangs": {classTerminate, func(_ context.Context, try int) bool { return try > 1 }},
		"the service is slow":     {classDescribe, func(ctx context.Context, _ int) bool { return sleep(ctx, 15*time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := 0
				do := governed(newGovernor(1), tc.class, "Op", func(ctx context.Context, _ *nothing, _ ...func(*nothing)) (*nothing, error) {
					n++
					if !tc.answered(ctx, n) {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return &nothing{}, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if _, err := do(ctx, nil); err != nil || n != 2 {
					t.Errorf("%v after %d tries", err, n)
				}
			})
		})
	}
}

func TestNoTurnBeforeTheDeadlineIsThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do, sent := service(newGovernor(1), classRun)
		for range 5 {
			_, _ = do(t.Context(), nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := do(ctx, nil)
		wantClass(t, fail("create", err, "launch"), providers.Throttled)
		if len(*sent) != 5 {
			t.Errorf("%d requests were sent", len(*sent))
		}
	})
}
