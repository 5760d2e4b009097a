// Package store is where rouse's records live: requests, builds, steps, instances, the journal, and the configurations they belong to.
//
// It says what is stored and when it is durable; store/sqlite does it. It decides nothing. A Commit is one transaction: all of it is there after
// a power loss, or none of it.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("not found")

	// ErrNoSpace says that a Commit failed because the disk is full. The same Commit can be repeated when there is space again.
	ErrNoSpace = errors.New("no space left for the state")
)

// Tx is what one Commit writes. Everything in it becomes durable together.
type Tx struct {
	Time     time.Time
	Deltas   []core.Delta      // in the order of their steps
	Requests []model.Request   // full rows of newly submitted requests, written before the deltas
	Steps    []model.Step      // whole rows, written over the old ones
	Props    []BuildProperties // properties of running builds
	Config   *ConfigSnapshot   // a new generation
	Meta     map[string]string // small facts, written over the old ones
}

// BuildProperties replaces the properties of one build.
type BuildProperties struct {
	Build      model.BuildID
	Properties model.Properties
}

// ConfigSnapshot is the text of one generation, so that a build can go on with the definition it began with. It holds references to secrets,
// never their values.
type ConfigSnapshot struct {
	Generation model.Generation
	AppliedAt  time.Time
	Files      map[string][]byte // name -> content
	Variables  map[string]string // given on the command line, as HCL expressions; none that is declared sensitive
	By         string            // who: a user's or a token's name
	From       string            // whence: start, reload, apply or rollback
	Directory  string            // that the text was read from; "" if it was none
	Reason     string            // for people
	Summary    []byte            // JSON of the plan's summary; nil if no plan was made
}

// JournalRow is one stored journal entry.
type JournalRow struct {
	Seq   int64
	Time  time.Time
	Entry core.Entry
}

// BuildFilter selects builds; zero fields select everything. Newest first.
type BuildFilter struct {
	Builder string
	Worker  string
	Request model.RequestID
	Before  model.BuildID // only builds with smaller IDs
	Limit   int           // at most this many; 0 = 100
}

// Store keeps the records. It is safe for concurrent use; Commit is called by one goroutine only.
type Store interface {
	// Load reads what is live, for core.Restore, and the small facts.
	Load(ctx context.Context) (core.Saved, map[string]string, error)

	// Commit writes one transaction and returns when it is durable. After an error nothing of it is there.
	Commit(ctx context.Context, tx Tx) error

	Request(ctx context.Context, id model.RequestID) (model.Request, error)
	Requests(ctx context.Context, ids []model.RequestID) ([]model.Request, error)
	// MaxRequest is the greatest request ID ever used, 0 if none.
	MaxRequest(ctx context.Context) (model.RequestID, error)

	Build(ctx context.Context, id model.BuildID) (model.Build, error) // with properties
	Builds(ctx context.Context, f BuildFilter) ([]model.Build, error) // without properties
	Steps(ctx context.Context, build model.BuildID) ([]model.Step, error)

	Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error)
	// Instances returns the instances of a worker (all workers if ""), gone ones too, newest first.
	Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error)

	Config(ctx context.Context, g model.Generation) (ConfigSnapshot, error)
	LatestConfig(ctx context.Context) (ConfigSnapshot, error)
	// Configs returns the generations, newest first, without Files and Variables; limit 0 = 100.
	Configs(ctx context.Context, limit int) ([]ConfigSnapshot, error)

	// Trace returns the journal of one request: its own entries, those of its builds, and those of their instances while they were bound to it.
	Trace(ctx context.Context, id model.RequestID) ([]JournalRow, error)
	// Journal returns up to limit entries after a sequence number.
	Journal(ctx context.Context, after int64, limit int) ([]JournalRow, error)

	// Prune removes done requests, builds, steps, gone instances and journal entries that ended before the time. It returns the builds
	// removed, so that their logs can be removed too. Nothing live is ever removed.
	Prune(ctx context.Context, before time.Time) ([]model.BuildID, error)

	Close() error
}
