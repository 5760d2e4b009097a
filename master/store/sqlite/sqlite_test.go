package sqlite

import (
	"database/sql/driver"
	"errors"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/master/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("ROUSE_TEST_COMMITTER"); dir != "" {
		committer(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // the subtests are parallel
	dirs := map[string]string{}
	storetest.Run(t, func(t *testing.T) store.Store {
		mu.Lock()
		dir := dirs[t.Name()]
		if dir == "" {
			dir = t.TempDir()
			dirs[t.Name()] = dir
		}
		mu.Unlock()
		return mustOpen(t, dir)
	})
}

func mustOpen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// A kill proves nothing about a power loss: that rests on these settings, of every connection that writes.
func TestTheWriterFlushesEveryCommit(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	for name, want := range map[string]any{"synchronous": int64(2), "journal_mode": "wal"} {
		rows, err := s.write.conn.(driver.QueryerContext).QueryContext(t.Context(), "PRAGMA "+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]driver.Value, 1)
		if err := errors.Join(rows.Next(got), rows.Close()); err != nil || got[0] != want {
			t.Errorf("%s is %v, %v", name, got[0], err)
		}
	}
}
