package hcl

import (
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
		}
		l.checkEnv(&l.cfg.Builders[i], shared)
	}
}

// checkEnv evaluates the builder's env even if none of its steps uses it.
func (l *loader) checkEnv(b *Builder, shared map[string]cty.Value) {
	if b.Env == nil || len(b.Steps) > 0 {
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
