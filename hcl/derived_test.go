package hcl

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func secretsOf(t *testing.T, before, env string) []string {
	t.Helper()
	ev, problems := evalStep(t, before, "step \"shell\" \"s\" {\ncommand = \"deploy\"\nenv = "+env+"\n}", Scope{})
	if strings.Contains(problems, "Error") || ev.Spec == nil {
		t.Fatal(problems)
	}
	var got []string
	for _, s := range ev.Secrets {
		got = append(got, string(s))
	}
	return got
}

// A secret that is too short to be masked is in many texts by chance.
func TestWhatIsMadeFromASecretIsMaskedAlthoughAShortOneIsInIt(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"a": encoded("ci:beta")[:2], "b": "beta"})
	if got := secretsOf(t, before, `{ A = secret.a, B = base64encode("ci:${secret.b}") }`); !slices.Contains(got, encoded("ci:beta")) {
		t.Errorf("%q", got)
	}
}

// A text that holds one secret as it is may hold another one in another form.
func TestWhatAFunctionMakesFromASecretIsMaskedInsideOfAText(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"user": "robot", "pw": "hunter2"})
	got := secretsOf(t, before, `{ CONFIG = jsonencode({ user = secret.user, auth = base64encode("${secret.user}:${secret.pw}") }), OPEN = base64encode("nothing") }`)
	if !slices.Contains(got, encoded("robot:hunter2")) {
		t.Errorf("%q", got)
	}
	for _, s := range got {
		if strings.Contains(s, "auth") || s == encoded("nothing") {
			t.Errorf("%q is no secret", s)
		}
	}
}

// A secret may hold several: what is used of it is one, too.
func TestAPartOfWhatAFunctionMakesIsMaskedBesideAnotherSecret(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"user": "robot", "db": `{"password": "hunter2", "hosts": ["h-one", "h-two"]}`, "pair": "name:pass-word"})
	for env, want := range map[string]string{
		`{ C = "https://${secret.user}:${jsondecode(secret.db).password}@h/" }`:                     "hunter2",
		`{ C = "${secret.user} ${split(":", secret.pair)[1]}" }`:                                    "pass-word",
		`{ C = "${secret.user} ${jsondecode(secret.db)["hosts"][length("x")]}" }`:                   "h-two",
		`{ C = "${secret.user} %{ for p in ["password"] }${jsondecode(secret.db)[p]}%{ endfor }" }`: "hunter2",
	} {
		if got := secretsOf(t, before, env); !slices.Contains(got, want) {
			t.Errorf("%s\n%q lacks %q", env, got, want)
		}
	}
}

// A function in a `for` expression is called once for each element, and its result may be beside another secret.
func TestWhatAFunctionMakesForEachElementIsMasked(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"user": "robot", "pw": "hunter2"}) + "variable \"keys\" {\nsensitive = true\ndefault = { A = \"key-one\" }\n}\n"
	for env, want := range map[string]string{
		`{ C = jsonencode({ user = secret.user, auth = [for p in [secret.pw] : base64encode(p)] }) }`:                                               encoded("hunter2"),
		`{ C = jsonencode({ user = secret.user, auth = { for k, p in { a = secret.pw } : k => "b:${base64encode("${k}:${p}")}" } }) }`:              encoded("a:hunter2"),
		`{ C = "${secret.user} %{ for p in [secret.pw] }${base64encode(p)}%{ endfor }" }`:                                                           encoded("hunter2"),
		`{ C = jsonencode({ user = secret.user, auth = [for k, v in var.keys : base64encode(v)] }) }`:                                               encoded("key-one"),
		`{ C = jsonencode({ user = secret.user, auth = [for u in ["x", "y"] : [for p in [secret.pw] : base64encode("${u}:${p}")] if u != "x"] }) }`: encoded("y:hunter2"),
	} {
		if got := secretsOf(t, before, env); !slices.Contains(got, want) {
			t.Errorf("%s\n%q lacks %q", env, got, want)
		}
	}
	for _, s := range secretsOf(t, before, `{ C = jsonencode({ user = secret.user, open = [for s in ["one"] : base64encode(s)] }) }`) {
		if s == encoded("one") {
			t.Errorf("%q is no secret", s)
		}
	}
}

// A mark may be on a whole map, and not on each of its values.
func TestWhatIsMadeFromASensitiveMapIsMasked(t *testing.T) {
	t.Parallel()
	got := secretsOf(t, `variable "keys" {
  sensitive = true
  default   = { A = "key-one", B = "key-two" }
}`, `{ for k, v in var.keys : k => base64encode(v) }`)
	for _, want := range []string{encoded("key-one"), encoded("key-two")} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not masked: %q", want, got)
		}
	}
}

func TestHiddenIsNoMoreThanWhatIsMadeFromSensitiveValues(t *testing.T) {
	t.Parallel()
	src := strings.Replace(hiddenText, `instance { image = base64encode("${count.index}:${var.dbpw}") }`, `instance {
    env = {
      MODE = "release"
      DB   = base64encode(var.dbpw)
      URL  = "https://${var.dbpw}@h/${base64encode("ci-1:${var.dbpw}")}"
      N    = base64encode("3.14:${var.short}")
    }
  }`, 1) + "locals {\nauth = base64encode(\"ci-2:${var.dbpw}\")\nboth = \"${var.dbpw} ${base64encode(\"ci-3:${var.dbpw}\")}\"\n}\nvariable \"short\" {\nsensitive = true\ndefault = \"Mw\"\n}\n"
	cfg, problems := loadAny(t, src)
	if strings.Contains(problems, "Error") {
		t.Fatal(problems)
	}
	var got []string
	for _, v := range cfg.Hidden("w-1") {
		got = append(got, string(v))
	}
	for _, want := range []string{encoded("hunter2secret"), encoded("ci-1:hunter2secret"), encoded("3.14:Mw"), encoded("ci-2:hunter2secret"), encoded("ci-3:hunter2secret")} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not hidden: %q", want, got)
		}
	}
	if slices.Contains(got, "release") {
		t.Errorf("what is no secret is hidden: %q", got)
	}
}

// Inside of a `for` expression, values have no mark, and the attributes of an object are in its type.
func TestNoComplaintQuotesASensitiveVariable(t *testing.T) {
	t.Parallel()
	src := hiddenText + `
variable "named" {
  sensitive = true
  default   = { hidden-name = "hidden-value" }
}
`
	for _, e := range []string{`[for k in ["x${var.dbpw}"] : tonumber(k)]`, `[for k in var.keys.a : tonumber(k)]`, `{ for k in [var.dbpw, var.dbpw] : k => 1 }`, `parseint(join("", [for a, b in var.named : b]), 10)`,
		`var.named["hidden-nam"]`, `jsondecode(var.dbpw)`} {
		_, problems := loadAny(t, src+"locals {\nbad = "+e+"\n}\n")
		if !strings.Contains(problems, "Error: ") {
			t.Errorf("%s is no mistake:\n%s", e, problems)
		}
		for _, secret := range []string{"hunter2secret", "key-one", "hidden-value", "hidden-name"} {
			if strings.Contains(problems, secret) {
				t.Errorf("%s: %s is told:\n%s", e, secret, problems)
			}
		}
	}
}

func TestHiddenOfAConfigurationInJSON(t *testing.T) {
	t.Parallel()
	cfg, diags := LoadFiles(map[string][]byte{"main.hcl.json": []byte(`{
  "variable": {"dbpw": {"sensitive": true, "default": "hunter2secret"}},
  "provider": {"test": {"p": {"region": "r"}}},
  "worker": {"w": {"provider": "provider.test.p", "instance": {"env": {"DB": "${base64encode(var.dbpw)}", "URL": "${var.dbpw} ${base64encode(\"ci-1:${var.dbpw}\")}", "MODE": "release"}}}},
  "builder": {"b": {"workers": ["w"], "step": [{"shell": {"s": {"command": "true"}}}]}},
  "scheduler": {"force": {"f": {"builders": ["b"]}}}
}`)}, testOptions())
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got []string
	for _, v := range cfg.Hidden("w") {
		got = append(got, string(v))
	}
	if want := []string{"hunter2secret", encoded("hunter2secret"), encoded("ci-1:hunter2secret")}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
