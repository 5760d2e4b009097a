package sim

import (
	"flag"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds TestSeeds runs")
	first = flag.Uint64("first", 1, "the first seed")
	trace = flag.Bool("trace", false, "print the trace of the first seed")
)

// TestSeeds runs many bad days, each twice. make sim SEEDS=10000 runs the long form.
func TestSeeds(t *testing.T) {
	t.Parallel()
	var next atomic.Uint64
	next.Store(*first)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var total Result
	total.Faults = map[string]int{}
	for range 2 {
		wg.Go(func() {
			for !t.Failed() {
				seed := next.Add(1) - 1
				if seed >= *first+uint64(*seeds) {
					return
				}
				o := Options{Seed: seed}
				if *trace && seed == *first {
					o.Trace = os.Stderr
				}
				r, err := RunTwice(o)
				mu.Lock()
				total.add(r)
				mu.Unlock()
				if err != nil {
					t.Errorf("%v\n  to see it: go test ./master/sim -run TestSeeds -args -first %d -seeds 1 -trace", err, seed)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d steps, %d requests, %d builds, %d instances, %d wakes, %d leaves, %d rooms given up, %d reaps, %d crashes, faults %v", total.Steps, total.Requests, total.Builds, total.Instances, total.Wakes, total.Leaves,
		total.Gives, total.Reaps,
		total.Crashes, total.Faults)
	if *seeds < 200 || t.Failed() {
		return
	}
	for _, k := range faultKinds {
		if total.Faults[k.name] == 0 {
			t.Errorf("fault %s never happened: the plan does not reach it", k.name)
		}
	}
	if total.Wakes < *seeds || total.Leaves < *seeds || total.Gives < *seeds/10 || total.Reaps < *seeds/20 {
		t.Errorf("only %d wakes, %d leaves, %d rooms given up, %d reaps in %d seeds", total.Wakes, total.Leaves, total.Gives, total.Reaps, *seeds)
	}
	if total.Builds < 10**seeds {
		t.Errorf("only %d builds in %d seeds: the days are too empty to show anything", total.Builds, *seeds)
	}
}

func (r *Result) add(o Result) {
	r.Steps += o.Steps
	r.Requests += o.Requests
	r.Builds += o.Builds
	r.Instances += o.Instances
	r.Crashes += o.Crashes
	r.Wakes += o.Wakes
	r.Leaves += o.Leaves
	r.Gives += o.Gives
	r.Reaps += o.Reaps
	r.Applies += o.Applies
	for k, n := range o.Faults {
		r.Faults[k] += n
	}
}

// TestSeedsOfApplies runs days on which the configuration changes all the time, a quarter as many as TestSeeds: no build is lost, no busy instance is ended, what
// does not change is left alone, and in the end it is as if the last configuration had been the only one.
func TestSeedsOfApplies(t *testing.T) {
	t.Parallel()
	total := Result{Faults: map[string]int{}}
	for seed := *first; seed < *first+uint64((*seeds+3)/4) && !t.Failed(); seed++ {
		o := Options{Seed: seed, Applies: true}
		if *trace && seed == *first {
			o.Trace = os.Stderr
		}
		r, err := RunTwice(o)
		total.add(r)
		if err != nil {
			t.Errorf("%v\n  to see it: go test ./master/sim -run TestSeedsOfApplies -args -first %d -seeds 1 -trace", err, seed)
		}
	}
	t.Logf("%d configurations, %d steps, %d requests, %d builds, %d wakes, %d leaves, %d reaps, %d crashes", total.Applies, total.Steps, total.Requests, total.Builds, total.Wakes,
		total.Leaves, total.Reaps, total.Crashes)
	if n := (*seeds + 3) / 4; *seeds >= 200 && !t.Failed() && (total.Applies < 8*n || total.Builds < 10*n || total.Wakes < n || total.Leaves < n || total.Reaps == 0) {
		t.Errorf("only %d configurations, %d builds, %d wakes, %d leaves and %d reaps in %d seeds: the days are too empty to show anything", total.Applies, total.Builds,
			total.Wakes, total.Leaves, total.Reaps, n)
	}
}
