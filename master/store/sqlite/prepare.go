package sqlite

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/rouse-ci/rouse/master/store"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

func migrations() fs.FS {
	sub, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		panic(err) // the path is a constant
	}
	return sub
}

// applicationID marks the file as rouse's ("rous"), as file(1) and SQLite's own magic.txt know it.
const applicationID = 0x726f7573

// FileError says that the state's file cannot be used as it is.
type FileError struct {
	Path   string
	What   string // what is wrong
	Advice string // what a person can do
	Err    error  // may be nil
}

func (e *FileError) Error() string {
	s := e.Path + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + ". " + e.Advice
}

func (e *FileError) Unwrap() error { return e.Err }

func damaged(path string, err error) error {
	return &FileError{Path: path, What: "the state is damaged", Err: err, Advice: fmt.Sprintf(
		"Nothing was changed. Either put a copy of yours back, or move the file and its companions aside (mv %s %s.damaged; the same for -wal and -shm) "+
			"and start with an empty state; instances that the old state knew are then tagged with an owner that nobody sweeps: `rouse reap -owner OWNER -config DIR` finds and ends them (their keys begin with OWNER)",
		path, path)}
}

// explain turns SQLite's codes into errors that say what to do.
func explain(path string, err error) error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%s: %w: %w", path, store.ErrNoSpace, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return damaged(path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// prepare checks the file and brings its schema up to date, or makes a new one.
func prepare(ctx context.Context, path string, o Options, migrations fs.FS) (err error) {
	if _, e := os.Lstat(path); errors.Is(e, fs.ErrNotExist) {
		defer func() { // an empty file that is left would be taken for a state that was emptied
			if st, e := os.Lstat(path); err != nil && e == nil && st.Size() == 0 {
				err = errors.Join(err, os.Remove(path))
			}
		}()
	}
	size, err := checkHeader(path, o)
	if err != nil {
		return err
	}
	unclean := false
	if st, err := os.Stat(path + "-wal"); err == nil && st.Size() > 0 {
		unclean = true
	}
	db, err := sql.Open("sqlite", dsn(path, "")) // the journal's mode is a mark in the file: it is left as it is until we know that the file is ours
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := checkAndMigrate(ctx, db, path, size, unclean, o, migrations); err != nil {
		return explain(path, errors.Join(err, db.Close()))
	}
	return explain(path, db.Close())
}

// checkHeader looks at the file without SQLite, which would take an empty or short file for a new database. It returns the file's size.
func checkHeader(path string, o Options) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := checkLost(path, o); err != nil {
			return 0, err
		}
		// Made by us, so that its mode is ours.
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return 0, fmt.Errorf("make the state: %w", err)
		}
		return 0, f.Close()
	case err != nil:
		return 0, fmt.Errorf("open the state: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("open the state: %w", err)
	}
	if st.IsDir() {
		return 0, &FileError{Path: path, What: "is a directory", Advice: "Give another state directory"}
	}
	if st.Size() == 0 {
		if trace := traceOf(filepath.Dir(path), o.Traces); trace != "" {
			return 0, damaged(path, fmt.Errorf("the file is empty, and %s was left by builds that it should know", trace))
		}
		return 0, checkLost(path, o) // made, and then the power went
	}
	head := make([]byte, 72)
	if _, err := io.ReadFull(f, head); err != nil {
		return 0, damaged(path, fmt.Errorf("the file has %d bytes, which is less than its header", st.Size()))
	}
	if !bytes.HasPrefix(head, []byte("SQLite format 3\x00")) {
		return 0, &FileError{Path: path, What: "is no SQLite file",
			Advice: fmt.Sprintf("If it is not rouse's, give another state directory. If it was, it is damaged: put a copy back or move it aside (mv %s %s.damaged)", path, path)}
	}
	id := uint32(head[68])<<24 | uint32(head[69])<<16 | uint32(head[70])<<8 | uint32(head[71])
	if id != applicationID && id != 0 {
		return 0, foreign(path)
	}
	return st.Size(), nil
}

// checkLost looks beside a file that is missing or empty. SQLite would take a write-ahead log there for an old one, and remove the records in it.
// Who moves a damaged state aside is let through.
func checkLost(path string, o Options) error {
	if st, err := os.Stat(path + "-wal"); err == nil && st.Size() > 0 {
		return damaged(path, fmt.Errorf("the file is gone, and %s-wal holds records of it", path))
	}
	if trace := traceOf(filepath.Dir(path), o.Traces); trace != "" {
		o.Log.Warn("the state is gone and an empty one is made: `rouse reap -owner OWNER -config DIR` finds the instances that the old one knew", "path", path, "left", trace)
	}
	return nil
}

// traceOf returns a file that only an earlier state can have left, or "".
func traceOf(dir string, traces []string) string {
	for _, t := range traces {
		if found, err := filepath.Glob(filepath.Join(dir, t)); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

func foreign(path string) error {
	return &FileError{Path: path, What: "is an SQLite file of another program", Advice: "Give another state directory"}
}

func checkAndMigrate(ctx context.Context, db *sql.DB, path string, size int64, unclean bool, o Options, migrations fs.FS) error {
	var id, tables int64
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").Scan(&tables); err != nil {
		return err
	}
	if id != applicationID {
		if tables > 0 {
			return foreign(path)
		}
		if _, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return err
		}
	}
	if unclean {
		if size > o.CheckLimit {
			o.Log.Warn("the state was not closed properly and is too large to be checked as a whole", "path", path, "size_bytes", size)
		} else if err := quickCheck(ctx, db, path); err != nil {
			return err
		}
	}
	return migrate(ctx, db, path, o, migrations)
}

func quickCheck(ctx context.Context, db *sql.DB, path string) error {
	rows, err := db.QueryContext(ctx, "PRAGMA quick_check(5)")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		if line != "ok" {
			found = append(found, line)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if found != nil {
		return damaged(path, errors.New(strings.Join(found, "; ")))
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, path string, o Options, migrations fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the version of the state: %w", err)
	}
	switch {
	case current == target:
		return nil
	case current > target:
		return &FileError{Path: path, What: fmt.Sprintf("was written by a newer rouse (schema %d; this one knows %d)", current, target),
			Advice: "Start the newer rouse, or put back the copy that it made when it migrated the state"}
	case current > 0:
		copied := fmt.Sprintf("%s.schema%d-%s", path, current, time.Now().UTC().Format("20060102T150405.000000"))
		if err := backUp(ctx, db, copied); err != nil {
			return fmt.Errorf("copy the state to %s before its migration: %w", copied, err)
		}
		o.Log.Info("the state is brought up to date", "path", path, "schema", current, "new_schema", target, "copy", copied)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring the state up to date: %w", err)
	}
	return nil
}

// backUp makes a durable copy.
func backUp(ctx context.Context, db *sql.DB, to string) error {
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return err
	}
	if err := os.Chmod(to, 0o600); err != nil {
		return err
	}
	for _, name := range []string{to, filepath.Dir(to)} {
		if err := flush(name); err != nil {
			return err
		}
	}
	return nil
}

func flush(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ensureOwner reads the name of this state, which all its instances are tagged with, and draws it when the state is new.
func ensureOwner(ctx context.Context, path string, db *sql.DB, w *writer) (string, error) {
	var owner string
	err := db.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'owner'").Scan(&owner)
	switch {
	case err == nil:
		return owner, nil
	case !errors.Is(err, sql.ErrNoRows):
		return "", explain(path, err)
	}
	owner = strings.ToLower(rand.Text()[:12]) // 60 bits: no two masters of one account meet by chance
	err = w.transaction(func(w *writer) error { return w.exec(w.st.meta, "owner", owner) })
	return owner, explain(path, err)
}
