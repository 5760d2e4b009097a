package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// Stray is an instance that carries this master's tag and that no record knows.
type Stray struct {
	Provider  string            `json:"provider"`
	Instance  model.InstanceKey `json:"instance"`
	ID        string            `json:"id,omitempty" doc:"the provider's own identifier"`
	State     string            `json:"state" enum:"pending,running,stopping,gone,failed,stopped,unknown"`
	Detail    string            `json:"detail,omitempty"`
	CreatedAt time.Time         `json:"created_at,omitzero" doc:"if the provider knows"`
	FirstSeen time.Time         `json:"first_seen,omitzero"`
	Age       float64           `json:"age_seconds" doc:"since it was made, or else since it was first seen"`
	Sure      bool              `json:"sure" doc:"it may be destroyed: seen twice, and older than any call that could have made it"`
	Why       string            `json:"why,omitempty" doc:"why it is not sure yet"`
	Ending    bool              `json:"ending,omitempty" doc:"its destroy was ordered"`
}

// StrayProvider is what is known of one provider's list.
type StrayProvider struct {
	Name     string    `json:"name"`
	ListedAt time.Time `json:"listed_at,omitzero" doc:"when it was last listed without an error"`
	Error    string    `json:"error,omitempty" doc:"why the last list is missing: what it would have shown is not known"`
}

// StrayList is what the last lists of all providers showed.
type StrayList struct {
	Providers []StrayProvider `json:"providers"`
	Strays    []Stray         `json:"strays"`
}

const lookEvery = 50 * time.Millisecond

func (s *Server) registerStrays() {
	huma.Register(s.api, op(http.MethodGet, "/strays", "listStrays", "workers", "List instances with this master's tag that no record knows, as last seen"), s.listStrays)
	huma.Register(s.api, op(http.MethodPost, "/strays/look", "lookForStrays", "workers", "List all instances at the providers now, and compare with the records", 404), s.lookForStrays)
	huma.Register(s.api, op(http.MethodPost, "/strays/{instance}/destroy", "destroyStray", "workers",
		"Order the end of an instance that no record knows; repeat it until the instance is not listed any more", 404, 409), s.destroyStray)
}

func (s *Server) listStrays(ctx context.Context, _ *struct{}) (*body[StrayList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the strays")
	}
	return &body[StrayList]{s.strays(snap, "")}, nil
}

// strays renders the strays of one provider ("": all).
func (s *Server) strays(snap *core.Snapshot, provider string) StrayList {
	out := StrayList{Providers: []StrayProvider{}, Strays: []Stray{}}
	for _, p := range snap.Providers {
		if name := model.ProviderName(p.Name); provider == "" || name == provider {
			out.Providers = append(out.Providers, StrayProvider{Name: name, ListedAt: p.LastListAt, Error: p.LastListErr})
		}
	}
	for _, v := range snap.Strays {
		name := model.ProviderName(v.Provider)
		if provider != "" && name != provider {
			continue
		}
		born := v.CreatedAt
		if born.IsZero() {
			born = v.FirstSeen
		}
		st := Stray{Provider: name, Instance: v.Key, ID: v.ProviderID, State: sightName(v.State), Detail: v.Detail, CreatedAt: v.CreatedAt, FirstSeen: v.FirstSeen,
			Age: seconds(born, snap.Time), Sure: v.Sure, Ending: v.Ending}
		switch {
		case v.Sure:
		case v.Sightings < 2:
			st.Why = "seen once so far"
		case snap.Time.Sub(born) < v.Grace:
			st.Why = fmt.Sprintf("it must be %s old: a call that is still on its way may have made it", v.Grace)
		default:
			st.Why = "its two sightings are too close together"
		}
		out.Strays = append(out.Strays, st)
	}
	return out
}

func sightName(st core.SightState) string {
	names := [...]string{core.SightPending: "pending", core.SightRunning: "running", core.SightStopping: "stopping", core.SightGone: "gone",
		core.SightFailed: "failed", core.SightStopped: "stopped"}
	if int(st) < len(names) {
		return names[st]
	}
	return "unknown"
}

// lookForStrays has every list made anew, and compares after the last one: what was made meanwhile is in the records by then.
func (s *Server) lookForStrays(ctx context.Context, in *struct {
	Provider string `query:"provider" maxLength:"200" doc:"only this one"`
}) (*body[StrayList], error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	before, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the strays")
	}
	lists := map[string]int{}
	var names []string
	for _, p := range before.Providers {
		name := model.ProviderName(p.Name)
		if names = append(names, name); in.Provider == "" || in.Provider == name {
			lists[p.Name] = p.Lists
		}
	}
	if in.Provider != "" && len(lists) == 0 {
		return nil, problem(http.StatusNotFound, "There is no provider %q.%s", in.Provider, didYouMean(in.Provider, slices.Compact(slices.Sorted(slices.Values(names)))))
	}
	if err := s.o.Engine.Do(ctx, core.SweepAsked{Provider: in.Provider}); err != nil {
		return nil, s.failed(err, "the strays")
	}
	for {
		snap, err := s.o.Engine.Snapshot(ctx)
		if err != nil {
			return nil, s.failed(err, "the providers' lists")
		}
		waiting := ""
		for _, p := range snap.Providers {
			if n, asked := lists[p.Name]; asked && p.Lists <= n {
				waiting = p.Name
			}
		}
		if waiting == "" {
			return &body[StrayList]{s.strays(snap, in.Provider)}, nil
		}
		select {
		case <-ctx.Done():
			return nil, problem(http.StatusServiceUnavailable, "Provider %s does not answer with a list of its instances. Try again later.", model.ProviderName(waiting))
		case <-time.After(lookEvery):
		}
	}
}

func (s *Server) destroyStray(ctx context.Context, in *struct {
	Instance string `path:"instance" maxLength:"200" doc:"its key"`
}) (*body[Done], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "instance "+in.Instance)
	}
	key := model.InstanceKey(in.Instance)
	for _, v := range snap.Instances {
		if v.Instance.Key == key {
			return nil, problem(http.StatusConflict, "Instance %s is no stray: worker %s uses it. Nothing was done. To end it: rouse end %s", key, v.Instance.Worker, v.Instance.Worker)
		}
	}
	list := s.strays(snap, "").Strays
	i := slices.IndexFunc(list, func(st Stray) bool { return st.Instance == key })
	switch {
	case i < 0:
		return nil, problem(http.StatusNotFound, "There is no stray %q: it was not in the last list, or it is gone.", in.Instance)
	case !list[i].Sure:
		return nil, problem(http.StatusConflict, "Instance %s is not destroyed yet: %s.", key, list[i].Why)
	}
	if err := s.o.Engine.Do(ctx, core.ReapAsked{Key: key}); err != nil {
		return nil, s.failed(err, "instance "+in.Instance)
	}
	return done("The end of instance %s is ordered.", in.Instance), nil
}
