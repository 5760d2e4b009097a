package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

type body[T any] struct{ Body T }

// RequestPath is exported since huma fills no other embedded structs.
type RequestPath struct {
	ID int64 `path:"id" minimum:"1" doc:"number of the request"`
}

func (p RequestPath) id() model.RequestID { return model.RequestID(p.ID) }
func (p RequestPath) String() string      { return fmt.Sprintf("request %d", p.ID) }

func (s *Server) registerRequests() {
	force := op(http.MethodPost, "/force", "force", "requests", "Ask for a build", 404, 422, 507)
	force.DefaultStatus = http.StatusCreated
	huma.Register(s.api, force, s.force)
	huma.Register(s.api, op(http.MethodGet, "/requests", "listRequests", "requests", "List requests that are not done, best first", 404), s.listRequests)
	huma.Register(s.api, op(http.MethodGet, "/requests/{id}", "getRequest", "requests", "Show a request", 404), s.getRequest)
	huma.Register(s.api, op(http.MethodDelete, "/requests/{id}", "cancelRequest", "requests", "Cancel a request, whatever its state", 404, 409), s.cancelRequest)
	huma.Register(s.api, op(http.MethodGet, "/requests/{id}/explain", "explainRequest", "requests", "Say why a request waits: each candidate and what blocks it", 404), s.explain)
	huma.Register(s.api, op(http.MethodGet, "/requests/{id}/trace", "traceRequest", "requests", "Show the journal of a request, its builds and their instances", 404), s.trace)
	huma.Register(s.api, stream(op(http.MethodGet, "/requests/{id}/watch", "watchRequest", "requests", "Follow a request to its end: one object whenever it changes", 404)), s.watch)
}

func (s *Server) force(ctx context.Context, in *struct{ Body Force }) (*body[Forced], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	req, err := s.o.Catalog().request(in.Body)
	if err != nil {
		return nil, err
	}
	if c := callerOf(ctx); c.name != "" {
		req.Owner = c.name
	}
	ids, err := s.o.Engine.Submit(ctx, []model.Request{req})
	if err != nil {
		return nil, s.failed(err, "the new request")
	}
	return &body[Forced]{Forced{Requests: ids}}, nil
}

func (s *Server) listRequests(ctx context.Context, in *struct {
	State   string `query:"state" enum:"waiting,claimed" doc:"only these"`
	Builder string `query:"builder" maxLength:"200"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}) (*body[RequestList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the requests")
	}
	out := RequestList{Requests: []Request{}}
	var ids []model.RequestID
	for i := range snap.Requests {
		r := &snap.Requests[i]
		if in.State != "" && in.State != r.State.String() || in.Builder != "" && in.Builder != r.Builder {
			continue
		}
		if out.Total++; len(ids) < in.Limit {
			ids = append(ids, r.ID)
		}
	}
	if out.Total == 0 {
		if err := s.knownBuilder(ctx, in.Builder); err != nil {
			return nil, err
		}
	}
	rows, err := s.o.Records.Requests(ctx, ids)
	if err != nil {
		return nil, s.failed(err, "the requests")
	}
	byID := make(map[model.RequestID]model.Request, len(rows))
	for _, r := range rows {
		byID[r.ID] = r
	}
	for _, id := range ids { // the snapshot's order is the queue's
		if r, ok := byID[id]; ok {
			out.Requests = append(out.Requests, s.requestInBuilds(r, snap.Builds))
		}
	}
	return &body[RequestList]{out}, nil
}

// requestInBuilds shows a request by what the live builds say, without reading their steps.
func (s *Server) requestInBuilds(r model.Request, builds []core.Build) Request {
	v := Request{Request: r, Phase: "waiting", Waited: seconds(r.SubmittedAt, s.o.Now())}
	i := slices.IndexFunc(builds, func(b core.Build) bool { return b.ID == r.Build })
	switch {
	case r.State == model.RequestDone:
		v.Phase = "done"
	case r.State == model.RequestWaiting || i < 0:
	case builds[i].Phase == model.BuildPreparing:
		v.Phase, v.OnWorker = "substantiating", builds[i].Worker
	default:
		v.Phase, v.OnWorker = "running", builds[i].Worker
		v.Waited = seconds(r.SubmittedAt, builds[i].StartedAt)
	}
	return v
}

// request reads one request with what happens to it now, from the records alone: they are written before anything happens.
func (s *Server) request(ctx context.Context, id model.RequestID) (Request, error) {
	what := fmt.Sprintf("request %d", id)
	r, err := s.o.Records.Request(ctx, id)
	if err != nil {
		return Request{}, s.failed(err, what)
	}
	v := Request{Request: r, Phase: "waiting", Waited: seconds(r.SubmittedAt, s.o.Now())}
	if r.State == model.RequestDone {
		v.Phase, v.Waited = "done", seconds(r.SubmittedAt, r.FinishedAt)
	}
	if r.Build == 0 || r.State == model.RequestWaiting {
		return v, nil
	}
	b, err := s.o.Records.Build(ctx, r.Build)
	if err != nil {
		return v, s.failed(err, what)
	}
	v.OnWorker = b.Worker
	if !b.StartedAt.IsZero() {
		v.Waited = seconds(r.SubmittedAt, b.StartedAt)
	}
	if r.State == model.RequestDone {
		return v, nil
	}
	v.Phase = "substantiating"
	if b.Phase == model.BuildPreparing {
		return v, nil
	}
	v.Phase = "running"
	steps, err := s.o.Records.Steps(ctx, r.Build)
	if err != nil {
		return v, s.failed(err, what)
	}
	for _, st := range steps {
		if !st.StartedAt.IsZero() && st.FinishedAt.IsZero() {
			v.Step, v.StepNumber = st.Name, st.Number
		}
	}
	return v, nil
}

func (s *Server) getRequest(ctx context.Context, in *RequestPath) (*body[Request], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	v, err := s.request(ctx, in.id())
	if err != nil {
		return nil, err
	}
	return &body[Request]{v}, nil
}

func (s *Server) cancelRequest(ctx context.Context, in *struct {
	RequestPath
	Reason string `query:"reason" maxLength:"2000"`
}) (*body[Done], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	r, err := s.o.Records.Request(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	if r.State == model.RequestDone {
		return nil, problem(http.StatusConflict, "Request %d is done already: %s.", r.ID, r.Result)
	}
	if err := s.o.Engine.Do(ctx, core.CancelAsked{Request: r.ID, Reason: reason(ctx, in.Reason)}); err != nil {
		return nil, s.failed(err, in.String())
	}
	if r.State == model.RequestClaimed {
		return done("Request %d is being cancelled; build %d is told to stop.", r.ID, r.Build), nil
	}
	return done("Request %d is cancelled.", r.ID), nil
}

func (s *Server) explain(ctx context.Context, in *RequestPath) (*body[Explanation], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	v, err := s.request(ctx, in.id())
	if err != nil {
		return nil, err
	}
	out := Explanation{Request: v, Candidates: []Candidate{}}
	if v.State == model.RequestDone {
		out.Text = fmt.Sprintf("It is done: %s.", outcome(v.Result, v.Text))
		return &body[Explanation]{out}, nil
	}
	e, err := s.o.Engine.Explain(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	out.Ahead, out.Text = e.Ahead, e.Text
	for _, c := range e.Candidates {
		blocks := append([]string{}, c.Blocks...)
		if why, _ := s.o.Refused(c.Worker); why != "" && c.State == "detached" {
			blocks = append(blocks, why)
		}
		out.Candidates = append(out.Candidates, Candidate{Worker: c.Worker, State: c.State, Blocks: blocks})
	}
	return &body[Explanation]{out}, nil
}

func (s *Server) trace(ctx context.Context, in *RequestPath) (*body[Trace], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	if _, err := s.o.Records.Request(ctx, in.id()); err != nil {
		return nil, s.failed(err, in.String())
	}
	rows, err := s.o.Records.Trace(ctx, in.id())
	if err != nil {
		return nil, s.failed(err, in.String())
	}
	rows = rows[max(0, len(rows)-maxTrace):]
	out := Trace{Request: in.id(), Entries: []TraceEntry{}}
	for _, r := range rows {
		e := r.Entry
		out.Entries = append(out.Entries, TraceEntry{Seq: r.Seq, Time: r.Time, After: seconds(rows[0].Time, r.Time), Event: e.Event, Kind: e.Kind, Build: e.Build,
			Worker: e.Worker, Instance: e.Instance, Op: e.Op, From: e.From, To: e.To, Cause: e.Cause})
	}
	return &body[Trace]{out}, nil
}

func done(format string, args ...any) *body[Done] {
	return &body[Done]{Done{Text: fmt.Sprintf(format, args...)}}
}

// reason names who gave an order, and why.
func reason(ctx context.Context, given string) string {
	name := callerOf(ctx).name
	switch {
	case name == "" && given == "":
		return "by hand"
	case name == "":
		return given
	case given == "":
		return "by " + name
	}
	return given + " (by " + name + ")"
}

// outcome says a build's result and its text, which mostly begins with the result, once.
func outcome(r model.Result, text string) string {
	if !strings.HasPrefix(text, r.String()) {
		text = withText(r.String(), text)
	}
	return strings.TrimSuffix(text, ".")
}

func withText(a, b string) string {
	if b == "" {
		return a
	}
	return a + ", " + b
}

// seconds between two times; 0 if one is not set.
func seconds(from, to time.Time) float64 {
	if from.IsZero() || to.IsZero() || to.Before(from) {
		return 0
	}
	return to.Sub(from).Round(time.Millisecond).Seconds()
}
