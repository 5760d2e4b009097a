package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// TestEC2Storm builds BUILDS times over some workers while calls go wrong in every way that the proxy knows, machines never boot, crash or are taken
// back, and masters are killed. Then it counts in the API server. SEED=n repeats a run as far as processes can be repeated; E2E_EC2_SUMMARY names a
// file for the last word, E2E_EC2_LOG one for all that the masters said.
func TestEC2Storm(t *testing.T) {
	builds, kills := envInt("BUILDS", 200), envInt("KILLS", 5)
	seed := uint64(envInt("SEED", 0))
	if seed == 0 {
		seed = rand.Uint64N(1 << 31)
	}
	c := newCloud(t)
	t.Logf("SEED=%d BUILDS=%d KILLS=%d", seed, builds, kills)
	summary := "launched=0 duplicates=0 leaked=unknown"
	defer func() {
		write(t, os.Getenv("E2E_EC2_SUMMARY"), summary)
		write(t, os.Getenv("E2E_EC2_LOG"), c.said())
		if t.Failed() {
			t.Logf("faults %v; calls %v; errors %v", c.ec2.Faulted(), c.ec2.Calls(), c.ec2.Errors())
		}
	}()

	var mu sync.Mutex
	var taken atomic.Int32
	rnd, boots := rand.New(rand.NewPCG(seed, 1)), 0
	c.guests.Fate = func(in ec2test.Instance, _ int) ec2test.Fate {
		mu.Lock()
		defer mu.Unlock()
		if boots++; boots == 3 && builds > 200 { // an agent is lost with its build: it is waited for for two minutes
			return ec2test.Fate{Crash: 400 * time.Millisecond}
		}
		if in.Market == "spot" && (taken.Load() == 0 || rnd.IntN(3) == 0) { // it is taken back before its agent asks for notices, which it does every five seconds
			taken.Add(1)
			c.ec2.Interrupt(in.ID, time.Duration(rnd.IntN(1500))*time.Millisecond)
			return ec2test.Fate{}
		}
		switch rnd.IntN(40) {
		case 0:
			return ec2test.Fate{Dead: true}
		case 1:
			return ec2test.Fate{Crash: time.Millisecond} // before it has attached
		case 2, 3:
			return ec2test.Fate{After: 2 * time.Second}
		}
		return ec2test.Fate{After: time.Duration(rnd.IntN(100)) * time.Millisecond}
	}
	c.ec2.Boot(200 * time.Millisecond)
	c.ec2.Plan(seed, ec2test.Storm(0.3, 500*time.Millisecond)...)
	c.play()
	c.configure(cloudConfig{Count: 20, Wait: "0s", Worker: `missing_timeout = "12s"`, Type: `instance_types = ["t3.small", "t3.medium", "t3.large", "m5.large", "m5.xlarge"]`, Instance: `zones = ["a", "b", "c"]`,
		Blocks: storm, Builders: quick("b", 500) + `
builder "v" {
  workers = [worker.v]
  step "shell" "work" {
    command     = "sleep 0.05"
    log_environ = false
  }
}
scheduler "force" "force-v" {
  builders = [builder.v]
}
`})
	began := time.Now()
	m := c.up(nil)
	ids := map[model.RequestID]bool{}
	for i := range builds {
		name := "b"
		if i%4 == 3 {
			name = "v"
		}
		if made, err := post[api.Forced](c.world, "/force", api.Force{Builder: name}); err == nil {
			ids[made.Requests[0]] = true
		} else {
			t.Fatal(err)
		}
	}
	left := func() int {
		list, err := try[api.RequestList](c.world, "/requests")
		if err != nil {
			return builds
		}
		return list.Total
	}
	for n := range kills {
		at := builds - (n+1)*builds/(kills+1)
		c.until(fmt.Sprintf("%d requests are left", at), 5*time.Minute, func() bool { return left() <= at })
		m.kill()
		m.awaitDeath(10 * time.Second)
		m = c.up(nil)
	}
	c.until("all requests are done", 10*time.Minute, func() bool { return left() == 0 })
	took := time.Since(began)
	results := map[string]int{}
	for id := range ids {
		r := c.request(id)
		results[fmt.Sprint(r.Result)]++
		if r.Result != model.Success {
			t.Logf("request %d: %s after %d attempts: %s", id, r.Result, r.Attempts, r.Text)
			if r.Attempts < 5 { // max_attempts: until then whatever strikes an instance is no reason to end a build
				t.Errorf("request %d is given up", id)
			}
		}
	}
	a := c.ends(3 * time.Minute)
	summary = a.String()
	t.Logf("%d builds in %v: %v; faults %v; calls %v; errors %v", builds, took.Round(time.Second), results, c.ec2.Faulted(), c.ec2.Calls(), c.ec2.Errors())
	if results["success"] < builds-builds/50 { // five attempts in a row are hardly ever struck
		t.Errorf("results: %v", results)
	}
	t.Logf("%d spot instances were taken back, %d of them while a master had a use for them", taken.Load(), strings.Count(c.said(), `"msg":"instance interrupted"`))
	if builds >= 200 && taken.Load() == 0 {
		t.Error("no spot instance was taken back")
	}
	if f, all := c.ec2.Faulted(), ec2test.Storm(1, 0); builds >= 100 && len(f) < len(all) {
		t.Errorf("%d of %d kinds of fault have struck: %v", len(f), len(all), f)
	}
}

// storm is a second pool, whose instances are kept for a moment.
const storm = `
worker "v" {
  provider           = provider.ec2.cloud
  count              = 4
  max_builds         = 2
  build_wait_timeout = "1s"
  missing_timeout    = "12s"
  instance {
    ami             = "ami-00000000000000009"
    instance_types  = ["t3.small", "m5.large", "c5.large"]
    zones           = ["a", "b", "c"]
    keypair_name    = ""
    security_groups = ["default"]
    spot {
      fallback = "on-demand"
    }
  }
}
`

func write(t *testing.T, name, text string) {
	if name == "" {
		return
	}
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		t.Error(err)
	}
}
