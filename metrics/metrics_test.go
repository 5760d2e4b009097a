package metrics

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

var t0 = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// past is two instances: one is gone after two hours, one lives.
type past struct{ err error }

func (p past) Instances(context.Context, string, int) ([]model.Instance, error) {
	return []model.Instance{
		{Key: "m-linux-1-1", Worker: "linux-1", Provider: "cloud", Price: 0.5, AskedAt: at(-5 * time.Hour), GoneAt: at(-3 * time.Hour)},
		{Key: "m-linux-1-2", Worker: "linux-1", Provider: "cloud", Price: 0.5, AskedAt: at(-time.Hour)},
	}, p.err
}

// world is a snapshot with one live instance, which an earlier master made an hour ago.
func world() *core.Snapshot {
	return &core.Snapshot{Time: t0, Generation: 3,
		Workers: []core.WorkerView{
			{Worker: core.Worker{Name: "linux-1", Provider: "cloud", Price: 0.5}, State: "substantiated", Instance: "m-linux-1-2"},
			{Worker: core.Worker{Name: "linux-2", Provider: "cloud", Price: 0.5}, State: "not-substantiated", BackoffUntil: at(time.Minute)},
			{Worker: core.Worker{Name: "mac"}, State: "attached", Paused: "why not"},
		},
		Builders:  []core.BuilderView{{Name: "hello", Waiting: 1, Oldest: at(-30 * time.Second)}},
		Requests:  []core.Request{{ID: 9, Builder: "hello", SubmittedAt: at(-30 * time.Second)}},
		Instances: []core.InstanceView{{Instance: core.Instance{Key: "m-linux-1-2", Worker: "linux-1", Provider: "cloud", Price: 0.5, AskedAt: at(-time.Hour)}, State: model.InstanceAttached}},
		Providers: []core.ProviderView{{Name: "cloud", Orphans: 2, LastListAt: t0, Rooms: []core.RoomView{{Room: core.Room{Name: providers.LimitRoom, Slots: 20}, Instances: 1}}},
			{Name: "lab", Rooms: []core.RoomView{
				{Room: core.Room{Name: "a", VCPUs: 8, Memory: 16 << 30, Slots: 4}, TakenVCPUs: 3, TakenMemory: 6 << 30, Instances: 2},
				{Room: core.Room{Name: "b", Down: true}, DownSince: at(-time.Minute)},
			}}},
	}
}

func meter(t *testing.T, sn *core.Snapshot) *Meter {
	t.Helper()
	m, err := New("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	m.now = func() time.Time { return t0 }
	if err := m.Watch(func() *core.Snapshot { return sn }, past{}); err != nil {
		t.Fatal(err)
	}
	m.Applied(3, nil)
	return m
}

// life plays one request from submission to the end of its instance.
func life(m *Meter) {
	const key = "m-linux-2-1"
	for _, e := range []struct {
		after time.Duration
		e     core.Entry
	}{
		{0, core.Entry{Kind: "request", Request: 10, To: "waiting", Cause: "hello"}},
		{0, core.Entry{Kind: "request", Request: 10, Build: 4, Worker: "linux-2", From: "waiting", To: "claimed"}},
		{0, core.Entry{Kind: "build", Request: 10, Build: 4, Worker: "linux-2", To: "preparing"}},
		{2 * time.Second, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "CreateInstance"}},
		{3 * time.Second, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "CreateInstance"}},
		{12 * time.Second, core.Entry{Kind: "instance", Worker: "linux-2", Instance: key, From: "requested", To: "booting", Type: "m5", Market: "spot"}},
		{32 * time.Second, core.Entry{Kind: "worker", Worker: "linux-2", Instance: key, To: "attached"}},
		{33 * time.Second, core.Entry{Kind: "build", Request: 10, Build: 4, Worker: "linux-2", Instance: key, From: "preparing", To: "running"}},
		{93 * time.Second, core.Entry{Kind: "build", Request: 10, Build: 4, Worker: "linux-2", Instance: key, From: "running", To: "success"}},
		{93 * time.Second, core.Entry{Kind: "request", Request: 10, Build: 4, From: "claimed", To: "success"}},
		{100 * time.Second, core.Entry{Kind: "instance", Worker: "linux-2", Instance: key, To: "doomed"}},
		{100 * time.Second, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "DestroyInstance"}},
		{110 * time.Second, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "DestroyInstance"}},
		{122 * time.Second, core.Entry{Kind: "instance", Worker: "linux-2", Instance: key, From: "doomed", To: "gone"}},
	} {
		m.Entry(at(e.after), e.e)
	}
}

func TestOneBuildsLifeIsMeasured(t *testing.T) {
	t.Parallel()
	m := meter(t, world())
	life(m)
	m.Op("cloud", "create", core.OpThrottled, 20*time.Millisecond)
	m.Commit(time.Millisecond, 5, nil)
	m.Commit(time.Millisecond, 5, errors.New("disk full"))
	m.Turn(time.Millisecond, 1)
	got := scrape(t, m)
	for _, want := range []string{
		`rouse_instances_created_total{instance_type="m5",market="spot",pool="linux",provider="cloud"} 1`,
		`rouse_instances_terminated_total{pool="linux",provider="cloud"} 1`,
		`rouse_provider_retries_total{operation="create",provider="cloud"} 1`,
		`rouse_provider_retries_total{operation="destroy",provider="cloud"} 1`,
		`rouse_instance_phase_duration_seconds_sum{phase="request",pool="linux",provider="cloud"} 2`,
		`rouse_instance_phase_duration_seconds_sum{phase="boot",pool="linux",provider="cloud"} 10`,
		`rouse_instance_phase_duration_seconds_sum{phase="connect",pool="linux",provider="cloud"} 20`,
		`rouse_instance_phase_duration_seconds_sum{phase="prepare",pool="linux",provider="cloud"} 1`,
		`rouse_instance_substantiation_duration_seconds_sum{pool="linux",provider="cloud",result="success"} 30`,
		`rouse_instance_lifetime_seconds_sum{pool="linux",provider="cloud"} 120`,
		`rouse_build_request_wait_seconds_sum{builder="hello"} 33`,
		`rouse_build_duration_seconds_sum{builder="hello",result="success"} 60`,
		`rouse_builds_total{builder="hello",result="success"} 1`,
		`rouse_builds_total{builder="hello",result="failure"} 0`,
		`rouse_build_requests_done_total{builder="hello",result="success"} 1`,
		`rouse_provider_requests_total{class="throttled",operation="create",provider="cloud"} 1`,
		`rouse_store_commit_errors_total 1`, `rouse_store_committed_items_total 5`, `rouse_loop_gap_seconds_count 1`,
		`rouse_instances{pool="linux",provider="cloud",state="attached"} 1`, `rouse_instances{pool="linux",provider="cloud",state="doomed"} 0`,
		`rouse_instances_cost_dollars_per_hour{pool="linux",provider="cloud"} 0.5`,
		`rouse_orphan_instances{provider="cloud"} 2`,
		`rouse_build_requests{builder="hello",state="waiting"} 1`, `rouse_build_request_oldest_age_seconds{builder="hello"} 30`,
		`rouse_workers{kind="latent",state="substantiated"} 1`, `rouse_workers{kind="standard",state="detached"} 0`,
		`rouse_workers_paused{kind="standard"} 1`, `rouse_workers_backoff{kind="latent"} 1`,
		`rouse_config_generation 3`, `rouse_config_last_reload_successful 1`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("there is no line %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	if len(m.requests) != 1 || len(m.builds) != 0 || len(m.machines) != 1 { // request 9 and the instance of the past
		t.Errorf("remembered: %d requests, %d builds, %d instances", len(m.requests), len(m.builds), len(m.machines))
	}
}

func scrape(t *testing.T, m *Meter) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	b, err := io.ReadAll(rec.Body)
	if err != nil || rec.Code != 200 {
		t.Fatalf("%d %v %s", rec.Code, err, b)
	}
	return string(b)
}

func TestCostGoesOnAfterARestartAndNeverFalls(t *testing.T) {
	t.Parallel()
	sn := world()
	m := meter(t, sn)
	const name = `rouse_instance_cost_dollars_total{instance_type="",market="",pool="linux",provider="cloud"} `
	cost := func(want string) {
		t.Helper()
		if got := scrape(t, m); !strings.Contains(got, "\n"+name+want+"\n") {
			_, rest, _ := strings.Cut(got, name)
			value, _, _ := strings.Cut(rest, "\n")
			t.Errorf("cost is %s, want %s", value, want)
		}
	}
	cost("1.5") // two hours in the past, one hour of the live one
	sn.Time = at(time.Hour)
	m.now = func() time.Time { return at(time.Hour) }
	cost("2")
	// It is gone, while the snapshot still shows it: not counted twice.
	m.Entry(at(time.Hour), core.Entry{Kind: "instance", Worker: "linux-1", Instance: "m-linux-1-2", To: "gone"})
	cost("2")
	sn.Instances = nil
	cost("2")
}

func TestTotalDoesNotFallWhenTheSnapshotIsAheadOfTheJournal(t *testing.T) {
	t.Parallel()
	sn := world()
	m := meter(t, sn)
	before := scrape(t, m)
	sn.Instances = nil // the entry that it is gone comes a moment later
	if after := scrape(t, m); !strings.Contains(before, "cost_dollars_total{instance_type=\"\",market=\"\",pool=\"linux\",provider=\"cloud\"} 1.5\n") ||
		!strings.Contains(after, "cost_dollars_total{instance_type=\"\",market=\"\",pool=\"linux\",provider=\"cloud\"} 1.5\n") {
		t.Error("the total fell")
	}
}

func TestFailuresAndRetriesAreCounted(t *testing.T) {
	t.Parallel()
	m := meter(t, world())
	for _, e := range []core.Entry{
		{Kind: "request", Request: 9, Build: 7, From: "waiting", To: "claimed"},
		{Kind: "build", Request: 9, Build: 7, Worker: "linux-2", To: "preparing"},
		{Kind: "effect", Worker: "linux-2", Instance: "m-linux-2-1", To: "CreateInstance"},
		{Kind: "instance", Worker: "linux-2", Instance: "m-linux-2-1", To: "doomed"},
		{Kind: "instance", Worker: "linux-2", Instance: "m-linux-2-1", From: "spot", To: "interrupted"},
		{Kind: "worker", Worker: "linux-2", From: "missing", To: "backoff"},
		{Kind: "build", Request: 9, Build: 7, Worker: "linux-2", From: "preparing", To: "retry"},
		{Kind: "request", Request: 9, Build: 7, From: "claimed", To: "waiting"},
		{Kind: "worker", Worker: "thief", To: "refused"},
		{Kind: "worker", Worker: "nobody-7", From: "no-capacity", To: "backoff"},
		{Kind: "effect", Instance: "m-x-1", To: "DestroyInstance"},
		{Kind: "request", Request: 77, To: "exception"},
	} {
		m.Entry(t0, e)
	}
	m.Applied(4, errors.New("bad"))
	got := scrape(t, m)
	for _, want := range []string{
		`rouse_instance_failures_total{pool="linux",provider="cloud",reason="missing"} 1`,
		`rouse_instance_failures_total{pool="nobody",provider="unknown",reason="no-capacity"} 1`, `rouse_instance_failures_total{pool="linux",provider="cloud",reason="lost"} 0`,
		`rouse_instance_interruptions_total{kind="spot",pool="linux",provider="cloud"} 1`,
		`rouse_builds_total{builder="hello",result="retry"} 1`, `rouse_build_retries_total{builder="hello"} 1`, `rouse_worker_refusals_total 1`,
		`rouse_instance_substantiation_duration_seconds_count{pool="linux",provider="cloud",result="failure"} 1`,
		`rouse_config_last_reload_successful 0`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("there is no line %s", want)
		}
	}
}

func TestHostsAreMeasured(t *testing.T) {
	t.Parallel()
	var got []string
	for line := range strings.Lines(scrape(t, meter(t, world()))) {
		if strings.HasPrefix(line, "rouse_host_") {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	want := []string{ // b has no limits, so it shows none; max_instances is no machine that could be down or full of memory
		`rouse_host_instances{host="a",provider="lab"} 2`, `rouse_host_instances{host="b",provider="lab"} 0`, `rouse_host_instances{host="max_instances",provider="cloud"} 1`,
		`rouse_host_memory_bytes{host="a",provider="lab"} 1.7179869184e+10`,
		`rouse_host_memory_taken_bytes{host="a",provider="lab"} 6.442450944e+09`, `rouse_host_memory_taken_bytes{host="b",provider="lab"} 0`,
		`rouse_host_slots{host="a",provider="lab"} 4`, `rouse_host_slots{host="max_instances",provider="cloud"} 20`,
		`rouse_host_up{host="a",provider="lab"} 1`, `rouse_host_up{host="b",provider="lab"} 0`,
		`rouse_host_vcpus{host="a",provider="lab"} 8`,
		`rouse_host_vcpus_taken{host="a",provider="lab"} 3`, `rouse_host_vcpus_taken{host="b",provider="lab"} 0`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	m := meter(t, world())
	life(m)
	m.Op("cloud", "list", core.OpOK, time.Second)
	problems, err := testutil.GatherAndLint(m.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := m.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name := f.GetName()
		if !strings.HasPrefix(name, "rouse_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s has no prefix of ours", name)
		}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				switch l.GetName() {
				case "id", "build", "request", "instance", "branch", "revision":
					t.Errorf("%s has label %s, which is not bounded", name, l.GetName())
				}
			}
		}
	}
}

func TestGoneInstancesAreForgottenWhenNobodyLooks(t *testing.T) {
	t.Parallel()
	m := meter(t, world())
	for i := range 10 * goneLimit {
		key := model.InstanceKey(strings.Repeat("x", i%50) + time.Duration(i).String())
		now := at(time.Duration(i) * time.Second)
		m.Entry(now, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "CreateInstance"})
		m.Entry(now, core.Entry{Kind: "instance", Worker: "linux-2", Instance: key, From: "doomed", To: "gone"})
	}
	if len(m.gone) > goneLimit+1 || len(m.machines) != 1 {
		t.Errorf("%d gone and %d live instances are remembered", len(m.gone), len(m.machines))
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	for worker, want := range map[string]string{"linux-1": "linux", "linux-x86-12": "linux-x86", "mac": "mac", "a-": "a-", "-1": "-1", "arm64": "arm64", "w-1b": "w-1b"} {
		if got := pool(worker); got != want {
			t.Errorf("pool of %s is %s, want %s", worker, got, want)
		}
	}
}

func BenchmarkEntry(b *testing.B) {
	m, err := New("1")
	if err != nil {
		b.Fatal(err)
	}
	sn := world()
	if err := m.Watch(func() *core.Snapshot { return sn }, past{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		life(m) // 14 entries
	}
}

func TestStoppedTimeCostsItsOwnPrice(t *testing.T) {
	t.Parallel()
	sn := world()
	sn.Workers[1].Worker.StoppedPrice = 0.125
	m := meter(t, sn)
	const key = "m-linux-2-1"
	for _, e := range []struct {
		after time.Duration
		e     core.Entry
	}{
		{0, core.Entry{Kind: "effect", Worker: "linux-2", Instance: key, To: "CreateInstance"}},
		{0, core.Entry{Kind: "instance", Instance: key, To: "booting", Type: "m5", Market: "on-demand"}},
		{2 * time.Hour, core.Entry{Kind: "instance", Instance: key, From: "on", To: "stopping"}},
		{2 * time.Hour, core.Entry{Kind: "instance", Instance: key, From: "stopping", To: "stopped"}},
		{6 * time.Hour, core.Entry{Kind: "instance", Instance: key, From: "stopped", To: "waking"}},
		{6 * time.Hour, core.Entry{Kind: "instance", Instance: key, From: "waking", To: "on"}},
		{7 * time.Hour, core.Entry{Kind: "instance", Instance: key, To: "stopped"}},
		{9 * time.Hour, core.Entry{Kind: "instance", Instance: key, To: "gone"}},
	} {
		m.Entry(at(e.after), e.e)
	}
	// Three hours at 0.5 and six at 0.125.
	if got, want := scrape(t, m), `rouse_instance_cost_dollars_total{instance_type="m5",market="on-demand",pool="linux",provider="cloud"} 2.25`; !strings.Contains(got, "\n"+want+"\n") {
		t.Errorf("there is no line %s in\n%s", want, got)
	}
}

func TestLabelsThatProvidersTellAreBounded(t *testing.T) {
	t.Parallel()
	m := meter(t, world())
	for i := range 10 * maxTypes {
		m.wareOf(place{}, time.Duration(i).String(), time.Duration(i).String())
	}
	if w := m.wareOf(place{}, "one more", "bazaar"); w.itype != "other" || w.market != "other" || len(m.wares) > maxTypes+1 {
		t.Errorf("%+v, %d types", w, len(m.wares))
	}
}
