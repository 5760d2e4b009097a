package hcl

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/rouse-ci/rouse/providers/decode"
)

// attrs reads the attributes of one body. Its methods leave *dst alone when the attribute is absent, null, wrong or not known yet, so that *dst
// holds the default. Each mistake becomes a diagnostic with the range of its own expression.
type attrs struct {
	m     hcl2.Attributes
	ctx   *hcl2.EvalContext
	diags *hcl2.Diagnostics

	tainted *[]string // where values derived from secrets are noted; nil: secrets may not be used at all
}

// secretMark is on every value that was made from a secret or a sensitive variable, however it was transformed.
type secretMark struct{}

// value evaluates an attribute and converts it. ok is false when there is nothing to set. A value made from a secret is a mistake here.
func (a *attrs) value(name string, want cty.Type) (v cty.Value, ok bool) {
	v, ok = a.marked(name, want)
	if !ok {
		return v, false
	}
	if v.ContainsMarked() {
		a.bad(name, "It is made from a secret (or a sensitive variable), and this value is stored or shown to others. "+
			"In a step, secrets can be used in env, stdin and content.")
		return v, false
	}
	return v, v.IsWhollyKnown()
}

// marked evaluates an attribute whose value may be made from secrets.
func (a *attrs) marked(name string, want cty.Type) (v cty.Value, ok bool) {
	attr, ok := a.m[name]
	if !ok {
		return v, false
	}
	v, diags := attr.Expr.Value(a.ctx)
	*a.diags = append(*a.diags, diags...)
	if diags.HasErrors() {
		return v, false
	}
	v, err := convert.Convert(v, want)
	if err != nil {
		a.bad(name, "%s.", capital(strings.ReplaceAll(err.Error(), "a bool is required", "true or false is required")))
		return v, false
	}
	return v, !v.IsNull()
}

// secretValue evaluates an attribute that secrets may flow into, and notes what was made from them.
func (a *attrs) secretValue(name string, want cty.Type) (v cty.Value, ok bool) {
	v, ok = a.marked(name, want)
	if !ok {
		return v, false
	}
	if a.tainted != nil {
		*a.tainted = append(*a.tainted, markedTexts(v)...)
	}
	v, _ = v.UnmarkDeep()
	return v, v.IsWhollyKnown()
}

func (a *attrs) bad(name, format string, args ...any) {
	r := a.m[name].Expr.Range()
	*a.diags = append(*a.diags, mistake(&r, fmt.Sprintf("Unsuitable value for %q", name), format, args...))
}

func (a *attrs) has(name string) bool { _, ok := a.m[name]; return ok }

func (a *attrs) rng(name string) *hcl2.Range { r := a.m[name].Expr.Range(); return &r }

func (a *attrs) str(name string, dst *string) {
	if v, ok := a.value(name, cty.String); ok {
		*dst = v.AsString()
	}
}

// address is that of a repository. accepted names those that may hold a password all the same.
func (a *attrs) address(name string, dst *string, accepted func(address string) bool) {
	var s string
	if a.str(name, &s); HoldsPassword(s) && !accepted(s) {
		a.bad(name, `It holds a password, and an address is stored, shown and seen by every process on the worker. Leave it out, and give git the credential in the step's env: `+
			`GIT_CONFIG_COUNT = 1, GIT_CONFIG_KEY_0 = "http.extraHeader", GIT_CONFIG_VALUE_0 = "Authorization: Basic ${base64encode("USER:${secret.NAME}")}".`)
		return
	}
	*dst = s
}

// HoldsPassword says whether the address of a repository holds a password: SCHEME://USER:PASSWORD@HOST.
func HoldsPassword(address string) bool {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return false
	}
	host := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host = rest[:i]
	}
	at := strings.LastIndexByte(host, '@')
	if at < 0 {
		return false
	}
	_, password, _ := strings.Cut(host[:at], ":")
	return password != ""
}

// text is a string that must not be empty.
func (a *attrs) text(name string, dst *string) {
	var s string
	if v, ok := a.value(name, cty.String); !ok {
		return
	} else if s = v.AsString(); strings.TrimSpace(s) == "" {
		a.bad(name, "It must not be empty.")
		return
	}
	*dst = s
}

func (a *attrs) oneOf(name string, dst *string, choices ...string) {
	v, ok := a.value(name, cty.String)
	if !ok {
		return
	}
	if !slices.Contains(choices, v.AsString()) {
		a.bad(name, "%q is not one of %s.%s", v.AsString(), strings.Join(choices, ", "), onlyMeant(v.AsString(), choices))
		return
	}
	*dst = v.AsString()
}

// onlyMeant is didYouMean without the list of candidates, for messages that have it already.
func onlyMeant(name string, choices []string) string {
	if s := didYouMean(name, choices); strings.HasPrefix(s, " Did") {
		return s
	}
	return ""
}

func (a *attrs) flag(name string, dst *bool) {
	if v, ok := a.value(name, cty.Bool); ok {
		*dst = v.True()
	}
}

func (a *attrs) integer(name string, dst *int, low, high int64) {
	v, ok := a.value(name, cty.Number)
	if !ok {
		return
	}
	n, acc := v.AsBigFloat().Int64()
	if acc != big.Exact || n < low || n > high {
		a.bad(name, "It is %s; it must be a whole number between %d and %d.", v.AsBigFloat().Text('g', 20), low, high)
		return
	}
	*dst = int(n)
}

func (a *attrs) float(name string, dst *float64, low, high float64) {
	v, ok := a.value(name, cty.Number)
	if !ok {
		return
	}
	f, _ := v.AsBigFloat().Float64()
	if !(f >= low && f <= high) {
		a.bad(name, "It is %g; it must be between %g and %g.", f, low, high)
		return
	}
	*dst = f
}

// maxDuration is far beyond any sensible value and far from overflowing when durations are added.
const maxDuration = 10 * 366 * 24 * time.Hour

// duration reads "90s", "1h30m", "7d" or a number of seconds. Only with negative may it be below zero.
func (a *attrs) duration(name string, dst *time.Duration, negative bool) {
	v, ok := a.value(name, cty.DynamicPseudoType)
	if !ok {
		return
	}
	d, err := toDuration(v)
	switch {
	case err != nil:
		a.bad(name, "%s.", capital(err.Error()))
	case d < 0 && !negative:
		a.bad(name, "It is %s; it must not be negative.", d)
	case d > maxDuration || d < -maxDuration:
		a.bad(name, "It is %s; it must be below ten years.", d)
	default:
		*dst = d
	}
}

func toDuration(v cty.Value) (time.Duration, error) {
	switch v.Type() {
	case cty.Number:
		f, _ := v.AsBigFloat().Float64()
		if f > maxDuration.Seconds()*2 || f < -maxDuration.Seconds()*2 {
			return 0, fmt.Errorf("%g seconds are more than ten years", f)
		}
		return time.Duration(f * float64(time.Second)), nil
	case cty.String:
		return parseDuration(v.AsString())
	}
	return 0, fmt.Errorf("a duration is needed here, such as \"90s\", \"10m\" or \"7d\", or a number of seconds, but this is %s", v.Type().FriendlyName())
}

var daysRE = regexp.MustCompile(`^(-?)(?:([0-9]{1,5})w)?(?:([0-9]{1,5})d)?(.*)$`)

// parseDuration is time.ParseDuration with days and weeks in front ("7d", "1w2d12h") and plain seconds.
func parseDuration(s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && f < maxDuration.Seconds()*2 && f > -maxDuration.Seconds()*2 {
		return time.Duration(f * float64(time.Second)), nil
	}
	m := daysRE.FindStringSubmatch(s)
	wrong := fmt.Errorf("%q is not a duration such as \"90s\", \"10m\", \"1h30m\" or \"7d\", or a number of seconds", s)
	if m == nil || m[2]+m[3]+m[4] == "" || strings.HasPrefix(m[4], "-") || strings.HasPrefix(m[4], "+") {
		return 0, wrong
	}
	weeks, _ := strconv.Atoi(m[2])
	days, _ := strconv.Atoi(m[3])
	d := time.Duration(weeks*7+days) * 24 * time.Hour
	if m[4] != "" {
		rest, err := time.ParseDuration(m[4])
		if err != nil {
			return 0, wrong
		}
		if rest > 2*maxDuration {
			rest = 2 * maxDuration
		}
		d += rest
	}
	if m[1] == "-" {
		d = -d
	}
	return d, nil
}

// size reads a number of bytes, or "512MiB", "2GiB", "10MB".
func (a *attrs) size(name string, dst *int64) {
	v, ok := a.value(name, cty.String)
	if !ok {
		return
	}
	n, err := decode.ParseBytes(v.AsString())
	if err != nil {
		a.bad(name, "%s.", capital(err.Error()))
		return
	}
	*dst = n
}

// strs reads a list of strings; one string counts as a list of one.
func (a *attrs) strs(name string, dst *[]string) {
	v, ok := a.value(name, cty.DynamicPseudoType)
	if !ok {
		return
	}
	list, err := toStrings(v)
	if err != nil {
		a.bad(name, "%s.", capital(err.Error()))
		return
	}
	*dst = list
}

// toStrings flattens lists of lists, since a counted worker is a list in a list.
func toStrings(v cty.Value) ([]string, error) {
	if v.IsNull() || !v.IsKnown() {
		return nil, fmt.Errorf("a string is needed here, and this is null")
	}
	ty := v.Type()
	if ty.IsTupleType() || ty.IsListType() || ty.IsSetType() {
		var list []string
		for _, e := range v.AsValueSlice() {
			s, err := toStrings(e)
			if err != nil {
				return nil, err
			}
			list = append(list, s...)
		}
		return list, nil
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil {
		return nil, fmt.Errorf("a string or a list of strings is needed here, but this is %s", ty.FriendlyName())
	}
	return []string{s.AsString()}, nil
}

// env reads a map that can be an environment. Secrets may flow into it where the attrs allow that.
func (a *attrs) env(name string, dst *map[string]string) {
	read := a.value
	if a.tainted != nil {
		read = a.secretValue
	}
	v, ok := read(name, cty.Map(cty.String))
	if !ok {
		return
	}
	m := map[string]string{}
	values := v.AsValueMap()
	for _, k := range sortedKeys(values) {
		e := values[k]
		if e.IsNull() {
			a.bad(name, "The value of %q is null; leave the key away, or use \"\".", k)
			return
		}
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(e.AsString(), "\x00") {
			a.bad(name, "%q cannot be an environment variable: its name must not be empty or hold \"=\", and neither may hold a NUL.", k)
			return
		}
		m[k] = e.AsString()
	}
	*dst = m
}

// elements evaluates a list element by element if it is written as one, so that each mistake has its own place and none hides another.
func (a *attrs) elements(name string, each func(v cty.Value, r *hcl2.Range)) {
	a.elementsUnless(name, func(hcl2.Expression) bool { return false }, each)
}

// elementsUnless leaves those away that skip has taken care of.
func (a *attrs) elementsUnless(name string, skip func(hcl2.Expression) bool, each func(v cty.Value, r *hcl2.Range)) {
	attr, ok := a.m[name]
	if !ok {
		return
	}
	list := []hcl2.Expression{attr.Expr}
	if exprs, diags := hcl2.ExprList(attr.Expr); !diags.HasErrors() {
		list = exprs
	}
	for _, expr := range list {
		if skip(expr) {
			continue
		}
		one := *a
		one.m = hcl2.Attributes{name: {Name: name, Expr: expr, Range: attr.Range}}
		if v, ok := one.value(name, cty.DynamicPseudoType); ok {
			r := expr.Range()
			each(v, &r)
		} else if v != cty.NilVal && v.Type() == cty.DynamicPseudoType && v.IsNull() {
			one.bad(name, "An element is null.")
		}
	}
}

// properties reads an object of values as JSON has them.
func (a *attrs) properties(name string, dst *map[string]any) {
	v, ok := a.value(name, cty.DynamicPseudoType)
	if !ok {
		return
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		a.bad(name, "An object such as { name = \"value\" } is needed here, but this is %s.", v.Type().FriendlyName())
		return
	}
	m := map[string]any{}
	for k, e := range v.AsValueMap() {
		if k == "" || len(k) > 256 {
			a.bad(name, "A property's name must have 1 to 256 bytes.")
			return
		}
		m[k] = toGo(e)
	}
	*dst = m
}
