package hcl

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/rouse-ci/rouse/providers"
)

// digest identifies what an instance is made from: the kind and the decoded provider and instance blocks. It depends on values only, so a comment, an
// order of attributes or another way of writing the same value does not change it.
func digest(kind string, config, spec any) string {
	h := sha256.New()
	for _, x := range []any{kind, config, spec} {
		canonical(h, reflect.ValueOf(x), 0)
	}
	return hex.EncodeToString(h.Sum(nil))
}

var secretType = reflect.TypeFor[providers.Secret]()

// canonical writes a value without addresses and without map order. It follows pointers, and reads unexported fields too.
func canonical(w io.Writer, v reflect.Value, depth int) {
	if depth > maxNesting || !v.IsValid() {
		_, _ = io.WriteString(w, "nil;")
		return
	}
	if v.Type() == secretType {
		_, _ = io.WriteString(w, "secret;") // a digest of a short secret would tell it
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		canonical(w, v.Elem(), depth+1)
	case reflect.Struct:
		_, _ = fmt.Fprintf(w, "%s{", v.Type())
		for i := range v.NumField() {
			_, _ = fmt.Fprintf(w, "%s:", v.Type().Field(i).Name)
			canonical(w, v.Field(i), depth+1)
		}
		_, _ = io.WriteString(w, "}")
	case reflect.Slice, reflect.Array:
		_, _ = fmt.Fprintf(w, "[%d:", v.Len())
		for i := range v.Len() {
			canonical(w, v.Index(i), depth+1)
		}
		_, _ = io.WriteString(w, "]")
	case reflect.Map:
		entries := make([]string, 0, v.Len())
		for _, k := range v.MapKeys() {
			var b writer
			canonical(&b, k, depth+1)
			canonical(&b, v.MapIndex(k), depth+1)
			entries = append(entries, string(b))
		}
		slices.Sort(entries)
		_, _ = fmt.Fprintf(w, "map%q", entries)
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		_, _ = io.WriteString(w, "opaque;")
	case reflect.String:
		_, _ = fmt.Fprintf(w, "%q;", v.String())
	default:
		_, _ = fmt.Fprintf(w, "%v;", v)
	}
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
