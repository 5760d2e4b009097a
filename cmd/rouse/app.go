package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/rouse-ci/rouse/providers"
)

// app is one run of the program: what every command gets.
type app struct {
	kinds          map[string]providers.Kind
	stdin          io.Reader
	stdout, stderr io.Writer

	noColor bool
}

// exitError ends the program with a code. Without a message, the command has already said what is wrong.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

// exit makes the error that ends the program with a code and nothing more to say.
func exit(code int) error { return &exitError{code: code} }

// run runs one command line. Ctrl-C cancels the command's context; a second one kills.
func (a *app) run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := a.root()
	if len(args) > 1 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		args = a.completing(root, args)
	} else {
		args, _ = normalise(root, args)
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var e *exitError
	if errors.As(err, &e) {
		if e.msg != "" {
			fmt.Fprintln(a.stderr, a.paint(a.stderr, "31;1", "Error:"), e.msg)
		}
		return e.code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.stderr, "Interrupted.")
		return 130
	}
	fmt.Fprintln(a.stderr, a.paint(a.stderr, "31;1", "Error:"), strings.TrimRight(err.Error(), "\n"))
	var u *usageError
	if errors.As(err, &u) {
		fmt.Fprintf(a.stderr, "\nRun this for help: %s -help\n", cmd.CommandPath())
	}
	if code, err := strconv.Atoi(cmd.Annotations[errorCode]); err == nil {
		return code
	}
	return 1
}

// errorCode is the annotation of a command whose exit code 1 has a meaning of its own: errors end it with this one.
const errorCode = "error-code"

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// args wraps a cobra check of the positional arguments so that a mistake points at the help.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return usagef("%s; usage: %s", miscounted(c, check, given), strings.TrimSuffix(c.UseLine(), " [flags]"))
		}
		return nil
	}
}

// miscounted says what is wrong with arguments that a check refuses for their number.
func miscounted(c *cobra.Command, check cobra.PositionalArgs, given []string) string {
	for n := len(given) - 1; n >= 0; n-- {
		if check(c, given[:n]) == nil {
			return fmt.Sprintf("%q is one argument too many", given[n])
		}
	}
	return "an argument is missing"
}

// normalise accepts the single dash of Terraform's long flags (-state=DIR, -json), which cobra wants to be two. Everything after "--"
// and every flag's value is left alone. literal says that another argument would be left alone, too.
func normalise(root *cobra.Command, args []string) (out []string, literal bool) {
	cmd := root
	out = make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return append(out, args[i:]...), true
		case !strings.HasPrefix(arg, "-") || len(arg) == 1:
			for _, sub := range cmd.Commands() {
				if sub.Name() == arg || sub.HasAlias(arg) {
					cmd = sub
					break
				}
			}
			out = append(out, arg)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		f := lookup(cmd, name)
		if !strings.HasPrefix(arg, "--") && len(name) > 1 && (f != nil || !digit(name[0]) && shorthand(cmd, name[:1]) == nil) {
			arg = "-" + arg
		}
		out = append(out, arg)
		if f == nil && len(name) == 1 {
			f = shorthand(cmd, name)
		}
		if f != nil && !hasValue && f.NoOptDefVal == "" {
			if i++; i == len(args) {
				return out, true
			}
			out = append(out, args[i])
		}
	}
	return out, false
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

func lookup(c *cobra.Command, name string) *pflag.Flag {
	if f := c.Flags().Lookup(name); f != nil {
		return f
	}
	return c.InheritedFlags().Lookup(name)
}

func shorthand(c *cobra.Command, s string) *pflag.Flag {
	if f := c.Flags().ShorthandLookup(s); f != nil {
		return f
	}
	return c.InheritedFlags().ShorthandLookup(s)
}

var longFlag = regexp.MustCompile(`(?m)^(\s+(?:-\w, )?)-(-[a-z])`)

// oneDash shows long flags as this program's documentation spells them.
func oneDash(usages string) string { return longFlag.ReplaceAllString(usages, "$1$2") }

// colour says whether w gets colours: a terminal, unless NO_COLOR, TERM=dumb or -no-color say no; CLICOLOR_FORCE says yes to anything.
func (a *app) colour(w io.Writer) bool {
	if a.noColor || os.Getenv("NO_COLOR") != "" {
		return false
	}
	if f := os.Getenv("CLICOLOR_FORCE"); f != "" && f != "0" {
		return true
	}
	return os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// paint wraps s in an ANSI style if w gets colours.
func (a *app) paint(w io.Writer, style, s string) string {
	if !a.colour(w) {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
