// Package decode turns the attributes of a provider's blocks into Go values: durations, sizes, numbers within bounds, choices. Every mistake
// becomes a diagnostic with the range of the expression. It knows no provider.
package decode

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Attrs are the attributes of one body. Its methods leave *dst alone when the attribute is absent, null or not known yet, so that *dst holds the
// default; mistakes are collected in Diags.
type Attrs struct {
	Diags hcl2.Diagnostics

	attrs  hcl2.Attributes
	blocks hcl2.Blocks
	ctx    *hcl2.EvalContext
	whole  hcl2.Range
}

// Body reads the named attributes of a body; any other attribute and any block is a mistake.
func Body(body hcl2.Body, ctx *hcl2.EvalContext, names ...string) *Attrs {
	schema := &hcl2.BodySchema{}
	for _, n := range names {
		schema.Attributes = append(schema.Attributes, hcl2.AttributeSchema{Name: n})
	}
	content, diags := body.Content(schema)
	a := &Attrs{Diags: diags, ctx: ctx}
	if content != nil {
		a.attrs = content.Attributes
	}
	return a
}

// value evaluates an attribute and converts it; ok is false when there is nothing to set.
func (a *Attrs) value(name string, want cty.Type) (v cty.Value, ok bool) {
	attr, ok := a.attrs[name]
	if !ok {
		return v, false
	}
	v, diags := attr.Expr.Value(a.ctx)
	a.Diags = append(a.Diags, diags...)
	if diags.HasErrors() {
		return v, false
	}
	v, _ = v.UnmarkDeep()
	v, err := convert.Convert(v, want)
	if err != nil {
		a.bad(name, "%s is needed here: %s.", want.FriendlyName(), err)
		return v, false
	}
	return v, !v.IsNull() && v.IsWhollyKnown()
}

func (a *Attrs) bad(name, format string, args ...any) {
	r := a.attrs[name].Expr.Range()
	a.Diags = append(a.Diags, &hcl2.Diagnostic{
		Severity: hcl2.DiagError,
		Summary:  fmt.Sprintf("Unsuitable value for %q", name),
		Detail:   fmt.Sprintf(format, args...),
		Subject:  &r,
	})
}

// Bad adds a mistake of the named attribute, which must be present, that only the caller can see.
func (a *Attrs) Bad(name, format string, args ...any) {
	if a.Has(name) {
		a.bad(name, format, args...)
	}
}

// Has says whether the attribute is present.
func (a *Attrs) Has(name string) bool { _, ok := a.attrs[name]; return ok }

// String sets *dst to a string.
func (a *Attrs) String(name string, dst *string) {
	if v, ok := a.value(name, cty.String); ok {
		*dst = v.AsString()
	}
}

// OneOf sets *dst to one of the choices.
func (a *Attrs) OneOf(name string, dst *string, choices ...string) {
	var s string
	if v, ok := a.value(name, cty.String); !ok {
		return
	} else if s = v.AsString(); !slices.Contains(choices, s) {
		a.bad(name, "It is %q; it must be one of %s.", s, strings.Join(choices, ", "))
		return
	}
	*dst = s
}

// Bool sets *dst to a truth value.
func (a *Attrs) Bool(name string, dst *bool) {
	if v, ok := a.value(name, cty.Bool); ok {
		*dst = v.True()
	}
}

// Int sets *dst to a whole number between low and high.
func (a *Attrs) Int(name string, dst *int64, low, high int64) {
	v, ok := a.value(name, cty.Number)
	if !ok {
		return
	}
	n, acc := v.AsBigFloat().Int64()
	if acc != big.Exact || n < low || n > high {
		a.bad(name, "It is %s; it must be a whole number between %d and %d.", v.AsBigFloat().Text('g', 20), low, high)
		return
	}
	*dst = n
}

// Rate sets *dst to a probability.
func (a *Attrs) Rate(name string, dst *float64) {
	v, ok := a.value(name, cty.Number)
	if !ok {
		return
	}
	f, _ := v.AsBigFloat().Float64()
	if math.IsNaN(f) || f < 0 || f > 1 {
		a.bad(name, "It is %g; it must be a probability between 0 and 1.", f)
		return
	}
	*dst = f
}

// Duration sets *dst to a duration such as "90s" or "1h30m", which must not be negative.
func (a *Attrs) Duration(name string, dst *time.Duration) {
	v, ok := a.value(name, cty.String)
	if !ok {
		return
	}
	d, err := time.ParseDuration(v.AsString())
	if err != nil || d < 0 {
		a.bad(name, "It is %q; it must be a duration such as \"90s\", \"10m\" or \"1h30m\".", v.AsString())
		return
	}
	*dst = d
}

// Bytes sets *dst to a size in bytes: a number, or a string such as "512MiB", "2GiB" or "10MB". It must be at least low.
func (a *Attrs) Bytes(name string, dst *int64, low int64) {
	v, ok := a.value(name, cty.String)
	if !ok {
		return
	}
	n, err := ParseBytes(v.AsString())
	if err != nil {
		a.bad(name, "%s.", err)
		return
	}
	if n < low {
		a.bad(name, "It is %d bytes; it must be at least %d.", n, low)
		return
	}
	*dst = n
}

// StringMap sets *dst to a map of strings.
func (a *Attrs) StringMap(name string, dst *map[string]string) {
	v, ok := a.value(name, cty.Map(cty.String))
	if !ok {
		return
	}
	m := map[string]string{}
	for k, e := range v.AsValueMap() {
		if e.IsNull() {
			a.bad(name, "The value of %q is null; leave the key away instead.", k)
			continue
		}
		m[k] = e.AsString()
	}
	*dst = m
}

// Env sets *dst to a map that can be an environment: names without "=" and NUL, values without NUL.
func (a *Attrs) Env(name string, dst *map[string]string) {
	var m map[string]string
	a.StringMap(name, &m)
	for k, v := range m {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			a.bad(name, "%q cannot be an environment variable: its name must not be empty or hold \"=\", and neither may hold a NUL.", k)
			return
		}
	}
	if m != nil {
		*dst = m
	}
}

var units = map[string]int64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// ParseBytes reads a size such as "1048576", "512MiB" or "1.5GB".
func ParseBytes(s string) (int64, error) {
	num := strings.TrimRight(s, "BKMGTi ")
	unit, ok := units[strings.TrimSpace(s[len(num):])]
	f, err := strconv.ParseFloat(num, 64)
	if n := f * float64(unit); ok && err == nil && n >= 0 && n < math.MaxInt64 {
		return int64(n), nil
	}
	return 0, fmt.Errorf("%q is not a size such as \"512MiB\", \"2GiB\" or \"10MB\"", s)
}
