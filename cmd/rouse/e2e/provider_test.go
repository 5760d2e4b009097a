package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// rewrite changes the text of the configuration.
func (w *world) rewrite(oldnew ...string) {
	w.t.Helper()
	name := filepath.Join(w.dir, "config", "rouse.hcl")
	b, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, []byte(strings.NewReplacer(oldnew...).Replace(string(b))), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestInstancesOutliveTheirProvidersBlock takes a provider with a live instance out of the configuration while no master is there.
func TestInstancesOutliveTheirProvidersBlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Wait: "10m", Builders: builder("b", talk{Name: "short", Seed: 3, Lines: 2}.step())})
	m := w.up(nil)
	if r := w.done(w.force("b"), 20*time.Second); r.Result != model.Success {
		t.Fatalf("got %s: %s", r.Result, r.Text)
	}
	m.stop(10 * time.Second)

	w.rewrite(`provider "local" "here" {`, `provider "fake" "here" {}
provider "local" "there" {`, `provider.local.here`, `provider.fake.here`)
	m = w.up(nil)
	if !strings.Contains(w.said(), "was of kind local and has 1 instances") {
		t.Error("the name of a provider with instances was given to one of another kind")
	}
	if n := len(get[api.InstanceList](w, "/instances").Instances); n != 1 {
		t.Errorf("%d instances, want 1", n)
	}
	m.stop(10 * time.Second)

	w.rewrite(`provider "fake" "here" {}`, "", `provider.fake.here`, `provider.local.there`, `worker "w"`, `worker "v"`, `worker.w]`, `worker.v]`)
	w.up(nil)
	w.clean()
}
