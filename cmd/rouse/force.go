package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

type forceOptions struct {
	api.Force
	properties   []string
	priority     int
	wait, follow bool
}

func newForceCmd(a *app) *cobra.Command {
	o := &forceOptions{}
	c := &cobra.Command{
		Use:   "force BUILDER",
		Short: "Ask for a build",
		Long: `Ask for a build of a builder that a force scheduler reaches.

Without -wait, the program ends as soon as the request is stored: from then on it is built, whatever happens to the master.
With -wait or -follow it stays until the end, and the exit code tells the result. Ctrl-C then ends the program, not the build.
With -follow -json each line of the logs is an object on a line of its own, as rouse logs -json prints it, and so is the request at the end.

A property's value is read as JSON if it is JSON (3, true, ["a"]), else as text.`,
		Annotations: exits("0 the build ended with success or warnings; without -wait or -follow: the request is stored", "1 the build ended otherwise", "3 no result is known: the command line is wrong, the master does not answer, or it refuses", "130 interrupted by Ctrl-C or SIGTERM; the build goes on"),
		Example: `  rouse force hello
  rouse force hello -wait -branch=main -property=suite=fast -reason="try the new compiler"
  rouse force hello -follow                # prints the logs as they grow`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.complete(builderNames),
	}
	c.Annotations[errorCode] = "3"
	fl := c.Flags()
	fl.StringVar(&o.Scheduler, "scheduler", "", "force `SCHEDULER` to use (default: the first that reaches the builder)")
	fl.StringVar(&o.Repository, "repository", "", "`URL` to build from, if not the configured one")
	fl.StringVar(&o.Branch, "branch", "", "`BRANCH` to build")
	fl.StringVar(&o.Revision, "revision", "", "`REVISION` to build")
	fl.StringVar(&o.Project, "project", "", "`NAME` of the project")
	fl.StringVar(&o.Reason, "reason", "", "`TEXT` that tells people why")
	fl.StringArrayVar(&o.properties, "property", nil, "set a property: `NAME=VALUE` (repeatable)")
	fl.IntVar(&o.priority, "priority", 0, "priority of the request, a `NUMBER`: the highest goes first (default: the scheduler's)")
	fl.StringVar(&o.Worker, "worker", "", "only this `WORKER` may build it")
	fl.BoolVar(&o.wait, "wait", false, "wait for the end; the exit code tells the result")
	fl.BoolVar(&o.follow, "follow", false, "print the logs as they grow; implies -wait")
	_ = c.RegisterFlagCompletionFunc("worker", a.value(workerNames))
	_ = c.RegisterFlagCompletionFunc("scheduler", a.value(forceSchedulers))
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		o.Builder = given[0]
		if c.Flags().Changed("priority") {
			o.Priority = &o.priority
		}
		return s.force(ctx, o)
	})
}

func (s *session) force(ctx context.Context, o *forceOptions) error {
	var err error
	if o.Properties, err = properties(o.properties); err != nil {
		return err
	}
	if u, err := user.Current(); err == nil {
		o.Owner = u.Username
	}
	var made api.Forced
	if err := s.Post(ctx, "/force", nil, o.Force, &made); err != nil {
		if lost(ctx, err) {
			fmt.Fprintln(s.stderr, "It is not known whether the request was stored: `rouse requests` and `rouse builds` show it if it was.")
		}
		return err
	}
	if len(made.Requests) == 0 {
		return errors.New("the master made no request")
	}
	id := made.Requests[0]
	if !o.wait && !o.follow {
		return s.show(made, func(t *table) {
			t.line("Request %d asks for a build of %s.", id, o.Builder)
			t.line("What happens to it: rouse explain request %d", id)
		})
	}
	last, err := s.await(ctx, id, o.follow)
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(s.stderr, "Request %d goes on without this program. To cancel it: rouse cancel request %d\n", id, id)
		}
		return err
	}
	if o.follow && s.json { // lines of logs came before it, each an object on a line of its own
		err = json.NewEncoder(s.stdout).Encode(last)
	} else {
		err = s.show(last, func(t *table) { t.line("%s", s.verdict(last)) })
	}
	if err == nil && last.Result != model.Success && last.Result != model.Warnings {
		return exit(1)
	}
	return err
}

func (s *session) verdict(r api.Request) string {
	text := fmt.Sprintf("Request %d: %s", r.ID, r.Result)
	if r.Build != 0 {
		text = fmt.Sprintf("Build %d of %s: %s", r.Build, r.Builder, r.Result)
	}
	if !r.SubmittedAt.IsZero() && !r.FinishedAt.IsZero() {
		text += " after " + human(r.FinishedAt.Sub(r.SubmittedAt).Seconds())
	}
	if r.Text != "" {
		text += " (" + why(r.Result, r.Text) + ")"
	}
	return text
}

func properties(given []string) (map[string]any, error) {
	out := map[string]any{}
	for _, p := range given {
		name, text, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("-property %q: write NAME=VALUE", p)
		}
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			v = text
		}
		out[name] = v
	}
	return out, nil
}

// await follows a request to its end, telling each phase on standard error, and with follow prints the logs of its builds. It outlasts a restart
// of the master.
func (s *session) await(ctx context.Context, id model.RequestID, follow bool) (api.Request, error) {
	var last api.Request
	var said string
	var since time.Time
	logs := follower{s: s}
	defer logs.stop()
	each := func(b json.RawMessage) error {
		var r api.Request
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		last, since = r, time.Time{}
		s.told.Store(false)
		told := r
		if follow {
			told.Step = "" // the titles of the logs name the steps, each before its lines
		}
		if text := progress(told); text != "" && text != said && !s.json {
			said = text
			fmt.Fprintln(s.stderr, s.paint(s.stderr, "90", clean(text)))
		}
		if follow && r.Build != 0 && r.Phase != "substantiating" { // so that it is said first where the build runs
			logs.follow(ctx, r.Build)
		}
		return nil
	}
	for last.State != model.RequestDone {
		err := s.Stream(ctx, fmt.Sprintf("/requests/%d/watch", id), nil, each)
		if err == nil && last.State != model.RequestDone {
			err = fmt.Errorf("%w: request %d is not done", api.ErrBroken, id)
		}
		if err != nil {
			if err := s.away(ctx, err, &since); err != nil {
				return last, err
			}
		}
	}
	return last, logs.wait()
}

// progress says in one line what happens to a request.
func progress(r api.Request) string {
	switch r.Phase {
	case "waiting":
		if r.Attempts > 0 {
			return fmt.Sprintf("Request %d waits for another attempt (%d so far)", r.ID, r.Attempts)
		}
		return fmt.Sprintf("Request %d waits", r.ID)
	case "substantiating":
		return fmt.Sprintf("Build %d prepares worker %s", r.Build, r.OnWorker)
	case "running":
		if r.Step == "" {
			return fmt.Sprintf("Build %d runs on %s", r.Build, r.OnWorker)
		}
		return fmt.Sprintf("Build %d runs step %d, %s, on %s", r.Build, r.StepNumber, r.Step, r.OnWorker)
	}
	return ""
}
