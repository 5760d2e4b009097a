// Package metrics measures a master for Prometheus. names.go has every name.
//
// Gauges are read from one snapshot of the core when they are asked for; counters and histograms are fed by the engine's hooks, from the very
// journal entries that the log and `rouse trace` show. It decides nothing, and knows nothing of HCL, sessions or concrete providers.
package metrics

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// History is what must be known of the past: which instances there were.
type History interface {
	Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error)
}

// Meter measures one master.
type Meter struct {
	reg      *prometheus.Registry
	o        *observed
	now      func() time.Time
	snapshot func() *core.Snapshot // set by Watch

	mu       sync.Mutex
	sources  map[string]source // by worker
	requests map[model.RequestID]*request
	builds   map[model.BuildID]*build
	machines map[model.InstanceKey]*machine
	gone     map[model.InstanceKey]time.Time // instances that are gone for a short time, since a snapshot may still show them
	spent    map[ware]float64                // by instances that are gone
	wares    map[string]bool                 // types of instances that have labels
	told     map[ware]float64                // what was last told, so that the total never falls
}

// place is where something happens, as far as labels tell.
type place struct{ provider, pool string }

// ware is what an instance is, as far as labels tell.
type ware struct {
	place
	itype, market string
}

// maxTypes bounds the types of instances that get labels of their own: they are what a provider says.
const maxTypes = 100

// wareOf makes labels of what a provider says. The caller holds mu.
func (m *Meter) wareOf(p place, itype, market string) ware {
	if market != "" && market != "on-demand" && market != "spot" {
		market = "other"
	}
	if !m.wares[itype] && itype != "" {
		if len(m.wares) >= maxTypes {
			itype = "other"
		}
		m.wares[itype] = true
	}
	return ware{p, itype, market}
}

// source is where a worker's instances come from, and what they cost per hour.
type source struct {
	place   place
	price   float64
	stopped float64 // price while it is switched off
}

type request struct {
	builder string
	at      time.Time
	started bool
}

type build struct {
	builder, worker string
	instance        model.InstanceKey
	request         model.RequestID
	at              time.Time // its steps began
}

// machine is one instance that is not gone.
type machine struct {
	source
	asked, booted     time.Time
	attached          time.Time
	served            bool
	creates, destroys int

	itype, market string
	counted       bool          // as created
	stoppedAt     time.Time     // since when it is switched off
	slept         time.Duration // before that
}

// New makes a Meter with a registry of its own.
func New(version string) (*Meter, error) {
	m := &Meter{reg: prometheus.NewRegistry(), o: newObserved(), now: time.Now, sources: map[string]source{}, requests: map[model.RequestID]*request{},
		builds: map[model.BuildID]*build{}, machines: map[model.InstanceKey]*machine{}, gone: map[model.InstanceKey]time.Time{}, spent: map[ware]float64{}, told: map[ware]float64{},
		wares: map[string]bool{}}
	for _, c := range append(m.o.collectors(), collector{m}, buildInfo(version, runtime.Version()), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		if err := m.reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	m.o.refused.WithLabelValues()
	m.o.notices.WithLabelValues()
	return m, nil
}

// Handler serves /metrics.
func (m *Meter) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{Registry: m.reg, EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// historyLimit bounds how many instances of the past are summed up when a master starts.
const historyLimit = 100_000

// Watch says where to look, before the engine runs. What instances of earlier masters have cost is counted once, here.
func (m *Meter) Watch(snapshot func() *core.Snapshot, past History) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := past.Instances(ctx, "", historyLimit)
	if err != nil {
		return fmt.Errorf("metrics: what instances have cost: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshot = snapshot
	for _, in := range rows {
		if !in.GoneAt.IsZero() {
			m.spent[m.wareOf(place{in.Provider, pool(in.Worker)}, in.Facts["type"], in.Facts["market"])] += core.Cost(&in, in.GoneAt)
		}
	}
	if sn := snapshot(); sn != nil {
		m.learn(sn)
		m.seed(sn)
	}
	return nil
}

// learn takes in where workers' instances come from. The caller holds mu.
func (m *Meter) learn(sn *core.Snapshot) {
	for i := range sn.Workers {
		w := &sn.Workers[i].Worker
		m.sources[w.Name] = source{place{w.Provider, pool(w.Name)}, w.Price, w.StoppedPrice}
	}
}

// seed takes in what began before this process did. The caller holds mu. Later snapshots may be older than the entries that were seen, so
// that only the first one is good for this.
func (m *Meter) seed(sn *core.Snapshot) {
	for i := range sn.Requests {
		r := &sn.Requests[i]
		m.requests[r.ID] = &request{builder: r.Builder, at: r.SubmittedAt, started: r.Attempts > 0}
	}
	for i := range sn.Builds {
		if b := &sn.Builds[i]; len(b.Requests) > 0 {
			m.builds[b.ID] = &build{builder: b.Builder, worker: b.Worker, instance: b.Instance, request: b.Requests[0], at: b.StartedAt}
		}
	}
	for i := range sn.Instances {
		in := &sn.Instances[i].Instance
		from := source{place{in.Provider, pool(in.Worker)}, in.Price, in.StoppedPrice}
		if _, ok := m.sources[in.Worker]; !ok {
			m.sources[in.Worker] = from
		}
		m.machines[in.Key] = &machine{source: from, asked: in.AskedAt, booted: in.BootedAt, attached: in.AttachedAt, served: in.Served, creates: 1,
			destroys: in.DestroyTries, itype: in.Facts["type"], market: in.Facts["market"], counted: true, slept: in.Slept}
		if in.Power == latent.Stopped {
			m.machines[in.Key].stoppedAt = in.PowerAt
		}
	}
}

// failReasons are the classes that have a series from the start.
var failReasons = []string{"missing", "lost", "ended", "vanished", "no-capacity", "over-quota", "bad-config", "unauthorized"}

// Applied says that a configuration was put into force, or refused.
func (m *Meter) Applied(gen model.Generation, err error) {
	if err != nil {
		m.o.reloadOK.Set(0)
		return
	}
	m.o.reloadOK.Set(1)
	m.o.reloadAt.Set(float64(m.now().UnixMilli()) / 1000)
	sn := m.fresh(func(sn *core.Snapshot) bool { return sn.Generation >= gen })
	if sn == nil {
		return
	}
	m.mu.Lock()
	m.learn(sn)
	m.mu.Unlock()
	for _, b := range sn.Builders { // series that are there before anything happens make rates right from the first event on
		for r := model.Success; r <= model.Cancelled; r++ {
			m.o.ended.WithLabelValues(b.Name, r.String())
		}
		m.o.retried.WithLabelValues(b.Name)
	}
	for i := range sn.Workers {
		if w := &sn.Workers[i].Worker; w.Latent() {
			p := pool(w.Name)
			m.o.gone.WithLabelValues(w.Provider, p)
			for _, reason := range failReasons {
				m.o.failures.WithLabelValues(w.Provider, p, reason)
			}
			m.o.interrupted.WithLabelValues(w.Provider, p, core.InterruptedSpot)
		}
	}
}

// fresh returns a snapshot that is good enough, or after a tenth of a second the best there is: the engine makes the next one when the
// last one is taken.
func (m *Meter) fresh(good func(*core.Snapshot) bool) *core.Snapshot {
	m.mu.Lock()
	snapshot := m.snapshot
	m.mu.Unlock()
	if snapshot == nil {
		return nil
	}
	sn := snapshot()
	for range 20 {
		if sn != nil && good(sn) {
			break
		}
		time.Sleep(5 * time.Millisecond)
		sn = snapshot()
	}
	return sn
}

// pool is a worker's name without its number: "linux-12" belongs to "linux".
func pool(worker string) string {
	if i := strings.LastIndexByte(worker, '-'); i > 0 && i+1 < len(worker) && strings.Trim(worker[i+1:], "0123456789") == "" {
		return worker[:i]
	}
	return worker
}
