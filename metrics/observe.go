package metrics

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// Op takes one call of a provider that has ended.
func (m *Meter) Op(provider, op string, class core.OpClass, took time.Duration) {
	m.o.calls.WithLabelValues(provider, op, class.String()).Inc()
	m.o.callTime.WithLabelValues(provider, op).Observe(took.Seconds())
}

// Commit takes one attempt to make something durable.
func (m *Meter) Commit(took time.Duration, items int, err error) {
	if err != nil {
		m.o.commitErrors.Inc()
		return
	}
	m.o.commits.Observe(took.Seconds())
	m.o.committed.Add(float64(items))
}

// Turn takes one turn of the loop.
func (m *Meter) Turn(took time.Duration, _ int) { m.o.turns.Observe(took.Seconds()) }

// Entry takes one journal entry that is durable. It is called by the loop and never waits for it.
func (m *Meter) Entry(at time.Time, e core.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Kind {
	case "request":
		m.request(at, e)
	case "build":
		m.build(at, e)
	case "instance":
		m.instance(at, e)
	case "worker":
		m.worker(at, e)
	case "effect":
		m.effect(at, e)
	}
}

func (m *Meter) request(at time.Time, e core.Entry) {
	switch {
	case e.From == "" && e.To == "waiting":
		m.requests[e.Request] = &request{builder: e.Cause, at: at} // a new request's cause is its builder
	case e.To == "claimed":
	case e.To == "waiting":
		m.o.retried.WithLabelValues(m.builderOf(e.Request)).Inc()
	default:
		if _, err := model.ParseResult(e.To); err == nil {
			m.o.done.WithLabelValues(m.builderOf(e.Request), e.To).Inc()
			delete(m.requests, e.Request)
		}
	}
}

func (m *Meter) builderOf(id model.RequestID) string {
	if r := m.requests[id]; r != nil {
		return r.builder
	}
	return "unknown"
}

func (m *Meter) build(at time.Time, e core.Entry) {
	b := m.builds[e.Build]
	switch {
	case e.To == "preparing":
		m.builds[e.Build] = &build{builder: m.builderOf(e.Request), worker: e.Worker, instance: e.Instance, request: e.Request}
	case b == nil, e.To == "cancelling":
	case e.To == "running":
		b.at, b.instance = at, e.Instance
		if r := m.requests[b.request]; r != nil && !r.started {
			r.started = true
			since(m.o.wait.WithLabelValues(b.builder), r.at, at)
		}
		if in := m.machines[e.Instance]; in != nil && !in.served {
			in.served = true
			since(m.o.phase.WithLabelValues(in.place.provider, in.place.pool, "prepare"), in.attached, at)
		}
	default:
		m.o.ended.WithLabelValues(b.builder, e.To).Inc()
		since(m.o.duration.WithLabelValues(b.builder, e.To), b.at, at)
		delete(m.builds, e.Build)
	}
}

func (m *Meter) instance(at time.Time, e core.Entry) {
	in := m.machines[e.Instance]
	if in == nil {
		return
	}
	p := in.place
	switch e.To {
	case "interrupted":
		m.o.interrupted.WithLabelValues(p.provider, p.pool, e.From).Inc()
	case "leaving":
		m.o.interrupted.WithLabelValues(p.provider, p.pool, "rebalance").Inc()
	case "stopped":
		in.stoppedAt = at
	case "stopping", "waking":
		in.wake(at)
	case "booting":
		in.itype, in.market = e.Type, e.Market
		m.countMade(in)
		if in.booted.IsZero() {
			in.booted = at
			since(m.o.phase.WithLabelValues(p.provider, p.pool, "boot"), in.asked, at)
		}
	case "doomed":
		if e.From == "" && in.attached.IsZero() {
			since(m.o.substantiation.WithLabelValues(p.provider, p.pool, "failure"), in.asked, at)
		}
	case "gone":
		in.wake(at)
		m.countMade(in)
		m.o.gone.WithLabelValues(p.provider, p.pool).Inc()
		since(m.o.lifetime.WithLabelValues(p.provider, p.pool), in.asked, at)
		m.spent[m.wareOf(p, in.itype, in.market)] += core.Cost(&model.Instance{AskedAt: in.asked, GoneAt: at, Price: in.price, StoppedPrice: in.stopped,
			Stopped: in.slept.Seconds()}, at)
		delete(m.machines, e.Instance)
		m.gone[e.Instance] = at
		if len(m.gone) > goneLimit {
			maps.DeleteFunc(m.gone, func(_ model.InstanceKey, t time.Time) bool { return at.Sub(t) > goneFor })
		}
	}
}

// wake ends a time that the instance was switched off.
func (in *machine) wake(at time.Time) {
	if !in.stoppedAt.IsZero() && at.After(in.stoppedAt) {
		in.slept += at.Sub(in.stoppedAt)
	}
	in.stoppedAt = time.Time{}
}

// countMade counts an instance as created, once. The caller holds mu.
func (m *Meter) countMade(in *machine) {
	if !in.counted {
		in.counted = true
		w := m.wareOf(in.place, in.itype, in.market)
		m.o.created.WithLabelValues(w.provider, w.pool, w.itype, w.market).Inc()
	}
}

// An instance that is gone is remembered for at least goneFor: no snapshot that is older is shown.
const (
	goneFor   = time.Minute
	goneLimit = 1024
)

func (m *Meter) worker(at time.Time, e core.Entry) {
	switch e.To {
	case "attached":
		m.o.attached.WithLabelValues(pool(e.Worker)).Inc()
		in := m.machines[e.Instance]
		if in == nil || !in.attached.IsZero() {
			return
		}
		in.attached = at
		p := in.place
		if in.booted.IsZero() { // its agent was faster than its provider
			in.booted = at
			since(m.o.phase.WithLabelValues(p.provider, p.pool, "boot"), in.asked, at)
		}
		since(m.o.phase.WithLabelValues(p.provider, p.pool, "connect"), in.booted, at)
		since(m.o.substantiation.WithLabelValues(p.provider, p.pool, "success"), in.asked, at)
	case "detached":
		m.o.detached.WithLabelValues(pool(e.Worker)).Inc()
	case "refused":
		m.o.refused.WithLabelValues().Inc()
	case "backoff":
		p := m.sourceOf(e.Worker).place
		m.o.failures.WithLabelValues(p.provider, p.pool, e.From).Inc()
	}
}

func (m *Meter) effect(at time.Time, e core.Entry) {
	in := m.machines[e.Instance]
	switch e.To {
	case "CreateInstance":
		if in == nil {
			in = &machine{source: m.sourceOf(e.Worker), asked: at}
			m.machines[e.Instance] = in
			if first := m.firstRequest(e.Worker); first != nil {
				since(m.o.phase.WithLabelValues(in.place.provider, in.place.pool, "request"), first.at, at)
			}
		}
		if in.creates++; in.creates > 1 {
			m.o.repeats.WithLabelValues(in.place.provider, "create").Inc()
		}
	case "DestroyInstance":
		if in == nil {
			return // an orphan
		}
		if in.destroys++; in.destroys > 1 {
			m.o.repeats.WithLabelValues(in.place.provider, "destroy").Inc()
		}
	case "Notify":
		m.o.notices.WithLabelValues().Inc()
	}
}

// firstRequest is the oldest request whose build waits for the worker. Only builds that have not begun can wait for an instance.
func (m *Meter) firstRequest(worker string) *request {
	var first *request
	for _, b := range m.builds {
		if b.worker == worker && b.at.IsZero() {
			if r := m.requests[b.request]; r != nil && (first == nil || r.at.Before(first.at)) {
				first = r
			}
		}
	}
	return first
}

// sourceOf a worker: known from a snapshot, which is asked for at most once for each worker that is not.
func (m *Meter) sourceOf(worker string) source {
	if _, ok := m.sources[worker]; !ok && m.snapshot != nil {
		if sn := m.snapshot(); sn != nil {
			m.learn(sn)
		}
	}
	if _, ok := m.sources[worker]; !ok {
		m.sources[worker] = source{place: place{"unknown", pool(worker)}}
	}
	return m.sources[worker]
}

// since observes the seconds between two moments, unless the first one is not known.
func since(o prometheus.Observer, from, to time.Time) {
	if !from.IsZero() && !to.Before(from) {
		o.Observe(to.Sub(from).Seconds())
	}
}
