package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rouse-ci/rouse/hcl"
)

const usageTemplate = `Usage:
  {{if and .Runnable .HasParent (not .HasAvailableSubCommands)}}{{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{end}}{{if gt (len .Aliases) 0}}

Aliases:
  {{.NameAndAliases}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if not .AllChildCommandsHaveGroup}}

Other commands:{{range $cmds}}{{if and (eq .GroupID "") (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Options:
{{.LocalFlags.FlagUsages | oneDash | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Options of every command:
{{.InheritedFlags.FlagUsages | oneDash | trimTrailingWhitespaces}}{{end}}

Exit codes:
{{exitCodes .}}{{if .HasAvailableSubCommands}}

Help on one command: {{.CommandPath}} COMMAND -help{{end}}
`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rouse",
		Short: "A continuous-integration master whose workers exist only while there is work for them",
		Long: `rouse is a continuous-integration master whose workers exist only while there is work for them.

Write a configuration, start a master, ask for a build, watch it:

  rouse init                     # a commented example
  rouse validate                 # all mistakes at once
  rouse master                   # runs until Ctrl-C
  rouse force hello -wait        # in another terminal`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.ArbitraryArgs,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		RunE:              a.onlyCommands,
	}
	cobra.EnableCommandSorting = false
	cobra.AddTemplateFunc("oneDash", oneDash)
	cobra.AddTemplateFunc("exitCodes", exitsOf)
	root.SetUsageTemplate(usageTemplate)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().BoolVar(&a.noColor, "no-color", false, "print no colours")
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "show the version of this program")
	root.AddGroup(
		&cobra.Group{ID: "config", Title: "Configuration:"},
		&cobra.Group{ID: "master", Title: "The master:"},
		&cobra.Group{ID: "builds", Title: "Builds:"},
		&cobra.Group{ID: "workers", Title: "Workers:"},
	)
	add(root, "config", newInitCmd(a), newValidateCmd(a), newFmtCmd(a), newPlanCmd(a), newShowCmd(a), newApplyCmd(a), newRollbackCmd(a), newGenerationsCmd(a),
		newReconfigCmd(a))
	add(root, "master", a.newMasterCmd(), newStatusCmd(a), newSimCmd(a))
	add(root, "builds", newForceCmd(a), newBuildsCmd(a), newBuildCmd(a), newLogsCmd(a), newConsoleCmd(a), newCancelCmd(a), newRequestsCmd(a), newExplainCmd(a),
		newTraceCmd(a), newBuildersCmd(a))
	add(root, "workers", newWorkersCmd(a), newInstancesCmd(a), newImagesCmd(a), newLibvirtCmd(a), newImageCmd(a), newPauseCmd(a), newUnpauseCmd(a), newEndCmd(a), newReapCmd(a))
	add(root, "", a.newVersionCmd())
	root.SetHelpCommand(newHelpCmd(a))
	root.InitDefaultHelpCmd()
	a.shells(root)
	return root
}

// onlyCommands is what a command does that has commands only: none was named, or one that there is not.
func (a *app) onlyCommands(c *cobra.Command, given []string) error {
	if len(given) == 0 {
		fmt.Fprint(a.stderr, c.Long, "\n\n", c.UsageString())
		return exit(127)
	}
	return unknownCommand(c, given[0])
}

func add(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// unknownCommand is what is said of a word that names no command.
func unknownCommand(c *cobra.Command, word string) error {
	msg := fmt.Sprintf("%s has no command named %q.", c.CommandPath(), word)
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	if near := hcl.Nearest(word, names); near != "" {
		msg += fmt.Sprintf(" Did you mean %q?", near)
	}
	return &usageError{errors.New(msg)}
}

// flagError puts cobra's words about a flag into this program's spelling, and offers a name that is near.
func flagError(c *cobra.Command, err error) error {
	msg := err.Error()
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("-%s=%s: it must be of type %s", bad.GetFlag().Name, bad.GetValue(), bad.GetFlag().Value.Type())
	}
	if name, ok := strings.CutPrefix(msg, "unknown flag: --"); ok {
		msg = fmt.Sprintf("%s has no option -%s.", c.CommandPath(), name)
		if near := hcl.Nearest(name, flagNames(c)); near != "" {
			msg += fmt.Sprintf(" Did you mean -%s?", near)
		}
	}
	if _, flag, ok := strings.Cut(msg, "unknown shorthand flag: "); ok { // 'x' in -xyz
		_, word, _ := strings.Cut(flag, " in ")
		msg = fmt.Sprintf("%s has no option %s.", c.CommandPath(), word)
	}
	return &usageError{errors.New(strings.ReplaceAll(msg, " --", " -"))}
}

func flagNames(c *cobra.Command) []string {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}
