package hcl

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	hcl2 "github.com/hashicorp/hcl/v2"
)

var update = flag.Bool("update", false, "rewrite the .want files")

// TestBadConfigurationsSayWhatIsWrong compares everything that is said about each bad file.
func TestBadConfigurationsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data: ", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c, diags := LoadFiles(map[string][]byte{filepath.Base(name): src}, testOptions())
			if len(diags) == 0 {
				t.Fatal("nothing is said about it")
			}
			var got bytes.Buffer
			if err := c.WriteDiagnostics(&got, diags, 0, false); err != nil {
				t.Fatal(err)
			}
			want := strings.TrimSuffix(name, ".hcl") + ".want"
			if *update {
				if err := os.WriteFile(want, got.Bytes(), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			golden, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(golden), got.String()); d != "" {
				t.Errorf("-want +got; `go test ./hcl -update` rewrites it:\n%s", d)
			}
		})
	}
}

// TestGoodConfigurationsLoad loads every good file, and what we give people to start from.
func TestGoodConfigurationsLoad(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/good/*")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob("../contrib/examples/*")
	if err != nil || len(examples) < 3 {
		t.Fatal("the examples are missing: ", err)
	}
	for _, name := range append(append(files, examples...), "../cmd/rouse/example.hcl") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			for _, kind := range []string{"ec2", "libvirt"} { // cmd/rouse knows the real kinds, and loads these examples
				if b, err := os.ReadFile(filepath.Join(name, "rouse.hcl")); err == nil && bytes.Contains(b, []byte(`provider "`+kind+`"`)) {
					t.Skip("it needs the provider " + kind)
				}
			}
			o := testOptions()
			var c *Config
			var diags hcl2.Diagnostics
			if strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".json") {
				src, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				c, diags = LoadFiles(map[string][]byte{filepath.Base(name): src}, o)
			} else {
				c, diags = Load(name, o)
			}
			if len(diags) > 0 {
				var text bytes.Buffer
				_ = c.WriteDiagnostics(&text, diags, 0, false)
				t.Errorf("%s", &text)
			}
		})
	}
}
