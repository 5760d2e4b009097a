package hcl

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReportHasTerraformsShape(t *testing.T) {
	t.Parallel()
	c, diags := LoadFiles(map[string][]byte{"a.hcl": []byte("builder \"b\" {\n  wrokers = []\n}\n"), "b.hcl": []byte("provider \"test\" \"p\" {}\nworker \"w\" { provider = provider.test.p }")}, testOptions())
	got, err := json.MarshalIndent(c.Report(c.Relocate("conf", diags)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "format_version": "1.0",
  "valid": false,
  "error_count": 1,
  "warning_count": 0,
  "diagnostics": [
    {
      "severity": "error",
      "summary": "Unsupported argument",
      "detail": "An argument named \"wrokers\" is not expected here. Did you mean \"workers\"?",
      "range": {
        "filename": "conf/a.hcl",
        "start": {
          "line": 2,
          "column": 3,
          "byte": 16
        },
        "end": {
          "line": 2,
          "column": 10,
          "byte": 23
        }
      },
      "snippet": {
        "context": "builder \"b\"",
        "code": "  wrokers = []",
        "start_line": 2,
        "highlight_start_offset": 2,
        "highlight_end_offset": 9,
        "values": []
      }
    }
  ]
}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestLinesOfAFileOfVariablesAreNotShown(t *testing.T) {
	t.Parallel()
	const secret = "correct-horse"
	for _, line := range []string{`password = { a = "` + secret + `" }`, `passwrod = "` + secret + `"`, `password = "` + secret + `" x`, `password = "` + secret} {
		file := filepath.Join(t.TempDir(), "some.vars")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		o := testOptions()
		o.VarFiles = []string{file}
		cfg, diags := LoadFiles(map[string][]byte{"a.hcl": []byte("variable \"password\" {\n  type      = string\n  sensitive = true\n}\n")}, o)
		var b bytes.Buffer
		if err := cfg.WriteDiagnostics(&b, diags, 0, false); err != nil {
			t.Fatal(err)
		}
		all, err := json.Marshal(cfg.Report(diags))
		if err != nil {
			t.Fatal(err)
		}
		if text := b.String() + string(all); strings.Contains(text, secret) || !strings.Contains(text, "some.vars") {
			t.Errorf("%s:\n%s", line, text)
		}
	}
}

func TestNoFunctionQuotesASensitiveVariable(t *testing.T) {
	t.Parallel()
	for _, call := range []string{`tonumber(var.password)`, `file(var.password)`, `tonumber(upper(var.password))`, `jsondecode("[${var.password}")`, `tonumber(local.copy)`,
		`tonumber([for x in [var.password] : x][0])`, `tonumber({ a = var.password }.a)`, `yamldecode(join("", ["{", var.password]))`} {
		o := testOptions()
		o.Variables = map[string]string{"password": "Correct-Horse"}
		cfg, diags := LoadFiles(map[string][]byte{"a.hcl": []byte("variable \"password\" {\n  sensitive = true\n}\nlocals {\n  copy = \"${var.password}!\"\n  x = " + call + "\n}\n")}, o)
		all, err := json.Marshal(cfg.Report(diags))
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.ToLower(string(all)); strings.Contains(text, "horse") || !strings.Contains(text, "function") {
			t.Errorf("%s:\n%s", call, all)
		}
	}
}
