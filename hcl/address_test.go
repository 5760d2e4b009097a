package hcl

import "testing"

func TestPasswordsAreFoundInAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"https://bob:word@example.org/x.git":          true,
		"https://:word@example.org/x.git":             true,
		"ssh://bob:wo:rd@example.org":                 true,
		"https://bob:a@b@example.org/x":               true,
		"https://bob:${x}@example.org?x":              true,
		"https://bob@example.org/x.git":               false,
		"https://bob:@example.org/x.git":              false,
		"https://example.org:8443/~bob:word@x/y":      false,
		"https://example.org?to=bob:word@example.org": false,
		"git@example.org:x/y.git":                     false,
		"ssh://git@example.org:22/x.git":              false,
		"/srv/git/x:y@z.git":                          false,
		"file:///srv/git/x:y@z.git":                   false,
		"":                                            false,
	} {
		if got := HoldsPassword(address); got != want {
			t.Errorf("%s: got %v", address, got)
		}
	}
}

func TestClearTextIsForThisMachineAndPrivateNetworks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		master string
		warned bool
	}{
		{`listen = "127.0.0.1:9989"`, false},
		{`listen = "localhost:9989"`, false},
		{`listen = "192.168.201.1:9989"`, false},
		{`listen = "0.0.0.0:9989"`, true},
		{`listen = "203.0.113.7:9989"`, true},
		{"listen = \"0.0.0.0:9989\"\nurl = \"ws://192.168.201.1:9989\"", false},
		{"listen = \"0.0.0.0:9989\"\nurl = \"wss://ci.example.org\"", false},
		{"listen = \"127.0.0.1:9989\"\nurl = \"ws://ci.example.org\"", true},
		{"listen = \"0.0.0.0:9989\"\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"", false},
		{``, false},
	} {
		_, diags := LoadFiles(map[string][]byte{"a.hcl": []byte("master {\n" + test.master + "\n}\n")}, Options{})
		warned := false
		for _, d := range diags {
			warned = warned || d.Summary == "Secrets cross the network in clear"
		}
		if warned != test.warned {
			t.Errorf("%s: warned: %v", test.master, warned)
		}
	}
}

// TestATextThatWasInForceKeepsItsAddresses, but what an expression makes only when a step starts is held to the rules of today.
func TestATextThatWasInForceKeepsItsAddresses(t *testing.T) {
	t.Parallel()
	const known, scheduled, other = "https://bob:word@example.org/x.git", "https://bob:word@example.org/y.git", "https://bob:other@example.org/x.git"
	files := map[string][]byte{"a.hcl": []byte(`
worker "w" {
  password = secret.w
}
secret "w" { env = "W" }
builder "b" {
  workers = [worker.w]
  step "git" "fixed" { repository = "` + known + `" }
  step "git" "made" { repository = try(prop.address, "` + known + `") }
}
scheduler "force" "f" { builders = [builder.b] }
scheduler "periodic" "p" {
  builders   = [builder.b]
  every      = "1h"
  repository = "` + scheduled + `"
}
`)}
	if _, diags := LoadFiles(files, Options{}); !diags.HasErrors() {
		t.Error("a new text is taken")
	}
	cfg, diags := LoadFiles(files, Options{Accepted: true})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, test := range []struct {
		step    int
		address string
		refused bool
	}{{0, known, false}, {1, known, false}, {1, scheduled, false}, {1, other, true}, {1, "https://example.org/x.git", false}} {
		step := cfg.Builders[0].Steps[test.step]
		scope := Scope{Prop: map[string]any{"address": test.address}}
		if _, diags := step.Eval(scope, cfg.Env()); diags.HasErrors() != test.refused {
			t.Errorf("%s %s: %v", step.Name, test.address, diags)
		}
	}
}
