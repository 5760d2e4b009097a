package master

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
)

func TestAFirstMasterWithABrokenConfigurationLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"without a state directory": false, "with one that somebody has made": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			state := filepath.Join(dir, "deep", "state")
			if made {
				if err := os.MkdirAll(state, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte("worker {"), 0o600); err != nil {
				t.Fatal(err)
			}
			reports := 0
			err := Run(t.Context(), Options{ConfigDir: dir, StateDir: state, Log: slog.New(slog.DiscardHandler), Report: func(*hcl.Config, hcl2.Diagnostics) { reports++ }})
			if invalid := new(invalidError); !errors.As(err, &invalid) || reports != 1 {
				t.Errorf("%v, reported %d times", err, reports)
			}
			if _, err := os.Stat(filepath.Dir(state)); !made && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
}
