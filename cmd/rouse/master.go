package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master"
)

// masterFlags are the options of `rouse master`.
type masterFlags struct {
	config   configFlags
	dir      string
	state    string
	level    string
	json     bool
	takeover bool
}

func (a *app) newMasterCmd() *cobra.Command {
	var f masterFlags
	c := &cobra.Command{
		Use:   "master",
		Short: "Run the master until Ctrl-C or SIGTERM",
		Long: `Runs the master in the foreground. It reads the configuration in -config, keeps everything that must survive in -state, lets workers attach to
the port that the configuration names, and serves the API on the socket rouse.sock in the state directory.

SIGTERM and Ctrl-C end it as on_master_stop says. By default running builds and instances are kept: the next master with the same state
directory goes on with them. SIGHUP reads the configuration again (as rouse reconfig does); a broken one changes nothing.

A master that starts goes on with the last generation, be it from rouse apply or rouse rollback, unless somebody has edited -config since that was last put into
force; then -config is the next generation.

It logs to standard error: JSON unless that is a terminal.`,
		Annotations: exits("0 it has ended as on_master_stop says, after Ctrl-C, SIGTERM or another master's -takeover", "1 an error: the configuration is not valid, the state is in use, …"),
		Example: `  rouse master
  rouse master -config /etc/rouse -state /var/lib/rouse
  rouse master -takeover          # ends the master that uses this state, and goes on with its builds`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.runMaster(c, &f) },
	}
	f.config.register(c)
	c.Flags().StringVar(&f.dir, "config", ".", "`DIR` of the configuration's *.hcl files")
	c.Flags().StringVar(&f.state, "state", defaultState(), "`DIR` of the master's state")
	c.Flags().StringVar(&f.level, "log-level", "info", "lowest `LEVEL` that is logged: debug, info, warn or error")
	_ = c.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().BoolVar(&f.json, "log-json", false, "log JSON, also to a terminal")
	c.Flags().BoolVar(&f.takeover, "takeover", false, "end the master that uses the state, and go on with its builds")
	_ = c.MarkFlagDirname("config")
	_ = c.MarkFlagDirname("state")
	return c
}

func (a *app) runMaster(c *cobra.Command, f *masterFlags) error {
	o, err := f.config.options(a)
	if err != nil {
		return err
	}
	log, err := a.logger(f)
	if err != nil {
		return err
	}
	state, err := filepath.Abs(f.state)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	meter, err := newMeter(programVersion(), log)
	if err != nil {
		return err
	}
	found := findings{dir: dir, text: func(cfg *hcl.Config, diags hcl2.Diagnostics) {
		_ = cfg.WriteDiagnostics(a.stderr, cfg.Relocate(f.dir, diags), a.width(), a.colour(a.stderr))
	}}
	if a.logsJSON(f) {
		found.log = log
	}
	defer found.ended()
	return master.Run(c.Context(), master.Options{ConfigDir: dir, StateDir: state, Hcl: o, Log: log, Version: programVersion(), Takeover: f.takeover, Reload: reload,
		Meter:  meter,
		Report: found.report,
		Serving: func(worker net.Addr, api []string) {
			found.serves()
			fmt.Fprintf(a.stdout, "rouse serves workers on %s and the API on %s\n", worker, strings.Join(api, " and "))
		}})
}

func (a *app) logsJSON(f *masterFlags) bool { return f.json || !isTerminal(a.stderr) }

// logger logs for people on a terminal and for programs elsewhere.
func (a *app) logger(f *masterFlags) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, usagef("-log-level %s: it must be debug, info, warn or error", f.level)
	}
	if a.logsJSON(f) {
		return slog.New(slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{Level: level})), nil
	}
	return slog.New(tint.NewTextHandler(a.stderr, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !a.colour(a.stderr)})), nil
}
