package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// fleet is a configuration of 10,000 workers and 1,000 builders with 1 MiB of text. Each generation changes 100 workers, 10 builders and a provider's limits, and
// removes and adds a few.
func fleet(gen model.Generation) (core.Config, store.ConfigSnapshot) {
	const workers, builders = 10_000, 1000
	g := int(gen)
	c := core.Config{Generation: gen, Providers: []core.Provider{{Name: "p", Settle: time.Minute, CheckInterval: 30 * time.Second, DestroyBackoff: time.Second,
		SweepInterval: time.Hour, SweepGrace: time.Duration(g) * time.Minute}}, Locks: []core.Lock{{Name: "l", Max: 3}}}
	for i := range workers {
		w := core.Worker{Name: fmt.Sprint("w", i), Provider: "p", MaxBuilds: 1, MissingTimeout: 20 * time.Minute, BuildWaitTimeout: 10 * time.Minute, Spec: "s"}
		if i%100 == g%100 {
			w.Spec = fmt.Sprint("s", g)
		}
		if i == g%10 {
			w.Name += "-new"
		}
		c.Workers = append(c.Workers, w)
	}
	for i := range builders {
		b := core.Builder{Name: fmt.Sprint("b", i), MaxAttempts: 5}
		for j := range 100 {
			b.Workers = append(b.Workers, c.Workers[(i/10*100+j)%workers].Name)
		}
		if i%100 == g%100 {
			b.Locks = []core.Access{{Lock: "l"}}
		}
		c.Builders = append(c.Builders, b)
	}
	return c, store.ConfigSnapshot{Generation: gen, Files: map[string][]byte{"a.hcl": bytes.Repeat([]byte("# 16 bytes here\n"), 1<<16)}}
}

// BenchmarkApplyGap puts one configuration after the other into force while instances live and requests wait. longest-ms is the longest time for which the loop
// did not look at its inbox; the goal is less than 100.
func BenchmarkApplyGap(b *testing.B) {
	w := newWorld(b)
	w.deaf = true
	var longest atomic.Int64
	w.obs.Turn = func(took time.Duration, _ int) {
		for {
			old := longest.Load()
			if int64(took) <= old || longest.CompareAndSwap(old, int64(took)) {
				return
			}
		}
	}
	var commit atomic.Int64
	w.obs.Commit = func(took time.Duration, _ int, _ error) { commit.Store(max(commit.Load(), int64(took))) } // called by the loop only
	w.cfg, _ = fleet(1)
	w.cfg.Providers[0].SweepInterval = 0
	w.limits.Concurrency = 64
	w.start()
	w.submit(3000) // most of them wait for the create of an instance, or behind others
	ctx := context.Background()
	for w.cloud.live() < 1000 {
		time.Sleep(time.Millisecond)
	}
	longest.Store(0)
	commit.Store(0)
	var waits []time.Duration
	gen := model.Generation(1)
	for b.Loop() {
		gen++
		var snap store.ConfigSnapshot
		w.cfg, snap = fleet(gen)
		began := time.Now()
		if err := w.e.Apply(ctx, w.cfg, snap); err != nil {
			b.Fatal(err)
		}
		waits = append(waits, time.Since(began))
	}
	b.ReportMetric(float64(longest.Load())/1e6, "longest-ms")
	b.ReportMetric(float64(commit.Load())/1e6, "longest-commit-ms")
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds())/1e3, "median-apply-ms")
	w.stop(core.StopKeep)
}
