package hcl

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Masked is the length in bytes from which on a secret, or the value of a sensitive variable, is masked in logs: a shorter one would mask everything.
const Masked = 4

// Hidden returns what the log of no build on a worker may show, whatever its steps use: the values of all sensitive variables, for its builders' and its instance's
// environment may have them, and what local values, the worker's provider and instance blocks, and the functions in these make of them, if that does not hold them
// as they are (after base64encode, say). Secrets, which only steps can use, are not among it.
func (c *Config) Hidden(worker string) [][]byte {
	if c.env == nil {
		return nil
	}
	c.env.once.Do(func() { c.env.hidden = c.hiddenEverywhere() })
	out := slices.Clone(c.env.hidden)
	if len(out) == 0 {
		return nil
	}
	var w *Worker
	for i := range c.Workers { // there may be many, and they are large
		if c.Workers[i].Name == worker {
			w = &c.Workers[i]
		}
	}
	if w == nil {
		return out
	}
	ctx := c.env.ctx
	if n, err := strconv.Atoi(strings.TrimPrefix(w.Name, w.Pool+"-")); w.Pool != "" && err == nil {
		ctx = withCount(ctx, n-1)
	}
	var made []string
	for _, body := range []hcl2.Body{c.bodies["provider."+w.Provider], c.bodies["worker."+w.Name]} {
		for _, e := range expressionsOf(body, c.madeFromSecrets) {
			if v, diags := e.Value(ctx); !diags.HasErrors() { // it was decoded: something else of it is not known here
				made = append(made, markedTexts(v)...)
			}
			made = append(made, callsIn(e, ctx)...)
		}
	}
	return derived(out, made)
}

// derived adds what was made from secrets to their values, if it does not hold one as it is: then that is masked, and a log can show the rest. What is not masked
// does not count: a short one may be in any text by chance. True and false are no secrets.
func derived(values [][]byte, made []string) [][]byte {
	for _, text := range made {
		if text == "" || text == "true" || text == "false" ||
			slices.ContainsFunc(values, func(s []byte) bool { return len(s) >= Masked && strings.Contains(text, string(s)) }) {
			continue
		}
		values = append(values, lines(text)...)
	}
	return values
}

// callsIn are the texts that functions within an expression make from secrets, and the parts of what they make that it uses. The expression itself may hold another secret as it is.
func callsIn(e hcl2.Expression, ctx *hcl2.EvalContext) (out []string) {
	node, ok := e.(hclsyntax.Node)
	if !ok { // JSON, whose texts are templates
		source, _ := e.Value(nil)
		for _, text := range texts(source) {
			if t, diags := hclsyntax.ParseTemplate([]byte(text), "", hcl2.InitialPos); !diags.HasErrors() {
				out = append(out, callsIn(t, ctx)...)
			}
		}
		return out
	}
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl2.Diagnostics {
		switch n := n.(type) {
		case *hclsyntax.FunctionCallExpr, *hclsyntax.RelativeTraversalExpr, *hclsyntax.IndexExpr: // a list's or an object's parts are those that are used
			if v, diags := n.(hclsyntax.Expression).Value(ctx); !diags.HasErrors() && v.Type() == cty.String {
				out = append(out, markedTexts(v)...)
			}
		case *hclsyntax.ForExpr:
			out = append(out, callsInFor(n, ctx)...)
		}
		return nil
	})
	return out
}

// callsInFor are the same texts of a `for` expression, whose functions have to be called for each element.
func callsInFor(e *hclsyntax.ForExpr, ctx *hcl2.EvalContext) (out []string) {
	all, diags := e.CollExpr.Value(ctx)
	all, marks := all.Unmark()
	if diags.HasErrors() || !all.IsKnown() || all.IsNull() || !all.CanIterateElements() {
		return nil
	}
	for it := all.ElementIterator(); it.Next(); {
		k, v := it.Element()
		each := ctx.NewChild()
		each.Variables = map[string]cty.Value{e.ValVar: v.WithMarks(marks)} // which the language forgets until the whole is made
		if e.KeyVar != "" {
			each.Variables[e.KeyVar] = k.WithMarks(marks)
		}
		for _, part := range []hclsyntax.Expression{e.KeyExpr, e.ValExpr} {
			if part != nil {
				out = append(out, callsIn(part, each)...)
			}
		}
	}
	return out
}

// markedTexts are the texts in a value that are made from secrets.
func markedTexts(v cty.Value) (out []string) {
	v, paths := v.UnmarkDeepWithPaths()
	for _, p := range paths {
		if marked, err := p.Path.Apply(v); err == nil {
			out = append(out, texts(marked)...)
		}
	}
	return out
}

// hiddenEverywhere is what no log of any worker may show.
func (c *Config) hiddenEverywhere() (out [][]byte) {
	out = c.sensitiveValues()
	locals, ok := c.root("local")
	if len(out) == 0 || !ok {
		return out
	}
	made := markedTexts(locals)
	for _, e := range c.locals {
		if c.madeFromSecrets(e) {
			made = append(made, callsIn(e, c.env.ctx)...)
		}
	}
	return derived(out, made)
}

// sensitiveValues are the values of sensitive variables as a log would show them, the longest first. True and false are no secrets.
func (c *Config) sensitiveValues() (out [][]byte) {
	v, ok := c.root("var")
	if !ok || !v.Type().IsObjectType() {
		return nil
	}
	var all []string
	for _, e := range v.AsValueMap() {
		if e.ContainsMarked() {
			all = append(all, texts(e)...)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for _, text := range slices.Compact(all) {
		out = append(out, []byte(text))
	}
	return out
}

// texts are the strings and numbers in a value, those in reach of a person who reads what was made of it.
func texts(v cty.Value) (out []string) {
	v, _ = v.UnmarkDeep()
	_ = cty.Walk(v, func(_ cty.Path, leaf cty.Value) (bool, error) {
		if ty := leaf.Type(); ty != cty.String && ty != cty.Number || !leaf.IsKnown() || leaf.IsNull() {
			return true, nil
		}
		if s, err := convert.Convert(leaf, cty.String); err == nil && s.AsString() != "" {
			out = append(out, s.AsString())
		}
		return true, nil
	})
	return out
}

// expressionsOf returns the expressions of some kind in a block and in the blocks in it.
func expressionsOf(body hcl2.Body, is func(hcl2.Expression) bool) (out []hcl2.Expression) {
	b, ok := body.(*hclsyntax.Body)
	if !ok {
		if body == nil {
			return nil
		}
		attrs, _ := body.JustAttributes() // JSON, whose nested blocks are objects
		for _, name := range sortedKeys(attrs) {
			if is(attrs[name].Expr) {
				out = append(out, attrs[name].Expr)
			}
		}
		return out
	}
	for _, name := range sortedKeys(b.Attributes) {
		if e := b.Attributes[name].Expr; is(e) {
			out = append(out, e)
		}
	}
	for _, block := range b.Blocks { // the parser bounds their depth
		out = append(out, expressionsOf(block.Body, is)...)
	}
	return out
}

// shortSensitive warns of a value that cannot be masked.
func (l *loader) shortSensitive(name string, v cty.Value, r *hcl2.Range) {
	for _, text := range texts(v) {
		if len(text) < Masked {
			l.warnf(r, "Too short to be masked", "var.%s is sensitive, but (a part of) its value has fewer than %d bytes. That is not masked in logs, since it would mask everything: "+
				"take a longer one, or do not print it.", name, Masked)
			return
		}
	}
}
