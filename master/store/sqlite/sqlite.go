// Package sqlite is the store in one SQLite file.
//
// One connection writes, a few others read; the write-ahead log lets them work at the same time. A commit is flushed to the disk before it is
// acknowledged (synchronous = FULL), so an intent survives a power loss. The package decides nothing and knows nothing of what the rows mean,
// except which of them are live: those it loads, and never prunes.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/rouse-ci/rouse/master/store"
)

const (
	fileName = "rouse.db"
	lockName = "lock"

	readers     = 4
	busyTimeout = 5 * time.Second
)

// Options of Open. The zero value is good.
type Options struct {
	Log *slog.Logger // nil: silent

	// CheckLimit is the greatest size in bytes of a file that is checked as a whole after an unclean end; 0 = 1 GiB. It bounds how long a
	// start takes: about a second for each GiB that the system has cached.
	CheckLimit int64

	// Traces are patterns (filepath.Match) of what only an earlier state can have left in the directory. Where there is such a file, an empty state is
	// a damaged one, and a missing one is warned of.
	Traces []string
}

// Store is an open state directory.
type Store struct {
	path  string
	lock  *os.File
	read  *sql.DB
	log   *slog.Logger
	owner string

	request, instance *sql.Stmt // of read

	mu    sync.Mutex // guards write: Commit and the steps of Prune take turns
	write *writer    // nil: to be opened again (after an error that the connection did not survive)
	shut  bool
}

var _ store.Store = (*Store)(nil)

// Open opens the state in a directory, makes it if there is none, and brings an older one up to date (after a copy was put beside it). The
// directory is locked until Close or the end of the process, however it ends; a second Open fails with a *LockedError.
//
// A file that is damaged, foreign or of a newer rouse is refused with a *FileError. Nothing is ever deleted but an empty file that this very call has made.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CheckLimit == 0 {
		o.CheckLimit = 1 << 30
	}
	lock, err := lockDir(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, fileName), lock: lock, log: o.Log}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, o Options) error {
	if err := prepare(ctx, s.path, o, migrations()); err != nil {
		return err
	}
	if err := s.openReaders(); err != nil {
		return err
	}
	w, err := openWriter(s.path)
	if err != nil {
		return explain(s.path, err)
	}
	s.write = w
	s.owner, err = ensureOwner(ctx, s.path, s.read, w)
	return err
}

// Path is the file that holds the state.
func (s *Store) Path() string { return s.path }

func (s *Store) openReaders() error {
	db, err := sql.Open("sqlite", dsn(s.path, "_query_only=1"))
	if err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	s.read = db
	for _, p := range []struct {
		to    **sql.Stmt
		query string
	}{{&s.request, requestQuery}, {&s.instance, instanceQuery}} {
		if *p.to, err = db.Prepare(p.query); err != nil { // they are closed with db
			return explain(s.path, fmt.Errorf("prepare %q: %w", p.query, err))
		}
	}
	return nil
}

// Close ends the use of the state. It waits for a Commit that is running.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return nil
	}
	s.shut = true
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.close()) // last, so that it checkpoints and removes the write-ahead log
		s.write = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // releases the lock; the file stays, since removing it would race with the next master
	}
	return errors.Join(errs...)
}

// writing runs f in one transaction on the writer.
func (s *Store) writing(f func(w *writer) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return errors.New("the store is closed")
	}
	if s.write == nil {
		w, err := openWriter(s.path)
		if err != nil {
			return explain(s.path, err)
		}
		s.write = w
	}
	err := s.write.transaction(f)
	if err == nil {
		return nil
	}
	var broken *brokenError
	if errors.As(err, &broken) { // the connection may hold a half transaction: only closing it is sure to drop it
		if cerr := s.write.close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		s.write = nil
	}
	return explain(s.path, err)
}

func dsn(path string, more string) string {
	// A path may hold what a URI gives a meaning to.
	return "file:" + escape(path) + fmt.Sprintf("?_busy_timeout=%d&_foreign_keys=1&_synchronous=FULL&_defensive=1&_pragma=cache_size(-8192)&_pragma=temp_store(memory)&%s",
		busyTimeout.Milliseconds(), more)
}

func escape(path string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@,="
	var b []byte
	for i := range len(path) {
		c := path[i]
		for j := range len(plain) {
			if plain[j] == c {
				b = append(b, c)
				c = 0
				break
			}
		}
		if c != 0 {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	return string(b)
}

func openConn(path string) (driver.Conn, error) {
	return (&sqlite.Driver{}).Open(dsn(path, "_journal_mode=WAL&_pragma=wal_autocheckpoint(2000)&_pragma=journal_size_limit(67108864)"))
}
