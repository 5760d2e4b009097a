package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// faked puts a fake provider in the place of the cloud. Each instance that comes to run has a new agent process.
func (w *world) faked(provider, instance string) (k *fake.Kind, boots *atomic.Int64) {
	w.t.Helper()
	boots = new(atomic.Int64)
	k = fake.New(fake.Options{OnRunning: func(req providers.CreateRequest) {
		n := boots.Add(1)
		w.mu.Lock()
		w.session++
		s := w.session
		w.live[s] = req.Worker
		e := w.e
		w.mu.Unlock()
		e.Deliver(core.Attached{Worker: req.Worker, Session: s, Instance: model.InstanceKey(req.Key), Agent: fmt.Sprint("process ", n), Resumable: true})
	}})
	cfg, diags := k.DecodeProvider(body(w.t, provider), nil)
	spec, more := k.DecodeInstance(cfg, body(w.t, instance), nil)
	if diags = append(diags, more...); diags.HasErrors() {
		w.t.Fatal(diags)
	}
	w.spec = spec
	w.provider = func() providers.Provider {
		p, limits, err := k.Open(context.Background(), providers.Env{Name: "p", Owner: providers.Owner(w.owner()), Config: cfg})
		if err != nil {
			w.t.Fatal(err)
		}
		w.limits = limits
		return p
	}
	return k, boots
}

func (w *world) owner() string {
	saved, _, err := w.db.Load(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return saved.Owner
}

func body(t testing.TB, src string) hcl2.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

// becomes waits until the one instance that there is has a state; "" until there is none.
func becomes(t *testing.T, k *fake.Kind, want string) {
	t.Helper()
	state := func() string {
		if all := k.Instances("p"); len(all) == 1 {
			return all[0].State.String()
		} else if len(all) > 1 {
			t.Fatalf("%d instances", len(all))
		}
		return ""
	}
	for deadline := time.Now().Add(time.Hour); state() != want; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("it is %q for an hour, want %q", state(), want)
		}
	}
}

// seesItStopped waits until the master, too, knows that its one instance is stopped.
func (w *world) seesItStopped() {
	w.t.Helper()
	state := func() model.InstanceState { return w.snapshot().Instances[0].State }
	for deadline := time.Now().Add(10 * time.Minute); state() != model.InstanceStopped; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			w.t.Fatalf("shown as %s ten minutes after it stopped", state())
		}
	}
}

func TestAnIdleInstanceIsStoppedAndWokenByTheNextBuild(t *testing.T) {
	for _, faults := range []string{"", "seed = 7\nfail_after_rate = 0.5\nget_error_rate = 0.3\nlose_stop_rate = 0.2\nstop_error_rate = 0.1\ndestroy_error_rate = 0.3"} { // of nine orders within StopLimit one gets through
		t.Run(fmt.Sprintf("%.8q", faults), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				k, boots := w.faked("boot_delay = \"20s\"\nstop_delay = \"30s\"\n"+faults, `type = "m5"`)
				w.cfg.Workers[0].Idle, w.cfg.Workers[0].Price, w.cfg.Workers[0].StoppedPrice = core.IdleStop, 1, 0.25
				w.start()
				if r := w.wait(w.submit(1)[0]); r != model.Success {
					t.Fatal(r)
				}
				becomes(t, k, "stopped")
				w.seesItStopped() // later than it is, when the provider's answers are lost
				v := w.snapshot().Instances[0]
				if s := w.snapshot().Workers[0].State; s != "stopped" {
					t.Errorf("shown as stopped on a worker that is %s", s)
				}
				if v.Instance.Facts["type"] != "m5" {
					t.Errorf("facts: %v", v.Instance.Facts)
				}
				key, off := v.Instance.Key, v.Instance.PowerAt

				w.stop(core.StopKeep) // the next master lets it sleep on, and pays for no minute twice
				time.Sleep(time.Hour)
				w.start()
				time.Sleep(time.Hour)
				if v = w.snapshot().Instances[0]; v.State != model.InstanceStopped || !v.Instance.PowerAt.Equal(off) {
					t.Errorf("after a restart it is %s since %s, was stopped since %s", v.State, v.Instance.PowerAt, off)
				}
				if n := boots.Load(); n != 1 {
					t.Errorf("%d boots while it should sleep", n)
				}
				if r := w.wait(w.submit(1)[0]); r != model.Success {
					t.Fatal(r)
				}
				v = w.snapshot().Instances[0]
				if n := boots.Load(); n != 2 || v.Instance.Key != key || v.State != model.InstanceAttached {
					t.Errorf("%d boots, instance %s is %s; want the second boot of %s", n, v.Instance.Key, v.State, key)
				}
				if slept := v.Instance.Slept; slept < 2*time.Hour || slept > 2*time.Hour+10*time.Minute {
					t.Errorf("it slept for %s", slept)
				}
				m := core.Show(&v.Instance, v.State)
				age := time.Since(m.AskedAt).Hours()
				if got, want := core.Cost(&m, time.Now()), (age-m.Stopped/3600)*1+m.Stopped/3600*0.25; got < want-0.001 || got > want+0.001 {
					t.Errorf("cost %f, want %f", got, want)
				}

				becomes(t, k, "stopped")
				w.cfg.Generation, w.cfg.Workers[0].Spec = 2, "another"
				w.apply()
				becomes(t, k, "")
				if n := boots.Load(); n != 2 {
					t.Errorf("it was started to be ended: %d boots", n)
				}
				w.stop(core.StopDrain)
			})
		})
	}
}

func TestAnInstanceThatCannotBeStartedIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		k, _ := w.faked("", `start_error = "no-capacity"`)
		w.cfg.Workers[0].Idle = core.IdleHibernate
		w.start()
		w.wait(w.submit(1)[0])
		becomes(t, k, "stopped")
		first := w.snapshot().Instances[0].Instance.Key
		if r := w.wait(w.submit(1)[0]); r != model.Success {
			t.Errorf("the build ended with %s", r)
		}
		if key := w.snapshot().Instances[0].Instance.Key; key == first {
			t.Errorf("%s was not replaced", key)
		}
		w.stop(core.StopDrain)
	})
}

func TestAProviderThatCannotStopEndsIdleInstances(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.cfg.Workers[0].Idle = core.IdleStop
		w.start()
		w.wait(w.submit(1)[0])
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if n := w.cloud.live(); n != 0 {
			t.Errorf("%d live", n)
		}
		w.stop(core.StopDrain)
	})
}

// consoles gathers what is to be kept.
type consoles struct {
	mu   sync.Mutex
	said []string
}

func (c *consoles) keep(_ context.Context, about core.ReadConsole, out []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range about.Builds {
		c.said = append(c.said, fmt.Sprintf("build %d: %s: %q %v", b.ID, about.Why, out, err))
	}
}

func TestTheConsoleIsReadBeforeTheInstanceIsDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.faked("", "no_agent = true\nconsole = \"no root file system\"")
		var c consoles
		w.console = c.keep
		w.cfg.Workers[0].MissingTimeout, w.cfg.Builders[0].MaxAttempts = time.Minute, 1
		w.start()
		if r := w.wait(w.submit(1)[0]); r != model.Exception {
			t.Errorf("the request ended with %s", r)
		}
		synctest.Wait()
		w.stop(core.StopDrain)
		want := `build 1: no agent attached within 1m0s (missing_timeout): "no root file system" <nil>`
		if len(c.said) != 1 || c.said[0] != want {
			t.Errorf("got %q, want %q", c.said, want)
		}
	})
}

// mute is a provider whose console hangs and heeds nothing.
type mute struct {
	*cloud
	mu               sync.Mutex
	asked, destroyed time.Time
	release          chan struct{}
}

func (m *mute) Console(context.Context, providers.Key) ([]byte, error) {
	m.mu.Lock()
	m.asked = time.Now()
	m.mu.Unlock()
	<-m.release
	return nil, nil
}

func (m *mute) Destroy(ctx context.Context, key providers.Key) error {
	m.mu.Lock()
	if m.destroyed.IsZero() {
		m.destroyed = time.Now()
	}
	m.mu.Unlock()
	return m.cloud.Destroy(ctx, key)
}

func TestAConsoleThatHangsDelaysTheDestroyForSecondsOnly(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := &mute{cloud: w.cloud, release: make(chan struct{})}
		w.provider = func() providers.Provider { return m }
		w.deaf = true
		var c consoles
		w.console = c.keep
		w.cfg.Workers[0].MissingTimeout, w.cfg.Builders[0].MaxAttempts = time.Minute, 1
		w.start()
		w.wait(w.submit(1)[0])
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		m.mu.Lock()
		d, never := m.destroyed.Sub(m.asked), m.destroyed.IsZero()
		m.mu.Unlock()
		if never || d > consoleTimeout {
			t.Errorf("destroyed %s after its console was asked for", d)
		}
		if w.cloud.live() != 0 {
			t.Error("it lives")
		}
		close(m.release)
		w.stop(core.StopDrain)
		if len(c.said) != 1 {
			t.Errorf("%q", c.said)
		}
	})
}

// slow shows its console only the second time.
type slow struct {
	*cloud
	n int
}

func (s *slow) Console(context.Context, providers.Key) ([]byte, error) {
	if s.n++; s.n == 1 {
		return nil, nil
	}
	return []byte("late"), nil
}

func TestAConsoleThatIsEmptyIsReadOnceMore(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := &slow{cloud: w.cloud}
		w.provider = func() providers.Provider { return s }
		w.deaf = true
		var c consoles
		w.console = c.keep
		w.cfg.Workers[0].MissingTimeout, w.cfg.Builders[0].MaxAttempts = time.Minute, 1
		w.start()
		w.wait(w.submit(1)[0])
		time.Sleep(consoleAgain + time.Second)
		synctest.Wait()
		w.stop(core.StopDrain)
		if want := `build 1: no agent attached within 1m0s (missing_timeout): "late" <nil>`; len(c.said) != 1 || c.said[0] != want || s.n != 2 {
			t.Errorf("%d reads, %q", s.n, c.said)
		}
	})
}

func TestFactsOfAHostileProviderAreBounded(t *testing.T) {
	t.Parallel()
	facts := map[string]string{"": "x", "long": string(make([]byte, maxFact+1)), "zone": "a"}
	for i := range 5 * maxFacts {
		facts[fmt.Sprintf("%03d", i)] = "v"
	}
	if got := bounded(facts); len(got) > maxFacts || got["long"] != "" {
		t.Errorf("%d facts", len(got))
	}
	if got := bounded(map[string]string{"zone": "a"}); got["zone"] != "a" {
		t.Errorf("%v", got)
	}
}

// parrot says the token of an instance wherever it can.
type parrot struct{ *cloud }

func (p parrot) Get(context.Context, providers.Key) (providers.Instance, error) {
	return providers.Instance{State: providers.Failed, Detail: strings.Repeat("x", maxText-4) + "tok-0123456789"}, nil
}

func TestATokenThatAProviderRepeatsIsMasked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.provider = func() providers.Provider { return parrot{w.cloud} }
		w.deaf, w.cfg.Builders[0].MaxAttempts = true, 1
		w.token = func(model.InstanceKey) providers.Secret { return "tok-0123456789" }
		w.start()
		w.wait(w.submit(1)[0])
		b, err := w.db.Build(t.Context(), 1)
		if err != nil || !strings.Contains(b.Text, "ended by itself") || strings.Contains(b.Text, "tok") {
			t.Errorf("%v %q", err, b.Text)
		}
		w.stop(core.StopDrain)
	})
}
