package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/master/core"
)

func TestTheClockIsBentAndNeverJumps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		wall := time.Unix(1e9, 0).UTC()
		mono := wall
		c := clock{mono: mono, last: wall}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			passed := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "passed"))
			jump := time.Duration(rapid.Int64Range(-int64(24*time.Hour), int64(24*time.Hour)).Draw(t, "jump"))
			if rapid.Bool().Draw(t, "no jump") {
				jump = 0
			}
			mono, wall = mono.Add(passed), wall.Add(passed+jump)
			before, off := c.last, abs(wall.Sub(c.last.Add(passed)))
			c.read(mono, wall)
			told := c.last.Sub(before)
			if told < passed-passed/10 || told > passed+passed/10 {
				t.Fatalf("%s passed, and %s were told", passed, told)
			}
			if now := abs(wall.Sub(c.last)); now > off {
				t.Fatalf("bent away from the wall clock: off by %s, before by %s", now, off)
			}
		}
		for range 50 * 24 * 11 { // without further jumps it becomes right
			mono, wall = mono.Add(time.Hour), wall.Add(time.Hour)
			c.read(mono, wall)
		}
		if off := abs(wall.Sub(c.last)); off != 0 {
			t.Fatalf("still off by %s", off)
		}
	})
}

func abs(d time.Duration) time.Duration { return max(d, -d) }

func TestTimersComeInOrderAndTheNewestOfANameOnly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var ts timers
		want := map[string]struct {
			gen uint64
			at  int64
		}{}
		for gen := range uint64(rapid.IntRange(0, 60).Draw(t, "n")) {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name")
			at := rapid.Int64Range(0, 20).Draw(t, "at")
			ts.set(core.Timer{Name: name, Gen: gen}, time.Unix(at, 0))
			want[name] = struct {
				gen uint64
				at  int64
			}{gen, at}
		}
		now := time.Unix(rapid.Int64Range(-1, 21).Draw(t, "now"), 0)
		last := int64(-1)
		for {
			tm, ok := ts.due(now)
			if !ok {
				break
			}
			w, there := want[tm.Name]
			if !there || w.gen != tm.Gen || w.at < last || w.at > now.Unix() {
				t.Fatalf("timer %+v, want %+v; last %d, now %d", tm, w, last, now.Unix())
			}
			last = w.at
			delete(want, tm.Name)
		}
		for name, w := range want {
			if w.at <= now.Unix() {
				t.Fatalf("timer %s of %d did not come by %d", name, w.at, now.Unix())
			}
		}
	})
}
