package hcl

import (
	"regexp"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
)

// prints finds a command that does nothing but print a variable of its environment.
var prints = regexp.MustCompile(`^(?:echo|printf(?: '?"?%s'?"?)?|printenv)\s+"?\$?\{?([A-Za-z_][A-Za-z0-9_]*)\}?"?\s*$`)

// checkProperty warns of a property that is certain to be "(secret)": what a build records is masked, as its log is.
func (l *loader) checkProperty(s *Step, ctx *hcl2.EvalContext) {
	command, ok := s.attrs["command"]
	if s.Kind != "set_property" || !ok {
		return
	}
	v, diags := command.Expr.Value(ctx)
	if diags.HasErrors() || !v.IsWhollyKnown() || v.ContainsMarked() || v.IsNull() {
		return
	}
	words := texts(v)
	m := prints.FindStringSubmatch(strings.TrimSpace(strings.Join(words, " ")))
	if m == nil || len(words) > 1 && words[0] != "printenv" { // only a shell replaces $NAME
		return
	}
	secret := false
	for _, env := range []hcl2.Expression{s.env, exprOf(s.attrs["env"])} {
		if env == nil {
			continue
		}
		all, diags := env.Value(ctx)
		if diags.HasErrors() {
			return
		}
		if all, _ = all.Unmark(); all.IsKnown() && !all.IsNull() && (all.Type().IsObjectType() || all.Type().IsMapType()) {
			if one, ok := all.AsValueMap()[m[1]]; ok {
				secret = one.ContainsMarked()
			}
		}
	}
	if secret {
		r := command.Expr.Range()
		l.warnf(&r, "A property that will not hold its value", "$%s is made from a secret (or a sensitive variable), and properties are stored and shown: this one will be \"(secret)\", "+
			"also for the steps that use it. Give the secret to the env of each step that needs it instead.", m[1])
	}
}

func exprOf(a *hcl2.Attribute) hcl2.Expression {
	if a == nil {
		return nil
	}
	return a.Expr
}
