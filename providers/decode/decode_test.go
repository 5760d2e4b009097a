package decode

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

type all struct {
	S, C    string
	B       bool
	I       int64
	R       float64
	D       time.Duration
	Size    int64
	M, Vars map[string]string
}

func decodeAll(t testing.TB, src string) (all, hcl2.Diagnostics) {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	out := all{S: "default", I: 7}
	a := Body(f.Body, &hcl2.EvalContext{Variables: map[string]cty.Value{"unknown": cty.DynamicVal}}, "s", "c", "b", "i", "r", "d", "size", "m", "vars")
	a.String("s", &out.S)
	a.OneOf("c", &out.C, "red", "green")
	a.Bool("b", &out.B)
	a.Int("i", &out.I, 1, 10)
	a.Rate("r", &out.R)
	a.Duration("d", &out.D)
	a.Bytes("size", &out.Size, 1024)
	a.StringMap("m", &out.M)
	a.Env("vars", &out.Vars)
	return out, a.Diags
}

func TestAttributesSetTheirDestinations(t *testing.T) {
	t.Parallel()
	got, diags := decodeAll(t, `
s = "x"
c = "red"
b = true
i = 10
r = 0.5
d = "1h30m"
size = "1.5GiB"
m = { a = "1", b = 2 }
vars = { PATH = "/bin" }
`)
	want := all{
		S: "x", C: "red", B: true, I: 10, R: 0.5, D: 90 * time.Minute, Size: 3 << 29,
		M: map[string]string{"a": "1", "b": "2"}, Vars: map[string]string{"PATH": "/bin"},
	}
	if diff := cmp.Diff(want, got); diff != "" || diags.HasErrors() {
		t.Error(diff, diags)
	}
}

func TestAbsentNullAndUnknownAttributesKeepTheDefault(t *testing.T) {
	t.Parallel()
	for _, src := range []string{"", "s = null\ni = null", "s = unknown\ni = unknown\nm = { a = unknown }"} {
		got, diags := decodeAll(t, src)
		if diff := cmp.Diff(all{S: "default", I: 7}, got); diff != "" || diags.HasErrors() {
			t.Error(src, diff, diags)
		}
	}
}

func TestMistakesAreAllReportedWithTheirRange(t *testing.T) {
	t.Parallel()
	_, diags := decodeAll(t, `
s = []
c = "blue"
b = "perhaps"
i = 11
r = 1.5
d = "soon"
size = "1XB"
m = "x"
vars = { "A=B" = "x" }
`)
	if len(diags) != 9 {
		t.Errorf("%d mistakes, want 9: %v", len(diags), diags)
	}
	for i, d := range diags {
		if d.Subject == nil || d.Subject.Start.Line != i+2 || d.Detail == "" {
			t.Errorf("mistake %d has subject %v: %v", i, d.Subject, d)
		}
	}
}

func TestMisspeltAttributeGetsASuggestion(t *testing.T) {
	t.Parallel()
	_, diags := decodeAll(t, `sise = "1MiB"`)
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `"size"`) {
		t.Errorf("%v", diags)
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"", "1", "512MiB", "1.5GB", "-1", "9e99TiB", "NaN", "infMiB", "0x10KB", " 1 KB", "MiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); n < 0 || (err != nil && n != 0) {
			t.Errorf("ParseBytes(%q) = %d, %v", s, n, err)
		}
	})
}
