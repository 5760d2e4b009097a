package e2elibvirt

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// The figures that a machine of two processors without hardware virtualisation must reach (make bench-libvirt).
var limits = []struct {
	name  string
	limit time.Duration
}{
	{"cold", 3500 * time.Millisecond}, // request to attached, median
	{"fast", 1000 * time.Millisecond}, // the same, from memory
	{"ten_fast", 6 * time.Second},     // ten at once: the last is attached
}

// TestBench measures from the request to the worker's attaching, on a machine that should have nothing else to do.
func TestBench(t *testing.T) {
	if os.Getenv("BENCH") == "" {
		t.Skip("make bench-libvirt runs it")
	}
	w := newWorld(t, "cold", "fast")
	for n := range 10 {
		w.mine = append(w.mine, fmt.Sprintf("ten-%d", n+1))
	}
	w.configure("", worker("cold", "", guest(""), "true"), worker("fast", "", guest("fast = true"), "true"),
		worker("ten", "count = 10", guest("fast = true"), "true"))
	w.up()
	one := func(builder string) time.Duration {
		w.until("all have ended", func() bool { return len(w.instances()) == 0 && len(w.left()) == 0 })
		time.Sleep(time.Second) // QEMU's and libvirt's last work is not part of the next measurement
		in := w.machine(w.succeeds(w.force(builder)))
		return in.AttachedAt.Sub(in.AskedAt)
	}
	median := func(builder string) (time.Duration, []time.Duration) {
		var all []time.Duration
		for range 5 {
			all = append(all, one(builder).Round(10*time.Millisecond))
		}
		slices.Sort(all)
		return all[2], all
	}
	got, best := map[string]time.Duration{}, map[string]time.Duration{}
	var all []time.Duration
	got["cold"], all = median("cold")
	best["cold"] = all[0]
	t.Logf("cold: %v", all)
	one("fast")
	w.until("the template is saved", func() bool { return w.has("template saved") })
	got["fast"], all = median("fast")
	best["fast"] = all[0]
	t.Logf("fast: %v", all)
	all = nil
	for range 3 {
		w.until("all have ended", func() bool { return len(w.instances()) == 0 && len(w.left()) == 0 })
		time.Sleep(time.Second)
		all = append(all, w.ten().Round(10*time.Millisecond))
	}
	slices.Sort(all)
	got["ten_fast"], best["ten_fast"] = all[1], all[0]
	t.Logf("ten at once: %v", all)
	w.until("all have ended", func() bool { return len(w.instances()) == 0 })
	w.forgetTemplates()
	var out strings.Builder
	for _, l := range limits {
		verdict := "ok"
		if got[l.name] > l.limit {
			verdict = "over"
		}
		fmt.Fprintf(&out, "%s_seconds=%.2f best=%.2f limit=%.2f %s\n", l.name, got[l.name].Seconds(), best[l.name].Seconds(), l.limit.Seconds(), verdict)
	}
	fmt.Print(out.String())
}

// ten asks for ten restored guests at once, and returns how long it took until the last one was attached.
func (w *world) ten() (last time.Duration) {
	w.Helper()
	began := time.Now()
	var ids []model.RequestID
	for range 10 {
		ids = append(ids, w.force("ten"))
	}
	for _, id := range ids {
		in := w.machine(w.succeeds(id))
		last = max(last, in.AttachedAt.Sub(began))
		if !w.restored(in) {
			w.Errorf("%s was not restored", in.Key)
		}
	}
	return last
}
