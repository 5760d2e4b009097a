package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// fleetText is a configuration with random workers and builders; every one is different from all before. names are those of its workers and builders.
type fleetText struct {
	text     string
	workers  []string
	builders []string
}

func (w *world) drawFleet(rnd *rand.Rand, n int) fleetText {
	f := fleetText{workers: []string{"w0"}, builders: []string{"b0"}}
	for i := 1; i < 5; i++ {
		if rnd.IntN(2) == 0 {
			f.workers = append(f.workers, fmt.Sprintf("w%d", i))
		}
		if rnd.IntN(2) == 0 {
			f.builders = append(f.builders, fmt.Sprintf("b%d", i))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# configuration %d
master {
  listen         = "127.0.0.1:0"
  url            = %q
  on_master_stop = "keep"
}
provider "local" "here" {
  worker_binary = %q
  grace         = "500ms"
  env           = { E2E_MARK = %q, E2E_WITNESS = %q }
}
`, n, w.proxy.url(), programs.worker, w.mark, w.witnessFile())
	for _, name := range f.workers {
		fmt.Fprintf(&b, `
worker %q {
  provider           = provider.local.here
  max_builds         = 1
  build_wait_timeout = %q
  missing_timeout    = "1m"
  orphan_timeout     = "10m"
  instance {
    env = { SPEC = "%d" }
  }
}
`, name, []string{"0s", "300ms", "2s"}[rnd.IntN(3)], rnd.IntN(2))
	}
	for _, name := range f.builders {
		fmt.Fprintf(&b, `
builder %q {
  workers = [worker.%s]
  step "shell" "say" { command = "sleep 0.%d; echo %s of %d" }
}
`, name, strings.Join(f.workers, ", worker."), rnd.IntN(5), name, n)
	}
	fmt.Fprintf(&b, "\nscheduler \"force\" \"force\" { builders = [builder.%s] }\n", strings.Join(f.builders, ", builder."))
	f.text = b.String()
	return f
}

func (w *world) writeFleet(dir string, f fleetText) {
	w.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(f.text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// inForce checks that the generation in force is whole, and returns its number and text.
func (w *world) inForce() (model.Generation, string) {
	w.t.Helper()
	gen := get[api.Status](w, "/status").Generation
	text := get[api.GenerationText](w, fmt.Sprintf("/generations/%d", gen))
	if len(text.Files) != 1 || !text.Current {
		w.t.Fatalf("generation %d has %d files, current: %v", gen, len(text.Files), text.Current)
	}
	return gen, string(text.Files["rouse.hcl"])
}

// checkFleet compares what the API shows with what a configuration says. Retired workers may still drain.
func (w *world) checkFleet(f fleetText) {
	w.t.Helper()
	var builders, workers []string
	for _, b := range get[api.BuilderList](w, "/builders").Builders {
		builders = append(builders, b.Name)
		if !slices.Equal(b.Workers, f.workers) {
			w.t.Errorf("builder %s has workers %v, not %v", b.Name, b.Workers, f.workers)
		}
	}
	for _, k := range get[api.WorkerList](w, "/workers").Workers {
		if !k.Retired {
			workers = append(workers, k.Name)
		}
	}
	if !slices.Equal(builders, f.builders) || !slices.Equal(workers, f.workers) {
		w.t.Errorf("the API shows builders %v and workers %v; the generation in force has %v and %v", builders, workers, f.builders, f.workers)
	}
}

// TestKillDuringApplies kills masters at random moments while another configuration is applied to them: by `rouse apply` from another directory, or by
// editing the master's own and SIGHUP. Whoever comes next has the old generation or the new one, whole; what was told to be in force is; no build is
// lost, and each is made with the definition that it was queued under; nothing is left behind.
func TestKillDuringApplies(t *testing.T) {
	t.Parallel()
	kills := envInt("KILLS", 10)
	w := newWorld(t, true)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	n := 0
	draw := func() fleetText { n++; return w.drawFleet(rnd, n) }
	own, other := filepath.Join(w.dir, "config"), filepath.Join(w.dir, "other")
	now := draw()
	w.writeFleet(own, now)
	m := w.up(nil)
	gen, _ := w.inForce()
	queuedUnder := map[model.RequestID]string{} // what its build shall say
	took := 100 * time.Millisecond              // an apply that nobody disturbs
	older, newer := 0, 0
	for killed := 0; killed < kills; {
		for range rnd.IntN(3) {
			b := now.builders[rnd.IntN(len(now.builders))]
			queuedUnder[w.force(b)] = fmt.Sprintf("%s of %d\n", b, number(t, now.text))
		}
		next := draw()
		bySignal, dies := rnd.IntN(3) == 0, rnd.IntN(8) > 0
		if dies {
			time.AfterFunc(time.Duration(rnd.Int64N(int64(took)*3/2)), m.kill)
			killed++
		}
		began := time.Now()
		told := false // that the new one is in force
		if bySignal {
			w.writeFleet(own, next)
			_ = m.cmd.Process.Signal(syscall.SIGHUP) // it may be dead already
		} else {
			w.writeFleet(other, next)
			out, code := w.rouse(nil, "apply", "-auto-approve", other)
			if told = code == 0; !told && !dies {
				t.Fatalf("the apply failed: %s", out)
			}
		}
		if dies {
			m.awaitDeath(30 * time.Second)
			m = w.up(nil)
		} else if !bySignal {
			took = time.Since(began)
		}
		if bySignal {
			w.until("the edited directory is in force", 20*time.Second, func() bool { return w.has(next.text) })
		}
		after, text := w.inForce()
		switch {
		case text == next.text && after == gen+1:
			newer++
			now, gen = next, after
		case text == now.text && after == gen && !told && !bySignal:
			older++
		default:
			t.Fatalf("after generation %d was applied to %d (told: %v, by signal: %v), %d is in force:\n%s", number(t, next.text), gen, told, bySignal, after, text)
		}
		w.checkFleet(now)
	}
	w.until("all requests are done", time.Minute+time.Duration(kills)*time.Second, func() bool {
		list, err := try[api.RequestList](w, "/requests")
		return err == nil && list.Total == 0
	})
	for _, id := range slices.Sorted(maps.Keys(queuedUnder)) {
		r := w.request(id)
		if r.Result != model.Success {
			t.Errorf("request %d of %s: %s (%s)", id, r.Builder, r.Result, r.Text)
			continue
		}
		if got := w.raw(r.Build, 0, "stdout"); got != queuedUnder[id] {
			t.Errorf("request %d of %s was queued under %q and its build says %q", id, r.Builder, queuedUnder[id], got)
		}
	}
	t.Logf("%d kills: %d times the old generation, %d times the new one; %d builds", kills, older, newer, len(queuedUnder))
	w.clean()
}

// has says whether a text is in force.
func (w *world) has(text string) bool {
	st, err := try[api.Status](w, "/status")
	if err != nil {
		return false
	}
	g, err := try[api.GenerationText](w, fmt.Sprintf("/generations/%d", st.Generation))
	return err == nil && string(g.Files["rouse.hcl"]) == text
}

// number is that of a text of drawFleet.
func number(t *testing.T, text string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "# configuration %d\n", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
