package hcl

import (
	"net"
	"slices"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// checkSteps evaluates every step with unknown values in scope, so that a misspelt attribute and a wrong type are found before any build runs.
func (l *loader) checkSteps() {
	env := l.cfg.env
	env.triggerable = []string{}
	for _, s := range l.cfg.Schedulers {
		if s.Kind == "triggerable" {
			env.triggerable = append(env.triggerable, s.Name)
		}
	}
	shared := unknownScope()
	for i := range l.cfg.Builders {
		for _, s := range l.cfg.Builders[i].Steps {
			vars := map[string]cty.Value{"step": unknownStep(s)}
			for k, v := range shared {
				vars[k] = v
			}
			ctx := stepContext(env, vars, nil)
			l.checkSecrets(s)
			if s.When != nil {
				_, diags := s.evalWhen(ctx)
				l.diags = append(l.diags, diags...)
			}
			s.decode(ctx, env, &l.diags, &[]string{})
			l.checkProperty(s, ctx)
		}
		l.checkEnv(&l.cfg.Builders[i], shared)
	}
}

// checkEnv evaluates the builder's env even if none of its steps uses it.
func (l *loader) checkEnv(b *Builder, shared map[string]cty.Value) {
	if b.Env == nil || l.o.Accepted || slices.ContainsFunc(b.Steps, (*Step).usesEnv) {
		return
	}
	ctx := l.refs.NewChild()
	ctx.Variables = shared
	a := &attrs{m: hcl2.Attributes{"env": {Name: "env", Expr: b.Env, Range: b.Env.Range()}}, ctx: ctx, diags: &l.diags, tainted: &[]string{}}
	a.attrsEnv(map[string]string{})
}

// checkSecrets finds secrets that are not named (see readSecrets).
func (l *loader) checkSecrets(s *Step) {
	all := s.expressions()
	if s.When != nil {
		all = append(all, s.When)
	}
	for _, expr := range all {
		for _, t := range expr.Variables() {
			if t.RootName() != "secret" {
				continue
			}
			if len(t) > 1 {
				if _, ok := stepName(t[1]); ok {
					continue
				}
			}
			r := t.SourceRange()
			l.errorf(&r, "Which secret?", "A secret must be named, as in secret.token: what an expression could read must be known before it is evaluated.")
		}
	}
}

func unknownScope() map[string]cty.Value {
	return map[string]cty.Value{
		"build":    unknownObject(buildType),
		"source":   unknownObject(sourceType),
		"prop":     cty.DynamicVal,
		"worker":   unknownObject(workerType),
		"instance": unknownObject(instanceType),
	}
}

func unknownStep(s *Step) cty.Value {
	m := map[string]cty.Value{"name": cty.StringVal(s.Name), "number": cty.UnknownVal(cty.Number)}
	for _, name := range s.before {
		m[name] = cty.UnknownVal(resultType)
	}
	return cty.ObjectVal(m)
}

func unknownObject(types map[string]cty.Type) cty.Value {
	m := make(map[string]cty.Value, len(types))
	for k, t := range types {
		m[k] = cty.UnknownVal(t)
	}
	return cty.ObjectVal(m)
}

// typed picks the attributes of a type from what the runner knows. What does not fit its type is null.
func typed(types map[string]cty.Type, given map[string]any) map[string]cty.Value {
	m := make(map[string]cty.Value, len(types))
	for k, t := range types {
		v, err := convert.Convert(fromGo(given[k]), t)
		if err != nil || given[k] == nil {
			v = cty.NullVal(t)
		}
		m[k] = v
	}
	return m
}

// exclusive notes what a worker's instance needs for itself alone, and reports what another one has already: two workers, or a counted one.
func (l *loader) exclusive(wb *workerBlock, w *Worker, things []string) {
	if l.owners == nil {
		l.owners = map[string]Worker{}
	}
	for _, thing := range things {
		first, taken := l.owners[thing]
		switch {
		case !taken:
			l.owners[thing] = *w
		case first.Name == w.Name: // a duplicate, which is reported already
		case w.Pool != "" && first.Pool == w.Pool:
			l.errorf(&wb.block.DefRange, "Shared by several workers", "The workers %q and %q would both have %s, which only one can have at a time. Make it depend on count.index, or drop count.",
				first.Name, w.Name, thing)
			return
		default:
			l.errorf(&wb.block.DefRange, "Shared by several workers", "The workers %q (at %s:%d) and %q would both have %s, which only one can have at a time.",
				first.Name, first.Range.Filename, first.Range.Start.Line, w.Name, thing)
		}
	}
}

// bootTime is less than what a machine of a cloud needs from the order to an attached agent.
const bootTime = 2 * time.Minute

// timeouts warns of what is allowed and can hardly be meant.
func (l *loader) timeouts(a *attrs, w *Worker) {
	switch {
	case a.has("missing_timeout") && w.MissingTimeout == 0:
		l.warnf(a.rng("missing_timeout"), "Nobody waits in vain", "With missing_timeout = 0 an instance whose agent never attaches is kept, and paid for, without end.")
	case a.has("missing_timeout") && a.has("build_wait_timeout") && w.MissingTimeout < w.BuildWaitTimeout && w.MissingTimeout < bootTime:
		l.warnf(a.rng("missing_timeout"), "Timeouts out of order", "An instance would have %s to boot and to attach (missing_timeout), and %s to be idle (build_wait_timeout). Are they swapped?",
			w.MissingTimeout, w.BuildWaitTimeout)
	}
}

// samePort says whether two addresses to listen on cannot both be had.
func samePort(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil {
		return false
	}
	numberA, errA := net.LookupPort("tcp", portA)
	numberB, errB := net.LookupPort("tcp", portB)
	if errA != nil || errB != nil || numberA != numberB || numberA == 0 {
		return false
	}
	ipA, ipB := hostIP(hostA), hostIP(hostB)
	return hostA == hostB || ipA != nil && ipB != nil && (ipA.IsUnspecified() || ipB.IsUnspecified() || ipA.Equal(ipB))
}

// hostIP is the address of a host as far as it can be known without asking anybody.
func hostIP(host string) net.IP {
	switch host {
	case "":
		return net.IPv4zero
	case "localhost":
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(host)
}
