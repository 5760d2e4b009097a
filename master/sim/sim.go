// Package sim is a seeded world around the core: providers that fail in every way that the contract allows, agents that misbehave, crashes of
// the master at any point, clock jumps, and people who submit, cancel and reconfigure. Oracles watch the present (after each step), the past (what was
// done, and why) and the end (after a calm time nothing lives and nothing waits).
//
// Everything random is drawn from one seeded source, and time is virtual, so a seed is a whole bad day that can be repeated.
// Only tests and the rouse command import it.
package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Options say what to run.
type Options struct {
	Seed  uint64
	Hours int       // of virtual time with work and faults; 0 = 6
	Trace io.Writer // every event, effect and fault; may be nil
	Calm  bool      // no faults at all

	// Applies makes it a day on which the configuration changes all the time, and in all ways.
	Applies bool
}

// Result is what a run did.
type Result struct {
	Seed      uint64
	Hash      uint64 // of the whole trace: equal for equal seeds
	Steps     int
	Requests  int
	Builds    int
	Instances int
	Crashes   int
	Applies   int            // configurations that were in force
	Wakes     int            // of instances that were switched off
	Leaves    int            // instances that were let end
	Gives     int            // idle instances that gave up their room
	Reaps     int            // orders to end what no record knew
	Faults    map[string]int // by kind
}

// Failure is an oracle's verdict.
type Failure struct {
	Seed   uint64
	At     time.Duration // virtual time since the start
	Oracle string        // which rule was broken
	Text   string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d at %s: %s: %s", f.Seed, f.At, f.Oracle, f.Text)
}

// Run runs one seed to its end. The error, if any, is a *Failure.
func Run(o Options) (res Result, err error) {
	if o.Hours == 0 {
		o.Hours = 6
	}
	w := newWorld(o)
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(*Failure)
			if !ok {
				f = &Failure{Seed: o.Seed, At: w.now.Sub(epoch), Oracle: "no panic", Text: fmt.Sprint(r)}
			}
			res, err = w.result(), f
		}
	}()
	w.run()
	return w.result(), nil
}

// RunTwice runs a seed twice and compares the traces: a decision that depends on a map's order or on the real clock is a bug too.
func RunTwice(o Options) (Result, error) {
	first, err := Run(o)
	if err != nil {
		return first, err
	}
	o.Trace = nil
	second, err := Run(o)
	if err == nil && first.Hash != second.Hash {
		err = &Failure{Seed: o.Seed, Oracle: "determinism", Text: fmt.Sprintf("two runs have traces %x and %x", first.Hash, second.Hash)}
	}
	return first, err
}

func (w *world) result() Result {
	return Result{Seed: w.seed, Hash: w.hash.Sum64(), Steps: w.steps, Requests: int(w.nextReq), Builds: len(w.disk.builds),
		Instances: w.made, Crashes: w.crashes, Applies: len(w.history), Wakes: w.wakes, Leaves: w.leaves, Gives: w.gives, Reaps: w.reaps, Faults: w.faults}
}

// trace writes one line into the hash, and to a person if one watches.
func (w *world) trace(format string, args ...any) {
	w.line.Reset()
	fmt.Fprintf(w.line, format, args...)
	w.line.WriteByte('\n')
	_, _ = io.WriteString(w.hash, w.line.String()) // a hash never fails
	if w.out != nil {
		fmt.Fprintf(w.out, "%12s %s", w.now.Sub(epoch), w.line.String())
	}
}

func (w *world) fail(oracle, format string, args ...any) {
	panic(&Failure{Seed: w.seed, At: w.now.Sub(epoch), Oracle: oracle, Text: fmt.Sprintf(format, args...)})
}

// fault says whether a fault of this kind happens now, and counts it.
func (w *world) fault(kind string) bool {
	if w.quiet || w.rng.Float64() >= w.rates[kind] {
		return false
	}
	w.faults[kind]++
	return true
}

func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(o Options) *world {
	w := &world{
		seed: o.Seed, rng: rand.New(rand.NewPCG(o.Seed, 0x726f757365)), now: epoch, out: o.Trace, hash: fnv.New64a(), line: &strings.Builder{},
		hours: o.Hours, quiet: o.Calm, calm: o.Calm, faults: map[string]int{}, rates: map[string]float64{}, agents: map[string][]*agent{}, vms: map[key]*vm{},
		ended: map[reqID]int{}, admitted: map[string]*session{}, sessions: map[sesID]*session{}, explained: map[key]string{}, opened: map[string]bool{}, slept: map[key]time.Duration{}, offSince: map[key]time.Time{}, ordered: map[key]bool{}, asked: map[key]bool{}, assigned: map[buildID]bool{}, leaving: map[key]bool{}, cancelled: map[reqID]bool{}, disk: newDisk(),
		applies: o.Applies, queued: map[reqID]model.Generation{}, refusable: map[reqID]bool{},
	}
	w.plan()
	w.planRooms()
	return w
}
