package hcl

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpacesCommentsAndLineBreaksAreNoChangeOfAnExpression(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{`["make", "test"]`, `[ "make","test" ]`, true},
		{`["make", "test"]`, "[\n  \"make\", # the tool\n  \"test\",\n]", true},
		{`{ A = 1, B = 2 }`, "{\n A = 1\n B = 2\n}", true},
		{`{ A = 1, B = 2 }`, "{\n A = 1 // one\n\n B = 2, }", true},
		{`[1, -2]`, `[1 -2]`, false},
		{`"a b"`, `"a  b"`, false},
		{"<<X\na\nX\n", "<<X\na \nX\n", false},
		{`a.b`, `a.c`, false},
		{`"${a}"`, `"${ a }"`, true},
		{`f(1, 2)`, "f(1,\n 2)", true},
		{`not ( even`, `not ( even`, true},
		{`not ( even`, `not  ( even`, true},
		{`"open`, `"  open`, false},
	} {
		if got := SameText(tc.a, tc.b); got != tc.same {
			t.Errorf("%q and %q: same is %v", tc.a, tc.b, got)
		}
	}
}

const compared = `
variable "branch" {
  default = "main"
}
variable "token" {
  sensitive = true
}
locals {
  derived = "x-${var.token}"
  plain   = "y-${var.branch}"
}
provider "test" "main" {}
worker "w" {
  provider = provider.test.main
  count    = 2
  instance {
    image = "debian-${count.index}"
    env   = { T = local.derived }
  }
}
builder "b" {
  workers = [worker.w]
  step "shell" "s" {
    command = ["make", local.plain, var.branch]
    env     = { TOKEN = var.token }
    stdin   = file("data.txt")
    when    = build.number > 1
  }
}
scheduler "force" "f" {
  builders = [builder.b]
}
`

func TestExpressionsKnowWhatOfTheConfigurationTheyUse(t *testing.T) {
	t.Parallel()
	load := func(branch, token, data string) *Config {
		o := testOptions()
		o.Variables = map[string]string{"branch": branch, "token": token}
		cfg, diags := LoadFiles(map[string][]byte{"main.hcl": []byte(compared), "data.txt": []byte(data)}, o)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return cfg
	}
	a, b, c := load("main", "one", "x"), load("dev", "one", "x"), load("main", "two", "y")
	var paths []string
	inputs := map[string][]string{}
	for _, e := range a.Expressions(a.Builders[0].Steps[0]) {
		paths, inputs[e.Path] = append(paths, e.Path), e.Inputs()
	}
	if diff := cmp.Diff([]string{"command", "env", "stdin", "when"}, paths); diff != "" {
		t.Error(diff)
	}
	want := map[string][]string{"command": {"local.plain", "var.branch"}, "env": {"var.token"}, "stdin": {`file("data.txt")`}, "when": nil}
	if diff := cmp.Diff(want, inputs); diff != "" {
		t.Error(diff)
	}
	for name, changed := range map[string][2]bool{"var.branch": {true, false}, "local.plain": {true, false}, "var.token": {false, true},
		"local.derived": {false, true}, `file("data.txt")`: {false, true}, "file(…)": {false, true}, "var": {true, true}} {
		if got := [2]bool{!SameInput(a, b, name), !SameInput(a, c, name)}; got != changed {
			t.Errorf("%s: %v, want %v", name, got, changed)
		}
	}
	if got := a.SensitiveInstance(&a.Workers[1]); !slices.Equal(got, []string{"env"}) {
		t.Errorf("sensitive: %v", got)
	}
	if got := a.GivenSensitive(); !slices.Equal(got, []string{"token"}) {
		t.Errorf("given: %v", got)
	}
	digests := func(c *Config, key string) string {
		d := c.SensitiveDigests([]byte(key), []string{"branch", "token", "nothing"})
		if len(d) != 1 || len(d["token"]) != 64 {
			t.Errorf("digests: %v", d) // of sensitive variables alone
		}
		return d["token"]
	}
	if digests(a, "key") != digests(b, "key") || digests(a, "key") == digests(c, "key") || digests(a, "key") == digests(a, "another") {
		t.Error("digests do not tell the same value from another one, or not only under one key")
	}
	if diff := cmp.Diff(map[string]string{"branch": `"main"`, "token": `"one"`}, a.Given()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"branch": `"main"`}, a.Variables); diff != "" {
		t.Error(diff)
	}
	if got := a.SensitiveValues(); !slices.Equal(got, []string{"one"}) {
		t.Errorf("sensitive values: %v", got)
	}
	if a.Workers[0].Pool != "w" {
		t.Errorf("pool %q", a.Workers[0].Pool)
	}
}

// TestProvidersAreSoundIfNothingIsWrongOrUnknownInTheirBlocks: what is guessed in one would be another place.
func TestProvidersAreSoundIfNothingIsWrongOrUnknownInTheirBlocks(t *testing.T) {
	t.Parallel()
	const text = `
variable "there" {}
variable "here" { default = "x" }
locals {
  far  = var.there
  near = var.here
}
provider "test" "a" { region = "x" }
provider "test" "b" { region = local.near }
provider "test" "c" { region = local.far }
provider "test" "d" { region = "x${var.there}" }
provider "test" "e" { region = var.missing }
provider "test" "f" { regionn = "x" }
provider "none" "g" {}
provider "test" "h" {}
provider "test" "h" { region = "x" }
`
	cfg, diags := LoadFiles(map[string][]byte{"a.hcl": []byte(text)}, testOptions())
	if !diags.HasErrors() {
		t.Fatal("no mistake is found")
	}
	var got []string
	for _, p := range cfg.SoundProviders() {
		got = append(got, p.Name)
	}
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
}
