package master

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/master/store/sqlite"
)

// stored changes the text of the last generation behind the master's back, as if an earlier version of this program had accepted it.
func (s *site) stored(text string) {
	s.t.Helper()
	st, err := sqlite.Open(s.t.Context(), s.o.StateDir, sqlite.Options{Log: s.o.Log})
	if err != nil {
		s.t.Fatal(err)
	}
	snap, err := st.LatestConfig(s.t.Context())
	snap.Files = files(text)
	if err := errors.Join(err, st.Commit(s.t.Context(), store.Tx{Config: &snap}), st.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// TestAStoredConfigurationThatNewerRulesRefuseKeepsItsMachines: after an upgrade, too, somebody must end what lives, and its builds go on.
func TestAStoredConfigurationThatNewerRulesRefuseKeepsItsMachines(t *testing.T) {
	t.Parallel()
	const address = "https://bob:word@example.org/x.git"
	old := strings.NewReplacer(
		`step "shell" "s" { command = "true" }`, `step "git" "s" { repository = "`+address+`" }`,
		`scheduler "force" "f" { builders = [builder.b] }`, `
scheduler "force" "f" { builders = [builder.b] }
scheduler "periodic" "p" {
  builders   = [builder.c]
  every      = "100h"
  repository = "`+address+`"
}
worker "pool" {
  provider = provider.fake.cloud
  count    = 1
  instance {}
}
worker "pool" {
  provider = provider.fake.cloud
  instance {}
}
builder "c" {
  workers = [worker.w]
  env     = { A = [] }
  step "upload" "s" {
    from = "x"
    to   = "x"
  }
}`).Replace(text("", ""))
	for _, edited := range []bool{false, true} {
		s := newSite(t)
		s.write(text("", ""))
		s.up()
		id := s.machine()
		s.down()
		s.stored(old)
		if edited {
			s.write(old + "# edited\n")
		} else {
			s.write(old)
		}
		s.up()
		if list := ask[api.InstanceList](s, "/instances").Instances; len(list) != 1 || list[0].State != model.InstanceBooting {
			t.Errorf("edited %v: %+v", edited, list)
		}
		if b := ask[api.BuildList](s, "/builds").Builds; len(b) != 1 || !b[0].FinishedAt.IsZero() {
			t.Errorf("edited %v: %+v", edited, b)
		}
		_, err := tell[api.Applied](s, "/reconfig", api.ReconfigAsk{})
		s.refusedWith(err, 422, "It holds a password")
		if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
			t.Fatal(err)
		}
		s.gone()
		s.down()
	}
}

// TestAMissingTokenKeyKeepsNobodyFromEndingMachines that are about to end anyway: no agent of theirs is admitted, with whatever token.
func TestAMissingTokenKeyKeepsNobodyFromEndingMachines(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write(text("destroy_error_rate = 1", ""))
	s.up()
	id := s.machine()
	if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
		t.Fatal(err)
	}
	s.until("its end is decided", func() bool { return strings.Contains(s.log.String(), "destroy_error_rate struck") })
	s.down()
	if err := os.Remove(filepath.Join(s.o.StateDir, keyName)); err != nil {
		t.Fatal(err)
	}
	s.write(text("", ""))
	s.up()
	s.gone()
}

// TestAMachineOfATextThatLacksAVariableNowIsEnded: its provider's block says all that is needed to end it.
func TestAMachineOfATextThatLacksAVariableNowIsEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.o.Hcl.Variables = map[string]string{"password": "word"}
	s.write(`
variable "password" {
  sensitive = true
}
variable "place" {
  default = "here"
}
` + strings.Replace(text(`place = var.place`, ""), `step "shell" "s" { command = "true" }`, `step "shell" "s" {
    command = "true"
    env     = { P = var.password }
  }`, 1))
	s.up()
	id := s.machine()
	s.down()
	s.o.Hcl.Variables = nil
	s.write(text(`place = "there"`, ""))
	s.up()
	if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
		t.Fatal(err)
	}
	s.gone()
}
