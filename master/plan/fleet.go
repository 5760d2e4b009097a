package plan

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// fleet is what is live, by what it is asked for.
type fleet struct {
	seen    map[model.InstanceKey]*providers.Instance // what the providers have shown
	listed  map[string]bool                           // providers that have answered
	builds  map[model.InstanceKey][]model.BuildID
	live    map[string]*core.InstanceView // by worker
	retired map[string]bool               // workers that are in no configuration but not gone
	moved   map[string][]Resolved         // by worker: what it stands for now, if live instances are made from something else
}

func (pl *planner) lookAtFleet() {
	f := &fleet{seen: map[model.InstanceKey]*providers.Instance{}, listed: map[string]bool{}, builds: map[model.InstanceKey][]model.BuildID{},
		live: map[string]*core.InstanceView{}, retired: map[string]bool{}, moved: map[string][]Resolved{}}
	pl.fleet = f
	for name, s := range pl.Seen {
		if f.listed[name] = s.Err == nil; s.Err != nil {
			continue
		}
		for i := range s.Instances {
			f.seen[model.InstanceKey(s.Instances[i].Key)] = &s.Instances[i]
		}
	}
	if sn := pl.Snapshot; sn != nil {
		for i := range sn.Builds {
			if b := &sn.Builds[i]; b.Instance != "" {
				f.builds[b.Instance] = append(f.builds[b.Instance], b.ID)
			}
		}
		for i := range sn.Instances {
			in := &sn.Instances[i]
			f.live[in.Instance.Worker] = in
			slices.Sort(f.builds[in.Instance.Key])
		}
		for i := range sn.Workers {
			if sn.Workers[i].Retired {
				f.retired[sn.Workers[i].Worker.Name] = true
			}
		}
	}
	pl.resolve()
}

// resolve holds what the workers' specs stand for now against what live instances were made from.
func (pl *planner) resolve() {
	for i := range pl.New.Workers {
		w := &pl.New.Workers[i]
		for n, r := range pl.Resolved[w.Name] {
			res := Resolved{Worker: w.Name, Attr: r.Attr, After: r.Value, Detail: r.Detail}
			if in := pl.fleet.live[w.Name]; in != nil {
				if seen := pl.fleet.seen[in.Instance.Key]; seen != nil {
					res.Before = seen.Facts[r.Attr]
					if res.Before == "" && n == 0 {
						res.Before = seen.Facts["image"]
					}
				}
				res.Moved = res.Before != "" && res.Before != res.After && !in.Instance.Doomed
			}
			if res.Moved && in(pl.fleet, w) {
				pl.fleet.moved[w.Name] = append(pl.fleet.moved[w.Name], res)
			}
			pl.p.Resolved = append(pl.p.Resolved, res)
		}
	}
}

// in says whether the worker's live instance is of its spec: else it is replaced anyway, and that its image has moved, too, is no news.
func in(f *fleet, w *hcl.Worker) bool {
	i := f.live[w.Name]
	return i != nil && i.Instance.Spec == w.Spec
}

// imageMoved makes a replacement of a worker that is configured as before, if what its image stands for is another one.
func (pl *planner) imageMoved(c *Change, w *hcl.Worker) {
	for _, r := range pl.fleet.moved[w.Name] {
		c.Action = Replace
		c.Reason = fmt.Sprintf("%s stands for another one now", r.Attr)
		if r.Detail != "" {
			c.Reason += ": " + r.Detail
		}
		c.Attributes = append(c.Attributes, Attribute{Path: "instance." + r.Attr, Before: r.Before, After: r.After, ForcesReplace: true})
	}
}

// instances says what becomes of each live instance, and finds what the records do not know.
func (pl *planner) instances() {
	known := map[model.InstanceKey]bool{}
	if pl.Snapshot == nil {
		return
	}
	for i := range pl.Snapshot.Instances {
		in := &pl.Snapshot.Instances[i]
		known[in.Instance.Key] = true
		out := Instance{Key: string(in.Instance.Key), Worker: in.Instance.Worker, Provider: model.ProviderName(in.Instance.Provider), ID: in.Instance.ProviderID,
			State: in.State.String(), Builds: pl.fleet.builds[in.Instance.Key]}
		pl.fate(&out, in)
		pl.p.Instances = append(pl.p.Instances, out)
	}
	names := make([]string, 0, len(pl.Seen))
	for name := range pl.Seen {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s := pl.Seen[name]
		if s.Err != nil {
			pl.warn("provider "+name+" can not be asked", fmt.Sprintf("What it really holds is not known, so this plan goes by the records: %v.", s.Err), pl.providerAt(name), nil)
			continue
		}
		abandoned := 0
		for i := range s.Instances {
			x := &s.Instances[i]
			if known[model.InstanceKey(x.Key)] || x.State == providers.Gone || x.CreatedAt.After(pl.Snapshot.Time) {
				continue
			}
			known[model.InstanceKey(x.Key)] = true
			reason, fate := "it carries this master's tag and is in no record: the sweep destroys it, or at once `rouse reap`", DestroyOrphan
			if s.Left[string(x.Key)] {
				reason, fate = "it carries this master's tag and is in no record, and nobody will look there any more", Abandon
				abandoned++
			}
			pl.p.Instances = append(pl.p.Instances, Instance{Key: string(x.Key), Worker: x.Worker, Provider: name, ID: x.ID, State: x.State.String(), Fate: fate, Reason: reason})
			pl.p.Drift = append(pl.p.Drift, Drift{Kind: "orphan", Address: pl.providerAt(name), Instance: string(x.Key), Text: "an instance with this master's tag that no record knows"})
		}
		if abandoned > 0 {
			pl.warn("Instances that no record knows are left behind", fmt.Sprintf("%s where no provider is configured any more after this, so that nothing will find and destroy %s. "+
				"Destroy first, while the provider is there: `rouse reap`.", verb(abandoned, "instance with this master's tag is", "instances with this master's tag are"),
				map[bool]string{true: "it", false: "them"}[abandoned == 1]), pl.providerAt(name), nil)
		}
	}
	slices.SortStableFunc(pl.p.Instances, func(a, b Instance) int { return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Key, b.Key)) })
	slices.SortStableFunc(pl.p.Drift, func(a, b Drift) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Instance, b.Instance))
	})
}

func (pl *planner) providerAt(name string) string {
	for _, cfg := range []*hcl.Config{pl.New, pl.old} {
		for i := range cfg.Providers {
			if cfg.Providers[i].Name == name {
				return "provider." + cfg.Providers[i].Kind + "." + name
			}
		}
	}
	return "provider." + name
}

// fate decides, in the order of what is stronger: what is over already, what is no longer there, what must end, what must be replaced.
func (pl *planner) fate(out *Instance, in *core.InstanceView) {
	now, was := pl.newWorkers[out.Worker], pl.oldWorkers[out.Worker]
	busy := len(out.Builds) > 0
	after := func(idle, working Fate) Fate {
		if busy {
			return working
		}
		return idle
	}
	switch {
	case in.Instance.Doomed:
		out.Fate, out.Reason = Ending, in.Instance.Reason
	case pl.drifted(out, in, now):
	case now == nil || now.Provider == "":
		out.Fate, out.Reason = after(End, EndAfterWork), "its worker is removed"
		if now != nil {
			out.Reason = "its worker is latent no more"
		}
	case in.Instance.Spec != now.Spec || out.Provider != now.Provider:
		out.Fate, out.Reason = after(ReplaceWhenIdle, ReplaceAfterWork), "its worker's machines are made otherwise"
		if was != nil && was.Spec == now.Spec && was.Provider == now.Provider {
			out.Reason = "it is of an older generation already"
		}
	case len(pl.fleet.moved[out.Worker]) > 0:
		r := pl.fleet.moved[out.Worker][0]
		out.Fate, out.Reason = after(ReplaceWhenIdle, ReplaceAfterWork), fmt.Sprintf("%s stands for %s now; it is made from %s", r.Attr, r.After, r.Before)
	case was == nil || pl.fleet.retired[out.Worker]:
		out.Fate, out.Reason = Adopt, "its worker is configured again"
	default:
		out.Fate = Keep
	}
}

// drifted says whether the instance has ended behind our back, and notes what else is not as it was made.
func (pl *planner) drifted(out *Instance, in *core.InstanceView, now *hcl.Worker) bool {
	seen := pl.fleet.seen[in.Instance.Key]
	note := func(kind, text string) {
		pl.p.Drift = append(pl.p.Drift, Drift{Kind: kind, Address: "worker." + out.Worker, Instance: out.Key, Text: text})
	}
	switch {
	case !pl.fleet.listed[out.Provider]:
		return false
	case seen == nil && in.Instance.BootedAt.IsZero():
		return false // it may not have come to be yet
	case seen == nil || seen.State == providers.Gone:
		out.Fate, out.Reason = Lost, "the provider has it no more"
		note("gone", "the provider has it no more; nobody here has ended it")
		return true
	case seen.State == providers.Failed:
		out.Fate, out.Reason = Lost, detail("it has ended by itself", seen.Detail)
		note("failed", out.Reason)
		return true
	case seen.State == providers.Stopping:
		note("stopping", detail("it is on its way out, and nobody here has ended it", seen.Detail))
	case seen.State == providers.Stopped && (now == nil || now.Idle == "terminate"):
		note("stopped", detail("it was switched off by somebody else", seen.Detail))
	}
	if typ := seen.Facts["type"]; typ != "" && now != nil && in.Instance.Spec == now.Spec {
		for _, name := range []string{"instance_type", "type"} {
			for _, a := range flatten(nil, "", reflect.ValueOf(now.Instance), 0) {
				if s, ok := a.value.(string); ok && a.path == name && s != "" && s != typ {
					note("changed", fmt.Sprintf("it is a %s now, and was made as a %s", typ, s))
				}
			}
		}
	}
	return false
}

func detail(text, more string) string {
	if more == "" {
		return text
	}
	return text + " (" + more + ")"
}
