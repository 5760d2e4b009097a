package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers"
)

// anyKind takes every attribute.
type anyKind struct{}

func (anyKind) Name() string { return "local" }
func (anyKind) DecodeProvider(body hcl2.Body, _ *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	_, diags := body.JustAttributes()
	return nil, diags
}
func (anyKind) DecodeInstance(_ any, body hcl2.Body, _ *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	_, diags := body.JustAttributes()
	return nil, diags
}
func (anyKind) Open(context.Context, providers.Env) (providers.Provider, providers.Limits, error) {
	return nil, providers.Limits{}, errors.New("not here")
}

// runConfig runs one command that needs no master.
func runConfig(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := &app{kinds: map[string]providers.Kind{"local": anyKind{}}, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	code = a.run(args)
	return code, out.String(), errs.String()
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestInitWritesAnExampleThatIsValidAndTidy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if code, out, errs := runConfig("", "init", dir); code != 0 || !strings.Contains(out, "rouse validate "+dir) {
		t.Fatalf("init: %d\n%s%s", code, out, errs)
	}
	if code, out, errs := runConfig("", "validate", dir); code != 0 || errs != "" ||
		out != "The configuration is valid. 2 workers (2 latent), 1 builder with 3 steps, 1 scheduler.\n" {
		t.Errorf("validate: %d\n%s%s", code, out, errs)
	}
	if code, out, errs := runConfig("", "fmt", "-check", dir); code != 0 || out != "" || errs != "" {
		t.Errorf("fmt: %d\n%s%s", code, out, errs)
	}
	if code, _, errs := runConfig("", "init", dir); code != 1 || !strings.Contains(errs, "nothing was written") {
		t.Errorf("a second init: %d\n%s", code, errs)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "rouse.hcl")); err != nil || !bytes.Equal(text, example) {
		t.Errorf("the example changed: %v", err)
	}
}

// TestTheCommentedPartOfTheExampleIsValid uncomments it, since people will.
func TestTheCommentedPartOfTheExampleIsValid(t *testing.T) {
	text := string(example)
	start := strings.Index(text, "# builder \"project\"")
	end := strings.Index(text, "# A scheduler says")
	part := strings.ReplaceAll("\n"+text[start:end], "\n# ", "\n")
	part = strings.ReplaceAll(strings.ReplaceAll(part, "\n#\n", "\n\n"), "\n# The text", "\n# # The text")
	text = strings.Replace(text[:start]+part+text[end:], "[builder.hello]", "[builder.hello, builder.project]", 1)
	c, diags := hcl.LoadFiles(map[string][]byte{"x.hcl": []byte(text)}, hcl.Options{Kinds: map[string]providers.Kind{"local": anyKind{}}})
	if len(diags) > 0 || len(c.Builders) != 2 || len(c.Secrets) != 1 {
		t.Errorf("%d builders, %d secrets: %v\n%s", len(c.Builders), len(c.Secrets), diags, text)
	}
}

func TestValidateShowsEveryMistakeWithItsLine(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.hcl"), "provider \"locl\" \"here\" {}\n")
	writeFile(t, filepath.Join(dir, "b.hcl"), "worker \"w\" {\n  provder = 1\n}\n\nbuilder \"b\" {\n  workers = [worker.v]\n  step \"shell\" \"s\" { command = build.numbr }\n}\n")
	code, out, errs := runConfig("", "validate", dir)
	if code != 1 || out != "" {
		t.Errorf("%d\n%s", code, out)
	}
	for _, want := range []string{
		"a.hcl line 1", `Did you mean "local"?`, "b.hcl line 2", `Did you mean "provider"?`, "b.hcl line 6", `There is no worker "v". There is: w.`,
		"b.hcl line 7", `build has no attribute "numbr". Did you mean "number"?`, "step \"shell\" \"s\" { command = build.numbr }", "The configuration is not valid: ",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("it does not say %q:\n%s", want, errs)
		}
	}
	code, out, _ = runConfig("", "validate", "-json", dir)
	var report hcl.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || report.Valid || report.ErrorCount < 4 || report.Diagnostics[0].Range.Filename != filepath.Join(dir, "a.hcl") {
		t.Errorf("%d %v\n%s", code, err, out)
	}
}

func TestValidateTakesVariables(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.hcl"), string(example)+"\nvariable \"needed\" { type = number }\n")
	vars := filepath.Join(dir, "x.vars")
	writeFile(t, vars, "needed = 1\n")
	for _, args := range [][]string{{"-var", "needed=2"}, {"-var=needed=2"}, {"-var-file", vars}} {
		if code, _, errs := runConfig("", append([]string{"validate", dir}, args...)...); code != 0 {
			t.Errorf("%v: %d\n%s", args, code, errs)
		}
	}
	for _, args := range [][]string{{}, {"-var", "needed"}, {"-var", "needed=many"}, {"-var", "other=1", "-var", "needed=1"}, {"-var-file", "/nonexistent"}} {
		if code, _, errs := runConfig("", append([]string{"validate", dir}, args...)...); code != 1 || errs == "" {
			t.Errorf("%v: %d\n%s", args, code, errs)
		}
	}
}

const untidy, tidied = "a {\nb=1\n  ccc  =  2\n}\n", "a {\n  b   = 1\n  ccc = 2\n}\n"

func TestFmtRewritesOnlyWhatItMust(t *testing.T) {
	dir := t.TempDir()
	file, clean, deep := filepath.Join(dir, "a.hcl"), filepath.Join(dir, "b.hcl"), filepath.Join(dir, "sub", "c.hcl")
	if err := os.Mkdir(filepath.Dir(deep), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, untidy)
	writeFile(t, clean, tidied)
	writeFile(t, deep, untidy)

	code, out, errs := runConfig("", "fmt", "-check", "-diff", dir)
	if code != 3 || errs != "" || !strings.HasPrefix(out, file+"\n--- old/"+file+"\n+++ new/"+file+"\n@@ -1,4 +1,4 @@\n a {\n-b=1\n-  ccc  =  2\n+  b   = 1\n+  ccc = 2\n }\n") {
		t.Errorf("-check -diff: %d\n%s%s", code, out, errs)
	}
	if text, _ := os.ReadFile(file); string(text) != untidy {
		t.Error("-check changed the file")
	}
	if code, out, _ := runConfig("", "fmt", dir); code != 0 || out != file+"\n" {
		t.Errorf("fmt: %d %q", code, out)
	}
	if text, _ := os.ReadFile(file); string(text) != tidied {
		t.Errorf("the file is %q", text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode changed: %v %v", info.Mode(), err)
	}
	if code, out, _ := runConfig("", "fmt", "-recursive", dir); code != 0 || out != deep+"\n" {
		t.Errorf("-recursive: %d %q", code, out)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("something is left behind: %v", entries)
	}
}

func TestFmtLeavesWhatItCannotParse(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "a.hcl")
	writeFile(t, broken, "a {\nb=\n}\n")
	writeFile(t, filepath.Join(dir, "b.hcl"), untidy)
	code, out, errs := runConfig("", "fmt", dir)
	if code != 2 || !strings.Contains(errs, broken+" line 2") || out != filepath.Join(dir, "b.hcl")+"\n" {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if text, _ := os.ReadFile(broken); string(text) != "a {\nb=\n}\n" {
		t.Error("the file changed")
	}
	if code, _, _ := runConfig("", "fmt", filepath.Join(dir, "none.hcl")); code != 2 {
		t.Errorf("a missing file: %d", code)
	}
}

func TestFmtReadsStandardInput(t *testing.T) {
	if code, out, _ := runConfig(untidy, "fmt", "-"); code != 0 || out != tidied {
		t.Errorf("%d %q", code, out)
	}
	if code, out, _ := runConfig(untidy, "fmt", "-check", "-"); code != 3 || out != "" {
		t.Errorf("-check: %d %q", code, out)
	}
	if code, out, errs := runConfig("a {", "fmt", "-"); code != 2 || out != "" || !strings.Contains(errs, "<stdin> line 1") {
		t.Errorf("broken: %d %q %q", code, out, errs)
	}
}

func TestDiffShowsContextAndSplitsHunks(t *testing.T) {
	var before, after []string
	for i := range 40 {
		line := strings.Repeat("x", i) + "\n"
		before = append(before, line)
		switch i {
		case 5:
			line = "changed\n"
		case 30:
			line = "" // taken away
		case 39:
			line = "no newline"
		}
		if line != "" {
			after = append(after, line)
		}
	}
	got := unifiedDiff("f", []byte(strings.Join(before, "")), []byte(strings.Join(after, "")))
	for _, want := range []string{"@@ -3,7 +3,7 @@\n", "@@ -28,7 +28,6 @@\n", "@@ -37,4 +36,4 @@\n", "+no newline\n\\ No newline at end of file\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("it has no %q:\n%s", want, got)
		}
	}
}
