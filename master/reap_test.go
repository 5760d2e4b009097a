package master

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// TestAReaperOfALostStateEndsWhatCarriesTheOwnersTagAndNothingElse meets destroys that are forgotten, lists that fail, young and foreign instances.
func TestAReaperOfALostStateEndsWhatCarriesTheOwnersTagAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	text := `provider "fake" "f" {
  seed              = 3
  lose_destroy_rate = 0.5
}
worker "w" { provider = provider.fake.f }
builder "b" {
  workers = [worker.w]
  step "shell" "x" { command = "true" }
}
scheduler "force" "f" { builders = [builder.b] }`
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		kind := fake.New(fake.Options{})
		create := func(owner, key string) {
			p, _, err := kind.Open(t.Context(), providers.Env{Name: "f", Owner: providers.Owner(owner), Config: fake.Config{}, Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				_, err = p.Create(t.Context(), providers.CreateRequest{Key: providers.Key(key), Owner: providers.Owner(owner), Worker: "w", Spec: fake.Spec{}})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		create("mine", "mine-w-1")
		create("mine", "mine-w-2")
		create("other", "other-w-1")
		time.Sleep(time.Hour)
		create("mine", "mine-w-3")

		o := ReapOptions{StateDir: filepath.Join(dir, "lost"), ConfigDir: dir, Owner: "mine", Hcl: hcl.Options{Kinds: map[string]providers.Kind{kind.Name(): kind}}}
		r, err := OpenReaper(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		look := func() (keys, sure string) {
			t.Helper()
			list, err := r.Look(t.Context(), "")
			if err != nil || list.Providers[0].Error != "" {
				t.Fatal(err, list.Providers)
			}
			return keysOf(list.Strays, false), keysOf(list.Strays, true)
		}
		if keys, sure := look(); keys != "mine-w-1 mine-w-2 mine-w-3" || sure != "" {
			t.Errorf("first look: %q, of which sure: %q", keys, sure)
		}
		if keys, sure := look(); keys != "mine-w-1 mine-w-2 mine-w-3" || sure != "" {
			t.Errorf("a look too soon: %q, of which sure: %q", keys, sure)
		}
		if gone, err := r.Destroy(t.Context(), "mine-w-1"); gone || err == nil {
			t.Error("one that was seen once is destroyed")
		}
		time.Sleep(3 * time.Second)
		if keys, sure := look(); keys != "mine-w-1 mine-w-2 mine-w-3" || sure != "mine-w-1 mine-w-2" {
			t.Errorf("second look: %q, of which sure: %q", keys, sure)
		}
		for _, key := range []string{"mine-w-3", "other-w-1", "mine-w-4"} {
			if gone, err := r.Destroy(t.Context(), model.InstanceKey(key)); gone || err == nil {
				t.Errorf("%s is destroyed", key)
			}
		}
		for n := 0; ; n++ {
			gone, err := r.Destroy(t.Context(), "mine-w-1")
			if err != nil || n > 100 {
				t.Fatalf("after %d tries: %v", n, err)
			}
			if gone {
				break
			}
			time.Sleep(time.Second)
		}
		if keys, _ := look(); keys != "mine-w-2 mine-w-3" {
			t.Errorf("left: %q", keys)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		p, _, err := kind.Open(t.Context(), providers.Env{Name: "f", Owner: "other", Config: fake.Config{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if in, err := p.Get(t.Context(), "other-w-1"); err != nil || in.State != providers.Running {
			t.Errorf("the other owner's instance: %v %v", in, err)
		}
		if _, err := os.Stat(o.StateDir); err == nil {
			t.Error("a state directory was made")
		}
	})
}

// A list that fails says nothing: least of all that there is nothing.
func TestAReaperSaysWhichListIsMissing(t *testing.T) {
	dir := t.TempDir()
	text := "provider \"fake\" \"f\" { list_error_rate = 1 }\nprovider \"fake\" \"g\" {}\nworker \"w\" { provider = provider.fake.f }\n" +
		"builder \"b\" {\n  workers = [worker.w]\n  step \"shell\" \"x\" { command = \"true\" }\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kind := fake.New(fake.Options{})
	r, err := OpenReaper(t.Context(), ReapOptions{StateDir: filepath.Join(dir, "lost"), ConfigDir: dir, Owner: "mine", Hcl: hcl.Options{Kinds: map[string]providers.Kind{kind.Name(): kind}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	list, err := r.Look(context.Background(), "")
	if err != nil || len(list.Providers) != 2 || !strings.Contains(list.Providers[0].Error, "list_error_rate") || list.Providers[1].Error != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := r.Look(context.Background(), "h"); err == nil {
		t.Error("a provider that is not there is looked at")
	}
}

func keysOf(list []api.Stray, onlySure bool) string {
	var keys []string
	for _, st := range list {
		if st.Sure || !onlySure {
			keys = append(keys, string(st.Instance))
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}
