package decode

import (
	"fmt"
	"math"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/rouse-ci/rouse/providers"
)

// BodyBlocks is Body for a body that also holds blocks of the named types. A name may be both an attribute and a block. A type may be followed by a
// space and the name of its one label: "host NAME".
func BodyBlocks(body hcl2.Body, ctx *hcl2.EvalContext, names, blocks []string) *Attrs {
	schema := &hcl2.BodySchema{}
	for _, n := range names {
		schema.Attributes = append(schema.Attributes, hcl2.AttributeSchema{Name: n})
	}
	for _, b := range blocks {
		header := hcl2.BlockHeaderSchema{Type: b}
		if typ, label, ok := strings.Cut(b, " "); ok {
			header = hcl2.BlockHeaderSchema{Type: typ, LabelNames: []string{label}}
		}
		schema.Blocks = append(schema.Blocks, header)
	}
	content, diags := body.Content(schema)
	a := &Attrs{Diags: diags, ctx: ctx}
	if content != nil {
		a.attrs, a.blocks = content.Attributes, content.Blocks
	}
	if a.whole = body.MissingItemRange(); a.whole.Filename == "<empty>" {
		a.whole = hcl2.Range{} // the loader names the block that the body is missing from
	}
	return a
}

// Whole is the range for a mistake of the body as such, if it was read by BodyBlocks.
func (a *Attrs) Whole() hcl2.Range { return a.whole }

// Null says whether the attribute is present and null.
func (a *Attrs) Null(name string) bool {
	attr, ok := a.attrs[name]
	if !ok {
		return false
	}
	v, diags := attr.Expr.Value(a.ctx)
	return !diags.HasErrors() && v.IsNull()
}

// Blocks returns the blocks of a type, in the order of the text.
func (a *Attrs) Blocks(typ string) (found []*hcl2.Block) {
	for _, b := range a.blocks {
		if b.Type == typ {
			found = append(found, b)
		}
	}
	return found
}

// Block returns the one block of a type, or nil. A second one is a mistake.
func (a *Attrs) Block(typ string) *hcl2.Block {
	found := a.Blocks(typ)
	if len(found) == 0 {
		return nil
	}
	for _, b := range found[1:] {
		a.BadAt(b.DefRange, "Duplicate block", "There is one %s block at line %d already.", typ, found[0].DefRange.Start.Line)
	}
	return found[0]
}

// In decodes a block's body; its mistakes are added to a's.
func (a *Attrs) In(b *hcl2.Block, decode func(in *Attrs), names ...string) {
	in := Body(b.Body, a.ctx, names...)
	decode(in)
	a.Diags = append(a.Diags, in.Diags...)
}

// BadAt adds a mistake at a range.
func (a *Attrs) BadAt(r hcl2.Range, summary, format string, args ...any) {
	a.Diags = append(a.Diags, &hcl2.Diagnostic{Severity: hcl2.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &r})
}

// Warn adds a warning about the named attribute, if it is present.
func (a *Attrs) Warn(name, summary, format string, args ...any) {
	if a.Has(name) {
		r := a.Range(name)
		a.Diags = append(a.Diags, &hcl2.Diagnostic{Severity: hcl2.DiagWarning, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &r})
	}
}

// Range is where the named attribute's expression is; the zero Range if it is absent.
func (a *Attrs) Range(name string) hcl2.Range {
	if attr, ok := a.attrs[name]; ok {
		return attr.Expr.Range()
	}
	return hcl2.Range{}
}

// Value returns the named attribute's value converted to a type; ok is false when it is absent, null, not known yet or a mistake. secret says
// that the value, or a part of it, was made from a sensitive one.
func (a *Attrs) Value(name string, want cty.Type) (v cty.Value, secret, ok bool) {
	if attr, has := a.attrs[name]; has {
		if raw, diags := attr.Expr.Value(a.ctx); !diags.HasErrors() {
			secret = raw.ContainsMarked()
		}
	}
	v, ok = a.value(name, want)
	return v, secret, ok
}

// Secret sets *dst to a string that must not be shown.
func (a *Attrs) Secret(name string, dst *providers.Secret) {
	if v, ok := a.value(name, cty.String); ok {
		*dst = providers.Secret(v.AsString())
	}
}

// Strings sets *dst to a list of strings; one string is a list of one.
func (a *Attrs) Strings(name string, dst *[]string) {
	attr, ok := a.attrs[name]
	if !ok {
		return
	}
	if raw, diags := attr.Expr.Value(a.ctx); !diags.HasErrors() && (raw.Type() == cty.String || raw.Type() == cty.Number) {
		if v, ok := a.value(name, cty.String); ok {
			*dst = []string{v.AsString()}
		}
		return
	}
	v, ok := a.value(name, cty.List(cty.String))
	if !ok {
		return
	}
	list := []string{}
	for _, e := range v.AsValueSlice() {
		if e.IsNull() {
			a.bad(name, "An element of the list is null.")
			return
		}
		list = append(list, e.AsString())
	}
	*dst = list
}

// Float sets *dst to a number between low and high.
func (a *Attrs) Float(name string, dst *float64, low, high float64) {
	v, ok := a.value(name, cty.Number)
	if !ok {
		return
	}
	f, _ := v.AsBigFloat().Float64()
	if math.IsNaN(f) || f < low || f > high {
		a.bad(name, "It is %g; it must be a number between %g and %g.", f, low, high)
		return
	}
	*dst = f
}
