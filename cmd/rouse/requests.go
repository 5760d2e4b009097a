package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

func newRequestsCmd(a *app) *cobra.Command {
	var state, builder string
	var limit int
	c := &cobra.Command{
		Use:     "requests",
		Short:   "List requests that are not done, best first",
		Example: "  rouse requests\n  rouse requests -only=waiting -builder=hello",
		Args:    args(cobra.NoArgs),
	}
	c.Flags().StringVar(&state, "only", "", "only in this `STATE`: waiting or claimed")
	c.Flags().StringVar(&builder, "builder", "", "only of this `BUILDER`")
	c.Flags().IntVar(&limit, "limit", 100, "at most this `NUMBER`, up to 1000")
	_ = c.RegisterFlagCompletionFunc("builder", a.value(builderNames))
	_ = c.RegisterFlagCompletionFunc("only", a.value(words("waiting", "claimed")))
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		if state != "" && state != "waiting" && state != "claimed" {
			return usagef("-only %q: it is waiting or claimed", state)
		}
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		set(query, "state", state)
		set(query, "builder", builder)
		var out api.RequestList
		if err := s.Get(ctx, "/requests", query, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			if out.Total == 0 {
				t.line("No requests.")
				return
			}
			t.head("REQUEST", "BUILDER", "PRIORITY", "PHASE", "WORKER", "WAITED", "BUILD", "OWNER", "REASON")
			for _, r := range out.Requests {
				build := ""
				if r.Build != 0 {
					build = fmt.Sprint(r.Build)
				}
				t.row(r.ID, r.Builder, r.Priority, r.Phase, r.OnWorker, human(r.Waited), build, r.Owner, r.Reason)
			}
			if out.Total > len(out.Requests) {
				t.gap()
				t.line("%d more; see -limit.", out.Total-len(out.Requests))
			}
		})
	})
}

func newExplainCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:               "explain [request|build] N",
		Short:             "Say why a request waits: each candidate and what blocks it",
		Long:              "Say why a request waits: each candidate and what blocks it. A build's number stands for the request that it serves.",
		Example:           "  rouse explain request 7\n  rouse explain build 12",
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.complete(words("request", "build"), requestOrBuild),
	}
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		id, err := s.requestOf(ctx, given)
		if err != nil {
			return err
		}
		var e api.Explanation
		if err := s.Get(ctx, fmt.Sprintf("/requests/%d/explain", id), nil, &e); err != nil {
			return err
		}
		return s.show(e, func(t *table) {
			t.line("Request %d for %s: %s", e.Request.ID, e.Request.Builder, e.Request.Phase)
			if e.Text != "" {
				t.line("%s", e.Text)
			}
			if text := progress(e.Request); e.Request.Phase == "running" { // with its step
				t.line("%s.", text)
			}
			if e.Ahead > 0 {
				t.line("%s before it.", plural(e.Ahead, "request"))
			}
			if len(e.Candidates) == 0 {
				return
			}
			t.gap()
			t.head("WORKER", "STATE", "BLOCKED BY")
			for _, w := range e.Candidates {
				blocks := w.Blocks
				if len(blocks) == 0 {
					blocks = []string{"nothing: it is next"}
				}
				t.row(w.Worker, w.State, blocks[0])
				for _, b := range blocks[1:] {
					t.row("", "", b)
				}
			}
		})
	})
}

// requestOf is the request that words name: by its number, or by that of a build, which serves it alone or as the first of several.
func (s *session) requestOf(ctx context.Context, given []string) (model.RequestID, error) {
	noun, id, err := number(given, "request", "build")
	if err != nil || noun != "build" {
		return model.RequestID(id), err
	}
	var b api.BuildDetail
	if err := s.Get(ctx, fmt.Sprintf("/builds/%d", id), nil, &b); err != nil {
		return 0, err
	}
	if len(b.Requests) == 0 {
		return 0, fmt.Errorf("the records do not say which request build %d served", id)
	}
	return b.Requests[0], nil
}

func newTraceCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "trace [request|build] N",
		Short: "Show everything that happened for a request, with times",
		Long: `Show the journal of a request as a timeline: its own transitions, those of its builds and of their instances, what was ordered
outside, and why. Times count from the first entry. A build's number stands for the request that it serves.`,
		Example:           "  rouse trace 7\n  rouse trace build 12",
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.complete(words("request", "build"), requestOrBuild),
	}
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		id, err := s.requestOf(ctx, given)
		if err != nil {
			return err
		}
		var tr api.Trace
		if err := s.Get(ctx, fmt.Sprintf("/requests/%d/trace", id), nil, &tr); err != nil {
			return err
		}
		return s.show(tr, func(t *table) {
			if len(tr.Entries) == 0 {
				t.line("The journal has nothing of request %d any more.", tr.Request)
				return
			}
			t.line("Request %d, from %s", tr.Request, clock(tr.Entries[0].Time))
			t.gap()
			t.head("AFTER", "WHAT", "CHANGE", "ON", "CAUSE")
			for _, e := range tr.Entries {
				t.row(fmt.Sprintf("%.3fs", e.After), traceWhat(e), traceChange(e), e.Event, e.Cause)
			}
		})
	})
}

func traceWhat(e api.TraceEntry) string {
	switch e.Kind {
	case "request":
		return "request"
	case "build":
		return strings.TrimSpace(fmt.Sprintf("build %d %s", e.Build, e.Worker))
	case "instance":
		return "instance " + string(e.Instance)
	case "effect":
		return "  order"
	default:
		return strings.TrimSpace(e.Kind + " " + e.Worker)
	}
}

func traceChange(e api.TraceEntry) string {
	if e.From == "" {
		return e.To
	}
	return e.From + " -> " + e.To
}

func jsonText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func numbers[T ~int64](ids []T) string {
	var out []string
	for _, id := range ids {
		out = append(out, strconv.FormatInt(int64(id), 10))
	}
	return strings.Join(out, " ")
}
