// Command rouse-worker is the agent that runs a master's commands on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/worker"
)

const help = `rouse-worker runs what a rouse (or Buildbot) master asks for on this machine.

A first worker, by hand: the master's configuration has a worker "w1" with a password, which is in a file that only you can read. The agent stays connected,
tries again for ever when the master is away, and ends on SIGTERM or Ctrl-C (its commands are killed then). Commands survive a lost connection if the
master is rouse. Builds happen below the base directory, one agent for each. With an unmodified Buildbot master use its worker protocol
msgpack_experimental_v7.

For one short-lived instance, a provider starts it with a configuration file instead, which is JSON with mode 0600:

  {"master": URL, "name": NAME, "token": TOKEN, "instance": KEY, "basedir": DIR, "orphan_seconds": 600, "on_end": "poweroff",
   "ca_pem": "-----BEGIN…", "watch": "ec2", "remove": true}

With "remove" the file is deleted as soon as it has been read. A virtual machine may carry the same JSON in base64 in an SMBIOS OEM string (type 11),
"rouse.agent=…": then -config is smbios:

With -watch ec2 it asks the instance metadata service every 5 s whether EC2 takes the machine back, and tells the master, which then gives the
builds to other workers. AWS_EC2_METADATA_SERVICE_ENDPOINT names another service than http://169.254.169.254.

Every option can also be given as a variable: ROUSE_WORKER_MASTER for -master, ROUSE_WORKER_PASSWORD_FILE for -password-file, and so on;
ROUSE_WORKER_PASSWORD and ROUSE_WORKER_TOKEN hold the secret itself. Options win over variables, variables over the configuration file.
There is no option for the secret itself, since everybody on a machine can read command lines.

Usage:
  rouse-worker COMMAND

Commands:
  run      Connect to the master and work until stopped
  version  Show the version of this program
  help     Show this

Examples:
  rouse-worker run -master ws://ci.example.org:9989 -name w1 -password-file ~/.w1-password -basedir ~/w1
  rouse-worker run -config /run/rouse/agent.json

Exit codes:
  0    it has ended as it was told to
  1    an error: a file cannot be read, the base directory is in use, …
  2    the command line is wrong

Options of run:
`

func main() { os.Exit(start(os.Args[1:], os.Stdout, os.Stderr)) }

// start runs one invocation and returns its exit status: 0, 1 for a failure, 2 for wrong usage.
func start(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	var err error
	switch args[0] {
	case "run":
		err = run(args[1:], stderr)
	case "version", "-version", "--version":
		_, err = fmt.Fprintln(stdout, "rouse-worker", programVersion())
	case "help", "-h", "-help", "--help":
		usage(stdout)
	default:
		err = wrongUsage{fmt.Errorf("unknown command %q", args[0])}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	}
	_, _ = fmt.Fprintln(stderr, "rouse-worker:", err)
	if errors.As(err, new(wrongUsage)) {
		_, _ = fmt.Fprintln(stderr, "rouse-worker: see rouse-worker --help")
		return 2
	}
	return 1
}

// wrongUsage is an error of the one who typed the command.
type wrongUsage struct{ error }

func (w wrongUsage) Unwrap() error { return w.error }

func usage(w io.Writer) {
	_, _ = io.WriteString(w, help)
	var o options
	lines := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	o.flags().VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		_, _ = fmt.Fprintf(lines, "      %s\t%s\n", strings.TrimSpace("-"+f.Name+" "+value), text)
	})
	_ = lines.Flush()
}

func run(args []string, stderr io.Writer) error {
	thrifty()
	cfg, o, err := configure(args, os.Environ())
	if err != nil {
		return err
	}
	hideSecrets()
	var handler slog.Handler = slog.NewTextHandler(stderr, nil)
	if o.logJSON {
		handler = slog.NewJSONHandler(stderr, nil)
	}
	cfg.Log = slog.New(handler).With("worker", cfg.Name)
	cfg.Version = programVersion()
	cfg.Adopt = cfg.Instance != "" // the end of an instance's agent is the end of its machine
	if o.umask >= 0 {
		syscall.Umask(o.umask)
	}
	a, err := worker.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return a.Run(ctx)
}

// hideSecrets keeps the agent's own variables from everything that it runs. A secret among them stays where the kernel has put it, in the
// environment that /proc shows; a process that is not dumpable does not show it to others of the same user.
func hideSecrets() {
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(k, envPrefix) {
			continue
		}
		if k == envPrefix+"PASSWORD" || k == envPrefix+"TOKEN" {
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // cannot fail with these arguments
		}
		_ = os.Unsetenv(k) // cannot fail for a name that is set
	}
}

// thrifty bounds what the garbage collector lets grow, unless somebody has asked for something else.
func thrifty() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(64 << 20)
	}
}

// version is set when a release is linked (-ldflags "-X main.version=…"), as rouse's is.
var version string

var programVersion = sync.OnceValue(func() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
})
