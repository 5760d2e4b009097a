package core_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// bench is a core whose workers are all attached, with `waiting` requests in the queue.
func bench(b *testing.B, workers, builders, waiting int) (*core.State, time.Time, model.RequestID, []model.BuildID) {
	now := time.Unix(1e9, 0)
	cfg := core.Config{Generation: 1}
	var names []string
	for i := range workers {
		n := fmt.Sprintf("w%d", i)
		names = append(names, n)
		cfg.Workers = append(cfg.Workers, core.Worker{Name: n, MaxBuilds: 1})
	}
	for i := range builders {
		cfg.Builders = append(cfg.Builders, core.Builder{Name: fmt.Sprintf("b%d", i), Workers: names, MaxAttempts: 5})
	}
	s := core.New("bench")
	s.Step(now, core.ConfigApplied{Config: cfg})
	for i, n := range names {
		s.Step(now, core.Attached{Worker: n, Session: model.SessionID(i + 1), Agent: n, Resumable: true})
	}
	var running []model.BuildID
	var id model.RequestID
	for i := range waiting + workers {
		id++
		bt := s.Step(now, core.Submitted{Requests: []core.Request{{ID: id, Builder: fmt.Sprintf("b%d", i%builders), SubmittedAt: now}}})
		running = append(running, started(bt)...)
	}
	if len(running) != min(workers, waiting+workers) {
		b.Fatalf("%d builds run on %d workers", len(running), workers)
	}
	return s, now, id, running
}

func started(bt core.Batch) (ids []model.BuildID) {
	for _, e := range bt.Effects {
		if st, ok := e.(core.StartBuild); ok {
			ids = append(ids, st.Build.ID)
		}
	}
	return ids
}

// BenchmarkStep ends one build and submits one request per iteration: two steps, one dispatch.
func BenchmarkStep(b *testing.B) {
	for _, c := range []struct{ workers, builders, waiting int }{{16, 1, 10}, {16, 1000, 10_000}, {500, 1, 10}, {500, 200, 10_000}} {
		b.Run(fmt.Sprintf("workers=%d/builders=%d/waiting=%d", c.workers, c.builders, c.waiting), func(b *testing.B) {
			s, now, id, running := bench(b, c.workers, c.builders, c.waiting)
			names := make([]string, c.builders)
			for i := range names {
				names[i] = fmt.Sprintf("b%d", i)
			}
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Millisecond)
				end := running[0]
				running = running[1:]
				running = append(running, started(s.Step(now, core.BuildEnded{Build: end}))...)
				id++
				running = append(running, started(s.Step(now, core.Submitted{Requests: []core.Request{{ID: id, Builder: names[int(id)%c.builders], SubmittedAt: now}}}))...)
			}
			b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "steps/s")
			if len(running) != c.workers {
				b.Fatalf("%d builds run on %d workers", len(running), c.workers)
			}
		})
	}
}
