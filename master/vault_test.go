package master

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/build"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

const vaultText = `
variable "dbpw" { sensitive = true }
master {
  token "ci" {
    secret = secret.api
    role   = "read"
  }
}
secret "api" { file = "api" }
secret "unset" { env = "ROUSE_TEST_NOT_SET_ANYWHERE" }
secret "ordered" { command = ["sh", "-c", "touch DIR/ran; echo by-command"] }
provider "fake" "p" {}
worker "w" { provider = provider.fake.p }
builder "b" {
  workers = [worker.w]
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { builders = ["b"] }
`

// vaultMaster is a master of two generations, each with a value of its own of the sensitive variable.
func vaultMaster(t *testing.T) (m *master, dir string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), &bytes.Buffer{}
	if err := os.WriteFile(filepath.Join(dir, "api"), []byte("token-of-the-api\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := slog.New(slog.NewTextHandler(log, nil))
	m = &master{log: l, secrets: newVault(l), key: []byte("key"), catalog: build.NewCatalog(nil)}
	for gen, value := range []string{"", "hunter2-old", "hunter2-new"} {
		cfg, diags := hcl.LoadFiles(map[string][]byte{"rouse.hcl": []byte(strings.ReplaceAll(vaultText, "DIR", dir))}, hcl.Options{Dir: dir, Kinds: map[string]providers.Kind{"fake": &fake.Kind{}},
			Variables: map[string]string{"dbpw": value}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		m.catalog.Put(model.Generation(gen), cfg)
		m.current.Store(&applied{gen: int64(gen), cfg: cfg})
	}
	return m, dir, log
}

func (m *master) hides(b core.Build) (out []string) {
	for _, v := range (hidden{m.secrets, m}).Hidden(context.Background(), b) {
		out = append(out, string(v))
	}
	return out
}

// passes lets the time pass for which the values of builds that have ended are remembered.
func (v *vault) passes() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.builds {
		if !r.ended.IsZero() {
			r.ended = r.ended.Add(-2 * forgetAfter)
		}
	}
}

func TestEveryBuildHidesWhatAnyEnvironmentMayHold(t *testing.T) {
	t.Parallel()
	m, dir, _ := vaultMaster(t)
	b := core.Build{ID: 3, Builder: "b", Worker: "w", Generation: 1, Instance: "o-w-1"}
	m.secrets.Learn(8, [][]byte{[]byte("read-by-build-8")}, nil)
	got := m.hides(b)
	for _, want := range []string{"hunter2-old", "hunter2-new", "token-of-the-api", "read-by-build-8", session.Token(m.key, "o-w-1").Reveal()} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not hidden: %q", want, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil || slices.Contains(got, "by-command") {
		t.Error("a secret's command was run although nothing uses it")
	}
	m.secrets.Forget(8)
	if got := m.hides(b); !slices.Contains(got, "read-by-build-8") {
		t.Error("what a build has read is forgotten before the console of its instance was read")
	}
	m.secrets.passes()
	if got := m.hides(b); slices.Contains(got, "read-by-build-8") {
		t.Error("what an ended build has read is kept for ever")
	}
	cfg := m.current.Load().cfg
	if _, err := m.secrets.recent(cfg.Secrets[slices.IndexFunc(cfg.Secrets, func(s hcl.Secret) bool { return s.Name == "ordered" })]); err != nil {
		t.Fatal(err)
	}
	if got := m.hides(b); !slices.Contains(got, "by-command") {
		t.Error("what the master has read by a command is not hidden")
	}
}

func TestWhatAMachinePrintsBeforeItFailsIsKeptWithoutSecrets(t *testing.T) {
	t.Parallel()
	m, dir, _ := vaultMaster(t)
	var err error
	if m.logs, err = steplog.Open(filepath.Join(dir, "logs"), steplog.Options{}); err != nil {
		t.Fatal(err)
	}
	b := core.Build{ID: 3, Builder: "b", Worker: "w", Generation: 1, Instance: "o-w-1"}
	hide := hidden{m.secrets, m}.Hidden(context.Background(), b)
	id := steplog.ID{Build: 3, Step: 1, Name: logConsole}
	if err := m.writeConsole(id, []byte("boots with PW=hunter2-old and "+session.Token(m.key, "o-w-1").Reveal()+"\n"), hide); err != nil {
		t.Fatal(err)
	}
	r, err := m.logs.Reader(id)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := errors.Join(r.WriteText(context.Background(), &got), r.Close(), m.logs.Close()); err != nil {
		t.Fatal(err)
	}
	if got.String() != "boots with PW=(secret) and (secret)\n" {
		t.Errorf("%q", got.String())
	}
}

// A console turns a new line into two bytes, and may be read in any pieces.
func TestNoLineOfASensitiveValueIsSeenOnAConsole(t *testing.T) {
	t.Parallel()
	m, dir, _ := vaultMaster(t)
	key := "-----BEGIN KEY-----\nMIIabcdefgh\nijklmnopq\n-----END KEY-----\n"
	if err := os.WriteFile(filepath.Join(dir, "api"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	out, flush := m.mask(context.Background(), "w", "o-w-1", &buf)
	for _, b := range []byte("boots\r\n" + strings.ReplaceAll(key, "\n", "\r\n") + "PW=hunter2-new " + session.Token(m.key, "o-w-1").Reveal() + "\r\n") {
		if _, err := out.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	m.secrets.Learn(9, [][]byte{[]byte("read-meanwhile")}, nil)
	if _, err := out.Write([]byte("read-meanwhile\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := flush(); err != nil || buf.String() != "boots\r\n"+strings.Repeat("(secret)\r\n", 4)+"PW=(secret) (secret)\r\n(secret)\r\n" {
		t.Errorf("%q, %v", buf.String(), err)
	}
}

// A worker that was started before may have the old value in its environment.
func TestASecretThatWasRotatedStaysHidden(t *testing.T) {
	t.Parallel()
	m, dir, _ := vaultMaster(t)
	b := core.Build{ID: 3, Builder: "b", Worker: "w", Generation: 2}
	m.hides(b)
	for _, value := range []string{"second-token", "third-token"} {
		if err := os.WriteFile(filepath.Join(dir, "api"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := m.secrets.now(context.Background(), m.current.Load().cfg.Master.Tokens[0].Secret); err != nil {
			t.Fatal(err)
		}
	}
	got := m.hides(b)
	for _, want := range []string{"token-of-the-api", "second-token", "third-token"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not hidden: %q", want, got)
		}
	}
	for i := range 100 {
		m.secrets.note("api", []byte{byte(i), 'x', 'y', 'z'})
	}
	if n := len(m.secrets.values()); n > maxOlder {
		t.Errorf("%d values of one secret are kept", n)
	}
}

// An instance is older than the configuration in force, and so may be the build on it: neither need be of the generation of the other.
func TestAnOlderValueOfASensitiveVariableStaysHidden(t *testing.T) {
	t.Parallel()
	m, _, _ := vaultMaster(t)
	if got := m.hides(core.Build{ID: 3, Builder: "b", Worker: "w", Generation: 2}); !slices.Contains(got, "hunter2-old") {
		t.Errorf("%q", got)
	}
}

func TestASecretTooShortToBeMaskedIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	m, dir, log := vaultMaster(t)
	if err := os.WriteFile(filepath.Join(dir, "api"), []byte("qz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m.hides(core.Build{ID: 3, Builder: "b", Worker: "w", Generation: 2})
		m.secrets.Learn(3, nil, map[string]int{"api": 2, "other": 3, "long": 4})
	}
	said := log.String()
	if strings.Count(said, "secret=api") != 1 || strings.Count(said, "secret=other") != 1 || strings.Contains(said, "secret=long") || strings.Contains(said, "qz") {
		t.Error(said)
	}
}

// TestABuildHearsOfWhatOthersReadMeanwhile: each value once, however many came, and again if it had been forgotten.
func TestABuildHearsOfWhatOthersReadMeanwhile(t *testing.T) {
	t.Parallel()
	m, _, _ := vaultMaster(t)
	v := m.secrets
	v.note("api", []byte("known-before"))
	_, heard := v.Since(0)
	hears := func(want ...string) {
		t.Helper()
		var values [][]byte
		values, heard = v.Since(heard)
		var got []string
		for _, value := range values {
			got = append(got, string(value))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	hears()
	v.Learn(1, [][]byte{[]byte("first"), []byte("second"), []byte("known-before")}, nil)
	v.Learn(2, [][]byte{[]byte("first")}, nil)
	v.note("api", []byte("rotated"))
	hears("first", "second", "rotated")
	hears()
	v.Forget(1)
	v.Forget(2)
	v.passes()
	_, late := v.Since(0) // of a build that begins now, and to which nobody tells what was forgotten
	v.Learn(3, [][]byte{[]byte("first")}, nil)
	if got, _ := v.Since(late); len(got) != 1 || string(got[0]) != "first" {
		t.Errorf("%q", got)
	}
	hears("first")
	for i := range 2 * maxNews {
		v.Learn(4, [][]byte{fmt.Appendf(nil, "value-%d", i)}, nil)
	}
	values, now := v.Since(heard)
	for i := range 2 * maxNews {
		if !slices.ContainsFunc(values, func(value []byte) bool { return string(value) == fmt.Sprint("value-", i) }) {
			t.Fatalf("value %d of %d is not told", i, len(values))
		}
	}
	if n := len(v.news); n > maxNews || now != heard+2*maxNews {
		t.Error(n, now)
	}
}
