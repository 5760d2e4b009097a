package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitCodes is the annotation of a command whose exit codes say more than those of all others: one on each line, "CODE when the program ends with it".
const exitCodes = "exit-codes"

// exits annotates a command with its exit codes.
func exits(codes ...string) map[string]string {
	return map[string]string{exitCodes: strings.Join(codes, "\n")}
}

// exitsOf are the lines of a command's help about its exit codes. Every command can be interrupted, and every one that asks a master can fail in the same ways.
func exitsOf(c *cobra.Command) string {
	text, own := c.Annotations[exitCodes]
	switch {
	case own:
	case !c.Runnable() || c.HasAvailableSubCommands():
		text = "0 help was asked for; with COMMAND: see its help\n127 no COMMAND was given"
	case c.Flags().Lookup("token-file") != nil:
		text = "0 it is done\n1 an error: the command line is wrong, the master does not answer, or it refuses"
	default:
		text = "0 it is done\n1 an error: the command line is wrong, or it could not be done"
	}
	if !strings.Contains(text, "\n130 ") && !strings.Contains(text, "Ctrl-C") && !c.HasAvailableSubCommands() {
		text += "\n130 interrupted by Ctrl-C or SIGTERM"
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		code, when, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		fmt.Fprintf(&b, "  %-3s  %s\n", code, when)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
