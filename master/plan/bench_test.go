package plan

import (
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/plan/plantest"
	"github.com/rouse-ci/rouse/providers"
)

// loadLarge loads a fleet of 10,000 workers, in which 100 things differ in the second edition.
func loadLarge(tb testing.TB, second bool) *hcl.Config {
	tb.Helper()
	files := plantest.Large("provider \"cloud\" \"main\" {\n  region = \"eu-1\"\n}\nlock \"db\" {}\n", "provider.cloud.main",
		"image = \"debian-12\"\n    env = { SLOT = \"s${count.index}\" }", "image = %q", second)
	cfg, diags := hcl.LoadFiles(files, hcl.Options{Kinds: map[string]providers.Kind{"cloud": cloud{"cloud"}}})
	if diags.HasErrors() {
		tb.Fatal(diags)
	}
	return cfg
}

// BenchmarkPlan10000 is the target of the command: below 2 s and 300 MiB, text and all. MiB is the greatest heap while it runs, with both configurations.
func BenchmarkPlan10000(b *testing.B) {
	old, new := loadLarge(b, false), loadLarge(b, true)
	names := make([]string, 0, 10_000)
	for i, w := range old.Workers {
		if i%3 == 0 {
			names = append(names, fmt.Sprintf("%s*%d", w.Name, i+1))
		} else {
			names = append(names, w.Name)
		}
	}
	in := input(b, old, new)
	in.Snapshot, in.Seen = fleetOf(b, old, names...)
	in.Resolved = map[string][]providers.Resolved{}
	for _, w := range new.Workers {
		in.Resolved[w.Name] = []providers.Resolved{{Attr: "image", Value: "ami-1"}}
	}
	runtime.GC()
	var p *Plan
	peak := peakHeap(func() {
		for b.Loop() {
			p = Compute(in)
			if err := p.WriteText(io.Discard, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(peak, "MiB")
	if s := p.Summary; s.Replace != 40 || s.Change != 60 || s.Add+s.Remove != 0 || len(p.Instances) != 10_000 {
		b.Fatalf("%+v", s)
	}
}

// peakHeap samples the heap while f runs.
func peakHeap(f func()) float64 {
	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(s)
			peak.Store(max(peak.Load(), s[0].Value.Uint64()))
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return float64(peak.Load()) / (1 << 20)
}
