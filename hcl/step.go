package hcl

import (
	hcl2 "github.com/hashicorp/hcl/v2"
)

// stepKind is what is fixed for a kind of step.
type stepKind struct {
	schema *hcl2.BodySchema
	halt   bool // halt_on_failure unless the step says otherwise: Buildbot's, where checkouts and transfers halt and commands do not
	decode func(d *stepDecoder) any
}

var shellAttributes = []string{"command", "workdir", "env", "timeout", "max_time", "sigterm_time", "interrupt_signal", "exit_codes", "log_environ", "stdin"}

// stepKinds is filled in by init to break the circle through the decoders' suggestions.
var stepKinds = map[string]stepKind{
	"shell": {schema: &hcl2.BodySchema{Attributes: attributes(shellAttributes...)}, decode: (*stepDecoder).shell},
	"git": {schema: &hcl2.BodySchema{Attributes: attributes("repository", "branch", "revision", "workdir", "mode", "shallow", "submodules", "env", "timeout")},
		halt: true, decode: (*stepDecoder).git},
	"upload":       {schema: &hcl2.BodySchema{Attributes: attributes("from", "to", "workdir", "max_size")}, halt: true, decode: (*stepDecoder).upload},
	"download":     {schema: &hcl2.BodySchema{Attributes: attributes("from", "content", "to", "workdir", "mode", "max_size")}, halt: true, decode: (*stepDecoder).download},
	"set_property": {schema: &hcl2.BodySchema{Attributes: attributes(append([]string{"property", "value"}, shellAttributes...)...)}, decode: (*stepDecoder).setProperty},
	"trigger":      {schema: &hcl2.BodySchema{Attributes: attributes("scheduler", "wait", "properties", "branch", "revision")}, decode: (*stepDecoder).trigger},
}

var commonSchema = &hcl2.BodySchema{Attributes: attributes("halt_on_failure", "flunk_on_failure", "warn_on_failure", "flunk_on_warnings",
	"warn_on_warnings", "always_run", "when")}

// reservedSteps are attributes of `step` that are not the results of steps.
var reservedSteps = map[string]bool{"name": true, "number": true}

func (l *loader) steps(blocks hcl2.Blocks, env hcl2.Expression) []*Step {
	if len(blocks) > maxSteps {
		l.errorf(&blocks[maxSteps].DefRange, "Too many steps", "A builder may have %d steps.", maxSteps)
		return nil
	}
	var steps []*Step
	seen := map[string]hcl2.Range{}
	for _, b := range blocks {
		kind, name := b.Labels[0], b.Labels[1]
		k, ok := stepKinds[kind]
		if !ok {
			l.errorf(&b.LabelRanges[0], "Unknown kind of step", "There is no kind of step %q.%s", kind, didYouMean(kind, sortedKeys(stepKinds)))
			continue
		}
		if why := badName("step", name); why != "" || reservedSteps[name] {
			if why == "" {
				why = "step." + name + " has a meaning already"
			}
			l.errorf(&b.LabelRanges[1], "Unsuitable name", "%q cannot be the name of a step: %s.", name, why)
			continue
		}
		if first, ok := seen[name]; ok {
			l.duplicate("step", name, b.LabelRanges[1], first)
			continue
		}
		seen[name] = b.LabelRanges[1]
		steps = append(steps, l.step(b, k, env, steps))
	}
	return steps
}

// step decodes what is the same for every build and keeps the rest.
func (l *loader) step(b *hcl2.Block, k stepKind, env hcl2.Expression, before []*Step) *Step {
	s := &Step{Kind: b.Labels[0], Name: b.Labels[1], HaltOnFailure: k.halt, FlunkOnFailure: true, Range: b.DefRange, env: env}
	content, rest, diags := b.Body.PartialContent(commonSchema)
	if rest, restDiags := rest.Content(k.schema); rest != nil {
		s.attrs = rest.Attributes
		diags = append(diags, restDiags...)
	}
	l.diags = append(l.diags, diags...)
	s.Body = rest
	for _, p := range before {
		s.before = append(s.before, p.Name)
	}
	a := &attrs{m: content.Attributes, ctx: l.base, diags: &l.diags}
	a.flag("halt_on_failure", &s.HaltOnFailure)
	a.flag("flunk_on_failure", &s.FlunkOnFailure)
	a.flag("warn_on_failure", &s.WarnOnFailure)
	a.flag("flunk_on_warnings", &s.FlunkOnWarnings)
	a.flag("warn_on_warnings", &s.WarnOnWarnings)
	a.flag("always_run", &s.AlwaysRun)
	if when, ok := a.m["when"]; ok {
		s.When = when.Expr
	}
	return s
}
