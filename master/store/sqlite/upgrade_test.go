package sqlite

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// TestAnUpgradeKeepsWhatIsLive: requests, builds and instances of a master of schema 5 are those of the next one, which counts interruptions from 0.
func TestAnUpgradeKeepsWhatIsLive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	at := time.Unix(1_700_000_000, 0).UTC()
	request := func(id model.RequestID, state model.RequestState, build model.BuildID) core.Request {
		return core.Request{ID: id, Builder: "b", SubmittedAt: at, SourceKey: "k", Generation: 3, State: state, Attempts: 2, Build: build, Result: model.NoResult}
	}
	live := core.Delta{NextBuild: 8, NextOp: 9,
		Requests: []core.Request{request(1, model.RequestWaiting, 0), request(2, model.RequestClaimed, 7)},
		Builds: []core.Build{{ID: 7, Requests: []model.RequestID{2}, Builder: "b", Worker: "w", Instance: "o-w-4", Generation: 3, Attempt: 2, Phase: model.BuildRunning,
			AssignedAt: at, StartedAt: at, Result: model.NoResult}},
		Workers:   []core.WorkerState{{Name: "w", Generation: 4}},
		Instances: []core.Instance{{Key: "o-w-4", Worker: "w", Provider: "p", AskedAt: at, Resolved: true, Place: "max_instances", VCPUs: 2}}}
	var rows []model.Request
	for _, r := range live.Requests {
		rows = append(rows, model.Request{ID: r.ID, Builder: r.Builder, SubmittedAt: r.SubmittedAt, Generation: r.Generation})
	}
	if err := s.Commit(t.Context(), store.Tx{Time: at, Requests: rows, Deltas: []core.Delta{live}}); err != nil {
		t.Fatal(err)
	}
	want, _, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, dir, "ALTER TABLE requests DROP COLUMN interrupted", "DELETE FROM goose_db_version WHERE version_id = 6") // as migration 5 left it

	s = mustOpen(t, dir)
	got, _, err := s.Load(t.Context())
	if err != nil || len(got.Requests) != 2 || len(got.Builds) != 1 || len(got.Instances) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(core.Build{})); diff != "" {
		t.Error(diff)
	}
	moved := got.Requests[1]
	moved.Interrupted = 1
	if err := s.Commit(t.Context(), store.Tx{Time: at, Deltas: []core.Delta{{Requests: []core.Request{moved}, NextBuild: 8, NextOp: 9}}}); err != nil {
		t.Fatal(err)
	}
	if got, _, err = s.Load(t.Context()); err != nil || !slices.Equal(got.Requests, []core.Request{want.Requests[0], moved}) {
		t.Errorf("%+v, %v", got.Requests, err)
	}
}
