package hcl

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

const hiddenText = `
variable "dbpw" {
  sensitive = true
  default   = "hunter2secret"
}
variable "keys" {
  sensitive = true
  default   = { a = ["key-one", 471147], b = true }
}
variable "open" { default = "not-a-secret" }
locals { url = "https://ci:${var.dbpw}@example.org" }
provider "test" "p" { region = "r" }
worker "w" {
  count    = 2
  provider = provider.test.p
  instance { image = base64encode("${count.index}:${var.dbpw}") }
}
worker "other" {
  provider = provider.test.p
  instance { image = "x-${local.url}" }
}
builder "b" {
  workers = worker.w
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { builders = ["b"] }
`

// loadAny returns all diagnostics as people see them.
func loadAny(t *testing.T, src string) (*Config, string) {
	t.Helper()
	cfg, diags := LoadFiles(map[string][]byte{"main.hcl": []byte(src)}, testOptions())
	var b strings.Builder
	if err := cfg.WriteDiagnostics(&b, diags, 0, false); err != nil {
		t.Fatal(err)
	}
	return cfg, b.String()
}

func hiddenOf(t *testing.T, worker string) []string {
	t.Helper()
	cfg, problems := loadAny(t, hiddenText)
	if problems != "" {
		t.Fatal(problems)
	}
	var got []string
	for _, v := range cfg.Hidden(worker) {
		got = append(got, string(v))
	}
	return got
}

func TestHiddenAreAllSensitiveValuesAndWhatTheInstanceMakesOfThem(t *testing.T) {
	t.Parallel()
	always := []string{"hunter2secret", "key-one", "471147"}
	encoded := base64.StdEncoding.EncodeToString([]byte("1:hunter2secret"))
	for worker, want := range map[string][]string{
		"w-2":     append(slices.Clone(always), encoded),
		"other":   always, // it holds the value as it is
		"unknown": always,
	} {
		if got := hiddenOf(t, worker); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", worker, got, want)
		}
	}
}

func TestAShortSensitiveValueIsWarnedOf(t *testing.T) {
	t.Parallel()
	_, problems := loadAny(t, strings.Replace(hiddenText, "hunter2secret", "hun", 1))
	if !strings.Contains(problems, "var.dbpw is sensitive") || !strings.Contains(problems, "fewer than 4 bytes") {
		t.Error(problems)
	}
}
