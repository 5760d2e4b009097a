package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// newHelpCmd shows the help of a command. Cobra's own shows the program's where there is no such command, and calls that a success.
func newHelpCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Show the help of a command",
		Long:    "Shows the help of a command, as COMMAND -help does.",
		Example: "  rouse help force\n  rouse help image test",
		ValidArgsFunction: func(c *cobra.Command, given []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			if of, rest := named(c.Root(), given); len(rest) == 0 {
				for _, sub := range of.Commands() {
					if sub.Hidden {
						continue
					}
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, given []string) error {
			of, rest := named(c.Root(), given)
			if len(rest) > 0 {
				return unknownCommand(of, rest[0])
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// named is the command that words name one below the other, and the words that name none.
func named(c *cobra.Command, words []string) (*cobra.Command, []string) {
	for i, word := range words {
		var next *cobra.Command
		for _, sub := range c.Commands() {
			if sub.Name() == word {
				next = sub
			}
		}
		if next == nil {
			return c, words[i:]
		}
		c = next
	}
	return c, nil
}

// shells gives cobra's commands that write scripts for shells what all others have.
func (a *app) shells(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	of, _ := named(root, []string{"completion"})
	of.Short = "Print a script that completes command lines in a shell"
	of.Long = "Prints a script that lets a shell complete commands, options, and the names of live builders, workers and builds."
	of.Example = "  rouse completion bash > /etc/bash_completion.d/rouse"
	of.Args, of.RunE = cobra.ArbitraryArgs, a.onlyCommands
	for _, c := range of.Commands() {
		c.Short = "Print the script for " + strings.ToUpper(c.Name()[:1]) + c.Name()[1:]
		c.Example = "  rouse completion " + c.Name()
	}
}
