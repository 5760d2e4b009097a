package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
)

// TestValidateHasTheOutcomesOfCheckconfig: good, deprecated names, errors (all of them), a broken file; as text and as JSON.
func TestValidateHasTheOutcomesOfCheckconfig(t *testing.T) {
	const fleet = `
provider "local" "here" {}
worker "w" {
  provider = provider.local.here
}
builder "b" {
  WORKERS = [worker.w]
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { BUILDERS = [builder.b] }
`
	modern := strings.NewReplacer("WORKERS", "workers", "BUILDERS", "builders").Replace(fleet)
	for _, c := range []struct {
		name, text       string
		code             int
		errors, warnings int
		says             []string
	}{
		{"good", modern, 0, 0, 0, nil},
		{"deprecated names", strings.NewReplacer("WORKERS", "slavenames", "BUILDERS", "builderNames", "worker \"w\"", "slave \"w\"").Replace(fleet), 0, 0, 3,
			[]string{`"slavenames" is the old name of "workers"`, `"builderNames" is the old name of "builders"`, `"slave" is the old name of "worker"`}},
		{"errors", strings.Replace(modern, "builder.b]", "builder.c]", 1) + "worker \"debug\" {\n  provider = provider.local.here\n}\n", 1, 2, 0,
			[]string{`There is no builder "c"`, `"debug" cannot be the name of a worker: it is reserved`}},
		{"broken file", modern + "worker {{\n", 1, 1, 0, []string{"rouse.hcl line 11"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "rouse.hcl"), c.text)
			code, out, errs := runConfig("", "validate", dir)
			if code != c.code || (c.code == 0) != strings.Contains(out, "The configuration is valid.") {
				t.Errorf("exit code %d, want %d\n%s%s", code, c.code, out, errs)
			}
			for _, want := range c.says {
				if !strings.Contains(errs, want) {
					t.Errorf("it does not say %q:\n%s", want, errs)
				}
			}
			code, out, _ = runConfig("", "validate", "-json", dir)
			var r hcl.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || code != c.code || r.Valid != (c.code == 0) || r.ErrorCount < c.errors || c.errors == 0 && r.ErrorCount > 0 || r.WarningCount != c.warnings {
				t.Errorf("exit code %d, %v\n%s", code, err, out)
			}
		})
	}
}
