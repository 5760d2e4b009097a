package main

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// allCommands are the program's commands, below each other, with those that cobra brings.
func allCommands() []*cobra.Command {
	var all []*cobra.Command
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		all = append(all, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	a := &app{kinds: kinds(), stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	walk(a.root())
	return all
}

// helpOf is what a command says when it is asked for help.
func helpOf(t *testing.T, c *cobra.Command) string {
	t.Helper()
	var out, stderr bytes.Buffer
	a := &app{kinds: kinds(), stdin: strings.NewReader(""), stdout: &out, stderr: &stderr}
	if code := a.run(append(strings.Fields(c.CommandPath())[1:], "-help")); code != 0 || stderr.Len() > 0 {
		t.Fatalf("code %d: %s", code, &stderr)
	}
	return out.String()
}

// section is the part of a help text between a heading and the next empty line.
func section(help, heading string) string {
	_, text, _ := strings.Cut("\n"+help, "\n"+heading+"\n")
	text, _, _ = strings.Cut(text, "\n\n")
	return text
}

var exitLine = regexp.MustCompile(`^  (\d+) +\S`)

func TestHelpOfEveryCommandHasExamplesAndItsExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range allCommands() {
		t.Run(strings.ReplaceAll(c.CommandPath(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			help := helpOf(t, c)
			if !strings.Contains(section(help, "Examples:"), "  rouse ") && c.HasParent() {
				t.Errorf("no examples:\n%s", help)
			}
			var codes []int
			for line := range strings.Lines(section(help, "Exit codes:")) {
				m := exitLine.FindStringSubmatch(line)
				if m == nil {
					t.Errorf("no exit code and its meaning: %q", line)
					continue
				}
				n, _ := strconv.Atoi(m[1])
				codes = append(codes, n)
			}
			if len(codes) < 2 || codes[0] != 0 || !slices.IsSorted(codes) || len(slices.Compact(slices.Clone(codes))) != len(codes) {
				t.Errorf("exit codes %v: 0 and what an error ends with are wanted, in order", codes)
			}
			if c.Short == "" || strings.HasSuffix(c.Short, ".") {
				t.Errorf("%q is no short text", c.Short)
			}

			// A command line that is wrong ends with a code that the help has.
			a := &app{kinds: kinds(), stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
			if code := a.run(append(strings.Fields(c.CommandPath())[1:], "-no-such-option")); code == 0 || !c.HasAvailableSubCommands() && !slices.Contains(codes, code) {
				t.Errorf("a wrong option ends it with %d; the help has %v", code, codes)
			}
		})
	}
}

// TestHelpNamesTheValueOfEveryOption: the name of a Go type, or whatever words were quoted, are no such name.
func TestHelpNamesTheValueOfEveryOption(t *testing.T) {
	t.Parallel()
	for _, c := range allCommands() {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			name, usage := pflag.UnquoteUsage(f)
			if f.Value.Type() == "bool" {
				if name != "" {
					t.Errorf("%s -%s: it takes no value, and the help shows %q", c.CommandPath(), f.Name, name)
				}
				return
			}
			if name != strings.ToUpper(name) || strings.Contains(name, " ") || !strings.Contains(usage, name) {
				t.Errorf("%s -%s: the help names its value %q", c.CommandPath(), f.Name, name)
			}
		})
		if text := oneDash(c.LocalFlags().FlagUsages()); strings.Contains(text, " --") {
			t.Errorf("%s shows two dashes:\n%s", c.CommandPath(), text)
		}
	}
}
