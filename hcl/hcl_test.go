package hcl

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	hcl2 "github.com/hashicorp/hcl/v2"
)

// loadText loads one file and fails the test if it is not valid.
func loadText(t testing.TB, src string, change ...func(*Options)) *Config {
	t.Helper()
	o := testOptions()
	o.Dir = t.TempDir()
	for _, f := range change {
		f(&o)
	}
	c, diags := LoadFiles(map[string][]byte{"test.hcl": []byte(src)}, o)
	if diags.HasErrors() {
		t.Fatalf("the configuration has errors:\n%s", rendered(c, diags))
	}
	return c
}

func rendered(c *Config, diags hcl2.Diagnostics) string {
	var text bytes.Buffer
	_ = c.WriteDiagnostics(&text, diags, 0, false)
	return text.String()
}

// frame is a configuration around a worker's and a step's own text.
func frame(worker, step string) string {
	return `
provider "test" "main" {}
worker "w" {
  provider = provider.test.main
  ` + worker + `
}
builder "b" {
  workers = [worker.w]
  ` + step + `
}
scheduler "force" "f" { builders = [builder.b] }
`
}

const trueStep = `
  step "shell" "s" {
    command = "true"
  }
`

func TestEveryBlockIsResolved(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/good/all.hcl")
	if err != nil {
		t.Fatal(err)
	}
	c := loadText(t, string(src))
	ignore := cmpopts.IgnoreFields
	opts := cmp.Options{
		ignore(Worker{}, "Spec", "Range", "Attrs"), ignore(Secret{}, "Range", "File"), ignore(Master{}, "Range"), ignore(Mail{}, "Range"), ignore(Webhook{}, "Range"), ignore(Builder{}, "Range", "Env", "Steps"),
		ignore(Scheduler{}, "Range"), ignore(Lock{}, "Range"),
	}
	check := func(what string, got, want any) {
		t.Helper()
		if d := cmp.Diff(want, got, opts); d != "" {
			t.Errorf("%s: -want +got\n%s", what, d)
		}
	}
	check("master", c.Master, Master{
		Name: "ci", Listen: "127.0.0.1:0", API: "127.0.0.1:8010", OnStop: "drain", MaxAttempts: 3, LogMaxAge: 30 * 24 * time.Hour, LogMaxSize: 10 << 30,
		RecordMaxAge: 9*24*time.Hour + 12*time.Hour, ArtifactsDir: "artifacts", Currency: "USD",
		Tokens: []APIToken{{Name: "cli", Role: "admin", Secret: Secret{Name: "api", Env: "ROUSE_API_TOKEN"}}},
		Mail: &Mail{Relay: "mail.example.org:25", From: "rouse@example.org", Username: "rouse", TLS: "required",
			Secret: &Secret{Name: "api", Env: "ROUSE_API_TOKEN"}},
		Webhook: &Webhook{URL: "https://example.org/hook", Secret: &Secret{Name: "api", Env: "ROUSE_API_TOKEN"}},
	})
	if len(c.Workers) != 4 {
		t.Fatalf("%d workers, want 4", len(c.Workers))
	}
	check("the second linux worker", c.Workers[1], Worker{
		Name: "linux-2", Pool: "linux", Provider: "main", Instance: &testInstance{Image: "debian-1"}, MaxBuilds: 1, KeepaliveInterval: time.Hour,
		MissingTimeout: 90 * time.Second, BuildWaitTimeout: -time.Second, OrphanTimeout: 10 * time.Minute, Price: 2, Idle: "terminate",
		Properties: map[string]any{"index": 1.0, "os": "linux", "tags": []any{"a", 1.0, nil}},
	})
	check("the standard worker", c.Workers[3], Worker{
		Name: "mac", Password: &Secret{Name: "worker_password"}, MissingTimeout: time.Hour, BuildWaitTimeout: 10 * time.Minute,
		OrphanTimeout: 10 * time.Minute, Idle: "terminate", NotifyOnMissing: []string{"ops@example.org"}, Locks: []Access{{"license", true}},
	})
	if r := c.Workers[1].Attrs["image"]; r.Start.Line != 77 || r.Start.Column != 13 {
		t.Errorf("the place of instance.image is %v", r)
	}
	check("builder", c.Builders[0], Builder{
		Name: "unit", Description: "ROUSE's tests", Workers: []string{"linux-1", "linux-2", "linux-3", "mac"}, Locks: []Access{{"license", false}, {"disk", true}},
		Collapse: true, MaxAttempts: 3, BuildDir: "unit", Properties: map[string]any{"level": 3.0},
	})
	check("workers by for", c.Builders[1].Workers, []string{"linux-1", "linux-3"})
	check("locks", c.Locks, []Lock{{Name: "license", Max: 2}, {Name: "disk", Max: 1, PerWorker: true}})
	check("schedulers", c.Schedulers, []Scheduler{
		{Name: "force", Kind: "force", Builders: []string{"unit", "deploy"}},
		{Name: "deploy", Kind: "triggerable", Builders: []string{"deploy"}, Priority: 5},
		{Name: "night", Kind: "nightly", Builders: []string{"unit"}, Cron: "30 3 * * 1-5", Zone: "UTC", Repository: "https://example.org/repo.git", Branch: "main"},
		{Name: "often", Kind: "periodic", Builders: []string{"unit"}, Every: 15 * time.Minute},
	})
}

func TestDefaultsAreBuildbots(t *testing.T) {
	t.Parallel()
	c := loadText(t, frame("", `
	  step "shell" "s" { command = "true" }
	  step "git" "g" { repository = "r" }
	  step "upload" "u" { from = "f" }
	  step "download" "d" {
	    content = ""
	    to      = "f"
	  }
	  step "set_property" "p" {
	    property = "x"
	    value    = 1
	  }
	`))
	if m := c.Master; m.Listen != "127.0.0.1:9989" || m.OnStop != "keep" || m.MaxAttempts != 5 {
		t.Errorf("master: %+v", m)
	}
	if w := c.Workers[0]; w.MissingTimeout != 20*time.Minute || w.BuildWaitTimeout != 10*time.Minute || w.KeepaliveInterval != time.Hour || w.MaxBuilds != 0 {
		t.Errorf("latent worker: %+v", w)
	}
	for _, s := range c.Builders[0].Steps {
		halts := s.Kind == "git" || s.Kind == "upload" || s.Kind == "download"
		if s.HaltOnFailure != halts || !s.FlunkOnFailure || s.WarnOnFailure || s.FlunkOnWarnings || s.WarnOnWarnings || s.AlwaysRun {
			t.Errorf("step %s: %+v", s.Kind, s)
		}
	}
}

func TestADirectoryIsOneConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.hcl", `provider "test" "main" {}
worker "w" { provider = provider.test.main }`)
	write("b.hcl.json", `{
	  "builder": {"b": {
	    "workers": ["${worker.w}"],
	    "step": [{"shell": {"one": {"command": ["echo", "${build.number}"]}}}, {"shell": {"two": {"command": "${file(\"script.sh\")}"}}}]
	  }},
	  "scheduler": {"force": {"f": {"builders": ["b"]}}}
	}`)
	write("script.sh", "make\n")
	write("notes.txt", "not { HCL")
	write(".hidden.hcl", "not { HCL")
	c, diags := Load(dir, testOptions())
	if len(diags) > 0 {
		t.Fatal(rendered(c, diags))
	}
	if got := sortedKeys(c.Files); !cmp.Equal(got, []string{"a.hcl", "b.hcl.json", "script.sh"}) {
		t.Errorf("files: %v", got)
	}
	// Its text alone makes it again, when the directory has long changed.
	again, diags := LoadFiles(c.Files, Options{Dir: filepath.Join(dir, "gone"), Kinds: testOptions().Kinds})
	if len(diags) > 0 {
		t.Fatal(rendered(again, diags))
	}
	ev, diags := again.Builders[0].Steps[1].Eval(Scope{}, again.Env())
	if diags.HasErrors() || ev.Spec.(*ShellSpec).Script != "make\n" {
		t.Errorf("%+v %v", ev, diags)
	}
}

func TestCommentsAndOrderDoNotChangeTheDigest(t *testing.T) {
	t.Parallel()
	spec := func(instance string) string {
		return loadText(t, frame("count = 1\n instance {\n"+instance+"\n}", trueStep)).Workers[0].Spec
	}
	base := spec(`image = "a"
	  env = { A = 1, B = 2 }`)
	if same := spec(`# another comment
	  env = merge({ B = "2" }, { A = "1" })
	  image = lower("A")`); same != base {
		t.Error("the digest changed with the way of writing")
	}
	for _, other := range []string{`image = "b"
	  env = { A = 1, B = 2 }`, `image = "a"
	  env = { A = 1, B = 3 }`, `image = "a-${count.index}"`} {
		if spec(other) == base {
			t.Errorf("the digest is the same with %s", other)
		}
	}
}

func TestVariablesComeFromFourPlaces(t *testing.T) {
	t.Parallel()
	src := `
variable "a" { default = "default" }
variable "b" { default = "default" }
variable "c" { default = "default" }
variable "d" { default = "default" }
variable "version" {
  type    = string
  default = "0"
}
variable "list" { default = [] }
variable "object" {
  type    = object({ n = number, s = optional(string, "x") })
  default = { n = 1 }
}
variable "token" {
  sensitive = true
  default   = ""
}
` + frame(`properties = { all = [var.a, var.b, var.c, var.d, var.version, var.list, var.object] }`, `
	  step "shell" "s" {
	    command = "true"
	    env     = { T = var.token }
	  }`)
	file := filepath.Join(t.TempDir(), "prod.vars")
	if err := os.WriteFile(file, []byte("b = \"file\"\nc = \"file\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := func(o *Options) {
		o.VarFiles = []string{file}
		o.Variables = map[string]string{"c": "flag", "version": "1.10", "list": `["x", 2]`, "object": "{n = 2}", "token": "hush"}
		o.Getenv = func(name string) string { return map[string]string{"ROUSE_VAR_d": "env", "ROUSE_VAR_c": "env"}[name] }
	}
	c := loadText(t, src, set)
	if ev, diags := c.Builders[0].Steps[0].Eval(Scope{}, c.Env()); diags.HasErrors() || ev.Spec.(*ShellSpec).Env["T"] != "hush" || len(ev.Secrets) != 1 {
		t.Errorf("a sensitive variable in a step: %+v %v", ev, diags)
	}
	want := []any{"default", "file", "flag", "env", "1.10", []any{"x", 2.0}, map[string]any{"n": 2.0, "s": "x"}}
	if d := cmp.Diff(want, c.Workers[0].Properties["all"]); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if _, ok := c.Variables["token"]; ok {
		t.Error("a sensitive variable's value is kept")
	}
	// What is kept gives the same values again.
	again := loadText(t, src, func(o *Options) {
		o.Stored = c.Variables
		o.Variables = map[string]string{"token": "hush", "a": "changed since", "new": "1"}
		o.VarFiles = []string{"/nonexistent"}
	})
	if d := cmp.Diff(want, again.Workers[0].Properties["all"]); d != "" {
		t.Errorf("from what was kept: -want +got\n%s", d)
	}
	_, diags := LoadFiles(map[string][]byte{"test.hcl": []byte(src)}, Options{Kinds: testOptions().Kinds, Variables: map[string]string{"versoin": "1"}})
	if !strings.Contains(diags.Error(), `Did you mean "version"?`) {
		t.Errorf("an unknown variable: %v", diags)
	}
}

func TestDurationsMayBeTextOrSeconds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour,
		"1w2d12h": 9*24*time.Hour + 12*time.Hour, "-1": -time.Second, "-1d": -24 * time.Hour, "0": 0,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-", "d", "1y", "ten", "1d-2h", "NaN", "Inf", "1e300", "99999999999999999999h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", text, got)
		}
	}
}
