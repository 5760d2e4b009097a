package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/plan"
)

// planFlags are the options of `rouse plan`.
type planFlags struct {
	config   configFlags
	client   clientFlags
	out      string
	detailed bool
	refresh  bool
}

func newPlanCmd(a *app) *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Show what a configuration would change, and change nothing",
		Long: `Compares the configuration in a directory (default: this one) with what the master runs and with what the providers really hold, and shows what
applying it would do: to each resource, to each live instance, to running builds and waiting requests, and to the greatest cost per hour.

  +    create
  ~    update in place: nothing that is live is disturbed
  -/+  replace: instances of the new definition follow those of the old one; none is ended while it builds
  -    remove: a worker drains, a builder keeps its history

Running builds go on with the definition that they began with, and waiting requests with the one that they were submitted under.

The configuration is checked here first; if there is a mistake in it, nobody is asked. Without a running master it is compared with the state on disk,
which the plan says. Values of sensitive variables are never shown, saved or sent: the master has its own.`,
		Annotations: exits("0 the plan was made; with -detailed-exitcode: nothing would change", "1 it could not be made, or what it says would fail", "2 with -detailed-exitcode: something would change"),
		Example: `  rouse plan
  rouse plan -out=monday.plan         # save it; then: rouse apply monday.plan
  rouse plan -var branch=main -refresh=false /etc/rouse
  rouse plan -detailed-exitcode -json | jq .summary`,
		Args: args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(c *cobra.Command, given []string) error { return a.plan(c.Context(), directory(given), &f) },
	}
	f.config.register(c)
	f.client.register(c)
	c.Flags().StringVar(&f.out, "out", "", "save the plan to a `FILE`, for rouse apply and rouse show")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit with 2 if something would change")
	c.Flags().BoolVar(&f.refresh, "refresh", true, "ask the providers what they hold; -refresh=false goes by the master's records")
	_ = c.MarkFlagFilename("out")
	return c
}

func newShowCmd(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show PLANFILE",
		Short:   "Show a saved plan",
		Long:    "Shows a plan that `rouse plan -out` has saved, as it was shown then. No master is asked, so it says nothing of whether the plan still holds.",
		Example: "  rouse show monday.plan\n  rouse show -json monday.plan | jq '.changes[] | select(.action != \"no-op\")'",
		Args:    args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(_ *cobra.Command, given []string) error {
			file, err := readPlanFile(given[0])
			if err != nil {
				return err
			}
			return a.showPlan(file.Plan, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) plan(ctx context.Context, dir string, f *planFlags) error {
	var report func(hcl.Report) error
	if f.client.json {
		report = func(r hcl.Report) error { return a.printJSON(r) }
	}
	cfg, missing, err := a.readConfig(dir, &f.config, report)
	if err != nil {
		return err
	}
	p, err := a.askPlan(ctx, cfg, dir, f, missing)
	if err != nil {
		return a.invalid(err, f.client.json)
	}
	if f.out != "" {
		if err := writePlanFile(f.out, fileOf(p, cfg, dir)); err != nil {
			return fmt.Errorf("save the plan: %w", err)
		}
	}
	if err := a.showPlan(p, f.client.json); err != nil {
		return err
	}
	if !f.client.json {
		a.whatNext(p, f.out)
	}
	switch {
	case p.Summary.Errors > 0:
		return &exitError{code: 1, msg: fmt.Sprintf("the plan holds %s: what it says would fail", plural(p.Summary.Errors, "error"))}
	case f.detailed && !p.Empty():
		return exit(2)
	}
	return nil
}

// readConfig loads a configuration and shows what is wrong with it. The values that it was given stay here. With report, that shows mistakes which end the command;
// else, and of warnings, people are told. Where nothing is wrong but that sensitive variables have no value here, missing says that to whoever has no master to ask,
// which has its own.
func (a *app) readConfig(dir string, f *configFlags, report func(hcl.Report) error) (cfg *hcl.Config, missing func() error, err error) {
	o, err := f.options(a)
	if err != nil {
		return nil, nil, err
	}
	if o.Dir, err = filepath.Abs(dir); err != nil { // as the master does: names in it are compared
		return nil, nil, err
	}
	cfg, diags := hcl.Load(dir, o)
	diags = cfg.Relocate(dir, diags)
	if hcl.MasterMayKnow(diags) {
		return cfg, func() error { return a.refuseConfig(cfg, dir, diags, report) }, nil
	}
	return cfg, func() error { return nil }, a.refuseConfig(cfg, dir, diags, report)
}

// refuseConfig shows what is wrong with a configuration; the error says that something is.
func (a *app) refuseConfig(cfg *hcl.Config, dir string, diags hcl2.Diagnostics, report func(hcl.Report) error) error {
	if diags.HasErrors() && report != nil {
		if err := report(cfg.Report(diags)); err != nil {
			return err
		}
		return exit(1)
	}
	if err := cfg.WriteDiagnostics(a.stderr, diags, a.width(), a.colour(a.stderr)); err != nil {
		return err
	}
	if diags.HasErrors() {
		return &exitError{code: 1, msg: fmt.Sprintf("the configuration in %s is not valid: %s. Nobody was asked, nothing was changed", dir, counts(cfg.Report(diags)))}
	}
	return nil
}

// invalid prints the mistakes that a master has found in a configuration as `rouse validate -json` does, if JSON is wanted; else err shows them.
func (a *app) invalid(err error, asJSON bool) error {
	var p *api.Problem
	if !asJSON || !errors.As(err, &p) || len(p.Report) == 0 {
		return err
	}
	if err := a.printJSON(p.Report); err != nil {
		return err
	}
	return exit(1)
}

// askOf is what a master is asked about a configuration. The values of sensitive variables are not part of it: the master has its own, and learns only whether they
// are the same.
func askOf(cfg *hcl.Config, dir string, refresh bool) (api.PlanAsk, error) {
	abs, err := filepath.Abs(dir)
	ask := api.PlanAsk{Files: cfg.Files, Variables: cfg.Variables, Dir: abs, Refresh: refresh}
	if names := cfg.GivenSensitive(); len(names) > 0 {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // which never fails
		ask.Sensitive = &api.SensitiveGiven{Key: key, Digests: cfg.SensitiveDigests(key, names)}
	}
	return ask, err
}

// askPlan asks the master, or else the state on disk.
func (a *app) askPlan(ctx context.Context, cfg *hcl.Config, dir string, f *planFlags, missing func() error) (*plan.Plan, error) {
	ask, err := askOf(cfg, dir, f.refresh)
	if err != nil {
		return nil, err
	}
	client, err := f.client.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if f.client.remote() {
		ask.Dir = "" // a directory of this machine means nothing there
	}
	p := &plan.Plan{}
	err = client.Post(ctx, "/plan", nil, ask, p)
	switch {
	case err == nil:
		return p, nil
	case !errors.Is(err, api.ErrNoMaster):
		return nil, err
	case f.client.remote():
		return nil, fmt.Errorf("%w.\nWithout -master, the configuration is compared with the state on this machine", err)
	}
	if err := missing(); err != nil {
		return nil, err
	}
	o, err := f.config.options(a)
	if err != nil {
		return nil, err
	}
	state, err := filepath.Abs(cmp.Or(f.client.state, defaultState()))
	if err != nil {
		return nil, err
	}
	return master.PlanOffline(ctx, master.Options{StateDir: state, ConfigDir: ask.Dir, Hcl: o}, cfg, f.refresh)
}

// remote says whether a command talks to a master by its URL.
func (f *clientFlags) remote() bool {
	return f.master != "" || f.state == "" && os.Getenv("ROUSE_MASTER") != ""
}

// planStyles are ANSI styles of plan.Paint's.
var planStyles = map[string]string{"create": "32", "update": "33", "replace": "35", "remove": "31", "bold": "1", "quiet": "90", "error": "31;1", "warning": "33;1"}

// showPlan prints a plan: as JSON, or as text that is made from nothing else.
func (a *app) showPlan(p *plan.Plan, asJSON bool) error {
	if asJSON {
		return a.printJSON(p)
	}
	if !a.colour(a.stdout) {
		return p.WriteText(a.stdout, nil)
	}
	return p.WriteText(a.stdout, func(style, text string) string { return "\x1b[" + planStyles[style] + "m" + text + "\x1b[0m" })
}

// whatNext says how the plan is carried out.
func (a *app) whatNext(p *plan.Plan, out string) {
	switch {
	case p.Offline && out != "":
		fmt.Fprintf(a.stdout, "\nSaved the plan to: %s\nNo master runs, so this plan can be looked at (rouse show %s), but not applied: start the master and make a new one.\n", out, out)
	case p.Offline && !p.Empty():
		fmt.Fprint(a.stdout, "\nNo master runs. `rouse master` puts a directory into force when it starts; `rouse apply` needs a master that runs.\n")
	case out != "":
		fmt.Fprintf(a.stdout, "\nSaved the plan to: %s\nTo do exactly this: rouse apply %s\n", out, out)
	case !p.Empty():
		fmt.Fprintf(a.stdout, "\nThe plan is not saved (-out FILE), so `rouse apply` makes a new one, which may differ if the fleet does.\n")
	}
}

// fileOf is a plan with what it was made from.
func fileOf(p *plan.Plan, cfg *hcl.Config, dir string) *plan.File {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return &plan.File{Plan: p, Files: cfg.Files, Variables: cfg.Variables, Sensitive: cfg.GivenSensitive(), Dir: dir}
}

// writePlanFile writes a plan whole or not at all. Only its owner may read it: it holds the text of the configuration.
func writePlanFile(name string, file *plan.File) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".rouse-plan-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = file.Write(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// readPlanFile reads what writePlanFile has written.
func readPlanFile(name string) (*plan.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read the plan: %s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	defer f.Close()
	file, err := plan.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file, nil
}
