// Package bench measures a whole master with latent workers: the parts as the programs put them together, in this process, with real agents as
// processes of the local provider. What a master's processor time is, beside Buildbot's, .ci/bench-vs-buildbot measures.
package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/local"
)

// timed is the local provider; it notes when it was asked.
type timed struct {
	local.Kind
	mu      sync.Mutex
	created map[providers.Key]time.Time // first calls
	doomed  map[providers.Key]time.Time
}

func (k *timed) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	p, limits, err := k.Kind.Open(ctx, env)
	return asked{p, k}, limits, err
}

func (k *timed) note(m map[providers.Key]time.Time, key providers.Key) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, repeated := m[key]; !repeated {
		m[key] = now
	}
}

func (k *timed) times(key model.InstanceKey) (created, doomed time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.created[providers.Key(key)], k.doomed[providers.Key(key)]
}

type asked struct {
	providers.Provider
	k *timed
}

func (a asked) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	a.k.note(a.k.created, req.Key)
	return a.Provider.Create(ctx, req)
}

func (a asked) Destroy(ctx context.Context, key providers.Key) error {
	a.k.note(a.k.doomed, key)
	return a.Provider.Destroy(ctx, key)
}

const config = `
master {
  listen = "127.0.0.1:0"
}
provider "local" "here" {
  worker_binary = %q
}
worker "w" {
  count              = 20
  provider           = provider.local.here
  build_wait_timeout = "0s" # an instance for each build
  instance {}
}
builder "true" {
  workers = [worker.w]
  step "shell" "true" { command = ["/bin/true"] }
}
scheduler "force" "force" { builders = [builder.true] }
`

// run starts a master and returns a client of it.
func run(b *testing.B, kind providers.Kind) *api.Client {
	b.Helper()
	dir := b.TempDir()
	agent := filepath.Join(dir, "rouse-worker")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", agent, "../../rouse-worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build the agent: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), fmt.Appendf(nil, config, agent), 0o600); err != nil {
		b.Fatal(err)
	}
	state, err := os.MkdirTemp("", "rouse-bench-") // a socket's path has little room
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(state) })
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- master.Run(ctx, master.Options{ConfigDir: dir, StateDir: state, Version: "bench", Log: slog.New(slog.DiscardHandler),
			Hcl:     hcl.Options{Kinds: map[string]providers.Kind{"local": kind}},
			Report:  func(_ *hcl.Config, d hcl2.Diagnostics) { b.Log(d) },
			Serving: func(_ net.Addr, api []string) { serving <- api[0] }})
	}()
	var client *api.Client
	b.Cleanup(func() {
		if client != nil {
			client.Close()
		}
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	select {
	case socket := <-serving:
		if client, err = api.NewClient(socket, "", nil); err != nil {
			b.Fatal(err)
		}
	case err := <-ended:
		ended <- nil
		b.Fatal(err)
	}
	return client
}

// life is when what happened to one request.
type life struct {
	submitted, asked, attached, started, finished, destroyed time.Time
}

// substantiate orders n builds at once and waits until their instances are gone.
func substantiate(b *testing.B, c *api.Client, k *timed, n int) []life {
	b.Helper()
	lives := make([]life, n)
	var all sync.WaitGroup
	for i := range lives {
		all.Go(func() {
			if err := lives[i].live(b.Context(), c, k); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return lives
}

func (l *life) live(ctx context.Context, c *api.Client, k *timed) error {
	l.submitted = time.Now()
	var made api.Forced
	if err := c.Post(ctx, "/force", nil, api.Force{Builder: "true"}, &made); err != nil {
		return err
	}
	for ; ; time.Sleep(20 * time.Millisecond) {
		var r api.Request
		if err := c.Get(ctx, fmt.Sprintf("/requests/%d", made.Requests[0]), nil, &r); err != nil {
			return err
		}
		if r.State != model.RequestDone {
			continue
		}
		if r.Result != model.Success {
			return fmt.Errorf("request %d: %s: %s", r.ID, r.Result, r.Text)
		}
		var d api.BuildDetail
		if err := c.Get(ctx, fmt.Sprintf("/builds/%d", r.Build), nil, &d); err != nil {
			return err
		}
		var list api.InstanceList
		if err := c.Get(ctx, "/instances", map[string][]string{"worker": {d.Worker}, "all": {"true"}}, &list); err != nil {
			return err
		}
		i := slices.IndexFunc(list.Instances, func(in api.Instance) bool { return in.Key == d.Instance })
		if i < 0 || list.Instances[i].GoneAt.IsZero() {
			continue
		}
		l.asked, l.destroyed = k.times(d.Instance)
		l.attached, l.started, l.finished = list.Instances[i].AttachedAt, d.Steps[0].StartedAt, d.Steps[0].FinishedAt
		return nil
	}
}

// BenchmarkSubstantiate is what rouse adds to what a machine's start and end take. Alone: one request after the other, each with an instance of
// its own; the times are medians. Together: twenty requests at once for twenty workers; the time is until the last one is attached.
func BenchmarkSubstantiate(b *testing.B) {
	k := &timed{created: map[providers.Key]time.Time{}, doomed: map[providers.Key]time.Time{}}
	c := run(b, k)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.Run("alone", func(b *testing.B) {
		var asked, boot, first, destroy []time.Duration
		for b.Loop() {
			l := substantiate(b, c, k, 1)[0]
			asked = append(asked, l.asked.Sub(l.submitted))
			boot = append(boot, l.attached.Sub(l.asked))
			first = append(first, l.started.Sub(l.attached))
			destroy = append(destroy, l.destroyed.Sub(l.finished))
		}
		for name, all := range map[string][]time.Duration{"ms-request-to-asked": asked, "ms-boot": boot, "ms-attach-to-step": first, "ms-step-to-destroy": destroy} {
			slices.Sort(all)
			b.ReportMetric(ms(all[len(all)/2]), name)
		}
		b.ReportMetric(0, "ns/op")
	})
	b.Run("together=20", func(b *testing.B) {
		var worst []time.Duration
		for b.Loop() {
			begin := time.Now()
			var last time.Duration
			for _, l := range substantiate(b, c, k, 20) {
				last = max(last, l.attached.Sub(begin))
			}
			worst = append(worst, last)
		}
		slices.Sort(worst)
		b.ReportMetric(ms(worst[len(worst)/2]), "ms-all-attached")
		b.ReportMetric(0, "ns/op")
	})
}
