package master

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/session"
)

// gate is a master with three standard workers, of which two share a password that cannot be read.
func gate(t *testing.T) (m *master, accounts session.Accounts, file string, log *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	file, log = filepath.Join(dir, "later"), &bytes.Buffer{}
	if err := os.WriteFile(filepath.Join(dir, "now"), []byte("open-sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, diags := hcl.LoadFiles(map[string][]byte{"rouse.hcl": []byte(`
secret "now" { file = "now" }
secret "later" { file = "later" }
worker "open" { password = secret.now }
worker "shut" {
  count    = 2
  password = secret.later
}
builder "b" {
  workers = [worker.open]
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { builders = ["b"] }
`)}, hcl.Options{Dir: dir})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	l := slog.New(slog.NewTextHandler(log, nil))
	m = &master{log: l, secrets: newVault(l)}
	a := &applied{cfg: cfg, workers: map[string]*hcl.Worker{}}
	for i := range cfg.Workers {
		a.workers[cfg.Workers[i].Name] = &cfg.Workers[i]
	}
	m.current.Store(a)
	return m, session.Accounts{Key: []byte("k"), Password: m.password, Worker: m.workerOf, Tried: m.tried}, file, log
}

func (m *master) why(worker string) string {
	why, at := m.refused.of(worker)
	if (why == "") != at.IsZero() {
		return fmt.Sprint("at ", at, " for ", why)
	}
	return why
}

func TestAWorkerSaysWhyItsAgentCouldNotAttach(t *testing.T) {
	t.Parallel()
	m, accounts, file, log := gate(t)
	if _, err := accounts.Authenticate("open", "wrong-password", ""); !errors.Is(err, session.ErrCredentials) {
		t.Fatal(err)
	}
	if got := m.why("open"); got != "an agent with a wrong password was turned away" {
		t.Error(got)
	}
	if _, err := accounts.Authenticate("open", "open-sesame", ""); err != nil {
		t.Fatal(err)
	}
	if got := m.why("open"); got != "" {
		t.Error("it has attached since:", got)
	}

	m.readPasswords(m.current.Load().cfg)
	for _, name := range []string{"shut-1", "shut-2"} {
		if got := m.why(name); !strings.Contains(got, "its password cannot be read") || !strings.Contains(got, file) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for i := range 1000 { // whoever knocks, under whatever name, moves nothing
		for _, name := range []string{"shut-1", "shut-2", fmt.Sprint("stranger-", i)} {
			_, _ = accounts.Authenticate(name, fmt.Sprint("guess-", i), "")
		}
	}
	if got := m.why("shut-1"); !strings.Contains(got, "its password cannot be read") || len(m.refused.m) != 2 {
		t.Errorf("%q, %d notes", got, len(m.refused.m))
	}
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "more_workers=1") || strings.Contains(said, "guess") {
		t.Errorf("log:\n%s", said)
	}

	if err := os.WriteFile(file, []byte("late-password"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.secrets = newVault(m.log) // half a minute later
	if _, err := accounts.Authenticate("shut-1", "guess", ""); !errors.Is(err, session.ErrCredentials) {
		t.Fatal(err)
	}
	if got := m.why("shut-1"); got != "an agent with a wrong password was turned away" {
		t.Error(got)
	}
}

func TestAPlanWarnsOfPasswordsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	m, _, file, _ := gate(t)
	got := m.lockedOut(t.Context(), m.current.Load().cfg)
	if len(got) != 1 || got[0].Worker != "shut-1" || got[0].Fatal || !strings.Contains(got[0].Detail, file) {
		t.Errorf("%+v", got)
	}
	if n := len(m.secrets.values()); n > 0 {
		t.Errorf("a plan has changed what logs hide: %d values", n)
	}
}
