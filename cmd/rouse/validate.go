package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rouse-ci/rouse/hcl"
)

// configFlags are the options of every command that reads a configuration.
type configFlags struct {
	vars     []string
	varFiles []string
}

func (f *configFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.vars, "var", nil, "give a variable a value: `NAME=VALUE` (repeatable)")
	c.Flags().StringArrayVar(&f.varFiles, "var-file", nil, "read variables' values from a `FILE` (repeatable; later files win)")
	_ = c.MarkFlagFilename("var-file")
}

// options are what hcl.Load needs.
func (f *configFlags) options(a *app) (hcl.Options, error) {
	o := hcl.Options{Kinds: a.kinds, Variables: map[string]string{}, VarFiles: f.varFiles}
	for _, v := range f.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return o, usagef("-var %s: it must be NAME=VALUE", v)
		}
		o.Variables[name] = value
	}
	return o, nil
}

func newValidateCmd(a *app) *cobra.Command {
	var flags configFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Find all mistakes of a configuration",
		Long: `Reads all *.hcl and *.hcl.json files of a directory (default: this one) as one configuration and shows every mistake in it, those in the
steps' expressions too. Nothing is dialled, no secret is read, no master is needed.
Names that Buildbot has given up (slave, slavenames, builddir, …) are understood, and warned of with the name of today.`,
		Annotations: exits("0 the configuration is valid, perhaps with warnings", "1 it is not, or an error"),
		Example:     "  rouse validate\n  rouse validate -var branch=main contrib/examples/demo\n  rouse validate -json",
		Args:        args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			o, err := flags.options(a)
			if err != nil {
				return err
			}
			return a.validate(directory(given), o, asJSON)
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON in the shape that terraform validate has")
	return c
}

func directory(given []string) string {
	if len(given) == 0 {
		return "."
	}
	return given[0]
}

func (a *app) validate(dir string, o hcl.Options, asJSON bool) error {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a third of the time of a large configuration would be collecting what ends with this process
	cfg, diags := hcl.Load(dir, o)
	diags = cfg.Relocate(dir, diags)
	report := cfg.Report(diags)
	if asJSON {
		if err := a.printJSON(report); err != nil {
			return err
		}
	} else if err := cfg.WriteDiagnostics(a.stderr, diags, a.width(), a.colour(a.stderr)); err != nil {
		return err
	}
	if !report.Valid {
		if !asJSON {
			fmt.Fprintf(a.stderr, "The configuration is not valid: %s.\n", counts(report))
		}
		return exit(1)
	}
	if !asJSON {
		fmt.Fprintf(a.stdout, "%s %s\n", a.paint(a.stdout, "32;1", "The configuration is valid."), summary(cfg, report))
	}
	return nil
}

// width is that of the terminal which shows mistakes, 0 if it is none.
func (a *app) width() uint {
	f, ok := a.stderr.(*os.File)
	if !ok || !isTerminal(f) {
		return 0
	}
	w, _, err := term.GetSize(int(f.Fd()))
	if err != nil || w < 40 {
		return 0
	}
	return uint(w)
}

func counts(r hcl.Report) string {
	s := plural(r.ErrorCount, "error")
	if r.WarningCount > 0 {
		s += ", " + plural(r.WarningCount, "warning")
	}
	return s
}

func summary(c *hcl.Config, r hcl.Report) string {
	latent := 0
	for _, w := range c.Workers {
		if w.Provider != "" {
			latent++
		}
	}
	steps := 0
	for _, b := range c.Builders {
		steps += len(b.Steps)
	}
	s := fmt.Sprintf("%s (%d latent), %s with %s, %s", plural(len(c.Workers), "worker"), latent,
		plural(len(c.Builders), "builder"), plural(steps, "step"), plural(len(c.Schedulers), "scheduler"))
	if r.WarningCount > 0 {
		s += "; " + plural(r.WarningCount, "warning")
	}
	return s + "."
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
