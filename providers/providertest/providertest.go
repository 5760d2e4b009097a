// Package providertest is the conformance suite of the provider contract: every provider runs it, and one that passes can be given to the engine.
//
// It knows the contract only: whatever differs from one provider to the next comes in the Setup.
package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// Setup is one empty world in which instances can be made, and what the suite must know of it.
type Setup struct {
	// Open opens a provider for the owner, as a master that starts does. Every call is a new handle on the same world. The suite closes it.
	Open func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits)

	// Spec returns a new specification that works. The instance it makes must stay until it is destroyed.
	Spec func() any

	// BadSpec returns a specification that Create refuses with class BadConfig; nil when there is none.
	BadSpec func() any

	// Alive counts, by other means than the provider, what really lives under a key; nil when there are no such means.
	Alive func(key providers.Key) int

	// Within bounds everything that the suite waits for; 0 means 30 s.
	Within time.Duration

	// Master is the URL given to agents; "" means one that nobody answers.
	Master string
}

// Token is the credential that the suite gives to agents. It must never show up anywhere.
const Token = "tok-5up3r-s3cr3t-conformance"

// The suite's two masters.
const (
	ours   providers.Owner = "owner-a"
	theirs providers.Owner = "owner-b"
)

// Run runs the suite. open makes a new world for each test and cleans it up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Setup) {
	for _, tc := range []struct {
		name string
		run  func(*suite)
	}{
		{"CreateTwiceReturnsTheSameInstance", testCreateTwice},
		{"ConcurrentCreatesMakeOneInstance", testConcurrentCreates},
		{"CreateOutlivesItsContext", testCreateOutlivesContext},
		{"CreateAfterDestroyMakesNoSecondInstance", testCreateAfterDestroy},
		{"CreateAfterGoneMakesNoSecondInstance", testCreateAfterGone},
		{"CreateAfterGoneInAnotherHandleMakesNoSecondInstance", testCreateAfterGoneReopened},
		{"DestroyRepeatsUntilNotFound", testDestroy},
		{"ConcurrentDestroysAreHarmless", testConcurrentDestroys},
		{"UnknownKeyIsNotFound", testUnknownKey},
		{"MalformedKeyIsRefused", testMalformedKey},
		{"GetReturnsWhatWasCreated", testGet},
		{"OtherOwnersAreLeftAlone", testOwners},
		{"ListIsCompleteInAnotherHandle", testReopen},
		{"InstanceIsDestroyedByAnotherHandle", testDestroyReopened},
		{"BadSpecIsBadConfigAndLeavesNothing", testBadSpec},
		{"EndedContextReturnsSoon", testContext},
		{"ManyAtOnce", testMany},
		{"SecretsAppearNowhere", testSecrets},
		{"LimitsAreStated", testLimits},
		{"Console", testConsole},
		{"Check", testCheck},
		{"FactsAreTheSameInGetAndList", testFacts},
		{"StopAndStartKeepTheInstance", testSleep},
		{"StoppedInstanceIsDestroyedWithoutBeingStarted", testSleepDestroy},
		{"StopAndStartInAnyState", testSleepAnyState},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := &suite{T: t, Setup: open(t)}
			if s.Within == 0 {
				s.Within = 30 * time.Second
			}
			if s.Master == "" {
				s.Master = "ws://127.0.0.1:9"
			}
			s.log = slog.New(slog.NewTextHandler(&s.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			tc.run(s)
			if s.Failed() {
				s.Logf("log of the provider:\n%s", s.logged.String())
			}
			if strings.Contains(s.logged.String(), Token) {
				t.Error("the token is in the log")
			}
		})
	}
}

// suite is one running test.
type suite struct {
	*testing.T
	Setup
	log    *slog.Logger
	logged lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// open opens a handle and closes it at the end of the test, after having destroyed everything that its owner still has.
func (s *suite) open(owner providers.Owner) providers.Provider {
	s.Helper()
	p, _ := s.Open(s.T, owner, s.log)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.Within)
		defer cancel()
		if list, err := p.List(ctx, owner); err == nil {
			for _, in := range list {
				s.destroy(p, in.Key)
			}
		}
		_ = p.Close()
	})
	return p
}

// close closes a handle before its time; the one opened next cleans up.
func (s *suite) close(p providers.Provider) {
	s.Helper()
	if err := p.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
}

var serial atomic.Int64

// request returns a request with a key that was never used.
func (s *suite) request(owner providers.Owner) providers.CreateRequest {
	return providers.CreateRequest{
		Key:    providers.Key(fmt.Sprintf("%s-w-%d-%d", owner, time.Now().UnixNano()%1e9, serial.Add(1))),
		Owner:  owner,
		Worker: "w",
		Spec:   s.Spec(),
		Agent:  providers.Agent{Master: s.Master, Name: "w", Token: Token, Orphan: 10 * time.Minute},
	}
}

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.Within)
	s.Cleanup(cancel)
	return ctx
}

func (s *suite) create(p providers.Provider, req providers.CreateRequest) providers.Instance {
	s.Helper()
	in, err := p.Create(s.ctx(), req)
	if err != nil {
		s.Fatalf("Create: %v", err)
	}
	if in.Key != req.Key {
		s.Fatalf("Create returned key %q, want %q", in.Key, req.Key)
	}
	return in
}

// until repeats f until it says true.
func (s *suite) until(what string, f func() bool) {
	s.Helper()
	deadline := time.Now().Add(s.Within)
	for pause := time.Millisecond; !f(); pause = min(2*pause, 250*time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("not within %s: %s", s.Within, what)
		}
		time.Sleep(pause)
	}
}

func (s *suite) untilRunning(p providers.Provider, key providers.Key) {
	s.Helper()
	s.until("instance is running", func() bool {
		in, err := p.Get(s.ctx(), key)
		if err != nil {
			s.Fatalf("Get of an instance that exists: %v", err)
		}
		if in.State != providers.Pending && in.State != providers.Running {
			s.Fatalf("state is %s (%s), want running", in.State, in.Detail)
		}
		return in.State == providers.Running
	})
}

// destroy does as the engine does: again and again until NotFound.
func (s *suite) destroy(p providers.Provider, key providers.Key) {
	s.Helper()
	s.until("Destroy answers NotFound", func() bool {
		err := p.Destroy(s.ctx(), key)
		if err != nil && providers.ClassOf(err) != providers.NotFound {
			s.Fatalf("Destroy: %v", err)
		}
		return err != nil
	})
	if in, err := p.Get(s.ctx(), key); err == nil && in.State != providers.Gone {
		s.Errorf("Get after Destroy said NotFound: state %s, want gone or NotFound", in.State)
	} else if err != nil {
		s.wantClass("Get after Destroy said NotFound", err, providers.NotFound)
	}
	s.wantAlive(key, 0)
}

func (s *suite) wantClass(what string, err error, want providers.Class) {
	s.Helper()
	if err == nil {
		s.Errorf("%s: no error, want class %s", what, want)
		return
	}
	var e *providers.Error
	if got := providers.ClassOf(err); got != want || !errors.As(err, &e) {
		s.Errorf("%s: %v has class %s, want %s", what, err, got, want)
	}
}

func (s *suite) wantAlive(key providers.Key, want int) {
	s.Helper()
	if s.Alive == nil {
		return
	}
	if n := s.Alive(key); n != want {
		s.Errorf("%d live under %q, want %d", n, key, want)
	}
}

// live returns the owner's instances that are not Gone, by key, and fails on a key that is there twice.
func (s *suite) live(p providers.Provider, owner providers.Owner) map[providers.Key]providers.Instance {
	s.Helper()
	list, err := p.List(s.ctx(), owner)
	if err != nil {
		s.Fatalf("List: %v", err)
	}
	m := map[providers.Key]providers.Instance{}
	for _, in := range list {
		if _, twice := m[in.Key]; twice {
			s.Errorf("List shows %q twice", in.Key)
		}
		if in.Interrupted && in.State != providers.Failed {
			s.Errorf("List shows %q as taken back, and as %s", in.Key, in.State)
		}
		if in.State != providers.Gone {
			m[in.Key] = in
		}
	}
	return m
}

func (s *suite) wantLive(p providers.Provider, owner providers.Owner, keys ...providers.Key) {
	s.Helper()
	live := s.live(p, owner)
	for _, k := range keys {
		if _, ok := live[k]; !ok {
			s.Errorf("List does not show %q", k)
		}
		delete(live, k)
	}
	for k := range live {
		s.Errorf("List shows %q", k)
	}
}
