package master

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// site is one configuration directory and one state with a world of fake machines, in which masters run in this process, one after the other.
type site struct {
	t    testing.TB
	dir  string
	kind *fake.Kind
	log  *record
	o    Options

	client *api.Client
	stop   context.CancelFunc
	ended  chan error
}

// record is a log that several goroutines write.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.b.Write(p) }
func (r *record) String() string              { r.mu.Lock(); defer r.mu.Unlock(); return r.b.String() }

func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "rouse") // a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, kind: fake.New(fake.Options{}), log: &record{}}
	if err := os.Mkdir(filepath.Join(dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.o = Options{ConfigDir: filepath.Join(dir, "conf"), StateDir: filepath.Join(dir, "state"), Hcl: hcl.Options{Kinds: map[string]providers.Kind{"fake": s.kind}},
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Version: "test"}
	t.Cleanup(func() {
		if s.stop != nil {
			s.down()
		}
		if t.Failed() {
			t.Log(s.log)
		}
	})
	return s
}

// text is a configuration with one latent worker.
func text(provider, worker string) string {
	return fmt.Sprintf(`
provider "fake" "cloud" {
  %s
}
worker "w" {
  provider           = provider.fake.cloud
  build_wait_timeout = "0s"
  instance {
    %s
  }
}
builder "b" {
  workers = [worker.w]
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { builders = [builder.b] }
master { listen = "127.0.0.1:0" }
`, provider, worker)
}

func (s *site) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "conf", "rouse.hcl"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) up() {
	s.t.Helper()
	ready := make(chan struct{})
	o := s.o
	o.Serving = func(net.Addr, []string) { close(ready) }
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- Run(ctx, o) }()
	select {
	case <-ready:
	case err := <-s.ended:
		s.stop = nil
		s.t.Fatalf("the master ended: %v", err)
	case <-time.After(3 * time.Minute): // a large configuration under the race detector takes half of one
		s.t.Fatal("the master does not come up")
	}
	c, err := api.NewClient(filepath.Join(s.o.StateDir, SocketName), "", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.client = c
}

func (s *site) down() {
	s.t.Helper()
	if s.client != nil {
		s.client.Close()
	}
	s.stop()
	s.stop = nil
	if err := <-s.ended; err != nil {
		s.t.Errorf("the master ended with %v", err)
	}
}

func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not in time: %s", what)
		}
	}
}

func ask[T any](s *site, path string) (v T) {
	s.t.Helper()
	if err := s.client.Get(s.t.Context(), path, nil, &v); err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
	return v
}

func tell[T any](s *site, path string, in any) (v T, err error) {
	s.t.Helper()
	err = s.client.Post(s.t.Context(), path, nil, in, &v)
	return v, err
}

// must is for orders that have to work.
func must[T any](s *site, path string, in any) T {
	s.t.Helper()
	v, err := tell[T](s, path, in)
	if err != nil {
		s.t.Fatalf("POST %s: %v", path, err)
	}
	return v
}

// machine asks for a build and waits until there is a machine for it.
func (s *site) machine() model.RequestID {
	s.t.Helper()
	id := must[api.Forced](s, "/force", api.Force{Builder: "b"}).Requests[0]
	s.until("there is a machine", func() bool { return len(s.kind.Instances("cloud")) == 1 })
	s.until("it is known", func() bool {
		list := ask[api.InstanceList](s, "/instances").Instances
		return len(list) == 1 && list[0].State == model.InstanceBooting
	})
	return id
}

func (s *site) reconfig() api.Applied {
	s.t.Helper()
	return must[api.Applied](s, "/reconfig", api.ReconfigAsk{})
}

// gone waits until the records and the world agree that nothing is left; a machine in the world alone is a leak.
func (s *site) gone() {
	s.t.Helper()
	s.until("no record of a machine is left", func() bool { return len(ask[api.InstanceList](s, "/instances").Instances) == 0 })
	if left := s.kind.Instances("cloud"); len(left) > 0 {
		s.t.Errorf("machines have leaked: the records have none, and there are %v", left)
	}
}

// unopenable cannot open the provider of one place for a while.
type unopenable struct {
	*fake.Kind
	place string
	left  atomic.Int32
}

func (k *unopenable) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	if k.Place(env.Config) == k.place && k.left.Add(-1) >= 0 {
		return nil, providers.Limits{}, errors.New("the cloud is down")
	}
	return k.Kind.Open(ctx, env)
}

func TestAMasterStartsWithoutTheProviderOfAnOldPlaceAndTriesItAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.o.retry = 50 * time.Millisecond
	k := &unopenable{Kind: s.kind, place: "here"}
	s.o.Hcl.Kinds = map[string]providers.Kind{"fake": k}
	s.write(text(`place = "here"`, ""))
	s.up()
	id := s.machine()
	s.write(text(`place = "there"`, ""))
	s.reconfig()
	s.down()
	k.left.Store(3)
	s.up()
	if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
		t.Fatal(err)
	}
	s.gone()
	if k.left.Load() >= 0 || !strings.Contains(s.log.String(), "it is tried again") {
		t.Errorf("%d failures are left", k.left.Load())
	}
}

func TestAnInstanceIsEndedInThePlaceWhereItWasMade(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		move func(s *site) // changes the block and whatever else happens
	}{
		{"while the master runs", func(s *site) {
			s.write(text(`place = "there"`, ""))
			s.reconfig()
		}},
		{"between two masters", func(s *site) {
			s.down()
			s.write(text(`place = "there"`, ""))
			s.up()
		}},
		{"and then a restart", func(s *site) {
			s.write(text(`place = "there"`, ""))
			s.reconfig()
			s.down()
			s.up()
		}},
		{"twice, and a restart", func(s *site) {
			s.write(text(`place = "there"`, ""))
			s.reconfig()
			s.write(text(`place = "elsewhere"`, ""))
			s.reconfig()
			s.down()
			s.up()
		}},
		{"and the block is gone", func(s *site) {
			s.write(strings.NewReplacer(`"cloud"`, `"other"`, ".cloud", ".other").Replace(text(`place = "there"`, "")))
			s.reconfig()
			s.down()
			s.up()
		}},
		{"and back", func(s *site) {
			s.write(text(`place = "there"`, ""))
			s.reconfig()
			s.write(text(`place = "here"`, ""))
			s.reconfig()
		}},
		{"from a place that had no name", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			first := `place = "here"`
			if tc.move == nil {
				first = ""
				tc.move = func(s *site) { s.write(text(`place = "there"`, "")); s.reconfig() }
			}
			s.write(text(first, ""))
			s.up()
			id := s.machine()
			tc.move(s)
			if list := ask[api.InstanceList](s, "/instances").Instances; len(list) != 1 || list[0].Provider != "cloud" {
				t.Errorf("the machine is shown as %+v", list)
			}
			plans := must[plan.Plan](s, "/plan", api.PlanAsk{Files: map[string][]byte{"rouse.hcl": []byte(text(`place = "there"`, ""))}, Refresh: true})
			if n := plans.Summary.Instances[plan.Lost]; n > 0 || len(plans.Instances) != 1 {
				t.Errorf("a plan takes the machine for lost: %+v, %+v", plans.Instances, plans.Drift)
			}
			if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
				t.Fatal(err)
			}
			s.gone()
		})
	}
}

// hurried is swept often, and remembers who opened the provider of a place.
type hurried struct {
	*fake.Kind
	mu     sync.Mutex
	opened map[string]providers.Provider
	owner  providers.Owner
}

func (k *hurried) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	p, lim, err := k.Kind.Open(ctx, env)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened[k.Place(env.Config)], k.owner = p, env.Owner
	lim.CreateTimeout, lim.SweepInterval = 500*time.Millisecond, 50*time.Millisecond
	return p, lim, err
}

func TestAMachineThatComesLateToAnOldPlaceIsEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := &hurried{Kind: s.kind, opened: map[string]providers.Provider{}}
	s.o.Hcl.Kinds = map[string]providers.Kind{"fake": k}
	s.write(text(`place = "here"`, ""))
	s.up()
	s.write(text(`place = "there"`, ""))
	s.reconfig()
	k.mu.Lock()
	here, late := k.opened["here"], providers.Key(string(k.owner)+"-w-7")
	k.mu.Unlock()
	if _, err := here.Create(t.Context(), providers.CreateRequest{Key: late, Owner: k.owner, Worker: "w", Spec: fake.Spec{}}); err != nil {
		t.Fatal(err)
	}
	s.until("it is ended", func() bool { return len(s.kind.Instances("cloud")) == 0 })
	if !strings.Contains(s.log.String(), string(late)) {
		t.Error("nobody is told of it")
	}
}

func TestAPlanSaysWhatARemovedProviderOrAnOldPlaceStillHolds(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]string{
		"moved":   text(`place = "there"`, ""),
		"removed": strings.NewReplacer(`"cloud"`, `"other"`, ".cloud", ".other").Replace(text("", "")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.write(text(`place = "here"`, ""))
			s.up()
			cfg, diags := hcl.LoadFiles(files(text(`place = "here"`, "")), s.o.Hcl)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			p := must[plan.Plan](s, "/plan", api.PlanAsk{Files: files(next), Refresh: true})
			if p.Summary.Instances[plan.Abandon] != 0 || p.Summary.Warnings != 0 {
				t.Errorf("nothing is there: %+v, %+v", p.Instances, p.Diagnostics)
			}
			world, _, err := s.kind.Open(t.Context(), providers.Env{Name: "cloud", Owner: providers.Owner(p.Master), Config: cfg.Providers[0].Config, StateDir: t.TempDir(), Log: s.o.Log})
			if err != nil {
				t.Fatal(err)
			}
			stray := providers.Key(p.Master + "-lost-1")
			if _, err := world.Create(t.Context(), providers.CreateRequest{Key: stray, Owner: providers.Owner(p.Master), Worker: "lost", Spec: cfg.Workers[0].Instance}); err != nil {
				t.Fatal(err)
			}
			p = must[plan.Plan](s, "/plan", api.PlanAsk{Files: files(next), Refresh: true})
			if len(p.Instances) != 1 || p.Instances[0].Key != string(stray) || p.Instances[0].Fate != plan.Abandon || p.Summary.Warnings != 1 ||
				!strings.Contains(p.Diagnostics[0].Detail, "rouse reap") {
				t.Errorf("%+v, %+v", p.Instances, p.Diagnostics)
			}
			same := must[plan.Plan](s, "/plan", api.PlanAsk{Files: files(text(`place = "here"`, "")), Refresh: true})
			if len(same.Instances) != 1 || same.Instances[0].Fate != plan.DestroyOrphan {
				t.Errorf("where it stays: %+v", same.Instances)
			}
		})
	}
}
