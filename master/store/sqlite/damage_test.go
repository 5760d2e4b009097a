package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

func TestAFullDiskFailsACommitWholeAndTheNextOneWorks(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	limit := func(pages int) {
		t.Helper()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.write == nil { // SQLite has rolled back by itself, and so the connection was given up
			w, err := openWriter(s.path)
			if err != nil {
				t.Fatal(err)
			}
			s.write = w
		}
		st, err := s.write.conn.Prepare(fmt.Sprintf("PRAGMA max_page_count = %d", pages))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.write.exec(&statement{s: st.(driver.StmtExecContext)}), st.Close()); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	fill := func(count int) error {
		for range count {
			tx := numbered(n + 1)
			tx.Requests[0].Reason = strings.Repeat("x", 2000)
			if err := s.Commit(t.Context(), tx); err != nil {
				return err
			}
			n++
		}
		return nil
	}
	if err := fill(3); err != nil {
		t.Fatal(err)
	}
	limit(1) // SQLite takes the present size
	err := fill(100)
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("after %d commits: %v", n, err)
	}
	for range 3 {
		limit(1)
		if err := fill(1); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("still full: %v", err)
		}
	}
	saved, _, err := s.Load(t.Context())
	if err != nil || len(saved.Requests) != n || len(saved.Builds) != n || int(saved.NextBuild) != n+1 {
		t.Errorf("%d commits went through, and there are %d requests, %d builds, next build %d; %v", n, len(saved.Requests), len(saved.Builds), saved.NextBuild, err)
	}
	limit(1 << 30)
	if err := fill(10); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// refused opens a state that must be refused, and be left as it was.
func refused(t *testing.T, dir string, want ...string) {
	t.Helper()
	path := filepath.Join(dir, fileName)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, Options{})
	if err == nil {
		_ = s.Close()
		t.Fatal("opened")
	}
	var fe *FileError
	if !errors.As(err, &fe) || fe.Path != path || fe.Advice == "" {
		t.Errorf("the error is no advice about the file: %v", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file was changed; %v", err)
	}
}

func TestFilesThatAreNotOursAreRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"text", []byte(strings.Repeat("this is no database\n", 500)), "is no SQLite file"},
		{"short", []byte("SQLite format 3\x00"), "less than its header"},
		{"zeros", make([]byte, 8192), "is no SQLite file"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, tc.want)
	}
	for _, pragma := range []string{"application_id = 1", "user_version = 1"} {
		dir := t.TempDir()
		raw(t, dir, "PRAGMA "+pragma, "CREATE TABLE x (y)")
		refused(t, dir, "of another program")
	}
}

// raw runs statements on a state's file behind the store's back.
func raw(t *testing.T, dir string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, fileName), "_journal_mode=DELETE"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// some makes a state with something in it.
func some(t *testing.T, dir string) {
	t.Helper()
	s := mustOpen(t, dir)
	for n := range 200 {
		if err := s.Commit(t.Context(), numbered(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedStateIsFoundAfterAnUncleanEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some(t, dir)
	path := filepath.Join(dir, fileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(b) / 2; i < len(b)/2+3*4096; i++ {
		b[i] ^= 0x5a
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	// A write-ahead log that is there and says nothing is what an unclean end leaves at the least.
	if err := os.WriteFile(path+"-wal", make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "damaged", "move the file", path+".damaged")

	var log strings.Builder
	if err := os.WriteFile(path+"-wal", make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, Options{CheckLimit: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err == nil {
		_ = s.Close()
	}
	if !strings.Contains(log.String(), "too large to be checked") {
		t.Errorf("a state that is too large to be checked says %q, %v", log.String(), err)
	}
}

func TestAStateWithoutItsLastPagesIsDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some(t, dir)
	path := filepath.Join(dir, fileName)
	if err := os.Truncate(path, 20480); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "damaged")
}

func TestAnEmptyStateBesideTracesOfBuildsIsDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{fileName, "logs/12/0-stdio.log"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Open(t.Context(), dir, Options{Traces: []string{"logs/[1-9]*"}})
	var fe *FileError
	if !errors.As(err, &fe) || !strings.Contains(err.Error(), "logs/12") || !strings.Contains(err.Error(), "rouse reap") {
		t.Errorf("got %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, fileName)); err != nil || st.Size() != 0 {
		t.Error("the file was changed", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "logs")); err != nil { // a first start that was cut short leaves an empty file, and nothing else
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, Options{Traces: []string{"logs/[1-9]*"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestAStateThatCouldNotBeMadeIsNoDamagedOne: the disk was full, say, when somebody had moved the old one aside.
func TestAStateThatCouldNotBeMadeIsNoDamagedOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "logs", "12"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := Options{Traces: []string{"logs/[1-9]*"}}
	failed, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Open(failed, dir, o); err == nil {
		t.Fatal("opened", s.Close())
	}
	s, err := Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAWriteAheadLogWithoutItsFileIsKept(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(string) error{"missing": os.Remove, "empty": func(path string) error { return os.Truncate(path, 0) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, path := t.TempDir(), ""
			some(t, dir)
			path = filepath.Join(dir, fileName)
			records := []byte(strings.Repeat("records ", 1000))
			if err := errors.Join(lose(path), os.WriteFile(path+"-wal", records, 0o600)); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), dir, Options{})
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			if !strings.Contains(err.Error(), path+"-wal") {
				t.Errorf("got %v", err)
			}
			if b, err := os.ReadFile(path + "-wal"); err != nil || string(b) != string(records) {
				t.Errorf("%d bytes are left of %d; %v", len(b), len(records), err)
			}
		})
	}
}

func TestANewerStateIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some(t, dir)
	raw(t, dir, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	refused(t, dir, "newer rouse", "99")
}

// andThen is the migrations that there are, and one more.
func andThen(t *testing.T, sql string) fstest.MapFS {
	t.Helper()
	all := fstest.MapFS{"99999_more.sql": {Data: []byte("-- +goose Up\n" + sql)}}
	names, err := fs.Glob(migrations(), "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = &fstest.MapFile{Data: text}
	}
	return all
}

func TestAMigrationLeavesACopyOfWhatWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some(t, dir)
	two := andThen(t, "CREATE TABLE more (a TEXT);\nDELETE FROM requests;\n")
	path := filepath.Join(dir, fileName)
	o := Options{Log: slog.New(slog.DiscardHandler), CheckLimit: 1 << 30}
	if err := prepare(t.Context(), path, o, two); err != nil {
		t.Fatal(err)
	}
	copies, err := filepath.Glob(path + ".schema*-*")
	if err != nil || len(copies) != 1 {
		t.Fatalf("copies: %v, %v", copies, err)
	}
	refused(t, dir, "newer rouse") // by this program, which does not know the last schema

	if err := os.Rename(copies[0], path); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir)
	if r, err := s.Request(t.Context(), 200); err != nil || r.ID != 200 {
		t.Errorf("the copy is not whole: %v", err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the copy may be read by others: %v, %v", st.Mode(), err)
	}
}

func TestAMigrationThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some(t, dir)
	bad := andThen(t, "DELETE FROM requests;\nDELETE FROM nowhere;\n")
	if err := prepare(t.Context(), filepath.Join(dir, fileName), Options{Log: slog.New(slog.DiscardHandler), CheckLimit: 1}, bad); err == nil {
		t.Fatal("no error")
	}
	s := mustOpen(t, dir)
	if saved, _, err := s.Load(t.Context()); err != nil || len(saved.Requests) != 200 {
		t.Errorf("%d requests, %v", len(saved.Requests), err)
	}
}

func TestPathsMayHoldWhatAURIGivesAMeaningTo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b?c#d%20&ü")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	some(t, dir)
	if _, err := os.Stat(filepath.Join(dir, fileName)); err != nil {
		t.Error(err)
	}
}

func TestAStateThatCannotBeOpenedSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "missing"), Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, fileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); err == nil {
		t.Error("a directory was opened as a file")
	}
}

func TestAfterCloseEverythingIsAnError(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), numbered(1)); err == nil {
		t.Error("commit")
	}
	if _, err := s.Request(t.Context(), model.RequestID(1)); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("request: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(ctx, numbered(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit with a context that has ended: %v", err)
	}
}

// The hot queries must not read whole tables.
func TestQueriesUseTheirIndexes(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir())
	for _, q := range []string{
		requestColumns + ` FROM requests WHERE state <> 2 ORDER BY id`,
		buildColumns + ` FROM builds WHERE phase <> 2 ORDER BY id`,
		instanceColumns + ` FROM instances WHERE gone_at = 0 ORDER BY n`,
		instanceColumns + ` FROM instances WHERE key = 'x'`,
		buildColumns + ` FROM builds WHERE builder = 'x' ORDER BY id DESC LIMIT 1`,
		buildColumns + ` FROM builds WHERE worker = 'x' AND id < 5 ORDER BY id DESC LIMIT 1`,
		buildColumns + ` FROM builds WHERE id IN (SELECT id FROM builds WHERE request = 1 UNION SELECT build FROM collapsed WHERE request = 1)`,
		journalColumns + ` WHERE request = 1 AND request <> 0 AND build = 0`,
		journalColumns + ` WHERE build = 1 AND build <> 0 ORDER BY seq`,
		journalColumns + ` WHERE instance = 'x' AND instance <> '' AND build = 0 AND request = 0 AND seq BETWEEN 1 AND 2`,
	} {
		plan, err := collect(t.Context(), s.read, "EXPLAIN QUERY PLAN "+q, nil, func(r scanner, line *string) error {
			var id, parent, unused int
			return r.Scan(&id, &parent, &unused, line)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range plan {
			if strings.HasPrefix(line, "SCAN") && !strings.Contains(line, "USING INDEX") || strings.Contains(line, "TEMP B-TREE FOR ORDER") {
				t.Errorf("%s\n%s", q, strings.Join(plan, "\n"))
			}
		}
	}
}
