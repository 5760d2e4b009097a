package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// busy starts a build that runs until it is told to end, and returns its request and its instance.
func (w *world) busy(k *fake.Kind) (model.RequestID, providers.Key) {
	w.t.Helper()
	id := w.submit(1)[0]
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		if len(w.ranJobs()) > 0 {
			return id, k.Instances("p")[0].Key
		}
	}
	w.t.Fatal("no build runs")
	return 0, ""
}

func TestMachineThatEndsUnderItsBuildIsNoticedInASecond(t *testing.T) {
	for name, end := range map[string]func(k *fake.Kind, key providers.Key) bool{
		"crashes":   func(k *fake.Kind, key providers.Key) bool { return k.Fail("p", key, "panicked") },
		"destroyed": func(k *fake.Kind, key providers.Key) bool { return k.Vanish("p", key) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				k, boots := w.faked(`boot_delay = "1s"`, "")
				var stopped atomic.Int64
				w.run = func(ctx context.Context, job Job) Outcome {
					out := until(ctx, job)
					if job.Build.Attempt == 1 && !out.Detached {
						stopped.Store(time.Now().UnixNano())
					}
					return out
				}
				w.start()
				id, key := w.busy(k)
				time.Sleep(3 * time.Second) // its connection stays as if it were alive
				began := time.Now()
				if !end(k, key) {
					t.Fatal("no such instance")
				}
				for range 600 {
					time.Sleep(100 * time.Millisecond)
					if len(w.ranJobs()) > 1 {
						break
					}
				}
				if took := time.Duration(stopped.Load() - began.UnixNano()); stopped.Load() == 0 || took > time.Second {
					t.Errorf("the build was told after %s", took)
				}
				if n := len(w.ranJobs()); n != 2 || boots.Load() != 2 {
					t.Errorf("%d attempts on %d machines, want 2 on 2", n, boots.Load())
				}
				w.succeeds()
				_ = w.e.Do(t.Context(), core.CancelAsked{Request: id})
				w.wait(id)
				w.stop(core.StopDrain)
			})
		})
	}
}

// TestMachineThatIsTakenBackIsReplacedAtOnceAndNobodyIsCharged has a provider that says so only afterwards: the agent has heard of no notice.
func TestMachineThatIsTakenBackIsReplacedAtOnceAndNobodyIsCharged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		k, _ := w.faked(`boot_delay = "1s"`, "")
		w.run = until
		w.start()
		id, key := w.busy(k)
		began := time.Now()
		if !k.Interrupt("p", key, "another one needed it") {
			t.Fatal("no such instance")
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if len(w.ranJobs()) > 1 {
				break
			}
		}
		jobs := w.ranJobs()
		if took := time.Since(began); len(jobs) != 2 || took > 8*time.Second { // a worker that backs off waits for ten
			t.Fatalf("%d builds after %s", len(jobs), took)
		}
		if n := jobs[1].Build.Attempt; n != 1 {
			t.Errorf("the second build is attempt %d: the interruption was charged", n)
		}
		w.succeeds()
		_ = w.e.Do(t.Context(), core.CancelAsked{Request: id})
		w.wait(id)
		w.stop(core.StopDrain)
	})
}

func TestNothingIsTakenFromAMachineThatIsWellHoweverMuchIsToldOfIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var tell func(providers.Key)
		c := &watched{cloud: w.cloud, ready: make(chan struct{}), tell: &tell}
		w.provider = func() providers.Provider { return c }
		w.run = until
		w.start()
		id := w.submit(1)[0]
		time.Sleep(time.Minute)
		<-c.ready
		looks := w.cloud.count("check")
		for i := range 100_000 { // two minutes of noise
			tell(providers.Key(fmt.Sprintf("k-%d", i)))
			if i%1000 == 0 {
				tell("not a key, and ever so long " + providers.Key(strings.Repeat("x", 1000)))
				for key := range w.cloud.living() {
					tell(key)
				}
				time.Sleep(1200 * time.Millisecond)
			}
		}
		if n := w.cloud.count("check") - looks; n < 50 || n > 130 {
			t.Errorf("%d looks in two minutes of being told all the time, want about one a second", n)
		}
		if n := len(w.ranJobs()); n != 1 {
			t.Errorf("%d builds were begun, want the one", n)
		}
		_ = w.e.Do(t.Context(), core.CancelAsked{Request: id})
		w.wait(id)
		w.stop(core.StopDrain)
	})
}

// watched is a cloud that tells what a test says.
type watched struct {
	*cloud
	ready chan struct{}
	tell  *func(providers.Key)
}

func (c *watched) Watch(ctx context.Context, changed func(providers.Key)) error {
	*c.tell = changed
	close(c.ready)
	<-ctx.Done()
	return nil
}

func TestWatchThatEndsOrPanicsIsBegunAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &unsteady{cloud: w.cloud}
		w.provider = func() providers.Provider { return c }
		w.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := c.n.Load(); n < 4 || n > 10 {
			t.Errorf("begun %d times in a minute, want a few, with growing pauses", n)
		}
		w.stop(core.StopKeep)
	})
}

type unsteady struct {
	*cloud
	n atomic.Int64
}

func (c *unsteady) Watch(context.Context, func(providers.Key)) error {
	if c.n.Add(1)%2 == 0 {
		panic("no")
	}
	return providers.Errorf(providers.Transient, "watch", "cut off")
}

func TestRequestsWaitForRoomAndNothingIsOvercommitted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		k, _ := w.faked("boot_delay = \"1s\"\nhosts = 2\nhost_vcpus = 4\nhost_memory = \"8GiB\"", "vcpus = 2\nmemory = \"4GiB\"")
		w.cfg.Workers, w.cfg.Builders[0].Workers = nil, nil
		for i := range 8 {
			name := fmt.Sprint("w", i)
			w.cfg.Workers = append(w.cfg.Workers, core.Worker{Name: name, Provider: "p", MaxBuilds: 1, MissingTimeout: time.Minute, Spec: "s", VCPUs: 2, Memory: 4 << 30})
			w.cfg.Builders[0].Workers = append(w.cfg.Builders[0].Workers, name)
		}
		var most atomic.Int64
		w.run = func(ctx context.Context, _ Job) Outcome {
			n := int64(len(k.Instances("p")))
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(20 * time.Second)
			return Outcome{Result: model.Success}
		}
		w.start()
		time.Sleep(time.Second)
		k.SetDown("p", "h2", true)
		time.Sleep(time.Second)
		ids := w.submit(8)
		time.Sleep(5 * time.Second)
		ex, err := w.e.Explain(t.Context(), ids[7])
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"no host of provider p has room for 2 vcpus and 4 GiB", "host h1: 0 of 4 vcpus and 0 MiB of 8 GiB free, busy: w0 w1",
			"host h2: cannot be reached (for 6s)", "it waits until an instance there ends"}
		if got := ex.Candidates[7].Blocks; !slices.Equal(got, want) {
			t.Errorf("explain says %q", got)
		}
		if sn := w.snapshot(); len(sn.Instances) != 2 || len(sn.Builds) != 2 {
			t.Errorf("%d instances, %d builds; want 2 and 2 while one of two hosts is down", len(sn.Instances), len(sn.Builds))
		}
		k.SetDown("p", "h2", false) // is told, and need not wait for a sweep
		time.Sleep(2 * time.Second)
		sn := w.snapshot()
		if len(sn.Instances) != 4 {
			t.Errorf("%d instances, want 4 once both hosts are up", len(sn.Instances))
		}
		for _, r := range sn.Providers[0].Rooms {
			if r.TakenVCPUs != 4 || r.TakenMemory != 8<<30 || r.Instances != 2 {
				t.Errorf("%+v", r)
			}
		}
		for _, id := range ids {
			if r := w.wait(id); r != model.Success {
				t.Errorf("request %d: %s", id, r)
			}
		}
		if sn := w.snapshot(); sn.Workers[0].Tries+sn.Workers[7].Tries > 0 || most.Load() != 4 {
			t.Errorf("at most %d instances at once, want 4, and no failure: %+v", most.Load(), sn.Workers)
		}
		w.stop(core.StopDrain)
	})
}

// limited has so many places, and says so when it is let.
type limited struct {
	*cloud
	slots int
	let   chan struct{}
}

func (p *limited) Rooms(context.Context) ([]providers.Room, error) {
	<-p.let
	return providers.Limit(p.slots).Rooms(context.Background())
}

// A call may wait in a queue while its provider is replaced: then the limit that was would be in force until the next sweep.
func TestWhatAProviderThatWasReplacedSaysOfItsRoomsIsNotHeard(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		old, next := &limited{w.cloud, 3, make(chan struct{})}, &limited{w.cloud, 7, make(chan struct{})}
		w.provider = func() providers.Provider { return old }
		w.start()
		slots := func() int {
			synctest.Wait()
			if rooms := w.snapshot().Providers[0].Rooms; len(rooms) == 1 {
				return rooms[0].Slots
			}
			return -1
		}
		w.cfg.Generation++
		if err := w.e.ApplyWith(t.Context(), w.cfg, store.ConfigSnapshot{Generation: w.cfg.Generation}, map[string]Opened{"p": {Provider: next}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		close(next.let)
		if n := slots(); n != 7 {
			t.Errorf("%d slots, want 7", n)
		}
		close(old.let)
		if n := slots(); n != 7 {
			t.Errorf("%d slots after the old provider has answered, want 7", n)
		}
		w.stop(core.StopKeep)
	})
}
