package ec2test

import (
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"time"
)

// Kind is one way in which a call goes wrong.
type Kind string

// The kinds of faults. "Done" means that the call has had its effect.
const (
	None       Kind = ""
	Refuse     Kind = "refuse"      // not done; the connection breaks
	Fail500    Kind = "500"         // not done; InternalError
	Fail503    Kind = "503"         // not done; Unavailable
	Throttle   Kind = "throttle"    // not done; RequestLimitExceeded
	NoCapacity Kind = "no-capacity" // not done; InsufficientInstanceCapacity, for launches
	Delay      Kind = "delay"       // done, For later
	Hang       Kind = "hang"        // not done; nothing is said for For (0: until the caller gives up), then the connection breaks
	HangAfter  Kind = "hang-after"  // done; otherwise like Hang
	LoseReply  Kind = "lose-reply"  // done; the connection breaks instead of the answer
	Late500    Kind = "late-500"    // done; and yet InternalError
	Duplicate  Kind = "duplicate"   // done twice, at the same time
	ListLate   Kind = "list-late"   // done; nobody sees the launched instance for For
	Stale      Kind = "stale"       // done; the instance shows its old state for For
	Forget     Kind = "forget"      // accepted, and never done: for TerminateInstances, StopInstances and StartInstances
)

// Fault is one entry of a plan.
type Fault struct {
	Action string // "" is every action
	Kind   Kind
	Rate   float64       // how many of the calls, from 0 to 1
	Times  int           // at most so often; 0 is without a limit
	Sure   int           // a kind that has not struck yet strikes for sure from this call of an action on, until it has; 0 is never
	For    time.Duration // see Kind
}

// plan says which calls go wrong. It follows from the seed and the number of the call, so that it does not depend on which call comes first.
type plan struct {
	seed   uint64
	faults []Fault
	done   []int
}

// Plan makes calls go wrong from now on. Of several entries the first that strikes is taken. Without entries nothing goes wrong any more.
func (w *World) Plan(seed uint64, faults ...Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plan = plan{seed: seed, faults: faults, done: make([]int, len(faults))}
}

// draw decides on the nth call of an action. struck is how often each kind has really happened.
func (p *plan) draw(action string, n int, struck map[Kind]int) Fault {
	for i, f := range p.faults {
		if f.Action != "" && f.Action != action || f.Times > 0 && p.done[i] >= f.Times || f.only() != "" && !fits(f.only(), action) {
			continue
		}
		if f.Sure > 0 && n >= f.Sure && struck[f.Kind] == 0 {
			p.done[i]++
			return f
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(action + " " + strconv.Itoa(i) + " " + strconv.Itoa(n)))
		if rand.New(rand.NewPCG(p.seed, h.Sum64())).Float64() < f.Rate {
			p.done[i]++
			return f
		}
	}
	return Fault{}
}

// only says for what a kind makes sense.
func (f Fault) only() string {
	switch f.Kind {
	case NoCapacity, ListLate:
		return "launch"
	case Stale, Forget:
		return "change"
	}
	return ""
}

func fits(what, action string) bool {
	switch action {
	case "RunInstances":
		return what == "launch"
	case "TerminateInstances", "StopInstances", "StartInstances":
		return what == "change"
	}
	return false
}

// Storm is a plan with every fault in it, each of which strikes if there are some dozens of calls that it can strike. rate is about the sum of the rates of one action's faults. brief is how long what passes by itself takes.
func Storm(rate float64, brief time.Duration) []Fault {
	kinds := []Fault{{Kind: Refuse}, {Kind: Fail500}, {Kind: Fail503}, {Kind: Throttle}, {Kind: NoCapacity}, {Kind: Delay, For: brief}, {Kind: Hang, For: 4 * brief},
		{Kind: HangAfter, For: 4 * brief}, {Kind: LoseReply}, {Kind: Late500}, {Kind: Duplicate}, {Kind: ListLate, For: brief}, {Kind: Stale, For: brief}, {Kind: Forget}}
	for i, k := range kinds {
		kinds[i].Rate, kinds[i].Sure = rate/float64(len(kinds)), 20
		if k.only() != "" { // there are few of those calls, and a termination is for several instances
			kinds[i].Rate *= 3
		}
	}
	return kinds
}
