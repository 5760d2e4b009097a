package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Every name is here, with its help and its labels. Base units; counters end in _total; no number of a build, request or instance in a label.
// "pool" is a worker's name without the number that `count` gave it. Money is an estimate: a worker's price times the life of its instances.

// Gauges that a Collector reads from one snapshot.
var (
	instances      = desc("rouse_instances", "Instances that are not gone, by state.", "provider", "pool", "state")
	orphans        = desc("rouse_orphan_instances", "Instances with our tag that no record knows.", "provider")
	pricePerHour   = desc("rouse_instances_cost_dollars_per_hour", "What all instances that are not gone cost per hour now (an estimate, in the configuration's currency).", "provider", "pool")
	costTotal      = desc("rouse_instance_cost_dollars_total", "What all instances have cost so far (an estimate, in the configuration's currency), those of earlier masters of this state too.", "provider", "pool", "instance_type", "market")
	listedAt       = desc("rouse_provider_last_list_timestamp_seconds", "When the provider's instances were last listed.", "provider")
	hostUp         = desc("rouse_host_up", "1 if the host can be reached, 0 if not: nothing new begins there, and what lives there goes on.", "provider", "host")
	hostTaken      = desc("rouse_host_instances", "Instances that live on the host, or are about to. The host max_instances is a provider's limit.", "provider", "host")
	hostSlots      = desc("rouse_host_slots", "Instances that may live on the host; absent: any number.", "provider", "host")
	hostVCPUsTaken = desc("rouse_host_vcpus_taken", "Virtual processors that instances take of the host.", "provider", "host")
	hostVCPUs      = desc("rouse_host_vcpus", "Virtual processors that instances may take of the host; absent: any number.", "provider", "host")
	hostMemTaken   = desc("rouse_host_memory_taken_bytes", "Memory that instances take of the host.", "provider", "host")
	hostMem        = desc("rouse_host_memory_bytes", "Memory that instances may take of the host; absent: any amount.", "provider", "host")
	requests       = desc("rouse_build_requests", "Build requests that are not done, by state.", "builder", "state")
	oldestAge      = desc("rouse_build_request_oldest_age_seconds", "Age of the oldest waiting request; 0 if none waits.", "builder")
	builds         = desc("rouse_builds", "Builds that have not ended, by phase.", "builder", "phase")
	workers        = desc("rouse_workers", "Workers, by state.", "kind", "state")
	workersPaused  = desc("rouse_workers_paused", "Workers that somebody has paused.", "kind")
	workersBackoff = desc("rouse_workers_backoff", "Workers that make no new instance for a while, after a failure.", "kind")
	generation     = desc("rouse_config_generation", "Number of the configuration in force.")
	timers         = desc("rouse_timers", "Deadlines that are armed.")
	snapshotAge    = desc("rouse_snapshot_age_seconds", "Age of the state that these gauges show.")
)

var gauges = []*prometheus.Desc{instances, orphans, pricePerHour, costTotal, listedAt, hostUp, hostTaken, hostSlots, hostVCPUsTaken, hostVCPUs, hostMemTaken,
	hostMem, requests, oldestAge, builds, workers, workersPaused, workersBackoff, generation, timers, snapshotAge}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// observed is what observers feed.
type observed struct {
	created, gone, failures         *prometheus.CounterVec
	interrupted                     *prometheus.CounterVec
	substantiation, phase, lifetime *prometheus.HistogramVec
	wait, duration                  *prometheus.HistogramVec
	ended, retried, done            *prometheus.CounterVec
	calls, repeats                  *prometheus.CounterVec
	callTime                        *prometheus.HistogramVec
	attached, detached, refused     *prometheus.CounterVec
	commits, turns                  prometheus.Histogram
	committed, commitErrors         prometheus.Counter
	reloadOK, reloadAt              prometheus.Gauge
	notices                         *prometheus.CounterVec
}

func newObserved() *observed {
	return &observed{
		created: counter("rouse_instances_created_total", "Instances that were asked for, once it is known what they are, or at the latest when they are gone.", "provider", "pool", "instance_type", "market"),
		gone:    counter("rouse_instances_terminated_total", "Instances that are proven gone.", "provider", "pool"),
		failures: counter("rouse_instance_failures_total", "Failures for which a worker backs off: no instance, no attach in time, lost instances. The reason is the class of the provider's answer, or missing, lost, ended, vanished.",
			"provider", "pool", "reason"),
		interrupted: counter("rouse_instance_interruptions_total", "Instances that the provider has taken back, by the kind of its notice.", "provider", "pool", "kind"),
		substantiation: histogram("rouse_instance_substantiation_duration_seconds", "From asking for an instance to its agent's attach (success) or to giving it up before (failure).",
			slow, "provider", "pool", "result"),
		phase: histogram("rouse_instance_phase_duration_seconds", "Parts of a substantiation: request (submitted to asked for), boot (asked for to booted), "+
			"connect (booted to attached), prepare (attached to first step).", slow, "provider", "pool", "phase"),
		lifetime: histogram("rouse_instance_lifetime_seconds", "From asking for an instance to the proof that it is gone.", long, "provider", "pool"),

		wait:     histogram("rouse_build_request_wait_seconds", "From a request's submission to the start of its first build's steps.", slow, "builder"),
		duration: histogram("rouse_build_duration_seconds", "From the start of a build's steps to its end.", long, "builder", "result"),
		ended:    counter("rouse_builds_total", "Builds that have ended.", "builder", "result"),
		retried:  counter("rouse_build_retries_total", "Requests that went back to the queue since their build ended without a verdict.", "builder"),
		done:     counter("rouse_build_requests_done_total", "Requests that are done.", "builder", "result"),

		calls:    counter("rouse_provider_requests_total", "Calls of a provider that have ended, by the class of the answer.", "provider", "operation", "class"),
		callTime: histogram("rouse_provider_request_duration_seconds", "How long a call of a provider took.", quick, "provider", "operation"),
		repeats:  counter("rouse_provider_retries_total", "Creates and destroys that were repeated for the same instance.", "provider", "operation"),

		attached: counter("rouse_worker_attaches_total", "Agents that were admitted.", "pool"),
		detached: counter("rouse_worker_disconnects_total", "Agents whose connection ended.", "pool"),
		refused:  counter("rouse_worker_refusals_total", "Agents that had a credential and were refused."),
		notices:  counter("rouse_notices_total", "Orders to tell people something."),

		commits:      plain("rouse_store_commit_duration_seconds", "How long a transaction took to be durable.", quick),
		committed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "rouse_store_committed_items_total", Help: "Events and records that transactions have made durable."}),
		commitErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "rouse_store_commit_errors_total", Help: "Transactions that failed; each is tried again."}),
		turns:        plain("rouse_loop_gap_seconds", "How long the loop did not look at its inbox, in each turn.", quick),
		reloadOK:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "rouse_config_last_reload_successful", Help: "1 if the last attempt to read the configuration put it into force."}),
		reloadAt:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "rouse_config_last_reload_success_timestamp_seconds", Help: "When a configuration was last put into force."}),
	}
}

func (o *observed) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.created, o.gone, o.failures, o.interrupted, o.substantiation, o.phase, o.lifetime, o.wait, o.duration, o.ended, o.retried, o.done, o.calls,
		o.callTime, o.repeats, o.attached, o.detached, o.refused, o.notices, o.commits, o.committed, o.commitErrors, o.turns, o.reloadOK, o.reloadAt}
}

// Classic buckets, in seconds. Native ones come on top, where Prometheus takes them.
var (
	quick = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	slow  = []float64{.005, .025, .1, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 3600}
	long  = []float64{.1, .5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400}
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour}
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels)
}

func plain(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(histogramOpts(name, help, buckets))
}

func buildInfo(version, goVersion string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "rouse_build_info", Help: "Always 1; the labels tell which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": goVersion}})
	g.Set(1)
	return g
}
