package plan

import (
	"cmp"
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers"
)

// attr is one attribute of one resource, made flat.
type attr struct {
	path      string
	value     any  // as JSON has it; numbers are float64. Of a secret and of an expression: its text, to be compared
	zero      bool // the value that an omitted attribute has
	unwritten bool // nobody has written it: it is a default that only a provider knows, which may be no value that anybody would write
	sensitive bool // value may be compared, and not shown
	expr      hcl.Expr
	isExpr    bool
}

var (
	secretType   = reflect.TypeFor[providers.Secret]()
	durationType = reflect.TypeFor[time.Duration]()
	rangeType    = reflect.TypeFor[hcl2.Range]()
	refType      = reflect.TypeFor[hcl.Secret]()
	textType     = reflect.TypeFor[encoding.TextMarshaler]()
	accessType   = reflect.TypeFor[hcl.Access]()
)

// maxDepth bounds recursion into what providers decode.
const maxDepth = 20

// flatten makes a decoded value a list of attributes. Exported fields are named as their attributes usually are: MaxBuilds is max_builds.
func flatten(out []attr, path string, v reflect.Value, depth int) []attr {
	for v.IsValid() && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) {
		v = v.Elem()
	}
	if !v.IsValid() || depth > maxDepth {
		return out
	}
	add := func(value any) []attr { return append(out, attr{path: path, value: value, zero: v.IsZero()}) }
	switch v.Type() {
	case secretType:
		return append(out, attr{path: path, value: v.String(), zero: v.Len() == 0, sensitive: true})
	case durationType:
		return add(duration(time.Duration(v.Int())))
	case rangeType:
		return out
	case refType:
		return add("secret." + v.FieldByName("Name").String())
	}
	if v.Type().Implements(textType) {
		if text, err := v.Interface().(encoding.TextMarshaler).MarshalText(); err == nil {
			return add(string(text))
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch name := join(path, snake(f.Name)); {
			case !f.IsExported():
			case f.Anonymous:
				out = flatten(out, path, v.Field(i), depth+1)
			default:
				out = flatten(out, name, v.Field(i), depth+1)
			}
		}
		return out
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if k.Kind() == reflect.String {
				out = flatten(out, join(path, k.String()), v.MapIndex(k), depth+1)
			}
		}
		return out
	case reflect.Slice, reflect.Array:
		if list, ok := leaves(v); ok {
			if len(list) == 0 {
				return out
			}
			return append(out, attr{path: path, value: list})
		}
		for i := range v.Len() {
			out = flatten(out, path+"["+strconv.Itoa(i)+"]", v.Index(i), depth+1)
		}
		return out
	}
	if value, ok := scalar(v); ok {
		return add(value)
	}
	return out
}

// leaves makes a list of plain values a value of its own.
func leaves(v reflect.Value) ([]any, bool) {
	if v.Type().Elem().Kind() == reflect.Uint8 && v.Kind() == reflect.Slice {
		return []any{string(v.Bytes())}, true
	}
	list := make([]any, 0, v.Len())
	for i := range v.Len() {
		e := v.Index(i)
		for e.Kind() == reflect.Interface || e.Kind() == reflect.Pointer {
			e = e.Elem()
		}
		if !e.IsValid() {
			list = append(list, nil)
			continue
		}
		switch e.Type() {
		case accessType:
			list = append(list, access(e.Interface().(hcl.Access)))
			continue
		case durationType:
			list = append(list, duration(time.Duration(e.Int())))
			continue
		case secretType:
			return nil, false
		}
		x, ok := scalar(e)
		if !ok {
			return nil, false
		}
		list = append(list, x)
	}
	return list, true
}

func scalar(v reflect.Value) (any, bool) {
	switch v.Kind() {
	case reflect.Bool:
		return v.Bool(), true
	case reflect.String:
		return v.String(), true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return number(float64(v.Int()), v.Int() == int64(float64(v.Int())), v), true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return number(float64(v.Uint()), v.Uint() < 1<<53, v), true
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, true
		}
	}
	return nil, false
}

// number keeps a whole number that JSON's readers would round as text.
func number(f float64, exact bool, v reflect.Value) any {
	if exact && math.Abs(f) < 1<<53 {
		return f
	}
	if v.CanInt() {
		return strconv.FormatInt(v.Int(), 10)
	}
	return strconv.FormatUint(v.Uint(), 10)
}

func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func access(a hcl.Access) string {
	if a.Exclusive {
		return "lock." + a.Lock + ".exclusive"
	}
	return "lock." + a.Lock
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// snake is the attribute's name of a field: BuildWaitTimeout is build_wait_timeout, TLSCert is tls_cert, AMI is ami.
func snake(name string) string {
	runes := []rune(name)
	var b strings.Builder
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func sorted(list []attr) []attr {
	slices.SortStableFunc(list, func(a, b attr) int { return cmp.Compare(a.path, b.path) })
	return list
}

// hide folds what is made from sensitive variables into one attribute each, since the keys of a map may tell as much as its values. Sources are attributes'
// paths as they are written; a provider may have decoded them under another name, and then nothing of the block is shown. secrets are the texts of sensitive
// variables, wherever they may have got to.
func hide(list []attr, prefix string, sources, secrets []string) []attr {
	for _, s := range sources {
		folded, ok := fold(&list, join(prefix, s))
		if !ok {
			folded, ok = fold(&list, prefix)
		}
		if ok {
			list = append(list, folded)
		}
	}
	for i := range list {
		a := &list[i]
		if holdsText(a.path, secrets) {
			a.path, a.sensitive = join(prefix, "(sensitive)"), true
		}
		a.sensitive = a.sensitive || holds(a.value, secrets)
	}
	return list
}

// fold takes what is under a path out of the list and makes it one sensitive attribute.
func fold(list *[]attr, top string) (attr, bool) {
	folded, parts := attr{path: top, sensitive: true}, []any{}
	rest := (*list)[:0:0]
	for _, a := range *list {
		if top == "" || under(a.path, top) {
			parts = append(parts, a.path+"\x00"+fmt.Sprint(a.value))
		} else {
			rest = append(rest, a)
		}
	}
	slices.SortFunc(parts, func(a, b any) int { return cmp.Compare(a.(string), b.(string)) })
	folded.value = parts
	*list = rest
	return folded, len(parts) > 0
}

func under(path, top string) bool {
	rest, ok := strings.CutPrefix(path, top)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// shortSecret is the length below which a text that merely contains a secret is no proof that it was made from it.
const shortSecret = 5

func holds(v any, secrets []string) bool {
	switch v := v.(type) {
	case string:
		return holdsText(v, secrets)
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return holds(e, secrets) })
	}
	return false
}

func holdsText(s string, secrets []string) bool {
	for _, secret := range secrets {
		if s == secret || len(secret) >= shortSecret && strings.Contains(s, secret) {
			return true
		}
	}
	return false
}

// diffAttrs compares two sorted lists. unchanged is the number of set attributes that are the same.
func diffAttrs(before, after []attr, in *inputs) (out []Attribute, unchanged int) {
	var inner []Attribute // of what nobody has written: a provider has made it of something else
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case j == len(after) || i < len(before) && before[i].path < after[j].path:
			if b := before[i]; !b.zero {
				out = append(out, attribute(&b, nil))
			}
			i++
		case i == len(before) || after[j].path < before[i].path:
			if a := after[j]; !a.zero {
				out = append(out, attribute(nil, &a))
			}
			j++
		default:
			b, a := before[i], after[j]
			i, j = i+1, j+1
			var moved []string
			if b.isExpr && a.isExpr {
				moved = in.moved(a.expr)
			}
			switch same := reflect.DeepEqual(b.value, a.value) || b.isExpr && a.isExpr && hcl.SameText(b.expr.Text, a.expr.Text); {
			case !same || len(moved) > 0:
				d := attribute(&b, &a)
				d.Inputs = moved
				if b.unwritten && a.unwritten {
					inner = append(inner, d)
				} else {
					out = append(out, d)
				}
			case !a.zero:
				unchanged++
			}
		}
	}
	for _, d := range inner {
		machine := under(d.Path, "instance")
		if !slices.ContainsFunc(out, func(o Attribute) bool { return under(o.Path, "instance") == machine }) { // else that says it, in the author's words
			return append(out, inner...), unchanged
		}
	}
	return out, unchanged
}

func attribute(b, a *attr) Attribute {
	either := a
	if a == nil {
		either = b
	}
	d := Attribute{Path: either.path, Expression: either.isExpr, Sensitive: b != nil && b.sensitive || a != nil && a.sensitive}
	if !d.Sensitive {
		d.Before, d.After = shown(b), shown(a)
		if b != nil && a != nil && b.unwritten != a.unwritten { // else the defaults themselves differ
			if b.unwritten {
				d.Before = nil
			} else {
				d.After = nil
			}
		}
	}
	return d
}

// shown is what a plan says of a value: that of an omitted text or number is nothing.
func shown(a *attr) any {
	if a == nil || a.zero && (a.value == "" || a.value == 0.0) {
		return nil
	}
	return a.value
}

// inputs are what expressions use, in both configurations.
type inputs struct {
	old, new *hcl.Config
	same     bool // none has changed
}

// moved returns the inputs of an expression that are not what they were.
func (in *inputs) moved(e hcl.Expr) (out []string) {
	if in == nil || in.same {
		return nil
	}
	for _, name := range e.Inputs() {
		if !hcl.SameInput(in.old, in.new, name) {
			out = append(out, name)
		}
	}
	return out
}
