package hcl

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad holds that no text makes Load panic, that what is said about it can be rendered, and that fmt is stable.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.hcl", "testdata/bad/*.hcl", "../contrib/examples/*/*.hcl"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src, false)
		}
	}
	f.Add([]byte(`{"worker": {"w": {"count": 2, "provider": "${provider.test.main}"}}}`), true)
	f.Add([]byte(`{"builder": [{"b": {"workers": "${[for w in [1]: w]}", "step": {"shell": {"s": {"command": ["a"]}}}}}]}`), true)
	f.Fuzz(func(t *testing.T, src []byte, json bool) {
		if len(src) > 64<<10 {
			return // large inputs have a test of their own
		}
		name := "fuzz.hcl"
		if json {
			name = "fuzz.hcl.json"
		}
		o := testOptions()
		o.Dir = t.TempDir()
		c, diags := LoadFiles(map[string][]byte{name: src}, o)
		var text bytes.Buffer
		_ = c.WriteDiagnostics(&text, diags, 80, false)
		if r := c.Report(diags); r.Valid == diags.HasErrors() {
			t.Error("the report contradicts the diagnostics")
		}
		if !diags.HasErrors() {
			for _, b := range c.Builders {
				for _, s := range b.Steps {
					_, _ = s.Eval(Scope{}, &Env{ctx: c.env.ctx, dir: o.Dir}) // without secrets: no command is run
				}
			}
		}
		if formatted, diags := Format(name, src); !json && !diags.HasErrors() {
			again, diags := Format(name, formatted)
			if diags.HasErrors() || !bytes.Equal(formatted, again) {
				t.Errorf("fmt is not stable:\n%q\n%q\n%s", formatted, again, diags)
			}
		}
	})
}
