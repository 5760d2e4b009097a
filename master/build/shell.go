package build

import (
	"fmt"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

// shellCmd makes a command for an agent of a shell specification.
func (s *step) shellCmd(spec *hcl.ShellSpec) cmd {
	c := cmd{name: "shell", args: map[string]any{
		"workdir": s.workdir(spec.Workdir), "env": env(spec.Env), "want_stdout": true, "want_stderr": true, "logfiles": map[string]any{},
		"timeout": seconds(spec.Timeout), "maxTime": seconds(spec.MaxTime), "sigtermTime": seconds(spec.Sigterm),
		"interruptSignal": spec.Signal, "usePTY": false, "logEnviron": spec.LogEnv, "initial_stdin": nil,
	}}
	if spec.Signal == "" {
		c.args["interruptSignal"] = "KILL"
	}
	if spec.Stdin != "" {
		c.args["initial_stdin"] = spec.Stdin
	}
	if len(spec.Argv) > 0 {
		c.args["command"], c.show = spec.Argv, quote(spec.Argv)
	} else {
		c.args["command"], c.show = spec.Script, strings.TrimRight(spec.Script, "\n")
	}
	return c
}

func env(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// seconds is a duration as the protocol has it: nil for none.
func seconds(d time.Duration) any {
	if d <= 0 {
		return nil
	}
	return d.Seconds()
}

// shell runs a shell step.
func (s *step) shell(spec *hcl.ShellSpec) (model.Result, string, error) {
	c := s.shellCmd(spec)
	d, err := s.command(c)
	if err != nil {
		return 0, "", err
	}
	r, text := verdict(spec, c.show, d)
	return r, text, nil
}

// verdict makes a result of how a program ended.
func verdict(spec *hcl.ShellSpec, show string, d done) (model.Result, string) {
	name := "'" + brief(show) + "'"
	switch d.Why {
	case "":
	case "timeout_without_output":
		return model.Failure, fmt.Sprintf("%s killed: no output for %s", name, spec.Timeout)
	case "timeout":
		return model.Failure, fmt.Sprintf("%s killed: it ran longer than %s", name, spec.MaxTime)
	default:
		return model.Failure, name + " killed: " + d.Why
	}
	r := model.Failure
	if d.RC == 0 {
		r = model.Success
	}
	if as, ok := spec.ExitCodes[d.RC]; ok {
		if parsed, err := model.ParseResult(as); err == nil && parsed != model.NoResult {
			r = parsed
		}
	}
	switch {
	case d.Text != "":
		return r, name + " failed: " + d.Text
	case r == model.Success && d.RC == 0:
		return r, name
	case r == model.Success:
		return r, fmt.Sprintf("%s (exit %d)", name, d.RC)
	case r == model.Failure && d.RC < 0:
		return r, name + " was killed by a signal"
	case r == model.Failure:
		return r, fmt.Sprintf("%s failed (exit %d)", name, d.RC)
	}
	return r, fmt.Sprintf("%s: %s (exit %d)", name, r, d.RC)
}

// brief is the first line of a command, short enough for a sentence.
func brief(show string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(show), "\n")
	if rest != "" {
		line += " …"
	}
	return shorten(line, 60)
}

// setProperty runs a set_property step.
func (s *step) setProperty(spec *hcl.SetPropertySpec) (model.Result, string, error) {
	v := spec.Value
	if spec.Command != nil {
		c := s.shellCmd(spec.Command)
		c.capture = true
		d, err := s.command(c)
		if err != nil {
			return 0, "", err
		}
		if r, text := verdict(spec.Command, c.show, d); r != model.Success {
			return r, text, nil
		}
		if len(d.Out) > maxCapture {
			return model.Failure, fmt.Sprintf("the output for property %s is longer than %d bytes", spec.Property, maxCapture), nil
		}
		v = strings.TrimSpace(d.Out)
	}
	v = s.maskValue(v)
	s.setProp(spec.Property, fromStep, v)
	line := fmt.Sprintf("%s: %v", spec.Property, v)
	text := "property " + shorten(line, 80)
	if strings.Contains(line, maskText) { // or who uses it later looks for the reason there
		const why = " (a property holds no secret: give that to the env of the steps that need it)"
		line, text = line+why, text+why
	}
	if err := s.note("property " + line); err != nil {
		return 0, "", err
	}
	return model.Success, text, nil
}
