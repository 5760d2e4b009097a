package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers/ec2"
	"github.com/rouse-ci/rouse/worker"
)

// crowd plays the inside of many machines with agents in this process: the protocol is real, the machines' boots are not.
type crowd struct {
	c    *cloud
	stop context.CancelFunc
	wg   sync.WaitGroup

	agents map[string]context.CancelFunc
}

func (c *cloud) crowd() *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	g := &crowd{c: c, stop: cancel, agents: map[string]context.CancelFunc{}}
	g.wg.Go(func() {
		for ctx.Err() == nil {
			g.look(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	c.t.Cleanup(func() { cancel(); g.wg.Wait() })
	return g
}

func (g *crowd) look(ctx context.Context) {
	up := g.c.ec2.Up()
	for id, data := range up {
		if g.agents[id] == nil {
			ctx, end := context.WithCancel(ctx)
			g.agents[id] = end
			g.wg.Go(func() {
				if err := g.run(ctx, id, data); err != nil && ctx.Err() == nil {
					g.c.t.Errorf("agent of %s: %v", id, err)
				}
			})
		}
	}
	for id, end := range g.agents {
		if _, on := up[id]; !on {
			end()
		}
	}
}

func (g *crowd) run(ctx context.Context, id string, data []byte) error {
	text, err := ec2.AgentConfig(data)
	if err != nil {
		return err
	}
	var f struct{ Master, Name, Token, Instance string }
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	a, err := worker.New(worker.Config{Master: f.Master, Name: f.Name, Secret: f.Token, Instance: f.Instance, Basedir: filepath.Join(g.c.dir, "crowd", id),
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// TestEC2CallsPerInstance makes INSTANCES instances, one after each build, with EC2's request limits on, and counts the calls. The limits are those of
// an account for which they were raised by FACTOR, on both sides, so that the test takes seconds: EC2's own let two instances start in a second. INSTANCES=500 FACTOR=1 is EC2 as it is, and takes some minutes.
func TestEC2CallsPerInstance(t *testing.T) {
	instances, factor := envInt("INSTANCES", 100), envInt("FACTOR", 10)
	c := newCloud(t)
	c.guests.Dir = filepath.Join(c.dir, "guests")
	c.ec2.Limit(float64(factor))
	c.crowd()
	c.configure(cloudConfig{Count: 100, Wait: "0s", Builders: builder("b", `
  step "set_property" "no-program" {
    property = "p"
    value    = "v"
  }
`)})
	c.rewrite("rate_factor   = 1000", fmt.Sprintf("rate_factor = %d", factor), `poll_interval = "100ms"`, `poll_interval = "2s"`, `call_timeout  = "10s"`, `call_timeout = "30s"`)
	c.up(nil)
	began := time.Now()
	var ids []model.RequestID
	for range instances {
		ids = append(ids, c.force("b"))
	}
	c.until("all requests are done", 10*time.Minute, func() bool {
		list, err := try[api.RequestList](c.world, "/requests")
		return err == nil && list.Total == 0
	})
	for _, id := range ids {
		c.good(get[api.Request](c.world, fmt.Sprintf("/requests/%d", id)))
	}
	a := c.ends(5 * time.Minute)
	took := time.Since(began)
	calls := c.ec2.Calls()
	sum := 0
	for action, n := range calls {
		if !strings.HasPrefix(action, "pricing:") {
			sum += n
		}
	}
	per := float64(sum) / float64(a.Launched)
	t.Logf("%d instances in %v: %.2f calls for each (%v); errors %v", a.Launched, took.Round(time.Second), per, calls, c.ec2.Errors())
	if a.Launched != instances || per > 3 {
		t.Errorf("%s with %.2f calls for each of %d builds' instances, want at most 3: %v", a, per, instances, calls)
	}
	for e, n := range c.ec2.Errors() {
		if strings.Contains(e, "RequestLimitExceeded") {
			t.Errorf("%s: %d times", e, n)
		}
	}
}

// TestEC2Overhead says what rouse adds to a cycle: from the request to the arrival of RunInstances, and from the agent's attaching to the first
// step. It fails only far beyond that, since the machine that runs it has more to do.
func TestEC2Overhead(t *testing.T) {
	c := newCloud(t)
	var mu sync.Mutex
	var arrived []time.Time
	c.ec2.Handle("RunInstances", func(form url.Values) (int, string, bool) {
		if form.Get("DryRun") == "true" {
			return 0, "", false
		}
		mu.Lock()
		defer mu.Unlock()
		arrived = append(arrived, time.Now())
		return 0, "", false
	})
	c.crowd()
	c.configure(cloudConfig{Wait: "0s", Builders: builder("b", `
  step "shell" "work" {
    command     = "true"
    log_environ = false
  }
`)})
	c.up(nil)
	var launch, first []time.Duration
	for i := range 10 {
		r := c.good(c.done(c.force("b"), time.Minute))
		mu.Lock()
		if len(arrived) > i {
			launch = append(launch, arrived[i].Sub(r.SubmittedAt))
		}
		mu.Unlock()
		trace := get[api.Trace](c.world, fmt.Sprintf("/requests/%d/trace", r.ID))
		b := get[api.BuildDetail](c.world, fmt.Sprintf("/builds/%d", r.Build))
		for _, e := range trace.Entries {
			if e.Kind == "worker" && e.To == "attached" && len(b.Steps) > 0 {
				first = append(first, b.Steps[0].StartedAt.Sub(e.Time))
			}
		}
		c.until("the worker is free", 30*time.Second, func() bool { return len(get[api.InstanceList](c.world, "/instances").Instances) == 0 })
	}
	slices.Sort(launch)
	slices.Sort(first)
	if len(launch) < 10 || len(first) < 10 {
		t.Fatalf("seen %v and %v", launch, first)
	}
	t.Logf("request to RunInstances: median %v, worst %v; attach to first step: median %v, worst %v", launch[5], launch[9], first[5], first[9])
	if launch[5] > time.Second || first[5] > time.Second {
		t.Error("rouse itself takes more than a second")
	}
	c.ends(30 * time.Second)
}
