package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

func newRollbackCmd(a *app) *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "rollback [GENERATION]",
		Short: "Put an older configuration into force again",
		Long: `Makes a plan of the text of an older generation (default: the one before the one in force), shows it, asks, and puts it into force, as a new generation. It goes
the way of an apply: builds go on, machines of the other definition end when they are idle.

The configuration directory is left alone: as long as nobody edits it, the next start of the master goes on with what is in force.`,
		Annotations: exits("0 it is in force, or there was nothing to do", "1 an error, or not approved: nothing was changed, unless it is said that this is not known",
			"130 interrupted by Ctrl-C or SIGTERM; it is said what is in force, or that this is not known"),
		Example:           "  rouse generations\n  rouse rollback\n  rouse rollback 12 -auto-approve -reason=\"13 needs the new image\"",
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.complete(generationNumbers),
		RunE: func(c *cobra.Command, given []string) error {
			var gen int64
			if len(given) > 0 {
				var err error
				if _, gen, err = number(given, "generation"); err != nil {
					return err
				}
			}
			return a.rollback(c.Context(), model.Generation(gen), &f)
		},
	}
	f.register(c)
	return c
}

func (a *app) rollback(ctx context.Context, gen model.Generation, f *applyFlags) error {
	client, err := f.client.connect()
	if err != nil {
		return err
	}
	defer client.Close()
	s := &session{app: a, Client: client, json: f.client.json}
	if gen == 0 {
		var list api.GenerationList
		if err := s.Get(ctx, "/generations", url.Values{"limit": {"2"}}, &list); err != nil {
			return noMaster(err)
		}
		if len(list.Generations) < 2 {
			return &exitError{code: 1, msg: "There is no generation before the one in force. Nothing was changed."}
		}
		gen = list.Generations[1].Number
	}
	var text api.GenerationText
	if err := s.Get(ctx, "/generations/"+strconv.FormatInt(int64(gen), 10), nil, &text); err != nil {
		return noMaster(err)
	}
	p := &plan.Plan{}
	if err := s.Post(ctx, "/plan", nil, api.PlanAsk{Files: text.Files, Variables: text.Variables, Dir: text.Directory, Refresh: f.refresh}, p); err != nil {
		return noMaster(err)
	}
	if !s.json {
		fmt.Fprintf(s.stdout, "Back to generation %d of %s.\n\n", gen, when(text.AppliedAt))
	}
	return s.agree(ctx, &proposal{plan: p, path: "/rollback", ask: func(e *api.Expect, o api.Order) any {
		return api.RollbackAsk{Generation: gen, Refresh: f.refresh, Expect: e, Order: o}
	}}, f)
}
