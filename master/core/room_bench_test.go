package core_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// cramp is a core whose provider has rooms for half of its workers, all of them taken, and idle instances that are of no use to anybody: too small, or,
// with locks, many, but somebody holds the locks. One request of each builder waits.
func cramp(b *testing.B, workers, builders int, pools, pinned bool, spare int, locked bool) (*core.State, time.Time, model.RequestID) {
	now := time.Unix(1e9, 0)
	cfg := core.Config{Generation: 1, Providers: []core.Provider{{Name: "p", Settle: time.Minute, CheckInterval: time.Minute, DestroyBackoff: time.Second}}}
	var names []string
	for i := range workers {
		n := fmt.Sprintf("w%d", i)
		names = append(names, n)
		cfg.Workers = append(cfg.Workers, core.Worker{Name: n, Provider: "p", MaxBuilds: 1, BuildWaitTimeout: -1, MissingTimeout: time.Hour, VCPUs: 4, Memory: int64(1+i%4) << 30})
	}
	cfg.Builders = append(cfg.Builders, core.Builder{Name: "first", Workers: names})
	var idle []string
	for i := range spare {
		n := fmt.Sprintf("idle%d", i)
		idle = append(idle, n)
		cfg.Workers = append(cfg.Workers, core.Worker{Name: n, Provider: "p", BuildWaitTimeout: -1, MissingTimeout: time.Hour, VCPUs: 1})
		cfg.Builders = append(cfg.Builders, core.Builder{Name: n, Workers: []string{n}})
	}
	if locked {
		cfg.Workers = append(cfg.Workers, core.Worker{Name: "holder"})
		for i := range builders {
			cfg.Builders = append(cfg.Builders, core.Builder{Name: fmt.Sprintf("h%d", i), Workers: []string{"holder"}, Locks: []core.Access{{Lock: fmt.Sprintf("l%d", i), Exclusive: true}}})
		}
	}
	for i := range builders {
		bc := core.Builder{Name: fmt.Sprintf("b%d", i), Workers: names}
		if pools {
			l := fmt.Sprintf("l%d", i)
			cfg.Locks, bc.Locks = append(cfg.Locks, core.Lock{Name: l, Max: 2}), []core.Access{{Lock: l}}
		}
		cfg.Builders = append(cfg.Builders, bc)
	}
	s := core.New("bench")
	s.Step(now, core.ConfigApplied{Config: cfg})
	var rooms []core.Room
	for i := range 4 {
		rooms = append(rooms, core.Room{Name: fmt.Sprintf("host%d", i), VCPUs: workers/2/4*4 + spare/4 + 1, Slots: 100_000})
	}
	s.Step(now, core.RoomsKnown{Provider: "p", Rooms: rooms})
	id, session := model.RequestID(0), model.SessionID(0)
	submit := func(builder, worker string) []core.Effect {
		id++
		return s.Step(now, core.Submitted{Requests: []core.Request{{ID: id, Builder: builder, Worker: worker, SubmittedAt: now}}}).Effects
	}
	begin := func(builder string) (ids []model.BuildID) {
		for _, e := range submit(builder, "") {
			if c, ok := e.(core.CreateInstance); ok {
				s.Step(now, core.OpDone{Op: c.Op, Result: core.OpResult{Class: core.OpOK, State: core.SightRunning}})
				session++
				ids = append(ids, started(s.Step(now, core.Attached{Worker: c.Worker, Session: session, Instance: c.Key, Agent: c.Worker, Resumable: true}))...)
			}
		}
		if len(ids) != 1 {
			b.Fatalf("%d builds of %s begin", len(ids), builder)
		}
		return ids
	}
	for _, n := range idle {
		s.Step(now, core.BuildEnded{Build: begin(n)[0]})
	}
	for range workers / 2 / 4 * 4 {
		begin("first")
	}
	if locked {
		s.Step(now, core.Attached{Worker: "holder", Session: session + 1, Agent: "holder"})
		for i := range builders {
			submit(fmt.Sprintf("h%d", i), "")
		}
	}
	for i := range builders {
		pin := ""
		if pinned {
			pin = names[len(names)-1-i%(workers/2)]
		}
		submit(fmt.Sprintf("b%d", i), pin)
	}
	return s, now, id
}

// BenchmarkCramped is one step while nothing helps: a request is submitted, and another one is cancelled.
func BenchmarkCramped(b *testing.B) {
	for _, c := range []struct {
		what                  string
		pools, pinned, locked bool
		spare                 int
	}{{"one-pool", false, false, false, 1}, {"pools", true, false, false, 1}, {"pinned", false, true, false, 1}, {"locked", true, false, true, 16}} {
		b.Run("lanes=1000/workers=2000/"+c.what, func(b *testing.B) {
			s, now, id := cramp(b, 2000, 1000, c.pools, c.pinned, c.spare, c.locked)
			for b.Loop() {
				id++
				now = now.Add(time.Millisecond)
				bt := s.Step(now, core.Submitted{Requests: []core.Request{{ID: id, Builder: "b7", SubmittedAt: now}}})
				s.Step(now, core.CancelAsked{Request: id})
				if len(bt.Effects) > 0 {
					b.Fatalf("something helps: %+v", bt.Effects)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(2*b.N), "ms/step")
		})
	}
}
