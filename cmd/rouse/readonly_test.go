package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers"
)

// TestAProviderThatIsOpenedForAPlanWritesNothing: a plan may be made beside a master that works in the same directory, and where there is none.
func TestAProviderThatIsOpenedForAPlanWritesNothing(t *testing.T) {
	t.Parallel()
	for kind, block := range map[string]string{
		"local":   `provider "local" "p" {}`,
		"ec2":     `provider "ec2" "p" { region = "eu-central-1" }`,
		"libvirt": `provider "libvirt" "p" { uri = "test:///default" }`,
		"fake":    `provider "fake" "p" {}`,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			k := kinds()[kind]
			cfg, diags := hcl.LoadFiles(map[string][]byte{"p.hcl": []byte(block)}, hcl.Options{Kinds: kinds()})
			if len(cfg.Providers) != 1 {
				t.Fatal(diags)
			}
			open := func(dir string, list bool) {
				t.Helper()
				p, _, err := k.Open(t.Context(), providers.Env{Name: "p", Owner: "owner", Config: cfg.Providers[0].Config, StateDir: dir, Log: slog.New(slog.DiscardHandler), ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				if list && (kind == "local" || kind == "fake") { // the others would dial
					if list, err := p.List(t.Context(), "owner"); err != nil || len(list) != 0 {
						t.Errorf("it lists %v, %v", list, err)
					}
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}

			missing := filepath.Join(t.TempDir(), "state", "p")
			open(missing, true)
			if _, err := os.Stat(filepath.Dir(missing)); err == nil {
				t.Error("a directory was made")
			}

			used := t.TempDir() // by a handle that is about to rename what it has written, and by one that has died long ago
			for _, name := range []string{"instances/.half-written", "launches/owner-w-1/.launch-1", "tmp/made", "gone/owner-w-2", "trash/old"} {
				path := filepath.Join(used, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				ago := time.Now().Add(-30 * 24 * time.Hour)
				if err := os.Chtimes(path, ago, ago); err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, used)
			open(used, false)
			if diff := cmp.Diff(before, tree(t, used)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// tree is every file and directory with the time of its last change.
func tree(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	all := map[string]time.Time{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		all[path] = info.ModTime()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
