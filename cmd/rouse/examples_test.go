package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
)

// TestExamplesLoad loads what we give people to start from, with the kinds of providers that the program really has.
func TestExamplesLoad(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../../contrib/examples/*")
	if err != nil || len(examples) < 5 {
		t.Fatal("the examples are missing: ", err)
	}
	for _, dir := range examples {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			c, diags := hcl.Load(dir, hcl.Options{Kinds: kinds(), Getenv: func(string) string { return "" }})
			if len(diags) > 0 {
				var text bytes.Buffer
				_ = c.WriteDiagnostics(&text, diags, 0, false)
				t.Errorf("%s", &text)
			}
		})
	}
}
