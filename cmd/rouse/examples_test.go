package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
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

// TestReadmeShowsTheExamplesAsTheyAre: whoever copies the file gets what the text shows, and what the sessions below it were run with.
func TestReadmeShowsTheExamplesAsTheyAre(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"locks", "guests"} {
		text, err := os.ReadFile(filepath.Join("../../contrib/examples", name, "rouse.hcl"))
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(string(text), "\n\n") // after what the file is about
		if !strings.Contains(string(readme), "```hcl\n"+body+"```\n") {
			t.Errorf("README.md shows another text than contrib/examples/%s", name)
		}
	}
}

func TestReadmeNamesEveryCommand(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n| for | commands |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, c := range allCommands() {
		if c.HasParent() && c.Parent().Name() == "rouse" && !strings.Contains(table, "`"+c.Name()+"`") {
			t.Errorf("README.md's table of commands has no %s", c.Name())
		}
	}
}
