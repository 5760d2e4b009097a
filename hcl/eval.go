package hcl

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Env is what all steps' expressions share: local values, variables, functions, references, and where secrets are. It is safe for concurrent use.
type Env struct {
	ctx         *hcl2.EvalContext
	secrets     map[string]Secret
	dir         string
	triggerable []string // never nil in a loaded configuration

	accepting bool            // while a text that was in force is loaded
	accepted  map[string]bool // addresses in it that hold a password

	once   sync.Once
	hidden [][]byte // see Config.Hidden: what is the same for all workers
}

// accept says whether an address that holds a password is as old as the text. What expressions make when a step starts is held to the rules of today.
func (e *Env) accept(address string) bool {
	if e.accepting {
		if e.accepted == nil {
			e.accepted = map[string]bool{}
		}
		e.accepted[address] = true
	}
	return e.accepted[address]
}

// Env returns the environment in which this configuration's steps are evaluated.
func (c *Config) Env() *Env { return c.env }

// Eval evaluates a step when it starts. Secrets are read now, and only those that its expressions name; if `when` says no, only those that `when`
// names. The diagnostics hold no secret's value.
func (s *Step) Eval(scope Scope, env *Env) (*Evaluated, hcl2.Diagnostics) {
	return s.EvalContext(context.Background(), scope, env)
}

// EvalContext is Eval; ctx bounds the commands of secrets.
func (s *Step) EvalContext(ctx context.Context, scope Scope, env *Env) (*Evaluated, hcl2.Diagnostics) {
	out := &Evaluated{Run: true}
	vars := scopeValues(s, scope)
	values := map[string]string{}
	var diags hcl2.Diagnostics

	if s.When != nil {
		diags = append(diags, readSecrets(ctx, env, s.When, values)...)
		if !diags.HasErrors() {
			ec := stepContext(env, vars, values)
			out.Run, diags = s.evalWhen(ec)
		}
	}
	if out.Run && !diags.HasErrors() {
		for _, expr := range s.expressions() {
			diags = append(diags, readSecrets(ctx, env, expr, values)...)
		}
		if !diags.HasErrors() {
			var tainted []string
			ec := stepContext(env, vars, values)
			out.Spec = s.decode(ec, env, &diags, &tainted)
			for _, expr := range s.expressions() {
				tainted = append(tainted, callsIn(expr, ec)...)
			}
			out.Secrets = maskable(values, tainted)
		}
	}
	if out.Secrets == nil {
		out.Secrets = maskable(values, nil)
	}
	for name, value := range values {
		if out.Lengths == nil {
			out.Lengths = map[string]int{}
		}
		out.Lengths[name] = len(value)
	}
	diags = tidy(diags)
	hide(diags, out.Secrets)
	return out, diags
}

func stepContext(env *Env, vars map[string]cty.Value, values map[string]string) *hcl2.EvalContext {
	ctx := env.ctx.NewChild()
	ctx.Variables = vars
	if values != nil {
		vars["secret"] = secretObject(env.secrets, values)
	}
	return ctx
}

func (s *Step) evalWhen(ctx *hcl2.EvalContext) (bool, hcl2.Diagnostics) {
	var diags hcl2.Diagnostics
	run := true
	a := &attrs{m: hcl2.Attributes{"when": {Name: "when", Expr: s.When, Range: s.When.Range()}}, ctx: ctx, diags: &diags, tainted: &[]string{}}
	if v, ok := a.secretValue("when", cty.Bool); ok {
		run = v.True()
	} else if !diags.HasErrors() && v != cty.NilVal && v.IsKnown() {
		a.bad("when", "It is null; true or false is needed.")
	}
	return run, diags
}

func (s *Step) decode(ctx *hcl2.EvalContext, env *Env, diags *hcl2.Diagnostics, tainted *[]string) any {
	d := &stepDecoder{attrs: attrs{m: s.attrs, ctx: ctx, diags: diags, tainted: tainted}, step: s, env: env, rng: s.Range}
	return stepKinds[s.Kind].decode(d)
}

// expressions are all that decode will evaluate.
func (s *Step) expressions() []hcl2.Expression {
	var list []hcl2.Expression
	for _, name := range sortedKeys(s.attrs) {
		list = append(list, s.attrs[name].Expr)
	}
	if s.env != nil && s.usesEnv() {
		list = append(list, s.env)
	}
	return list
}

// usesEnv is true of a step that runs a program in the builder's environment.
func (s *Step) usesEnv() bool {
	_, command := s.attrs["command"]
	return command || s.Kind == "git"
}

// readSecrets reads the secrets that an expression names, if they are not in values yet.
func readSecrets(ctx context.Context, env *Env, expr hcl2.Expression, values map[string]string) hcl2.Diagnostics {
	var diags hcl2.Diagnostics
	for _, t := range expr.Variables() {
		if t.RootName() != "secret" {
			continue
		}
		name, ok := "", false
		if len(t) > 1 {
			name, ok = stepName(t[1])
		}
		if !ok {
			r := t.SourceRange()
			diags = append(diags, mistake(&r, "Which secret?", "A secret must be named, as in secret.token: what an expression could read must be known before it is evaluated."))
			continue
		}
		s, known := env.secrets[name]
		if _, have := values[name]; have || !known {
			continue // an unknown one is reported by the evaluation
		}
		v, err := s.Read(ctx)
		if err != nil {
			r := t.SourceRange()
			diags = append(diags, mistake(&r, "Cannot read a secret", "%s.", capital(err.Error())))
			continue
		}
		values[name] = string(v)
	}
	return diags
}

// maskable lists what must not be shown: the secrets that were read, and what was made from them (see derived).
func maskable(values map[string]string, tainted []string) [][]byte {
	var out [][]byte
	for _, name := range sortedKeys(values) {
		out = append(out, lines(values[name])...)
	}
	return derived(out, tainted)
}

// hide takes secrets out of messages, since functions like to quote what they could not use.
func hide(diags hcl2.Diagnostics, secrets [][]byte) {
	for _, d := range diags {
		for _, s := range secrets {
			if len(s) > 0 && bytes.Contains([]byte(d.Detail), s) {
				d.Detail = strings.ReplaceAll(d.Detail, string(s), "(secret)")
			}
		}
	}
}

// The attributes of each object in scope. A misspelt one is found by `rouse validate`, because it evaluates with unknown values of these types.
var (
	buildType = map[string]cty.Type{
		"id": cty.Number, "number": cty.Number, "builder": cty.String, "request": cty.Number, "reason": cty.String, "attempt": cty.Number,
		"started_at": cty.String, "result": cty.String, "owner": cty.String, "scheduler": cty.String,
	}
	sourceType = map[string]cty.Type{
		"repository": cty.String, "branch": cty.String, "revision": cty.String, "project": cty.String, "codebase": cty.String,
	}
	workerType   = map[string]cty.Type{"name": cty.String, "info": cty.DynamicPseudoType}
	instanceType = map[string]cty.Type{"key": cty.String, "provider": cty.String, "provider_id": cty.String,
		"image": cty.String, "type": cty.String, "market": cty.String, "zone": cty.String, "address": cty.String}
	stepType   = map[string]cty.Type{"name": cty.String, "number": cty.Number}
	resultType = cty.Object(map[string]cty.Type{"result": cty.String})
)

// scopeValues gives each object exactly the attributes of its type, so that what was validated holds: what the runner does not know is null.
func scopeValues(s *Step, scope Scope) map[string]cty.Value {
	step := typed(stepType, scope.Step)
	for _, name := range s.before {
		v := cty.NullVal(cty.String)
		switch x := scope.Step[name].(type) {
		case map[string]any:
			if text, ok := x["result"]; ok && text != nil {
				v = cty.StringVal(fmt.Sprint(text))
			}
		case nil:
		default:
			v = cty.StringVal(fmt.Sprint(x))
		}
		step[name] = cty.ObjectVal(map[string]cty.Value{"result": v})
	}
	w := typed(workerType, scope.Worker)
	if w["info"].IsNull() {
		w["info"] = cty.EmptyObjectVal
	}
	prop := fromGo(scope.Prop)
	if scope.Prop == nil {
		prop = cty.EmptyObjectVal
	}
	return map[string]cty.Value{
		"build":    cty.ObjectVal(typed(buildType, scope.Build)),
		"source":   cty.ObjectVal(typed(sourceType, scope.Source)),
		"prop":     prop,
		"worker":   cty.ObjectVal(w),
		"instance": cty.ObjectVal(typed(instanceType, scope.Instance)),
		"step":     cty.ObjectVal(step),
	}
}
