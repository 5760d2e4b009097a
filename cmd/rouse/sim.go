package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/sim"
)

// simReport is what `rouse sim -json` prints.
type simReport struct {
	Seeds     int            `json:"seeds"`
	First     uint64         `json:"first"`
	Steps     int            `json:"steps"`
	Requests  int            `json:"requests"`
	Builds    int            `json:"builds"`
	Instances int            `json:"instances"`
	Crashes   int            `json:"crashes"`
	Faults    map[string]int `json:"faults"`
	Failures  []simFailure   `json:"failures"`
	Seconds   float64        `json:"seconds"`
}

type simFailure struct {
	Seed   uint64  `json:"seed"`
	At     float64 `json:"at"` // virtual seconds since the start
	Oracle string  `json:"oracle"`
	Text   string  `json:"text"`
}

func newSimCmd(a *app) *cobra.Command {
	var seeds int
	var first uint64
	var hours int
	var trace, asJSON bool
	c := &cobra.Command{
		Use:   "sim",
		Short: "Try the scheduler's decisions against seeded days of faults",
		Long: `Runs the very code that decides about requests and instances in a simulated world: providers that lose replies, hang, forget and list stale
answers, agents that never attach, drop, return twice or are not who they say, crashes of the master at any point, clock jumps. Oracles check after
each step, and at the end, that no instance is leaked or doubled, no busy one is destroyed, and every request ends exactly once.

A seed is a whole day of virtual time, and always the same one. Each runs twice; the traces must be equal.`,
		Annotations: exits("0 all is well", "1 an oracle failed, or an error"),
		Example:     "  rouse sim -seeds 1000\n  rouse sim -first 4711 -seeds 1 -trace",
		Args:        args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if trace {
				_, err := sim.Run(sim.Options{Seed: first, Hours: hours, Trace: a.stdout})
				return err
			}
			return a.sim(c.Context(), first, seeds, hours, asJSON)
		},
	}
	c.Flags().IntVar(&seeds, "seeds", 100, "`NUMBER` of seeds")
	c.Flags().Uint64Var(&first, "first", 1, "the first `SEED`")
	c.Flags().IntVar(&hours, "hours", 6, "virtual `HOURS` of work and faults in each; a calm follows")
	c.Flags().BoolVar(&trace, "trace", false, "print every event, effect and fault of the first seed")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) sim(ctx context.Context, first uint64, seeds, hours int, asJSON bool) error {
	r := simReport{Seeds: seeds, First: first, Faults: map[string]int{}, Failures: []simFailure{}}
	began := time.Now()
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ctx.Err() == nil {
				seed := first + next.Add(1) - 1
				if seed >= first+uint64(max(seeds, 0)) {
					return
				}
				res, err := sim.RunTwice(sim.Options{Seed: seed, Hours: hours})
				mu.Lock()
				r.add(res, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.Seconds = time.Since(began).Seconds()
	if asJSON {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Failures {
			fmt.Fprintf(a.stdout, "seed %d after %s: %s: %s\n", f.Seed, time.Duration(f.At*float64(time.Second)).Round(time.Millisecond), f.Oracle, f.Text)
		}
		total := 0
		for _, n := range r.Faults {
			total += n
		}
		fmt.Fprintf(a.stdout, "%d seeds in %.1fs: %d steps, %d requests, %d builds, %d instances, %d crashes, %d faults of %d kinds; %d failures\n",
			r.Seeds, r.Seconds, r.Steps, r.Requests, r.Builds, r.Instances, r.Crashes, total, len(r.Faults), len(r.Failures))
	}
	if len(r.Failures) > 0 {
		return exit(1)
	}
	return nil
}

func (r *simReport) add(res sim.Result, err error) {
	r.Steps += res.Steps
	r.Requests += res.Requests
	r.Builds += res.Builds
	r.Instances += res.Instances
	r.Crashes += res.Crashes
	for k, n := range res.Faults {
		r.Faults[k] += n
	}
	var f *sim.Failure
	if errors.As(err, &f) {
		r.Failures = append(r.Failures, simFailure{Seed: f.Seed, At: f.At.Seconds(), Oracle: f.Oracle, Text: f.Text})
	}
}
