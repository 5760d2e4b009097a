package engine

import (
	"sync"
	"time"
)

// clock tells the time that the core sees. It runs with the monotonic clock, so a jump of the system's clock makes no deadline come early or
// late, and it never goes back. Towards the system's clock it is only bent, by at most a tenth of the time that passes, so that what people read
// becomes right again.
type clock struct {
	mu   sync.Mutex
	mono time.Time // the last reading of the system's clock, with its monotonic part
	last time.Time // what was told then, without one
}

func (c *clock) start() {
	c.mono = time.Now()
	c.last = c.mono.Round(0).UTC()
}

// now is in whole microseconds, which is what the store keeps.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := time.Now()
	c.read(n, n.Round(0))
	return c.last.Truncate(time.Microsecond)
}

// read takes in a reading of the monotonic clock and one of the wall clock.
func (c *clock) read(mono, wall time.Time) {
	passed := max(mono.Sub(c.mono), 0)
	c.mono = mono
	bend := wall.Sub(c.last.Add(passed))
	c.last = c.last.Add(passed + min(max(bend, -passed/10), passed/10))
}
