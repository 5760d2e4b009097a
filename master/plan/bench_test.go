package plan

import (
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers"
)

// largeConfig is a fleet of 10,000 workers (20 pools and 2,000 written out) and 1,000 builders of 3 steps. In the second edition, 100 things differ: 40 workers, 40
// builders, 20 limits.
func largeConfig(second bool) map[string][]byte {
	files := map[string][]byte{}
	var b strings.Builder
	b.WriteString("provider \"cloud\" \"main\" {\n  region = \"eu-1\"\n}\nlock \"db\" {}\n")
	for i := range 20 {
		fmt.Fprintf(&b, "worker \"pool%d\" {\n  provider = provider.cloud.main\n  count = 400\n  price = 0.1\n  properties = { slot = count.index }\n  instance {\n    image = \"debian-12\"\n    env = { SLOT = \"s${count.index}\" }\n  }\n}\n", i)
	}
	for i := range 2000 {
		image, limit := "debian-12", 1
		if second && i%50 == 0 {
			image = "debian-13"
		}
		if second && i%100 == 1 {
			limit = 2
		}
		fmt.Fprintf(&b, "worker \"w%d\" {\n  provider = provider.cloud.main\n  max_builds = %d\n  price = 0.2\n  instance {\n    image = %q\n  }\n}\n", i, limit, image)
	}
	files["workers.hcl"] = []byte(b.String())
	b.Reset()
	for i := range 1000 {
		goal := "test"
		if second && i%25 == 0 {
			goal = "check"
		}
		fmt.Fprintf(&b, `builder "b%d" {
  workers = [worker.pool%d, worker.w%d]
  step "git" "checkout" {
    repository = "https://example.org/project-%d.git"
    branch     = source.branch
  }
  step "shell" "test" {
    command = ["make", %q, "BUILD=${build.number}"]
    timeout = "10m"
    env     = { NAME = upper(worker.name) }
  }
  step "upload" "result" {
    from = "dist/${build.builder}.tar"
    to   = "result.tar"
    when = step.test.result == "success"
  }
}
`, i, i%20, i, i, goal)
	}
	fmt.Fprintf(&b, "scheduler \"force\" \"force\" {\n  builders = [for i in range(1000) : \"b${i}\"]\n}\n")
	files["builders.hcl"] = []byte(b.String())
	return files
}

func loadLarge(tb testing.TB, second bool) *hcl.Config {
	tb.Helper()
	cfg, diags := hcl.LoadFiles(largeConfig(second), hcl.Options{Kinds: map[string]providers.Kind{"cloud": cloud{"cloud"}}})
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
