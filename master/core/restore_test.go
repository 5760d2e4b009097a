package core_test

import (
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
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

// TestASleeperThatBacksOffIsAvailableInTime: it backs off although it has an instance only if the clock was set back between two masters.
func TestASleeperThatBacksOffIsAvailableInTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := core.Restore(core.Saved{
		Owner:     "me",
		Workers:   []core.WorkerState{{Name: "w", Generation: 1, Tries: 1, BackoffUntil: now.Add(time.Minute)}},
		Instances: []core.Instance{{Key: "me-w-1", Worker: "w", Provider: "p", AskedAt: now, Resolved: true, BootedAt: now, AttachedAt: now, Power: latent.Stopped, PowerAt: now}},
	})
	s.Step(now, core.ConfigApplied{Config: core.Config{Generation: 1, Providers: []core.Provider{{Name: "p", Settle: time.Minute}},
		Workers: []core.Worker{{Name: "w", Provider: "p", Idle: core.IdleStop}}, Builders: []core.Builder{{Name: "b", Workers: []string{"w"}}}}})
	ops := s.Step(now, core.Restarted{}).Effects
	for _, e := range ops {
		if c, ok := e.(core.CheckInstance); ok {
			s.Step(now, core.OpDone{Op: c.Op, Result: core.OpResult{Class: core.OpOK, State: core.SightStopped}})
		}
	}
	s.Step(now, core.Submitted{Requests: []core.Request{{ID: 1, Builder: "b", SubmittedAt: now}}})
	for _, tm := range s.Snapshot(now).Timers {
		if tm.Name == "worker:w" && tm.At.Equal(now.Add(time.Minute)) {
			return
		}
	}
	t.Errorf("the request waits for a worker that nobody looks at when its backoff is over: %+v", s.Snapshot(now).Timers)
}
