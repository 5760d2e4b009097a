package fake

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for _, src := range []string{"", "boot_delay = \"20ms\"\ndestroy_delay = \"20ms\"\ncall_delay = \"1ms\""} {
		t.Run(fmt.Sprintf("%q", src), func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Setup {
				k := New(Options{})
				cfg := decodeProvider(t, k, src)
				return providertest.Setup{
					Open: func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
						p, l, err := k.Open(t.Context(), providers.Env{Name: "f", Config: cfg, Owner: owner, Log: log})
						if err != nil {
							t.Fatal(err)
						}
						return p, l
					},
					Spec:    func() any { return decodeInstance(t, k, "") },
					BadSpec: func() any { return decodeInstance(t, k, `create_error = "bad-config"`) },
					Alive: func(key providers.Key) (n int) {
						for _, in := range k.Instances("f") {
							if in.Key == key && in.State != providers.Stopping {
								n++
							}
						}
						return n
					},
					Within: 5 * time.Second,
				}
			})
		})
	}
}

func parse(t testing.TB, src string) hcl2.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

func decodeProvider(t testing.TB, k *Kind, src string) any {
	t.Helper()
	c, diags := k.DecodeProvider(parse(t, src), nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return c
}

func decodeInstance(t testing.TB, k *Kind, src string) any {
	t.Helper()
	s, diags := k.DecodeInstance(nil, parse(t, src), nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s
}

func open(t testing.TB, k *Kind, src string) providers.Provider {
	t.Helper()
	p, _, err := k.Open(context.Background(), providers.Env{Name: "f", Owner: "o", Config: decodeProvider(t, k, src)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(t testing.TB, key providers.Key, src string) providers.CreateRequest {
	return providers.CreateRequest{Key: key, Owner: "o", Worker: "w", Spec: decodeInstance(t, nil, src)}
}

func TestInstanceBootsAndGoesAwayInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, New(Options{}), "boot_delay = \"1m\"\ndestroy_delay = \"30s\"")
		ctx := context.Background()
		state := func() string {
			in, err := p.Get(ctx, "a")
			if err != nil {
				return providers.ClassOf(err).String()
			}
			return in.State.String()
		}
		if _, err := p.Create(ctx, request(t, "a", "")); err != nil {
			t.Fatal(err)
		}
		var got []string
		for range 2 {
			got = append(got, state())
			time.Sleep(time.Minute)
		}
		got = append(got, state())
		if err := p.Destroy(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got = append(got, state())
			time.Sleep(30 * time.Second)
		}
		if diff := cmp.Diff([]string{"pending", "running", "running", "stopping", "not-found"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestHooksFollowTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up, down atomic.Int32
		k := New(Options{
			OnRunning: func(req providers.CreateRequest) { up.Add(1) },
			OnStopped: func(providers.Key) { down.Add(1) },
		})
		p := open(t, k, `boot_delay = "1m"`)
		ctx := context.Background()
		for _, req := range []providers.CreateRequest{
			request(t, "whole", ""), request(t, "early", ""), request(t, "silent", "no_agent = true"), request(t, "dud", "boot_failure = true"),
			request(t, "crash", ""),
		} {
			if _, err := p.Create(ctx, req); err != nil {
				t.Fatal(err)
			}
		}
		_ = p.Destroy(ctx, "early")
		time.Sleep(2 * time.Minute)
		if up.Load() != 2 || down.Load() != 0 {
			t.Errorf("%d up, %d down; want whole and crash up", up.Load(), down.Load())
		}
		if !k.Fail("f", "crash", "power failure") || k.Fail("f", "nobody", "") {
			t.Error("Fail found the wrong instances")
		}
		for _, key := range []providers.Key{"whole", "silent", "dud", "crash"} {
			_ = p.Destroy(ctx, key)
		}
		synctest.Wait()
		if up.Load() != 2 || down.Load() != 2 {
			t.Errorf("%d up, %d down; want 2 and 2", up.Load(), down.Load())
		}
	})
}

func TestFaultsComeAtTheirRatesAndRepeatWithTheSeed(t *testing.T) {
	t.Parallel()
	run := func(seed string) (classes map[providers.Class]int, trace string) {
		p := open(t, New(Options{}), "seed = "+seed+"\ncreate_error_rate = 0.3\ncreate_error_class = \"no-capacity\"\nfail_after_rate = 0.2")
		classes = map[providers.Class]int{}
		for i := range 1000 {
			_, err := p.Create(context.Background(), request(t, providers.Key(fmt.Sprintf("k%d", i)), ""))
			if err != nil {
				classes[providers.ClassOf(err)]++
			}
			trace += fmt.Sprint(providers.ClassOf(err), err == nil)
		}
		return classes, trace
	}
	got, first := run("1")
	if n := got[providers.NoCapacity]; n < 250 || n > 350 {
		t.Errorf("%d of 1000 failed before, want about 300", n)
	}
	if n := got[providers.Unknown]; n < 100 || n > 180 {
		t.Errorf("%d of 1000 lost their reply, want about 140", n)
	}
	if _, again := run("1"); again != first {
		t.Error("the same seed gave other faults")
	}
	if _, other := run("2"); other == first {
		t.Error("another seed gave the same faults")
	}
}

func TestLostReplyMeansDone(t *testing.T) {
	t.Parallel()
	k := New(Options{})
	p := open(t, k, "fail_after_rate = 1")
	_, err := p.Create(context.Background(), request(t, "a", ""))
	if err == nil || providers.ClassOf(err) != providers.Unknown || len(k.Instances("f")) != 1 {
		t.Errorf("%v, %v", err, k.Instances("f"))
	}
	if err := p.Destroy(context.Background(), "a"); err == nil || providers.ClassOf(err) != providers.Unknown || len(k.Instances("f")) != 0 {
		t.Errorf("%v, %v", err, k.Instances("f"))
	}
}

func TestAcceptedDestroyIsForgotten(t *testing.T) {
	t.Parallel()
	p := open(t, New(Options{}), "lose_destroy_rate = 0.9")
	ctx := context.Background()
	if _, err := p.Create(ctx, request(t, "a", "")); err != nil {
		t.Fatal(err)
	}
	tries := 0
	for ; p.Destroy(ctx, "a") == nil; tries++ {
		if tries > 1000 {
			t.Fatal("never gone")
		}
	}
	if tries < 2 {
		t.Errorf("gone after %d accepted destroys, want some to be forgotten", tries)
	}
}

func TestHangingCallEndsWithItsContextAndDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(Options{})
		p := open(t, k, "hang_rate = 1")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := p.Create(ctx, request(t, "a", ""))
		if providers.ClassOf(err) != providers.Unknown || time.Since(start) != time.Minute || len(k.Instances("f")) != 0 {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestListIsStaleAndDoubledAsConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, New(Options{}), "list_stale = \"1m\"\nlist_double_rate = 1")
		ctx := context.Background()
		if _, err := p.Create(ctx, request(t, "a", "")); err != nil {
			t.Fatal(err)
		}
		count := func() int {
			list, err := p.List(ctx, "o")
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		if n := count(); n != 0 {
			t.Errorf("%d at once, want 0", n)
		}
		time.Sleep(time.Minute)
		if n := count(); n != 2 {
			t.Errorf("%d after a minute, want 2", n)
		}
	})
}

func TestCapacityAndQuota(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]providers.Class{"capacity = 2": providers.NoCapacity, "quota = 2": providers.OverQuota} {
		p := open(t, New(Options{}), src)
		ctx := context.Background()
		for i := range 3 {
			_, err := p.Create(ctx, request(t, providers.Key(fmt.Sprintf("k%d", i)), ""))
			if (err != nil) != (i == 2) || err != nil && providers.ClassOf(err) != want {
				t.Errorf("%s: create %d: %v", src, i, err)
			}
		}
		if err := p.Destroy(ctx, "k0"); err != nil {
			t.Error(err)
		}
		if _, err := p.Create(ctx, request(t, "k9", "")); err != nil {
			t.Errorf("%s: room was not given back: %v", src, err)
		}
	}
}

func TestMistakesInTheConfigurationHaveRanges(t *testing.T) {
	t.Parallel()
	k := New(Options{})
	_, diags := k.DecodeProvider(parse(t, "seed = \"x\"\nhang_rate = 2\ncreate_error_class = \"odd\"\nbot_delay = \"1s\""), nil)
	if len(diags) != 4 {
		t.Errorf("%d mistakes, want 4: %v", len(diags), diags)
	}
	_, diags = k.DecodeInstance(nil, parse(t, "boot_delay = \"x\"\nno_agent = 7"), nil)
	if len(diags) != 2 {
		t.Errorf("%d mistakes, want 2: %v", len(diags), diags)
	}
	for _, d := range diags {
		if d.Subject == nil {
			t.Errorf("no range: %v", d)
		}
	}
}

func TestInstancesOfAnotherPlaceAreNotSeen(t *testing.T) {
	t.Parallel()
	k := New(Options{})
	here, there := open(t, k, `place = "here"`), open(t, k, `place = "there"`)
	ctx := context.Background()
	if _, err := here.Create(ctx, request(t, "a", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Get(ctx, "a"); providers.ClassOf(err) != providers.NotFound {
		t.Errorf("got %v", err)
	}
	if err := there.Destroy(ctx, "a"); providers.ClassOf(err) != providers.NotFound {
		t.Errorf("destroyed from elsewhere: %v", err)
	}
	if list, err := there.List(ctx, "o"); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if n := len(k.Instances("f")); n != 1 || !k.Fail("f", "a", "power failure") {
		t.Errorf("%d instances in all places", n)
	}
	if k.Place(decodeProvider(t, k, `place = "here"`)) == k.Place(decodeProvider(t, k, "")) {
		t.Error("two places are one")
	}
}
