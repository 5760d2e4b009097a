package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

// applyFlags are the options of the commands that change a master's configuration.
type applyFlags struct {
	config  configFlags
	client  clientFlags
	approve bool
	wait    bool
	refresh bool
	reason  string
}

func (f *applyFlags) register(c *cobra.Command) {
	f.client.register(c)
	c.Flags().BoolVar(&f.approve, "auto-approve", false, "do not ask")
	c.Flags().BoolVar(&f.wait, "wait", false, "wait until the machines of the old configuration have ended, and show what is left")
	c.Flags().BoolVar(&f.refresh, "refresh", true, "ask the providers what they hold; -refresh=false goes by the master's records, and skips the preflight")
	c.Flags().StringVar(&f.reason, "reason", "", "`TEXT` that tells people why")
}

func newApplyCmd(a *app) *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "apply [DIR | PLANFILE]",
		Short: "Put a configuration into force, whole or not at all",
		Long: `Makes a plan of the configuration in a directory (default: this one), shows it, asks, and puts it into force. With a plan that rouse plan -out has saved, exactly
that is done, or nothing: if another configuration was applied since, or an image stands for another one now, the plan is stale and refused.

An apply is one transaction. It becomes the next generation, or nothing has changed. Running builds go on, and end with the definition that they began
with; machines of an old definition end when they are idle. -wait waits for that.

Without a terminal nobody can be asked: say -auto-approve, or apply a saved plan with it.`,
		Annotations: exits("0 it is in force, or there was nothing to do", "1 an error, or not approved: nothing was changed, unless it is said that this is not known", "130 interrupted by Ctrl-C or SIGTERM; it is said what is in force, or that this is not known"),
		Example: `  rouse apply
  rouse apply -auto-approve -wait
  rouse plan -out=monday.plan && rouse apply monday.plan`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, given []string) error { return a.apply(c.Context(), directory(given), &f) },
	}
	f.config.register(c)
	f.register(c)
	return c
}

// proposal is a configuration with its plan, to be agreed to.
type proposal struct {
	plan *plan.Plan
	path string // of the API
	ask  func(expect *api.Expect, order api.Order) any
}

func (a *app) apply(ctx context.Context, target string, f *applyFlags) error {
	client, err := f.client.connect()
	if err != nil {
		return err
	}
	defer client.Close()
	s := &session{app: a, Client: client, json: f.client.json}
	var p *proposal
	info, serr := os.Stat(target)
	if errors.Is(serr, fs.ErrNotExist) {
		return usagef("there is no directory and no saved plan %s", target)
	}
	if serr == nil && !info.IsDir() {
		p, err = s.savedProposal(ctx, target, f)
	} else {
		p, err = s.newProposal(ctx, target, f)
	}
	if err != nil {
		return noMaster(err)
	}
	return s.agree(ctx, p, f)
}

// noMaster says how to get one.
func noMaster(err error) error {
	if errors.Is(err, api.ErrNoMaster) {
		return fmt.Errorf("%w; nothing was changed.\nStart one with `rouse master`, or say where it is with -state DIR or -master URL", err)
	}
	return err
}

// savedProposal reads a saved plan and holds it against one that is made now, so that nobody is asked about a plan that would be refused.
func (s *session) savedProposal(ctx context.Context, name string, f *applyFlags) (*proposal, error) {
	if len(f.config.vars)+len(f.config.varFiles) > 0 {
		return nil, usagef("A saved plan has its variables; -var and -var-file are for a directory")
	}
	if strings.HasSuffix(name, ".hcl") {
		return nil, usagef("%s: this is no plan file: give the directory that it is in; all *.hcl files there are one configuration", name)
	}
	file, err := readPlanFile(name)
	if err != nil {
		return nil, err
	}
	if file.Plan.Offline {
		return nil, fmt.Errorf("%s: this plan was made without a master. Make a new one with the master running: rouse plan", name)
	}
	ask := api.PlanAsk{Files: file.Files, Variables: file.Variables, Dir: f.dir(file.Dir), Refresh: file.Plan.Refreshed && f.refresh}
	now := &plan.Plan{}
	if err := s.Post(ctx, "/plan", nil, ask, now); err != nil {
		return nil, err
	}
	if err := file.Plan.Stale(now); err != nil {
		return nil, fmt.Errorf("%w. Nothing was changed", err)
	}
	return &proposal{plan: file.Plan, path: "/apply", ask: applyAsk(ask)}, nil
}

// dir is what a directory of this machine is to the master.
func (f *applyFlags) dir(dir string) string {
	if f.client.remote() {
		return ""
	}
	return dir
}

func applyAsk(ask api.PlanAsk) func(*api.Expect, api.Order) any {
	return func(e *api.Expect, o api.Order) any { return api.ApplyAsk{PlanAsk: ask, Expect: e, Order: o} }
}

func (s *session) newProposal(ctx context.Context, dir string, f *applyFlags) (*proposal, error) {
	var report func(hcl.Report) error
	if s.json {
		report = func(r hcl.Report) error { return s.event("invalid", r, nil) }
	}
	cfg, _, err := s.readConfig(dir, &f.config, report) // without a master there is nothing to apply
	if err != nil {
		return nil, err
	}
	ask, err := askOf(cfg, dir, f.refresh)
	if err != nil {
		return nil, err
	}
	ask.Dir = f.dir(ask.Dir)
	p := &plan.Plan{}
	if err := s.Post(ctx, "/plan", nil, ask, p); err != nil {
		return nil, err
	}
	return &proposal{plan: p, path: "/apply", ask: applyAsk(ask)}, nil
}

// agree shows a plan, asks, and carries it out.
func (s *session) agree(ctx context.Context, p *proposal, f *applyFlags) error {
	if err := s.event("plan", p.plan, func() error { return s.showPlan(p.plan, false) }); err != nil {
		return err
	}
	switch {
	case p.plan.Summary.Errors > 0:
		return &exitError{code: 1, msg: fmt.Sprintf("The plan holds %s; nothing was changed. With -refresh=false the providers are not asked.", plural(p.plan.Summary.Errors, "error"))}
	case p.plan.Empty() && !p.plan.SourceChanged:
		return s.event("nothing", map[string]any{"generation": p.plan.Base}, func() error { return nil })
	case !p.plan.Empty() && !f.approve:
		if err := s.approve(ctx); err != nil {
			return err
		}
	}
	expect := &api.Expect{Plan: p.plan.ID, Master: p.plan.Master, Base: p.plan.Base}
	if p.plan.Refreshed && f.refresh {
		expect.Refreshed, expect.Resolved = true, p.plan.Resolved
	}
	var out api.Applied
	if err := s.Post(ctx, p.path, nil, p.ask(expect, api.Order{By: os.Getenv("USER"), Reason: f.reason}), &out); err != nil {
		return noMaster(unsure(ctx, err, p.plan.Base))
	}
	if err := s.event("applied", out, func() error { return s.complete(out) }); err != nil {
		return err
	}
	if f.wait {
		return s.drain(ctx, out)
	}
	return nil
}

// lost says of an order's error that the order was on its way, and its answer did not come.
func lost(ctx context.Context, err error) bool {
	slow, ok := errors.AsType[net.Error](err)
	return ctx.Err() != nil || errors.Is(err, api.ErrBroken) || ok && slow.Timeout()
}

// unsure says what to do when the answer to an order did not come. before is the generation that was in force, or 0 if nobody has asked.
func unsure(ctx context.Context, err error, before model.Generation) error {
	var told *api.Problem
	if errors.As(err, &told) || errors.Is(err, api.ErrNoMaster) && !errors.Is(err, api.ErrBroken) {
		return err
	}
	code := 1
	if ctx.Err() != nil {
		err, code = errors.New("Interrupted"), 130
	}
	msg := fmt.Sprintf("%v.\nIt is not known whether the configuration was applied: it is whole or not at all. `rouse generations` says which is in force", err)
	if before != 0 {
		msg += fmt.Sprintf("; before this it was generation %d", before)
	}
	return &exitError{code: code, msg: msg + "."}
}

func (s *session) complete(out api.Applied) error {
	sum := out.Summary
	if !out.Changed {
		_, err := fmt.Fprintf(s.stdout, "\nNothing to do: generation %d stays in force.\n", out.Generation)
		return err
	}
	_, err := fmt.Fprintf(s.stdout, "\n%s %s, generation %d.\n", s.paint(s.stdout, "32;1", "Apply complete!"), counted(sum), out.Generation)
	return err
}

func counted(sum plan.Summary) string {
	return fmt.Sprintf("%d added, %d changed, %d replaced, %d removed", sum.Add, sum.Change, sum.Replace, sum.Remove)
}

// event prints one object on a line of its own with -json, and else what text prints.
func (s *session) event(kind string, v any, text func() error) error {
	if !s.json {
		return text()
	}
	return json.NewEncoder(s.stdout).Encode(map[string]any{"type": kind, kind: v})
}

// approve asks a person. Nobody at a terminal is a no: a pipe must not hang, or agree by accident.
func (s *session) approve(ctx context.Context) error {
	if s.json {
		return &exitError{code: 1, msg: "With -json nobody is asked: say -auto-approve. Nothing was changed."}
	}
	if !isTerminal(s.stdin) {
		return &exitError{code: 1, msg: "There is no terminal to ask at: say -auto-approve. Nothing was changed."}
	}
	fmt.Fprintf(s.stdout, "\n%s\n  Only 'yes' will be accepted to approve.\n\n  %s ", s.paint(s.stdout, "1", "Do you want to do this?"), s.paint(s.stdout, "1", "Enter a value:"))
	switch line, err := s.answer(ctx, s.stdout); {
	case err != nil:
		return &exitError{code: 130, msg: "Interrupted. Nothing was changed."}
	case line != "yes":
		return &exitError{code: 1, msg: "Not approved. Nothing was changed."}
	}
	return nil
}

// answer is the line that a person types, of 1000 bytes at most, or "". The error says that the program was interrupted instead.
func (a *app) answer(ctx context.Context, out io.Writer) (string, error) {
	answer := make(chan string, 1)
	go func() { // may wait for ever for a line that does not come
		line, err := bufio.NewReader(io.LimitReader(a.stdin, 1000)).ReadString('\n')
		if err != nil { // Ctrl-D leaves the cursor behind the question
			fmt.Fprintln(out)
		}
		answer <- line
	}()
	select {
	case line := <-answer:
		return strings.TrimSpace(line), nil
	case <-ctx.Done():
		fmt.Fprintln(out)
		return "", ctx.Err()
	}
}
