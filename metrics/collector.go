package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// collector tells the gauges of one snapshot.
type collector struct{ m *Meter }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range gauges {
		ch <- d
	}
}

// fresher is how old a snapshot may be before a new one is waited for.
const fresher = time.Second

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	now := c.m.now()
	sn := c.m.fresh(func(sn *core.Snapshot) bool { return now.Sub(sn.Time) < fresher })
	if sn == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(generation, float64(sn.Generation))
	gauge(timers, float64(len(sn.Timers)))
	gauge(snapshotAge, max(0, now.Sub(sn.Time).Seconds()))
	c.instances(sn, gauge)
	c.hosts(sn, gauge)
	c.costs(sn, now, ch, gauge)
	c.queue(sn, now, gauge)
	c.workers(sn, gauge)
}

type emit func(d *prometheus.Desc, v float64, labels ...string)

// places are where instances may be: those of the workers, and of instances whose worker is not configured any more.
func (c collector) places(sn *core.Snapshot) map[place]bool {
	all := map[place]bool{}
	for i := range sn.Workers {
		if w := &sn.Workers[i].Worker; w.Latent() {
			all[place{w.Provider, pool(w.Name)}] = true
		}
	}
	for i := range sn.Instances {
		in := &sn.Instances[i].Instance
		all[place{in.Provider, pool(in.Worker)}] = true
	}
	return all
}

func (c collector) instances(sn *core.Snapshot, gauge emit) {
	type key struct {
		place
		state model.InstanceState
	}
	counts, prices := map[key]float64{}, map[place]float64{}
	for i := range sn.Instances {
		v := &sn.Instances[i]
		p := place{v.Instance.Provider, pool(v.Instance.Worker)}
		counts[key{p, v.State}]++
		if v.State == model.InstanceStopped {
			prices[p] += v.Instance.StoppedPrice
		} else {
			prices[p] += v.Instance.Price
		}
	}
	for p := range c.places(sn) {
		for s := model.InstanceRequested; s < model.InstanceGone; s++ {
			gauge(instances, counts[key{p, s}], p.provider, p.pool, s.String())
		}
		gauge(pricePerHour, prices[p], p.provider, p.pool)
	}
	for _, p := range sn.Providers {
		gauge(orphans, float64(p.Orphans), p.Name)
		if !p.LastListAt.IsZero() {
			gauge(listedAt, float64(p.LastListAt.UnixMilli())/1000, p.Name)
		}
	}
}

// hosts tells what is taken of the machines that instances share. What has no limit has no gauge for it: 0 would be none at all. A provider's max_instances
// is no machine, so it has instances and slots only.
func (c collector) hosts(sn *core.Snapshot, gauge emit) {
	for _, p := range sn.Providers {
		for _, r := range p.Rooms {
			of := func(d *prometheus.Desc, v float64) { gauge(d, v, p.Name, r.Name) }
			limit := func(d *prometheus.Desc, v float64) {
				if v > 0 {
					of(d, v)
				}
			}
			of(hostTaken, float64(r.Instances))
			limit(hostSlots, float64(r.Slots))
			if r.Name == providers.LimitRoom {
				continue
			}
			up := 1.0
			if r.Down {
				up = 0
			}
			of(hostUp, up)
			of(hostVCPUsTaken, float64(r.TakenVCPUs))
			limit(hostVCPUs, float64(r.VCPUs))
			of(hostMemTaken, float64(r.TakenMemory))
			limit(hostMem, float64(r.Memory))
		}
	}
}

// costs tells what was spent: by instances that are gone, and by the others so far. A snapshot is a little older or newer than what the observers
// know, so that an instance may for a moment be in both or in neither; the total never falls for that.
func (c collector) costs(sn *core.Snapshot, now time.Time, ch chan<- prometheus.Metric, _ emit) {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learn(sn)
	total := map[ware]float64{}
	for p := range c.places(sn) {
		total[ware{place: p}] = 0
	}
	for p, v := range m.spent {
		total[p] += v
	}
	for i := range sn.Instances {
		in := &sn.Instances[i].Instance
		if m.gone[in.Key].IsZero() {
			shown := core.Show(in, sn.Instances[i].State)
			total[m.wareOf(place{in.Provider, pool(in.Worker)}, in.Facts["type"], in.Facts["market"])] += core.Cost(&shown, now)
		}
	}
	for p, v := range total {
		m.told[p] = max(m.told[p], v)
		ch <- prometheus.MustNewConstMetric(costTotal, prometheus.CounterValue, m.told[p], p.provider, p.pool, p.itype, p.market)
	}
}

func (c collector) queue(sn *core.Snapshot, now time.Time, gauge emit) {
	type key struct{ builder, state string }
	queued, running := map[key]float64{}, map[key]float64{}
	for i := range sn.Requests {
		queued[key{sn.Requests[i].Builder, sn.Requests[i].State.String()}]++
	}
	for i := range sn.Builds {
		running[key{sn.Builds[i].Builder, sn.Builds[i].Phase.String()}]++
	}
	for _, b := range sn.Builders {
		for s := model.RequestWaiting; s < model.RequestDone; s++ {
			gauge(requests, queued[key{b.Name, s.String()}], b.Name, s.String())
		}
		for p := model.BuildPreparing; p < model.BuildDone; p++ {
			gauge(builds, running[key{b.Name, p.String()}], b.Name, p.String())
		}
		age := 0.0
		if !b.Oldest.IsZero() {
			age = max(0, now.Sub(b.Oldest).Seconds())
		}
		gauge(oldestAge, age, b.Name)
	}
}

// States of workers, as the core names them.
var workerStates = map[string][]string{
	"latent":   {"not-substantiated", "substantiating", "substantiated", "insubstantiating", "shut-down", "stopped"},
	"standard": {"attached", "detached"},
}

func (c collector) workers(sn *core.Snapshot, gauge emit) {
	type key struct{ kind, state string }
	counts := map[key]float64{}
	paused, backoff := map[string]float64{}, map[string]float64{}
	for kind, states := range workerStates {
		for _, s := range states {
			counts[key{kind, s}] = 0
		}
	}
	for i := range sn.Workers {
		w := &sn.Workers[i]
		kind := "standard"
		if w.Worker.Latent() {
			kind = "latent"
		}
		counts[key{kind, w.State}]++
		if w.Paused != "" {
			paused[kind]++
		}
		if w.BackoffUntil.After(sn.Time) {
			backoff[kind]++
		}
	}
	for k, n := range counts {
		gauge(workers, n, k.kind, k.state)
	}
	for kind := range workerStates {
		gauge(workersPaused, paused[kind], kind)
		gauge(workersBackoff, backoff[kind], kind)
	}
}
