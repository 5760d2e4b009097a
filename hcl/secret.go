package hcl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// secretTimeout is the deadline of a secret's command, besides that of the caller's context.
const secretTimeout = 10 * time.Second

// Read returns the value now. It is asked for at every use, so that a rotated secret needs no restart. A file's or command's trailing newline is
// not part of the value. Errors never hold what was read, nor what a command printed.
func (s Secret) Read(ctx context.Context) ([]byte, error) {
	var value []byte
	var err error
	switch {
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			err = fmt.Errorf("the environment variable %s is not set", s.Env)
		}
		value = []byte(v)
	case s.File != "":
		value, err = readBounded(s.File, maxSecretLen)
	default:
		value, err = s.run(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", s.Name, err)
	}
	if s.Env == "" {
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	}
	if len(value) == 0 {
		return nil, fmt.Errorf("secret %q: its value is empty", s.Name)
	}
	return value, nil
}

// run reads the command's standard output. Its process group ends with the deadline, so a child that keeps the pipe open cannot hold us.
func (s Secret) run(ctx context.Context) ([]byte, error) {
	if len(s.Command) == 0 {
		return nil, errors.New("it has no source")
	}
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &limited{left: maxSecretLen, stop: cancel}
	cmd.Stdout, cmd.Stderr = out, io.Discard
	err := cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%s printed more than %d bytes", s.Command[0], maxSecretLen)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not end in time: %w", s.Command[0], ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%s: %w", s.Command[0], err)
	}
	return out.buf.Bytes(), nil
}

// limited is a buffer that stops the writer's process when it is full.
type limited struct {
	buf  bytes.Buffer
	left int
	over bool
	stop func()
}

func (w *limited) Write(p []byte) (int, error) {
	if len(p) > w.left {
		w.over = true
		w.stop()
		return 0, errors.New("too much output")
	}
	w.left -= len(p)
	return w.buf.Write(p)
}

var secretSchema = &hcl2.BodySchema{Attributes: []hcl2.AttributeSchema{{Name: "env"}, {Name: "file"}, {Name: "command"}}}

// secretBlocks decodes the secret blocks. It reads none.
func (l *loader) secretBlocks(blocks hcl2.Blocks) {
	l.secrets = map[string]Secret{}
	for _, b := range blocks {
		name := b.Labels[0]
		if !l.declare("secret", name, b, 0) {
			continue
		}
		content, diags := b.Body.Content(secretSchema)
		l.diags = append(l.diags, diags...)
		a := &attrs{m: content.Attributes, ctx: l.base, diags: &l.diags}
		s := Secret{Name: name, Range: b.DefRange}
		a.text("env", &s.Env)
		a.text("file", &s.File)
		a.strs("command", &s.Command)
		s.File = inside(l.o.Dir, s.File)
		if !diags.HasErrors() && len(content.Attributes) != 1 {
			l.errorf(&b.DefRange, "Where is this secret?", "A secret block has exactly one of env, file and command; this one has %d of them.", len(content.Attributes))
		}
		if a.has("command") && s.Command != nil && (len(s.Command) == 0 || s.Command[0] == "") {
			a.bad("command", "It must be a list that begins with a program, such as [\"pass\", \"show\", \"ci/token\"].")
		}
		l.secrets[name] = s
		l.cfg.Secrets = append(l.cfg.Secrets, s)
	}
}

// secretRef reads an attribute that must be a reference such as secret.token. The value itself may not be written in a configuration, whose text
// is stored and shown.
func (l *loader) secretRef(a *attrs, name, what string) *Secret {
	attr, ok := a.m[name]
	if !ok {
		return nil
	}
	example := fmt.Sprintf("Declare where it is, secret %q { file = \"/etc/rouse/%s\" }, and write %s = secret.%s here.", what, what, name, what)
	t, diags := hcl2.AbsTraversalForExpr(attr.Expr)
	if diags.HasErrors() || t.RootName() != "secret" || len(t) != 2 {
		a.bad(name, "It must be a reference to a secret, since the text of a configuration is stored and shown. %s", example)
		return nil
	}
	ref, named := stepName(t[1])
	s, known := l.secrets[ref]
	if !named || !known {
		r := t[1].SourceRange()
		l.errorf(&r, "Unknown secret", "There is no secret %q.%s", ref, didYouMean(ref, sortedKeys(l.secrets)))
		return nil
	}
	return &s
}

// secretObject is what `secret` is in an expression, with the values that are known, or unknown ones.
func secretObject(secrets map[string]Secret, values map[string]string) cty.Value {
	m := map[string]cty.Value{}
	for name := range secrets {
		v := cty.UnknownVal(cty.String).RefineNotNull()
		if s, ok := values[name]; ok {
			v = cty.StringVal(s)
		}
		m[name] = v.Mark(secretMark{})
	}
	return cty.ObjectVal(m)
}

// lines is what of a secret's value may appear in a log on its own: the whole, and each longer line of it, since logs are kept by line.
func lines(value string) [][]byte {
	out := [][]byte{[]byte(value)}
	if strings.Contains(value, "\n") {
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= 8 {
				out = append(out, []byte(line))
			}
		}
	}
	return out
}
