package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// BuildPath is exported since huma fills no other embedded structs.
type BuildPath struct {
	ID int64 `path:"id" minimum:"1" doc:"number of the build"`
}

func (p BuildPath) id() model.BuildID { return model.BuildID(p.ID) }
func (p BuildPath) String() string    { return fmt.Sprintf("build %d", p.ID) }

func (s *Server) registerBuilds() {
	huma.Register(s.api, op(http.MethodGet, "/builds", "listBuilds", "builds", "List builds, newest first", 404), s.listBuilds)
	huma.Register(s.api, op(http.MethodGet, "/builds/{id}", "getBuild", "builds", "Show a build with its steps, its instance and its cost", 404), s.getBuild)
	huma.Register(s.api, op(http.MethodPost, "/builds/{id}/cancel", "cancelBuild", "builds", "Cancel a build", 404, 409), s.cancelBuild)
}

func (s *Server) listBuilds(ctx context.Context, in *struct {
	Builder string `query:"builder" maxLength:"200"`
	Worker  string `query:"worker" maxLength:"200"`
	Request int64  `query:"request" minimum:"1" doc:"only the attempts of this request"`
	Before  int64  `query:"before" minimum:"1" doc:"only builds with smaller numbers: the last one of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"20"`
}) (*body[BuildList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	rows, err := s.o.Records.Builds(ctx, store.BuildFilter{Builder: in.Builder, Worker: in.Worker, Request: model.RequestID(in.Request),
		Before: model.BuildID(in.Before), Limit: in.Limit})
	if err != nil {
		return nil, s.failed(err, "the builds")
	}
	out := BuildList{Builds: []Build{}}
	for _, b := range rows {
		out.Builds = append(out.Builds, s.build(b))
	}
	if len(rows) == 0 {
		if err := s.knownBuilder(ctx, in.Builder); err != nil {
			return nil, err
		}
		if err := s.knownWorker(ctx, in.Worker); err != nil {
			return nil, err
		}
	}
	s.explainWaits(ctx, out.Builds)
	return &body[BuildList]{out}, nil
}

func (s *Server) build(b model.Build) Build {
	return Build{Build: b, Duration: seconds(b.AssignedAt, s.until(b.FinishedAt))}
}

// explainWaits says of running builds whether they wait for an agent that was lost. The loop is asked only if any of them runs. Where it does not answer, since
// nothing can be stored at present, the records are shown all the same.
func (s *Server) explainWaits(ctx context.Context, builds []Build) {
	if !slices.ContainsFunc(builds, func(b Build) bool { return b.Phase == model.BuildRunning }) {
		return
	}
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return
	}
	away := map[string]string{}
	for i := range snap.Workers {
		if w := &snap.Workers[i]; !w.AwaySince.IsZero() {
			away[w.Worker.Name] = fmt.Sprintf("its agent has been away for %s; it waits another %s", s.o.Now().Sub(w.AwaySince).Round(time.Second),
				w.AwayUntil.Sub(s.o.Now()).Round(time.Second))
		}
	}
	for i := range builds {
		if b := &builds[i]; b.Phase == model.BuildRunning {
			b.Waits = away[b.Worker]
		}
	}
}

// until is the end of something, or now if it has not ended.
func (s *Server) until(end time.Time) time.Time {
	if end.IsZero() {
		return s.o.Now()
	}
	return end
}

func (s *Server) getBuild(ctx context.Context, in *BuildPath) (*body[BuildDetail], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	b, err := s.o.Records.Build(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	steps, err := s.o.Records.Steps(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	shown := []Build{s.build(b)}
	s.explainWaits(ctx, shown)
	out := BuildDetail{Build: shown[0], Steps: []Step{}}
	for _, st := range steps {
		out.Steps = append(out.Steps, s.step(st))
	}
	if len(b.Requests) > 0 {
		r, err := s.o.Records.Request(ctx, b.Requests[0])
		if err != nil && !errors.Is(err, store.ErrNotFound) { // its record may have been pruned before the build's
			return nil, s.failed(err, in.String())
		}
		out.Source, out.Reason, out.Owner = r.Source, r.Reason, r.Owner
	}
	if b.Instance != "" {
		switch m, err := s.o.Records.Instance(ctx, b.Instance); {
		case err == nil:
			v := s.instance(m)
			out.Machine, out.Cost = &v, cost(m.Price, out.Duration)
		case !errors.Is(err, store.ErrNotFound):
			return nil, s.failed(err, in.String())
		}
	}
	return &body[BuildDetail]{out}, nil
}

func (s *Server) step(st model.Step) Step {
	v := Step{Number: st.Number, Name: st.Name, Kind: st.Kind, StartedAt: st.StartedAt, FinishedAt: st.FinishedAt, Result: st.Result, Text: st.Text, Logs: st.Logs}
	if !st.StartedAt.IsZero() {
		v.Duration = seconds(st.StartedAt, s.until(st.FinishedAt))
	}
	return v
}

// cost of so many seconds at a price per hour, to a millionth.
func cost(price, seconds float64) float64 { return cents(price * seconds / 3600) }

// cents rounds to a millionth.
func cents(v float64) float64 { return math.Round(v*1e6) / 1e6 }

func (s *Server) cancelBuild(ctx context.Context, in *struct {
	BuildPath
	Reason string `query:"reason" maxLength:"2000"`
}) (*body[Done], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	b, err := s.o.Records.Build(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	if b.Phase == model.BuildDone {
		return nil, problem(http.StatusConflict, "Build %d is done already: %s.", b.ID, b.Result)
	}
	if err := s.o.Engine.Do(ctx, core.CancelAsked{Build: b.ID, Reason: reason(ctx, in.Reason)}); err != nil {
		return nil, s.failed(err, in.String())
	}
	return done("Build %d is being cancelled.", b.ID), nil
}
