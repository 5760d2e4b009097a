package hcl

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// stepDecoder turns a step's body into its spec. `rouse validate` uses it with unknown values and ignores the spec; what is not known leaves its default.
type stepDecoder struct {
	attrs
	step *Step
	env  *Env
	rng  hcl2.Range
}

// results are the names that exit_codes may map to: Buildbot's seven.
var results = []string{"success", "warnings", "failure", "skipped", "exception", "retry", "cancelled"}

// missing reports an attribute that the kind needs.
func (d *stepDecoder) missing(name, example string) {
	*d.diags = append(*d.diags, mistake(&d.rng, "Missing "+name, "The step %s needs %s, such as %s.", d.step.Kind, name, example))
}

func (d *stepDecoder) shell() any {
	if !d.has("command") {
		d.missing("command", `command = "make test"`)
	}
	return d.shellSpec()
}

func (d *stepDecoder) shellSpec() *ShellSpec {
	s := &ShellSpec{Workdir: "build", Timeout: 20 * time.Minute, Signal: "KILL", LogEnv: true}
	d.command(s)
	d.workdir(&s.Workdir)
	s.Env = d.environment()
	d.duration("timeout", &s.Timeout, false)
	d.duration("max_time", &s.MaxTime, false)
	d.duration("sigterm_time", &s.Sigterm, false)
	d.text("interrupt_signal", &s.Signal)
	s.Signal = strings.TrimPrefix(s.Signal, "SIG")
	if d.has("interrupt_signal") && !slices.Contains(signals, s.Signal) {
		d.bad("interrupt_signal", "%q is not one of %s.", s.Signal, strings.Join(signals, ", "))
	}
	d.exitCodes(&s.ExitCodes)
	d.flag("log_environ", &s.LogEnv)
	if v, ok := d.secretValue("stdin", cty.String); ok {
		s.Stdin = v.AsString()
	}
	return s
}

var signals = []string{"KILL", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT"}

// command takes a list, which is run as it is, or a string, which /bin/sh runs. A secret would be seen by every process of the worker.
func (d *stepDecoder) command(s *ShellSpec) {
	v, ok := d.marked("command", cty.DynamicPseudoType)
	if !ok {
		if d.has("command") && !d.diags.HasErrors() && v.IsNull() {
			d.bad("command", "It is null.")
		}
		return
	}
	if v.ContainsMarked() {
		d.bad("command", "It holds a secret, and a command line is visible to every process on the worker. Pass it in the environment: "+
			"env = { TOKEN = secret.NAME }, and write \"$TOKEN\" (in HCL, \"$${TOKEN}\" for ${TOKEN}) in the command.")
		return
	}
	ty := v.Type()
	switch {
	case ty == cty.DynamicPseudoType:
	case ty == cty.String:
		if !v.IsKnown() {
			return
		}
		if s.Script = v.AsString(); strings.TrimSpace(s.Script) == "" || strings.Contains(s.Script, "\x00") {
			d.bad("command", "It must not be empty or hold a NUL.")
		}
	case ty.IsTupleType() || ty.IsListType():
		list, err := convert.Convert(v, cty.List(cty.String))
		if err != nil {
			d.bad("command", "A list of strings is needed here: %s.", err)
			return
		}
		if !list.IsWhollyKnown() {
			return
		}
		for _, e := range list.AsValueSlice() {
			if e.IsNull() || strings.Contains(e.AsString(), "\x00") {
				d.bad("command", "An element is null or holds a NUL.")
				return
			}
			s.Argv = append(s.Argv, e.AsString())
		}
		if len(s.Argv) == 0 || s.Argv[0] == "" {
			d.bad("command", "The list must begin with a program.")
		}
	default:
		d.bad("command", "A string (for the shell) or a list of strings (run as it is) is needed here, but this is %s.", ty.FriendlyName())
	}
}

func (d *stepDecoder) exitCodes(dst *map[int]string) {
	v, ok := d.value("exit_codes", cty.Map(cty.String))
	if !ok {
		return
	}
	m := map[int]string{}
	values := v.AsValueMap()
	for _, k := range sortedKeys(values) {
		e := values[k]
		code, err := strconv.Atoi(k)
		if err != nil || code < -255 || code > 1<<31 {
			d.bad("exit_codes", "%q is not an exit code.", k)
			return
		}
		if e.IsNull() || !slices.Contains(results, e.AsString()) {
			name := toGo(e)
			text, _ := name.(string)
			d.bad("exit_codes", "The result for %d must be one of %s.%s", code, strings.Join(results, ", "), onlyMeant(text, results))
			return
		}
		m[code] = e.AsString()
	}
	*dst = m
}

// environment is the builder's env with the step's own over it.
func (d *stepDecoder) environment() map[string]string {
	all := map[string]string{}
	if d.step.env != nil {
		b := d.attrs
		b.m = hcl2.Attributes{"env": {Name: "env", Expr: d.step.env, Range: d.step.env.Range()}}
		b.attrsEnv(all)
	}
	d.attrsEnv(all)
	return all
}

func (a *attrs) attrsEnv(all map[string]string) {
	var m map[string]string
	a.env("env", &m)
	for k, v := range m {
		all[k] = v
	}
}

func (d *stepDecoder) workdir(dst *string) {
	d.text("workdir", dst)
	if strings.Contains(*dst, "\x00") {
		d.bad("workdir", "It must not hold a NUL.")
	}
}

func (d *stepDecoder) git() any {
	s := &GitSpec{Workdir: "build", Mode: "incremental", Timeout: 20 * time.Minute}
	d.address("repository", &s.Repository, d.env.accept)
	d.str("branch", &s.Branch)
	d.str("revision", &s.Revision)
	given := map[string]string{"repository": s.Repository, "branch": s.Branch, "revision": s.Revision}
	for _, name := range sortedKeys(given) {
		value := given[name]
		if strings.HasPrefix(value, "-") || strings.ContainsAny(value, "\x00\n") {
			d.bad(name, "%q cannot be used: git would take it for an option.", value)
		}
	}
	d.workdir(&s.Workdir)
	d.oneOf("mode", &s.Mode, "incremental", "clean", "clobber")
	d.shallow(&s.Shallow)
	d.flag("submodules", &s.Submodules)
	s.Env = d.environment()
	d.duration("timeout", &s.Timeout, false)
	return s
}

// shallow is true (depth 1), false, or a depth.
func (d *stepDecoder) shallow(dst *int) {
	v, ok := d.value("shallow", cty.DynamicPseudoType)
	if !ok {
		return
	}
	if v.Type() == cty.Bool {
		*dst = btoi(v.True())
		return
	}
	d.integer("shallow", dst, 0, 1_000_000)
}

func (d *stepDecoder) upload() any {
	s := &UploadSpec{Workdir: "build", MaxSize: 1 << 30}
	if !d.has("from") {
		d.missing("from", `from = "dist/program"`)
	}
	d.text("from", &s.From)
	s.To = path.Base(filepath.ToSlash(s.From))
	d.text("to", &s.To)
	if d.has("to") && s.To != "" && !filepath.IsLocal(s.To) {
		d.bad("to", "%q must be a path inside the build's artifact directory.", s.To)
	}
	if !d.has("to") && (s.To == "." || s.To == ".." || s.To == "/") && s.From != "" {
		d.missing("to", `to = "all"`)
	}
	d.workdir(&s.Workdir)
	d.size("max_size", &s.MaxSize)
	return s
}

var modeRE = regexp.MustCompile(`^0?[0-7]{3,4}$`)

func (d *stepDecoder) download() any {
	s := &DownloadSpec{Workdir: "build", Mode: 0o644, MaxSize: 1 << 30}
	if d.has("from") == d.has("content") {
		d.missing("either from or content", `content = "text"`)
	}
	if !d.has("to") {
		d.missing("to", `to = "settings.json"`)
	}
	d.text("from", &s.From)
	s.From = inside(d.env.dir, s.From)
	if v, ok := d.secretValue("content", cty.String); ok {
		text := v.AsString()
		s.Content = &text
		if d.tainted != nil && len(*d.tainted) > 0 { // it holds a secret
			s.Mode = 0o600
		}
	}
	d.text("to", &s.To)
	d.workdir(&s.Workdir)
	if v, ok := d.value("mode", cty.DynamicPseudoType); ok {
		text, isString := toGo(v).(string)
		if !isString || !modeRE.MatchString(text) {
			d.bad("mode", "It must be an octal number in quotes, such as \"0644\" or \"0755\".")
		} else {
			mode, _ := strconv.ParseUint(text, 8, 32)
			s.Mode = int(mode)
		}
	}
	d.size("max_size", &s.MaxSize)
	return s
}

func (d *stepDecoder) setProperty() any {
	s := &SetPropertySpec{}
	if !d.has("property") {
		d.missing("property", `property = "version"`)
	}
	d.text("property", &s.Property)
	if d.has("value") == d.has("command") {
		d.missing("either value or command", `command = "git describe"`)
		return s
	}
	if d.has("command") {
		s.Command = d.shellSpec()
		return s
	}
	for _, name := range shellAttributes {
		if d.has(name) {
			d.bad(name, "It belongs to a command, and this step has a value.")
		}
	}
	if v, ok := d.value("value", cty.DynamicPseudoType); ok {
		s.Value = toGo(v)
	}
	return s
}

func (d *stepDecoder) trigger() any {
	s := &TriggerSpec{}
	if !d.has("scheduler") {
		d.missing("scheduler", "scheduler = scheduler.triggerable.NAME")
	}
	d.text("scheduler", &s.Scheduler)
	if s.Scheduler != "" && d.env.triggerable != nil && !slices.Contains(d.env.triggerable, s.Scheduler) {
		*d.diags = append(*d.diags, mistake(d.attrs.rng("scheduler"), "Unknown scheduler", "There is no triggerable scheduler %q.%s",
			s.Scheduler, didYouMean(s.Scheduler, d.env.triggerable)))
	}
	d.flag("wait", &s.Wait)
	d.properties("properties", &s.Properties)
	d.str("branch", &s.Branch)
	d.str("revision", &s.Revision)
	return s
}
