package api

import (
	"cmp"
	"context"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

var noBuilds = []model.BuildID{}

func (s *Server) registerViews() {
	huma.Register(s.api, op(http.MethodGet, "/instances", "listInstances", "workers", "List instances", 404), s.listInstances)
	huma.Register(s.api, op(http.MethodGet, "/builders", "listBuilders", "configuration", "List builders and their queues"), s.listBuilders)
	huma.Register(s.api, op(http.MethodGet, "/schedulers", "listSchedulers", "configuration", "List schedulers"), s.listSchedulers)
	huma.Register(s.api, op(http.MethodGet, "/timers", "listTimers", "master", "List every deadline that is armed, the next one first"), s.listTimers)
	huma.Register(s.api, op(http.MethodGet, "/status", "getStatus", "master", "Show the master in a few numbers"), s.status)
	huma.Register(s.api, op(http.MethodGet, "/version", "getVersion", "master", "Show the master's version"), s.version)
}

func (s *Server) listInstances(ctx context.Context, in *struct {
	Worker string `query:"worker" maxLength:"200"`
	All    bool   `query:"all" doc:"also those that are gone"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}) (*body[InstanceList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the instances")
	}
	out := InstanceList{Instances: []Instance{}}
	live := map[model.InstanceKey]bool{}
	for i := range snap.Instances {
		v := &snap.Instances[i]
		if (in.Worker == "" || in.Worker == v.Instance.Worker) && len(out.Instances) < in.Limit {
			live[v.Instance.Key] = true
			out.Instances = append(out.Instances, s.liveInstance(v))
		}
	}
	if in.All && len(out.Instances) < in.Limit {
		rows, err := s.o.Records.Instances(ctx, in.Worker, in.Limit)
		if err != nil {
			return nil, s.failed(err, "the instances")
		}
		for _, m := range rows {
			if !live[m.Key] && len(out.Instances) < in.Limit {
				out.Instances = append(out.Instances, s.instance(m))
			}
		}
	}
	if len(out.Instances) == 0 {
		if err := s.knownWorker(ctx, in.Worker); err != nil {
			return nil, err
		}
	}
	return &body[InstanceList]{out}, nil
}

func (s *Server) instance(m model.Instance) Instance {
	age := seconds(m.AskedAt, s.until(m.GoneAt))
	return Instance{Instance: m, Age: age, Cost: cents(core.Cost(&m, s.o.Now()))}
}

func (s *Server) liveInstance(v *core.InstanceView) Instance {
	in := &v.Instance
	out := s.instance(core.Show(in, v.State))
	out.Builds, out.Op = v.Builds, v.Op
	return out
}

func (s *Server) listBuilders(ctx context.Context, _ *struct{}) (*body[BuilderList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the builders")
	}
	queues := map[string]core.BuilderView{}
	for _, b := range snap.Builders {
		queues[b.Name] = b
	}
	c := s.o.Catalog()
	out := BuilderList{Builders: []BuilderStatus{}}
	for _, b := range c.Builders {
		q := queues[b.Name]
		out.Builders = append(out.Builders, BuilderStatus{Name: b.Name, Description: b.Description, Workers: append([]string{}, b.Workers...), Force: c.forceFor(b.Name),
			Waiting: q.Waiting, Running: q.Running, Oldest: q.Oldest})
	}
	return &body[BuilderList]{out}, nil
}

func (s *Server) listSchedulers(context.Context, *struct{}) (*body[SchedulerList], error) {
	return &body[SchedulerList]{SchedulerList{Schedulers: append([]Scheduler{}, s.o.Catalog().Schedulers...)}}, nil
}

func (s *Server) listTimers(ctx context.Context, _ *struct{}) (*body[TimerList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the timers")
	}
	out := TimerList{Timers: []Timer{}}
	for _, t := range snap.Timers {
		out.Timers = append(out.Timers, Timer{Name: t.Name, At: t.At, In: t.At.Sub(s.o.Now()).Seconds()})
	}
	slices.SortStableFunc(out.Timers, func(a, b Timer) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Name, b.Name)) })
	return &body[TimerList]{out}, nil
}

func (s *Server) status(ctx context.Context, _ *struct{}) (*body[Status], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	of := ""
	if err != nil && s.o.Latest != nil && s.o.Ready != nil && s.o.Ready() != nil { // then the last numbers, and why, are better than an error
		snap, err = s.o.Latest(), nil
		of = "; the numbers are of " + snap.Time.UTC().Format(time.RFC3339)
	}
	if err != nil {
		return nil, s.failed(err, "the status")
	}
	now := s.o.Now()
	out := Status{Name: s.o.Name, Version: s.o.Version, Time: now, Uptime: seconds(s.started, now), Ready: true, Stopping: snap.Stopping, Generation: snap.Generation,
		Workers: map[string]int{}, Instances: map[string]int{}, Providers: []ProviderStatus{}}
	if s.o.Ready != nil {
		if err := s.o.Ready(); err != nil {
			out.Ready, out.NotReady = false, err.Error()+of
		}
	}
	for i := range snap.Requests {
		if r := &snap.Requests[i]; r.State == model.RequestWaiting {
			out.Waiting++
			out.OldestAge = max(out.OldestAge, seconds(r.SubmittedAt, now))
		}
	}
	for i := range snap.Builds {
		if snap.Builds[i].Phase == model.BuildPreparing {
			out.Preparing++
		} else {
			out.Running++
		}
	}
	for i := range snap.Workers {
		out.Workers[snap.Workers[i].State]++
	}
	for i := range snap.Instances {
		out.Instances[snap.Instances[i].State.String()]++
		if v := &snap.Instances[i]; v.State == model.InstanceStopped {
			out.PricePerHour += v.Instance.StoppedPrice
		} else {
			out.PricePerHour += v.Instance.Price
		}
	}
	for _, p := range snap.Providers {
		out.Providers = append(out.Providers, ProviderStatus{Name: p.Name, ListedAt: p.LastListAt, ListError: p.LastListErr, Orphans: p.Orphans, Hosts: hosts(p.Rooms)})
	}
	return &body[Status]{out}, nil
}

func hosts(rooms []core.RoomView) (out []Host) {
	for _, r := range rooms {
		out = append(out, Host{Name: r.Name, Down: r.Down, DownSince: r.DownSince, Instances: r.Instances, Slots: r.Slots, VCPUs: r.TakenVCPUs, VCPULimit: r.VCPUs,
			Memory: r.TakenMemory, MemoryLimit: r.Memory})
	}
	return out
}

func (s *Server) version(context.Context, *struct{}) (*body[Version], error) {
	return &body[Version]{Version{Version: s.o.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, API: "v1"}}, nil
}
