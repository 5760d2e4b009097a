// Package storetest is the one suite that every store must pass.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Run runs the suite. open opens a state: the first call in a test makes an empty one, a later one in the same test (after Close) opens that
// state again. The suite closes what it opens.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, open func(t *testing.T) store.Store)
	}{
		{"AnEmptyStateHasAnOwnerAndNothingElse", testEmpty},
		{"EveryFieldSurvives", testRoundTrip},
		{"ChangedRowsReplaceTheirOldOnes", testReplace},
		{"LoadFindsOnlyWhatIsLive", testLoad},
		{"AFailedCommitLeavesNothing", testAtomic},
		{"CountersNeverGoBack", testCounters},
		{"NotFound", testNotFound},
		{"BuildsAreFiltered", testBuilds},
		{"Instances", testInstances},
		{"Configurations", testConfigs},
		{"TraceFollowsBuildsAndInstances", testTrace},
		{"JournalPages", testJournal},
		{"PruneKeepsWhatIsLive", testPrune},
		{"PruneKeepsWhatAKeptRowNeeds", testPruneTogether},
		{"PruneKeepsTheConfigurationsOfLiveInstances", testPruneKeepsProviders},
		{"ReadersSeeWholeCommits", testReaders},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t, open)
		})
	}
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// at is a moment n minutes after the epoch.
func at(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return c
}

func commit(t *testing.T, s store.Store, tx store.Tx) {
	t.Helper()
	if tx.Time.IsZero() {
		tx.Time = epoch
	}
	if err := s.Commit(ctx(t), tx); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// ok gives the value, or ends the test.
func ok[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(core.Build{}), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func load(t *testing.T, s store.Store) core.Saved {
	t.Helper()
	saved, _, err := s.Load(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func closing(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func isNotFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s: the error is %v, not ErrNotFound", what, err)
	}
}

// request is a full row with every field set.
func request(id model.RequestID) model.Request {
	return model.Request{
		ID: id, Builder: "linux", Priority: -3, Reason: "because ünïcode\n\x00", Scheduler: "nightly", Owner: "alice",
		Source: model.Source{Repository: "https://example.org/r.git", Branch: "main", Revision: "abc", Project: "p", Codebase: "c",
			Patch: &model.Patch{Level: 1, Body: []byte("--- a\n\xff\n"), Subdir: "d", Author: "bob", Comment: "x"}},
		Properties: model.Properties{"a": {Value: "s", Source: "Force"}, "b": {Value: []any{1.5, nil, true, map[string]any{"k": "v"}}, Source: "Builder"}},
		Worker:     "w1", Parent: 7, Generation: 2, SubmittedAt: at(1), State: model.RequestWaiting, Result: model.NoResult,
	}
}

// coreRequest is what the core knows of request(id).
func coreRequest(id model.RequestID) core.Request {
	return core.Request{ID: id, Builder: "linux", Priority: -3, SubmittedAt: at(1), Worker: "w1", SourceKey: "key", Generation: 2, State: model.RequestWaiting, Result: model.NoResult, Interrupted: 3}
}

func coreBuild(id model.BuildID, requests ...model.RequestID) core.Build {
	return core.Build{ID: id, Requests: requests, Builder: "linux", Worker: "w1", Instance: "o-w1-1", Generation: 2, Attempt: 3, Phase: model.BuildRunning,
		AssignedAt: at(2), StartedAt: at(3), Result: model.NoResult, Text: "t", Cancelling: "why",
		Locks: []core.Access{{Lock: "disk"}, {Lock: "net", Exclusive: true}}}
}

func coreInstance(key model.InstanceKey) core.Instance {
	return core.Instance{Key: key, Worker: "w1", Provider: "p", ProviderID: "i-1", Spec: "spec", Price: 0.125, AskedAt: at(1), Resolved: true, UnresolvedAt: at(2),
		BootedAt: at(3), AttachedAt: at(4), LostAt: at(5), Agent: "agent", Served: true, Doomed: true, DoomedAt: at(6), Reason: "idle", DestroyTries: 4,
		StoppedPrice: 0.0625, Power: latent.Stopped, PowerAt: at(5), Slept: 90 * time.Second, Detail: "a machine", Facts: map[string]string{"zone": "a", "type": "m5"},
		Place: "host-2", VCPUs: 4, Memory: 8 << 30}
}

func deltas(d ...core.Delta) []core.Delta { return d }
