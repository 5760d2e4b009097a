package fake

import (
	"slices"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// Config is a decoded provider block. A rate is the probability that a call meets the fault.
type Config struct {
	Place        string        // where its instances live: those of another place are not seen
	Seed         int64         // of all faults
	BootDelay    time.Duration // from Create to running
	DestroyDelay time.Duration // from Destroy to gone
	CallDelay    time.Duration // every call takes this long
	Capacity     int64         // NoCapacity beyond that many instances; 0 = no limit
	Quota        int64         // OverQuota beyond that many instances of one owner; 0 = no limit

	CreateErrorRate  float64 // create_error_rate: fails before anything was done…
	CreateErrorClass string  // …with this class; default "transient"
	DestroyErrorRate float64 // fails with class transient, nothing done; and so on for the others
	GetErrorRate     float64
	ListErrorRate    float64
	FailAfterRate    float64       // fail_after_rate: a Create or Destroy is done, but its reply is lost (class unknown)
	HangRate         float64       // hang_rate: any call hangs until its context ends; nothing done
	BootFailureRate  float64       // the instance ends by itself when it should come to run
	LoseDestroyRate  float64       // lose_destroy_rate: an accepted destroy is forgotten
	StopDelay        time.Duration // from Stop to stopped
	StopErrorRate    float64       // fails with class transient, nothing done
	LoseStopRate     float64       // lose_stop_rate: an accepted stop is forgotten
	StartErrorRate   float64       // start_error_rate: fails, nothing done…
	StartErrorClass  string        // …with this class; default "no-capacity"
	ListDoubleRate   float64       // list_double_rate: the list holds every instance twice
	ListStale        time.Duration // list_stale: the list shows what was there so long ago
	Hosts            int64         // hosts: machines on which instances live, named h1, h2, …; 0 = it has no rooms
	HostVCPUs        int64         // of each host; 0 = no limit
	HostMemory       int64         // bytes
	HostSlots        int64
	Silent           bool // silent: it tells nobody of changes
}

// Spec is a decoded instance block: what happens to this worker's instances, always.
type Spec struct {
	BootDelay   time.Duration // negative: the provider's
	CreateError string        // a class: Create always fails so
	BootFailure bool          // ends by itself instead of coming to run
	NeverRuns   bool          // stays pending
	NoAgent     bool          // no_agent: OnRunning is not called
	Detail      string        // for people
	StartError  string        // a class: Start always fails so
	NoHibernate bool          // it can be stopped, but not with its memory kept
	Type        string        // facts of the instance
	Market      string
	Console     string // what it prints; "": a line or two
	VCPUs       int64  // of its host
	Memory      int64  // bytes
}

var classes = []string{"unknown", "transient", "throttled", "no-capacity", "over-quota", "bad-config", "unauthorized"}

// DecodeProvider implements providers.Kind.
func (*Kind) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	c := Config{CreateErrorClass: "transient", StartErrorClass: "no-capacity"}
	rates := map[string]*float64{
		"create_error_rate": &c.CreateErrorRate, "destroy_error_rate": &c.DestroyErrorRate, "get_error_rate": &c.GetErrorRate,
		"list_error_rate": &c.ListErrorRate, "fail_after_rate": &c.FailAfterRate, "hang_rate": &c.HangRate,
		"boot_failure_rate": &c.BootFailureRate, "lose_destroy_rate": &c.LoseDestroyRate, "list_double_rate": &c.ListDoubleRate,
		"stop_error_rate": &c.StopErrorRate, "lose_stop_rate": &c.LoseStopRate, "start_error_rate": &c.StartErrorRate,
	}
	durations := map[string]*time.Duration{
		"boot_delay": &c.BootDelay, "destroy_delay": &c.DestroyDelay, "call_delay": &c.CallDelay, "list_stale": &c.ListStale,
		"stop_delay": &c.StopDelay,
	}
	names := []string{"place", "seed", "capacity", "quota", "create_error_class", "start_error_class", "hosts", "host_vcpus", "host_memory", "host_slots", "silent"}
	names = slices.AppendSeq(names, sortedKeys(rates))
	names = slices.AppendSeq(names, sortedKeys(durations))
	a := decode.Body(body, ctx, names...)
	a.String("place", &c.Place)
	a.Int("seed", &c.Seed, -1<<53, 1<<53)
	a.Int("capacity", &c.Capacity, 0, 1_000_000)
	a.Int("quota", &c.Quota, 0, 1_000_000)
	a.Int("hosts", &c.Hosts, 0, 1000)
	a.Int("host_vcpus", &c.HostVCPUs, 0, 100_000)
	a.Bytes("host_memory", &c.HostMemory, 0)
	a.Int("host_slots", &c.HostSlots, 0, 100_000)
	a.Bool("silent", &c.Silent)
	a.OneOf("create_error_class", &c.CreateErrorClass, classes...)
	a.OneOf("start_error_class", &c.StartErrorClass, classes...)
	for name := range sortedKeys(rates) {
		a.Rate(name, rates[name])
	}
	for name := range sortedKeys(durations) {
		a.Duration(name, durations[name])
	}
	return c, a.Diags
}

// Place implements providers.PlaceKind.
func (*Kind) Place(config any) string {
	c, _ := config.(Config)
	return c.Place
}

// DecodeInstance implements providers.Kind.
func (*Kind) DecodeInstance(_ any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	s := Spec{BootDelay: -1, Type: "fake.small", Market: "on-demand"}
	a := decode.Body(body, ctx, "boot_delay", "create_error", "boot_failure", "never_runs", "no_agent", "detail", "start_error", "no_hibernate", "type",
		"market", "console", "vcpus", "memory")
	a.Duration("boot_delay", &s.BootDelay)
	a.OneOf("create_error", &s.CreateError, classes...)
	a.Bool("boot_failure", &s.BootFailure)
	a.Bool("never_runs", &s.NeverRuns)
	a.Bool("no_agent", &s.NoAgent)
	a.String("detail", &s.Detail)
	a.OneOf("start_error", &s.StartError, classes...)
	a.Bool("no_hibernate", &s.NoHibernate)
	a.String("type", &s.Type)
	a.OneOf("market", &s.Market, "on-demand", "spot")
	a.String("console", &s.Console)
	a.Int("vcpus", &s.VCPUs, 0, 1024)
	a.Bytes("memory", &s.Memory, 0)
	return s, a.Diags
}

// class returns the class of a name that was decoded; "" has none.
func class(name string) providers.Class {
	c, _ := providers.ParseClass(name)
	return c
}
