package hcl

import (
	"fmt"
	"slices"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// envPrefix precedes a variable's name in the environment.
const envPrefix = "ROUSE_VAR_"

var variableSchema = &hcl2.BodySchema{
	Attributes: []hcl2.AttributeSchema{{Name: "type"}, {Name: "default"}, {Name: "sensitive"}, {Name: "description"}},
	Blocks:     []hcl2.BlockHeaderSchema{{Type: "validation"}},
}

var validationSchema = &hcl2.BodySchema{Attributes: []hcl2.AttributeSchema{
	{Name: "condition", Required: true}, {Name: "error_message", Required: true},
}}

// variables resolves the variable blocks. The first of these that gives a value wins: -var, -var-file (the last file first), ROUSE_VAR_name
// in the environment, the default.
func (l *loader) variables(blocks hcl2.Blocks) {
	given := l.givenVariables()
	values := map[string]cty.Value{}
	for _, b := range blocks {
		name := b.Labels[0]
		if !l.declare("variable", name, b, 0) {
			continue
		}
		values[name] = l.variable(name, b, given)
		delete(given, name)
	}
	for _, name := range sortedKeys(given) {
		if l.o.Stored != nil {
			break // the command line is for the text of today
		}
		l.errorf(given[name].subject(), "Unknown variable", "A value is given for the variable %q, which no variable block declares.%s",
			name, didYouMean(name, sortedKeys(values)))
	}
	l.base.Variables["var"] = cty.ObjectVal(values)
}

// given is a value from outside: text from the command line or the environment, or an expression from a file.
type given struct {
	text  string
	expr  hcl2.Expression
	where string // for messages, when there is no expression
}

func (g given) subject() *hcl2.Range {
	if g.expr == nil {
		return nil
	}
	r := g.expr.Range()
	return &r
}

// givenVariables collects what -var and -var-file say. (The environment is asked for declared names only.) The files are no sources of the configuration: what is
// wrong in one is said with its place, but its lines, which may hold values of sensitive variables, are not shown.
func (l *loader) givenVariables() map[string]given {
	m := map[string]given{}
	for _, name := range l.o.VarFiles {
		src, err := readBounded(name, maxFileSize)
		if err != nil && l.o.Stored != nil {
			continue
		}
		if err != nil {
			l.errorf(nil, "Cannot read a file of variables", "%s.", capital(err.Error()))
			continue
		}
		f, diags := parseFile(name, src)
		l.diags = append(l.diags, diags...)
		if f == nil || f.Body == nil {
			continue
		}
		found, diags := f.Body.JustAttributes()
		l.diags = append(l.diags, diags...)
		for k, a := range found {
			m[k] = given{expr: a.Expr, where: name}
		}
	}
	for k, v := range l.o.Variables {
		m[k] = given{text: v, where: "-var"}
	}
	return m
}

// ownValue marks the mistake that a sensitive variable has no value.
type ownValue struct{}

// MasterMayKnow says whether nothing is wrong with a configuration but that sensitive variables have no value here. Those are never sent: the master that
// is asked about it has its own, or says that it has none.
func MasterMayKnow(diags hcl2.Diagnostics) bool {
	for _, d := range diags {
		if _, ok := d.Extra.(ownValue); d.Severity == hcl2.DiagError && !ok {
			return false
		}
	}
	return diags.HasErrors()
}

func (l *loader) variable(name string, b *hcl2.Block, all map[string]given) cty.Value {
	content, diags := b.Body.Content(variableSchema)
	l.diags = append(l.diags, diags...)
	a := &attrs{m: content.Attributes, ctx: &hcl2.EvalContext{Functions: pureFunctions}, diags: &l.diags}

	ty, defaults := cty.DynamicPseudoType, (*typeexpr.Defaults)(nil)
	if attr, ok := a.m["type"]; ok {
		t, d, diags := typeexpr.TypeConstraintWithDefaults(attr.Expr)
		l.diags = append(l.diags, diags...)
		if !diags.HasErrors() {
			ty, defaults = t, d
		}
	}
	sensitive := false
	a.flag("sensitive", &sensitive)
	var description string
	a.str("description", &description)

	v, known := cty.DynamicVal, false
	set := func(raw cty.Value, subject *hcl2.Range, where string) {
		if defaults != nil && !raw.IsNull() {
			raw = defaults.Apply(raw)
		}
		converted, err := convert.Convert(raw, ty)
		if err != nil {
			l.errorf(subject, "Unsuitable value for a variable", "The value of var.%s%s does not fit its type, %s: %s.",
				name, where, typeexpr.TypeString(ty), err)
			v, known = cty.UnknownVal(ty), true
			return
		}
		v, known = converted, true
	}
	g, ok := all[name]
	if l.o.Stored != nil && !sensitive { // what was not given then had its default
		text, stored := l.o.Stored[name]
		g, ok = given{text: text, where: "the stored configuration"}, stored
	} else if !ok {
		if text := l.o.Getenv(envPrefix + name); text != "" {
			g, ok = given{text: text, where: "the environment variable " + envPrefix + name}, true
		}
	}
	switch {
	case ok && g.expr != nil:
		raw, diags := g.expr.Value(nil)
		l.diags = append(l.diags, diags...)
		if !diags.HasErrors() {
			set(raw, g.subject(), "")
		} else {
			known = true
		}
	case ok:
		raw, err := variableText(g.text, ty)
		if err != nil {
			l.errorf(&b.DefRange, "Unsuitable value for a variable", "The value of var.%s from %s cannot be used: %s.", name, g.where, err)
			known = true
		} else {
			set(raw, &b.DefRange, " from "+g.where)
		}
	case a.has("default"):
		raw, diags := a.m["default"].Expr.Value(a.ctx)
		l.diags = append(l.diags, diags...)
		if !diags.HasErrors() {
			set(raw, a.rng("default"), "")
		} else {
			known = true
		}
	}
	if !known {
		d := mistake(&b.DefRange, "No value for a variable", "The variable %q has no default, so it needs a value: `-var %s=…`, `-var-file FILE` or %s%s=… in the environment.",
			name, name, envPrefix, name)
		if sensitive {
			d.Extra = ownValue{}
		}
		l.diags = append(l.diags, d)
	}
	if ok && v.IsWhollyKnown() {
		l.cfg.given[name] = strings.TrimSpace(string(hclwrite.TokensForValue(v).Bytes()))
		if sensitive {
			l.cfg.sensitive = append(l.cfg.sensitive, name)
		} else {
			l.cfg.Variables[name] = l.cfg.given[name]
		}
	}
	if sensitive {
		l.shortSensitive(name, v, &b.DefRange)
		v = v.Mark(secretMark{})
	}
	l.validations(name, v, content.Blocks)
	return v
}

// variableText reads the text of a value. Where a string is expected, the text is the string, unless it is quoted; elsewhere it is an
// expression of constants, and what is no such expression counts as a string.
func variableText(s string, ty cty.Type) (cty.Value, error) {
	quoted := strings.HasPrefix(s, `"`) && strings.HasSuffix(s, `"`) && len(s) > 1
	if ty.IsPrimitiveType() && !quoted {
		return cty.StringVal(s), nil
	}
	tokens, diags := hclsyntax.LexExpression([]byte(s), "value", hcl2.InitialPos)
	if d := checkDepth(tokens); d != nil {
		return cty.DynamicVal, fmt.Errorf("it is nested too deeply")
	}
	if diags.HasErrors() {
		return cty.StringVal(s), nil
	}
	expr, diags := hclsyntax.ParseExpression([]byte(s), "value", hcl2.InitialPos)
	if diags.HasErrors() || len(expr.Variables()) > 0 {
		return cty.StringVal(s), nil
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() {
		return cty.StringVal(s), nil
	}
	return v, nil
}

func (l *loader) validations(name string, v cty.Value, blocks hcl2.Blocks) {
	for _, b := range blocks {
		content, diags := b.Body.Content(validationSchema)
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		ctx := &hcl2.EvalContext{Functions: pureFunctions, Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{name: v})}}
		a := &attrs{m: content.Attributes, ctx: ctx, diags: &l.diags, tainted: &[]string{}}
		message := ""
		a.text("error_message", &message)
		if ok, known := a.secretValue("condition", cty.Bool); known && ok.False() {
			l.errorf(&b.DefRange, "Unsuitable value for a variable", "var.%s: %s", name, message)
		}
	}
}

// locals resolves all locals blocks together: a local may use variables, functions and other locals, in any order.
func (l *loader) locals(blocks hcl2.Blocks) {
	all := map[string]*hcl2.Attribute{}
	for _, b := range blocks {
		found, diags := b.Body.JustAttributes()
		l.diags = append(l.diags, diags...)
		for name, attr := range found {
			if first, ok := all[name]; ok {
				l.duplicate("local value", name, attr.NameRange, first.NameRange)
				continue
			}
			all[name] = attr
		}
	}
	values := map[string]cty.Value{}
	for name := range all {
		values[name] = cty.DynamicVal
	}
	ctx := l.base
	ctx.Variables["local"] = cty.ObjectVal(values)
	for _, name := range l.localOrder(all) {
		v, diags := all[name].Expr.Value(ctx)
		l.diags = append(l.diags, diags...)
		if !diags.HasErrors() {
			values[name] = v
		}
		l.cfg.locals = append(l.cfg.locals, all[name].Expr)
		ctx.Variables["local"] = cty.ObjectVal(values)
	}
}

// localOrder sorts locals so that each comes after those it uses; those in a cycle are reported and left out.
func (l *loader) localOrder(all map[string]*hcl2.Attribute) []string {
	const (
		open = 1
		done = 2
	)
	state := map[string]int{}
	var order, path []string
	var visit func(name string) bool
	visit = func(name string) bool {
		switch state[name] {
		case done:
			return true
		case open:
			cycle := append(slices.Clone(path[slices.Index(path, name):]), name)
			r := all[name].Expr.Range()
			l.errorf(&r, "Local values depend on each other", "This is a circle: local.%s.", strings.Join(cycle, " uses local."))
			return false
		}
		state[name] = open
		path = append(path, name)
		ok := true
		for _, t := range all[name].Expr.Variables() {
			if t.RootName() != "local" || len(t) < 2 {
				continue
			}
			if dep, named := stepName(t[1]); named && all[dep] != nil {
				ok = visit(dep) && ok
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		if ok {
			order = append(order, name)
		}
		return ok
	}
	names := sortedKeys(all)
	slices.SortStableFunc(names, func(a, b string) int { return all[a].Range.Start.Byte - all[b].Range.Start.Byte })
	for _, name := range names {
		visit(name)
	}
	return order
}
