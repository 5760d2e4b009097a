package core

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestNoMoreRoomIsGivenUpThanIsNeeded: what is chosen is enough, nothing of it can be left out, one that is enough alone goes alone, the longest idle first; and nothing is
// chosen only if all would not be enough.
func TestNoMoreRoomIsGivenUpThanIsNeeded(t *testing.T) {
	t.Parallel()
	size := rapid.Custom(func(t *rapid.T) share {
		return share{rapid.IntRange(0, 4).Draw(t, "vcpus"), int64(rapid.IntRange(0, 4).Draw(t, "memory")), 1}
	})
	rapid.Check(t, func(t *rapid.T) {
		var idle []*worker
		all := size.Draw(t, "free")
		all.slots = rapid.IntRange(-1, 1).Draw(t, "slots")
		free := all
		for range rapid.IntRange(0, 5).Draw(t, "idle") {
			w := &worker{takes: claim{share: size.Draw(t, "takes")}}
			idle, all = append(idle, w), all.plus(w.takes.share)
		}
		need := size.Draw(t, "need")
		if free.holds(need) {
			t.Skip("it has room")
		}
		got := fewest(slices.Clone(idle), free, need)
		if (got != nil) != all.holds(need) {
			t.Fatalf("%d of %d given up; all would be enough: %v", len(got), len(idle), all.holds(need))
		}
		if got == nil {
			return
		}
		sum := free
		for _, w := range got {
			sum = sum.plus(w.takes.share)
		}
		if !sum.holds(need) {
			t.Fatal("it is not enough")
		}
		for i, w := range got {
			if sum.minus(w.takes.share).holds(need) {
				t.Fatalf("number %d of %d was not necessary", i, len(got))
			}
		}
		alone := slices.IndexFunc(idle, func(w *worker) bool { return free.plus(w.takes.share).holds(need) })
		if alone >= 0 && (len(got) != 1 || got[0] != idle[alone]) {
			t.Fatalf("number %d alone would be enough, and %d are given up", alone, len(got))
		}
	})
}
