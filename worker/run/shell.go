package run

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/worker/proto"
)

// shell runs a program as Buildbot's ShellCommand describes it.
func (j *job) shell(ctx context.Context) error {
	p, err := j.program()
	if err != nil {
		return err
	}
	if logfiles, _ := j.Args["logfiles"].(map[string]any); len(logfiles) > 0 {
		j.header("rouse-worker does not watch logfiles; upload them after the command instead\n")
	}
	if err := os.MkdirAll(p.dir, 0o777); err != nil {
		j.text(proto.Stderr, "cannot make the working directory: %v\n", err)
		j.rc(-1)
		j.elapsed()
		return nil
	}
	j.announce(p)
	rc, err := j.exec(ctx, p)
	j.rc(rc)
	j.header("elapsedTime=%f\n", time.Since(j.start).Seconds())
	j.elapsed()
	return err
}

// program reads the arguments of shell.
func (j *job) program() (program, error) {
	p := program{stdout: true, stderr: true}
	var err error
	var errs [9]error
	p.dir, errs[0] = j.pathArg("workdir")
	p.stdout, errs[1] = j.flag("want_stdout", true)
	p.stderr, errs[2] = j.flag("want_stderr", true)
	p.timeout, errs[3] = j.seconds("timeout")
	p.maxTime, errs[4] = j.seconds("maxTime")
	p.sigtermTime, errs[5] = j.seconds("sigtermTime")
	p.maxLines, errs[6] = j.count("max_lines")
	p.pty, errs[7] = j.flag("usePTY", false)
	p.logEnviron, errs[8] = j.flag("logEnviron", true)
	for _, e := range errs {
		if e != nil {
			return p, e
		}
	}
	if p.stdin, err = j.str("initial_stdin"); err != nil {
		return p, err
	}
	if p.stdin != "" {
		p.pty = false
	}
	if p.argv, err = argv(j.Args["command"]); err != nil {
		return p, err
	}
	if p.signal, err = j.interruptSignal(); err != nil {
		return p, err
	}
	p.env, err = environ(os.Environ(), j.Args["env"], p.dir, j.Env)
	return p, err
}

// argv makes the words to execute: a string is for /bin/sh, a list is executed as it is.
func argv(command any) ([]string, error) {
	if line, ok := asText(command); ok {
		return checkWords([]string{"/bin/sh", "-c", line})
	}
	list, ok := command.([]any)
	if !ok || len(list) == 0 {
		return nil, fmt.Errorf("argument command is %v, want a string or a list of words", command)
	}
	words := make([]string, len(list))
	for i, w := range list {
		if _, nested := w.([]any); nested {
			return nil, fmt.Errorf("argument command[%d] is a list: obfuscated words do not exist in this protocol", i)
		}
		words[i] = display(w)
	}
	return checkWords(words)
}

func checkWords(words []string) ([]string, error) {
	for i, w := range words {
		if strings.ContainsRune(w, 0) {
			return nil, fmt.Errorf("word %d of the command has a NUL byte", i)
		}
	}
	if words[0] == "" {
		return nil, fmt.Errorf("the command's name is empty")
	}
	return words, nil
}

func (j *job) interruptSignal() (syscall.Signal, error) {
	name, err := j.str("interruptSignal")
	if err != nil || name == "" {
		return unix.SIGKILL, err
	}
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if sig == 0 {
		return 0, fmt.Errorf("argument interruptSignal: %q is not the name of a signal", name)
	}
	return sig, nil
}

// announce writes the header that tells what will run, in Buildbot's order. Nothing parses it.
func (j *job) announce(p program) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n in dir %s (timeout %s) (maxTime %s)\n argv: %q\n", p.shown(), p.dir, orNone(p.timeout), orNone(p.maxTime), p.argv)
	if p.logEnviron {
		b.WriteString(" environment:\n")
		for _, kv := range p.env {
			fmt.Fprintf(&b, "  %s\n", kv)
		}
	}
	if p.stdin != "" {
		fmt.Fprintf(&b, " writing %d bytes to stdin\n", len(p.stdin))
	}
	fmt.Fprintf(&b, " using PTY: %s\n", display(p.pty))
	j.header("%s", b.String())
}

func orNone(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return fmt.Sprintf("%g secs", d.Seconds())
}

// shown is the command as it was given: the line of a string command, otherwise quoted words.
func (p *program) shown() string {
	if len(p.argv) == 3 && p.argv[0] == "/bin/sh" && p.argv[1] == "-c" {
		return p.argv[2]
	}
	return quote(p.argv)
}
