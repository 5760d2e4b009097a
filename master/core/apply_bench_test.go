package core_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// fleet is a configuration of many workers and builders. each is how many workers a builder names; 0 is all.
func fleet(workers, builders, each int) core.Config {
	c := core.Config{Generation: 1, Providers: []core.Provider{{Name: "p"}}, Locks: []core.Lock{{Name: "disk", Max: 4, PerWorker: true}, {Name: "license", Max: 50}}}
	names := make([]string, workers)
	for i := range names {
		names[i] = fmt.Sprintf("w%d", i)
		c.Workers = append(c.Workers, core.Worker{Name: names[i], Provider: "p", MaxBuilds: 1, BuildWaitTimeout: time.Minute, Spec: "1", Locks: []core.Access{{Lock: "disk"}}})
	}
	for i := range builders {
		b := core.Builder{Name: fmt.Sprintf("b%d", i), Workers: names, MaxAttempts: 5, Collapse: true}
		if each > 0 {
			b.Workers = nil
			for j := range each {
				b.Workers = append(b.Workers, names[(i*each+j)%workers])
			}
			b.Locks = []core.Access{{Lock: "license"}}
		}
		c.Builders = append(c.Builders, b)
	}
	return c
}

// changed is the configuration with n changes: of machines, timeouts, removals, additions and builders.
func changed(c core.Config, n, round int) core.Config {
	c.Generation++
	c.Workers, c.Builders = slices.Clone(c.Workers), slices.Clone(c.Builders)
	for i := range n {
		at := (round*n*7 + i*97) % len(c.Workers)
		switch i % 5 {
		case 0, 1:
			c.Workers[at].Spec += "x"
		case 2:
			c.Workers[at].BuildWaitTimeout += time.Second
		case 3:
			c.Workers[at].Name = fmt.Sprintf("n%d-%d", round, i)
		case 4:
			c.Builders[at%len(c.Builders)].MaxAttempts++
		}
	}
	return c
}

// BenchmarkConfigApplied holds the loop for as long as one configuration takes: 10,000 workers, 1,000 builders, 100 changes, 2,000 waiting requests. What is done
// before the loop has it is not counted; prepare-ns/op says what that costs.
func BenchmarkConfigApplied(b *testing.B) {
	for _, each := range []int{20, 0} {
		name := fmt.Sprintf("workers-of-a-builder=%d", each)
		if each == 0 {
			name = "workers-of-a-builder=all"
		}
		b.Run(name, func(b *testing.B) {
			cfg := fleet(10_000, 1_000, each)
			now := time.Unix(1e9, 0)
			s := core.New("bench")
			s.Step(now, core.ConfigApplied{Config: cfg})
			for i := range 500 { // machines that are on their way
				s.Step(now, core.Submitted{Requests: []core.Request{{ID: model.RequestID(i + 1), Builder: cfg.Builders[i*2].Name, SubmittedAt: now}}})
			}
			for i := range cfg.Workers { // and requests that wait
				s.Step(now, core.PauseAsked{Worker: cfg.Workers[i].Name, Reason: "bench"})
			}
			for i := range 2000 {
				s.Step(now, core.Submitted{Requests: []core.Request{{ID: model.RequestID(i + 501), Builder: cfg.Builders[i%1000].Name, SubmittedAt: now, SourceKey: "k"}}})
			}
			var longest, preparing time.Duration
			rows, round := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				round++
				cfg = changed(cfg, 100, round)
				began := time.Now()
				p := core.Prepare(cfg)
				preparing += time.Since(began)
				b.StartTimer()
				began = time.Now()
				bt := s.Step(now, core.ConfigApplied{Config: cfg, Prepared: p})
				longest = max(longest, time.Since(began))
				rows += len(bt.Delta.Requests) + len(bt.Delta.Builds) + len(bt.Delta.Workers) + len(bt.Delta.Instances) + len(bt.Delta.Journal)
			}
			b.ReportMetric(float64(longest)/1e6, "longest-ms")
			b.ReportMetric(float64(preparing)/float64(b.N), "prepare-ns/op")
			b.ReportMetric(float64(rows)/float64(b.N), "rows/op")
		})
	}
}
