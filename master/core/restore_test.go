package core_test

import (
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

func TestClockThatWasSetBackBetweenTwoMastersDelaysNothing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.AddDate(1, 0, 0) // when the last master ran, as it believed
	s := core.Restore(core.Saved{
		Owner: "me",
		Workers: []core.WorkerState{
			{Name: "booting", Generation: 1},
			{Name: "failed", Generation: 1, Tries: 2, BackoffUntil: later},
		},
		Instances: []core.Instance{{Key: "me-booting-1", Worker: "booting", Provider: "p", AskedAt: later, Resolved: true, UnresolvedAt: later}},
	})
	cfg := core.Config{Generation: 1, Providers: []core.Provider{{Name: "p", Settle: time.Minute}}, Builders: []core.Builder{{Name: "b", Workers: []string{"failed"}}},
		Workers: []core.Worker{{Name: "booting", Provider: "p", MissingTimeout: 20 * time.Minute, BuildWaitTimeout: -1}, {Name: "failed", Provider: "p"}}}
	got := map[string]time.Time{}
	for _, ev := range []core.Event{core.Restarted{}, core.ConfigApplied{Config: cfg}} {
		d := s.Step(now, ev).Delta
		for _, w := range d.Workers {
			got["backoff of "+w.Name] = w.BackoffUntil
		}
		for _, in := range d.Instances {
			got["asked at"], got["unresolved at"] = in.AskedAt, in.UnresolvedAt
		}
	}
	for what, want := range map[string]time.Time{"asked at": now, "unresolved at": now, "backoff of failed": now.Add(core.MaxBackoff)} {
		if !got[what].Equal(want) {
			t.Errorf("%s: %v, want %v", what, got[what], want)
		}
	}
}
