package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/master/store"
)

// Configs is what the API needs to plan and change the configuration. An error may be a *Refused.
type Configs interface {
	Plan(ctx context.Context, ask PlanAsk) (*plan.Plan, error)
	Apply(ctx context.Context, ask ApplyAsk) (Applied, error)
	Rollback(ctx context.Context, ask RollbackAsk) (Applied, error)
	Reconfig(ctx context.Context, ask ReconfigAsk) (Applied, error)
	// Progress says which change is under way, "" if none is, and what it does.
	Progress() (id, phase string)
}

// Refused says why an order was refused, and that nothing was changed.
type Refused struct {
	Status int // 404, 409 or 422
	Text   string
	Report *hcl.Report // of a configuration with mistakes: each with its place, for programs
}

func (e *Refused) Error() string { return e.Text }

const maxConfig = 64 << 20 // bytes of a request that carries a configuration

func (s *Server) registerConfigs() {
	const tag = "configuration"
	huma.Register(s.api, op(http.MethodPost, "/plan", "planConfiguration", tag, "Say what a configuration would do; nothing is changed", 422), s.planConfig)
	huma.Register(s.api, op(http.MethodPost, "/apply", "applyConfiguration", tag, "Put a configuration into force, whole or not at all", 409, 422), s.applyConfig)
	huma.Register(s.api, op(http.MethodGet, "/apply", "getApply", tag, "Say which apply is under way, and what still lives by an older configuration"), s.applyStatus)
	huma.Register(s.api, op(http.MethodPost, "/rollback", "rollbackConfiguration", tag, "Put the text of an older generation into force again, as a new generation", 404, 409, 422), s.rollback)
	huma.Register(s.api, op(http.MethodPost, "/reconfig", "reconfigure", tag, "Read the directory again that the master was started with", 409, 422), s.reconfig)
	huma.Register(s.api, op(http.MethodGet, "/generations", "listGenerations", tag, "List the configurations that were in force, newest first"), s.listGenerations)
	huma.Register(s.api, op(http.MethodGet, "/generations/{number}", "getGeneration", tag, "Show the text of one generation; over TCP only with role \"admin\"", 403, 404), s.getGeneration)
}

// withPatience bounds a call that asks providers.
func withPatience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, configLimit)
}

// configs is nil where nothing can be planned or applied.
func (s *Server) configs() (Configs, error) {
	if s.o.Configs == nil {
		return nil, problem(http.StatusServiceUnavailable, "This master cannot change its configuration.")
	}
	return s.o.Configs, nil
}

// by says who gives an order: the token's name or the local user's, and only if neither is known what the order itself says.
func by(ctx context.Context, claimed string) string {
	c := callerOf(ctx)
	return cmp.Or(c.name, localUser(ctx), claimed)
}

// ordered runs an order, which nobody can take back by hanging up.
func ordered[T any](s *Server, ctx context.Context, what string, f func(ctx context.Context, c Configs) (T, error)) (*body[T], error) {
	c, err := s.configs()
	if err != nil {
		return nil, err
	}
	ctx, cancel := withPatience(ctx)
	defer cancel()
	out, err := f(ctx, c)
	if err != nil {
		return nil, s.failed(err, what)
	}
	return &body[T]{out}, nil
}

func (s *Server) planConfig(ctx context.Context, in *struct{ Body PlanAsk }) (*body[plan.Plan], error) {
	return ordered(s, ctx, "the plan", func(ctx context.Context, c Configs) (plan.Plan, error) {
		p, err := c.Plan(ctx, in.Body)
		if err != nil {
			return plan.Plan{}, err
		}
		return *p, nil
	})
}

func (s *Server) applyConfig(ctx context.Context, in *struct{ Body ApplyAsk }) (*body[Applied], error) {
	in.Body.By = by(ctx, in.Body.By)
	return ordered(s, ctx, "the apply", func(ctx context.Context, c Configs) (Applied, error) { return c.Apply(ctx, in.Body) })
}

func (s *Server) rollback(ctx context.Context, in *struct{ Body RollbackAsk }) (*body[Applied], error) {
	in.Body.By = by(ctx, in.Body.By)
	return ordered(s, ctx, "the rollback", func(ctx context.Context, c Configs) (Applied, error) { return c.Rollback(ctx, in.Body) })
}

func (s *Server) reconfig(ctx context.Context, in *struct{ Body ReconfigAsk }) (*body[Applied], error) {
	in.Body.By = by(ctx, in.Body.By)
	return ordered(s, ctx, "the configuration", func(ctx context.Context, c Configs) (Applied, error) { return c.Reconfig(ctx, in.Body) })
}

func (s *Server) applyStatus(ctx context.Context, _ *struct{}) (*body[ApplyStatus], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the apply")
	}
	out := ApplyStatus{Generation: snap.Generation, Draining: draining(snap)}
	if s.o.Configs != nil {
		out.Running, out.Phase = s.o.Configs.Progress()
	}
	return &body[ApplyStatus]{out}, nil
}

// draining finds what lives by an older configuration: what an apply has decided, and what time has still to do.
func draining(snap *core.Snapshot) []Draining {
	machines := make(map[string]*core.InstanceView, len(snap.Instances))
	for i := range snap.Instances {
		machines[snap.Instances[i].Instance.Worker] = &snap.Instances[i]
	}
	out := []Draining{}
	for i := range snap.Workers {
		w := &snap.Workers[i]
		in := machines[w.Worker.Name]
		d := Draining{Worker: w.Worker.Name, State: w.State, Builds: append(noBuilds, w.Builds...)}
		if in != nil {
			d.Instance, d.State = in.Instance.Key, in.State.String()
		}
		switch {
		case w.Retired && (in != nil || len(w.Builds) > 0):
			d.Reason = "the worker is not configured any more"
		case in != nil && (in.Instance.Spec != w.Worker.Spec || in.Instance.Provider != w.Worker.Provider):
			d.Reason = "the instance is of an older definition"
		case in != nil && w.Leaving != "":
			d.Reason = w.Leaving
		default:
			continue
		}
		out = append(out, d)
	}
	return out
}

func (s *Server) listGenerations(ctx context.Context, in *struct {
	Limit int `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"at most this many"`
}) (*body[GenerationList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	list, err := s.o.Records.Configs(ctx, in.Limit)
	if err != nil {
		return nil, s.failed(err, "the generations")
	}
	current, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	out := GenerationList{Generations: []Generation{}}
	for i := range list {
		out.Generations = append(out.Generations, generation(&list[i], current))
	}
	return &body[GenerationList]{out}, nil
}

func (s *Server) current(ctx context.Context) (model.Generation, error) {
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return 0, s.failed(err, "the generation in force")
	}
	return snap.Generation, nil
}

func generation(c *store.ConfigSnapshot, current model.Generation) Generation {
	g := Generation{Number: c.Generation, AppliedAt: c.AppliedAt, By: c.By, From: c.From, Directory: c.Directory, Reason: c.Reason, Current: c.Generation == current}
	var sum plan.Summary
	if c.Summary != nil && json.Unmarshal(c.Summary, &sum) == nil {
		g.Summary = &sum
	}
	return g
}

func (s *Server) getGeneration(ctx context.Context, in *struct {
	Number model.Generation `path:"number" minimum:"1"`
}) (*body[GenerationText], error) {
	if c := callerOf(ctx); c.role != "" && c.role != "admin" { // the text may say more than people who may only look should know
		return nil, problem(http.StatusForbidden, "Token %q has role %q; the text of a configuration needs role \"admin\".", c.name, c.role)
	}
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Records.Config(ctx, in.Number)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem(http.StatusNotFound, "There is no generation %d. `rouse generations` lists them.", in.Number)
	}
	if err != nil {
		return nil, s.failed(err, "the generation")
	}
	current, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return &body[GenerationText]{GenerationText{Generation: generation(&snap, current), Files: snap.Files, Variables: snap.Variables}}, nil
}
