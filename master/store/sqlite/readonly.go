package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Reader reads a state beside whoever holds it: it takes no lock, migrates nothing, writes nothing.
type Reader struct{ s *Store }

// OpenReader opens the state in a directory for reading only. A directory without a state is fs.ErrNotExist; a state of another schema than this program's is
// a *FileError.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	path := filepath.Join(dir, fileName)
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	if st.Size() == 0 {
		return nil, fmt.Errorf("read the state: %s is empty: %w", path, fs.ErrNotExist)
	}
	s := &Store{path: path, log: slog.New(slog.DiscardHandler)}
	if s.read, err = sql.Open("sqlite", dsn(path, "mode=ro&_query_only=1")); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	r := &Reader{s}
	if err := r.check(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Reader) check(ctx context.Context) error {
	path := r.s.path
	var id int64
	if err := r.s.read.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return explain(path, err)
	}
	if id != applicationID {
		return foreign(path)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, r.s.read, migrations(), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	sources := p.ListSources()
	var have int64
	err = r.s.read.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version WHERE is_applied = 1").Scan(&have)
	if err != nil {
		return explain(path, fmt.Errorf("read the version of the state: %w", err))
	}
	if want := sources[len(sources)-1].Version; have != want {
		return &FileError{Path: path, What: fmt.Sprintf("has schema %d, and this rouse reads schema %d", have, want),
			Advice: "An older state is brought up to date by the next `rouse master`; a newer one needs the newer rouse"}
	}
	err = r.s.read.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'owner'").Scan(&r.s.owner)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the state: %s was never used: %w", path, fs.ErrNotExist)
	}
	return explain(path, err)
}

// Load is Store.Load.
func (r *Reader) Load(ctx context.Context) (core.Saved, map[string]string, error) {
	return r.s.Load(ctx)
}

// LatestConfig is Store.LatestConfig.
func (r *Reader) LatestConfig(ctx context.Context) (store.ConfigSnapshot, error) {
	return r.s.LatestConfig(ctx)
}

// Config is Store.Config.
func (r *Reader) Config(ctx context.Context, g model.Generation) (store.ConfigSnapshot, error) {
	return r.s.Config(ctx, g)
}

// Requests is Store.Requests.
func (r *Reader) Requests(ctx context.Context, ids []model.RequestID) ([]model.Request, error) {
	return r.s.Requests(ctx, ids)
}

// Close ends the reading.
func (r *Reader) Close() error { return r.s.read.Close() }
