package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

func newBuildsCmd(a *app) *cobra.Command {
	var builder, worker string
	var limit, before int
	c := &cobra.Command{
		Use:   "builds",
		Short: "List builds, newest first",
		Example: `  rouse builds
  rouse builds -builder=hello -limit=5
  rouse builds -before=100             # the page before build 100`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().StringVar(&builder, "builder", "", "only of this `BUILDER`")
	c.Flags().StringVar(&worker, "worker", "", "only on this `WORKER`")
	c.Flags().IntVar(&limit, "limit", 20, "at most this `NUMBER`, up to 1000")
	c.Flags().IntVar(&before, "before", 0, "only builds before number `N`")
	_ = c.RegisterFlagCompletionFunc("builder", a.value(builderNames))
	_ = c.RegisterFlagCompletionFunc("worker", a.value(workerNames))
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		if before < 1 && c.Flags().Changed("before") {
			return usagef("-before=%d: it is the number of a build, and these count from 1", before)
		}
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		set(query, "builder", builder)
		set(query, "worker", worker)
		if before > 0 {
			query.Set("before", strconv.Itoa(before))
		}
		var out api.BuildList
		if err := s.Get(ctx, "/builds", query, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			if len(out.Builds) == 0 {
				t.line("No builds.")
				return
			}
			t.head("BUILD", "BUILDER", "WORKER", "RESULT", "STARTED", "TOOK", "TEXT")
			for _, b := range out.Builds {
				t.row(b.ID, b.Builder, b.Worker, outcome(b.Result, b.Phase.String()), clock(b.AssignedAt), human(b.Duration), cmp.Or(why(b.Result, b.Text), b.Waits))
			}
		})
	})
}

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func newBuildCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:               "build N",
		Short:             "Show a build: its steps, its worker, what it cost",
		Long:              "Shows a build: its steps, its worker, what it cost. What an upload step has taken is in a directory of the master's machine, which the step's text names.",
		Example:           "  rouse build 12\n  rouse build 12 -json | jq .steps",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.complete(buildNumbers),
	}
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		_, id, err := number(given, "build")
		if err != nil {
			return err
		}
		var b api.BuildDetail
		if err := s.Get(ctx, fmt.Sprintf("/builds/%d", id), nil, &b); err != nil {
			return err
		}
		return s.show(b, func(t *table) { showBuild(t, b) })
	})
}

func showBuild(t *table, b api.BuildDetail) {
	t.line("Build %d of %s: %s", b.ID, b.Builder, outcome(b.Result, b.Phase.String()))
	t.pair("text", cmp.Or(why(b.Result, b.Text), b.Waits))
	t.pair("requests", numbers(b.Requests))
	t.pair("attempt", b.Attempt)
	t.pair("reason", b.Reason)
	t.pair("owner", b.Owner)
	t.pair("source", strings.Join(strings.Fields(b.Source.Repository+" "+b.Source.Branch+" "+b.Source.Revision), " "))
	t.pair("worker", b.Worker)
	if m := b.Machine; m != nil {
		t.pair("instance", fmt.Sprintf("%s (%s %s, %s)", m.Key, m.Provider, m.ProviderID, m.State))
		for _, name := range sortedKeys(m.Facts) {
			t.pair("  "+name, m.Facts[name])
		}
	}
	t.pair("assigned", clock(b.AssignedAt))
	t.pair("started", clock(b.StartedAt))
	t.pair("finished", clock(b.FinishedAt))
	t.pair("took", human(b.Duration))
	t.pair("cost", money(b.Cost))
	if len(b.Properties) > 0 {
		t.gap()
		t.head("PROPERTY", "VALUE", "SOURCE")
		for _, name := range sortedKeys(b.Properties) {
			p := b.Properties[name]
			t.row(name, jsonText(p.Value), p.Source)
		}
	}
	if len(b.Steps) > 0 {
		t.gap()
		t.head("STEP", "NAME", "KIND", "RESULT", "TOOK", "LOGS", "TEXT")
		for _, st := range b.Steps {
			phase := "running"
			if st.StartedAt.IsZero() {
				phase = "waiting"
			}
			t.row(st.Number, st.Name, st.Kind, outcome(st.Result, phase), human(st.Duration), strings.Join(st.Logs, " "), st.Text)
		}
	}
}

func newCancelCmd(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "cancel request|build N",
		Short: "Cancel a request, or the build that runs",
		Long: `Cancel a request, whatever its state, or one build.

A cancelled request ends at once while it waits, and also while its worker is being substantiated.`,
		Example:           "  rouse cancel request 7\n  rouse cancel build 12 -reason=\"wrong branch\"",
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: a.complete(words("request", "build"), requestOrBuild),
	}
	c.Flags().StringVar(&reason, "reason", "", "`TEXT` that tells people why")
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		noun, id, err := number(given, "request", "build")
		if err != nil {
			return err
		}
		query := url.Values{}
		set(query, "reason", reason)
		var d api.Done
		if noun == "request" {
			err = s.Delete(ctx, fmt.Sprintf("/requests/%d", id), query, &d)
		} else {
			err = s.Post(ctx, fmt.Sprintf("/builds/%d/cancel", id), query, nil, &d)
		}
		if err != nil {
			return err
		}
		return s.said(d)
	})
}
