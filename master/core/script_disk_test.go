package core_test

import (
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// disk is what a store would hold.
type disk struct {
	sv        core.Saved
	requests  map[model.RequestID]core.Request
	builds    map[model.BuildID]core.Build
	workers   map[string]core.WorkerState
	instances map[model.InstanceKey]core.Instance
	schedules map[string]time.Time
}

func newDisk(owner string) *disk {
	return &disk{sv: core.Saved{Owner: owner}, requests: map[model.RequestID]core.Request{}, builds: map[model.BuildID]core.Build{},
		workers: map[string]core.WorkerState{}, instances: map[model.InstanceKey]core.Instance{}, schedules: map[string]time.Time{}}
}

func (d *disk) write(dl core.Delta) {
	for _, r := range dl.Requests {
		d.requests[r.ID] = r
	}
	for _, b := range dl.Builds {
		d.builds[b.ID] = b
	}
	for _, w := range dl.Workers {
		d.workers[w.Name] = w
	}
	for _, in := range dl.Instances {
		d.instances[in.Key] = in
	}
	for _, sc := range dl.Schedules {
		d.schedules[sc.Name] = sc.Last
	}
	d.sv.NextBuild, d.sv.NextOp = dl.NextBuild, dl.NextOp
}

func (d *disk) saved() core.Saved {
	sv := d.sv
	for _, k := range keys(d.schedules) {
		sv.Schedules = append(sv.Schedules, core.ScheduleState{Name: k, Last: d.schedules[k]})
	}
	for _, k := range keys(d.requests) {
		if r := d.requests[k]; r.State != model.RequestDone {
			sv.Requests = append(sv.Requests, r)
		}
	}
	for _, k := range keys(d.builds) {
		if b := d.builds[k]; b.Phase != model.BuildDone {
			sv.Builds = append(sv.Builds, b)
		}
	}
	for _, k := range keys(d.workers) {
		sv.Workers = append(sv.Workers, d.workers[k])
	}
	for _, k := range keys(d.instances) {
		if in := d.instances[k]; in.GoneAt.IsZero() {
			sv.Instances = append(sv.Instances, in)
		}
	}
	return sv
}

func keys[K ~int64 | ~string, V any](m map[K]V) []K {
	var out []K
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
