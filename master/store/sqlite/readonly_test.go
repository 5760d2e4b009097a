package sqlite

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/rouse-ci/rouse/master/store"
)

// names are the files of a directory with their sizes and times.
func names(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == fileName || e.Name() == lockName {
			m[e.Name()] = st.ModTime().String()
		}
	}
	return m
}

func TestAReaderReadsBesideAMasterAndAfterOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := s.Commit(t.Context(), store.Tx{Config: &store.ConfigSnapshot{Generation: 4, By: "ann"}}); err != nil {
		t.Fatal(err)
	}
	look := func(when string, want int) {
		t.Helper()
		before := names(t, dir)
		r, err := OpenReader(t.Context(), dir)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		c, err := r.LatestConfig(t.Context())
		if err != nil || int(c.Generation) != want || c.By != "ann" {
			t.Errorf("%s: generation %d of %q, %v", when, c.Generation, c.By, err)
		}
		saved, _, err := r.Load(t.Context())
		if err != nil || saved.Owner == "" || saved.Owner != s.owner {
			t.Errorf("%s: owner %q, %v", when, saved.Owner, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if after := names(t, dir); after[fileName] != before[fileName] || after[lockName] != before[lockName] {
			t.Errorf("%s: it touched the state: %v, then %v", when, before, after)
		}
	}
	look("beside a master", 4)
	if err := s.Commit(t.Context(), store.Tx{Config: &store.ConfigSnapshot{Generation: 5, By: "ann"}}); err != nil {
		t.Fatal(err)
	}
	look("beside a master that has written since", 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	look("after it", 5)
	s = mustOpen(t, dir) // nothing is in its way
	if err := s.Commit(t.Context(), store.Tx{Config: &store.ConfigSnapshot{Generation: 6}}); err != nil {
		t.Fatal(err)
	}
}

func TestAReaderRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	if _, err := OpenReader(t.Context(), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no state: %v", err)
	}
	dir := t.TempDir()
	first, err := fs.ReadFile(migrations(), "00001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	old := fstest.MapFS{"00001_first.sql": {Data: first}}
	if err := prepare(t.Context(), filepath.Join(dir, fileName), Options{Log: slog.New(slog.DiscardHandler)}, old); err != nil {
		t.Fatal(err)
	}
	raw(t, dir, "INSERT INTO configs (generation, applied_at, files, variables) VALUES (3, 1, '{}', '{}')")
	var fe *FileError
	if _, err := OpenReader(t.Context(), dir); !errors.As(err, &fe) {
		t.Errorf("an older schema: %v", err)
	}
	s := mustOpen(t, dir) // the next master brings it up to date, and keeps what is there
	if c, err := s.LatestConfig(t.Context()); err != nil || c.Generation != 3 || c.From != "" || c.Summary != nil {
		t.Errorf("%+v, %v", c, err)
	}
}
