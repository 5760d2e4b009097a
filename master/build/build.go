// Package build runs the steps of one build: it evaluates each step when its turn comes, has the worker's agent run its commands, writes
// their output to the log, and works out what the results of the steps make of the build.
//
// It must not decide scheduling: which request becomes a build, where it runs and whether it is tried again is the core's business. It knows
// no connection (master/session) and no file format (master/steplog), and it owns no record: rows are saved through the engine's loop.
//
// A build survives the master. Each step is a short program made of items (a command, a transfer, a submission). What an item has yielded is
// saved before the next item starts, and an item is saved as started before its command is sent. A resumed step runs its program again from
// the top: items that are done answer from the saved state, the one that was under way is taken over from the agent, and the log's position
// says which lines are already written. So each command runs once and each line is logged once, wherever the old master stopped.
package build

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/worker/proto"
)

// Commands runs commands on workers: session.Hub. A context that is cancelled with the cause engine.ErrDetach must leave the command alone.
type Commands interface {
	Run(ctx context.Context, worker string, c session.Command) (session.Outcome, error)
	Info(worker string) map[string]any
	Forget(worker, id string)
}

// Log is one open log. See master/steplog for what positions mean.
type Log interface {
	Write(s proto.Stream, p []byte, end int64) error
	Position() int64
	Hide(secrets [][]byte) // masks these, too, from here on
	Flush() error          // puts into the file what is held back
	Close() error          // ends the log
	Abandon() error        // lets go of it without ending it
}

// Logs makes logs. Resume goes on with a log, or makes it if it is not there.
type Logs interface {
	Create(id steplog.ID, secrets [][]byte) (Log, error)
	Resume(id steplog.ID, secrets [][]byte) (Log, error)
}

// Records is what a build reads of the store.
type Records interface {
	Request(ctx context.Context, id model.RequestID) (model.Request, error)
	Build(ctx context.Context, id model.BuildID) (model.Build, error)
	Steps(ctx context.Context, build model.BuildID) ([]model.Step, error)
	Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error)
}

// Loop is what a build needs of the engine.
type Loop interface {
	// Save returns when the transaction is durable.
	Save(ctx context.Context, tx store.Tx) error
	// SubmitWith submits requests, together with what also makes of their IDs, in one transaction.
	SubmitWith(ctx context.Context, reqs []model.Request, also func(ids []model.RequestID) store.Tx) ([]model.RequestID, error)
	// Wait waits until a request is done.
	Wait(ctx context.Context, id model.RequestID) (model.Result, error)
	// Do handles one event; it returns when that is durable.
	Do(ctx context.Context, ev core.Event) error
}

// Vault knows what no log may show, beyond what a build's own steps read: what reached its worker in another way.
type Vault interface {
	// Hidden returns such values as they are now. It is asked before each step, and waits for no longer than it may take to read a file.
	Hidden(ctx context.Context, b core.Build) [][]byte
	// Since returns values that have come to be known since an earlier answer of it, and what to ask with next time. It is asked for each piece of output, and only
	// returns what is in memory.
	Since(heard uint64) (values [][]byte, now uint64)
	// Learn tells what a step has read; other builds hide that, too, until a little after Forget is called for the build. The lengths are those of the secrets' values, by name.
	Learn(b model.BuildID, values [][]byte, lengths map[string]int)
	Forget(b model.BuildID)
}

// Definition is one builder of one generation, with all that its steps refer to. It is shared by concurrent builds and never changes.
type Definition struct {
	Builder    *hcl.Builder
	Workers    map[string]*hcl.Worker
	Schedulers map[string]*hcl.Scheduler

	// Eval evaluates one step. It returns the secrets that it has read also with an error.
	Eval func(ctx context.Context, st *hcl.Step, scope hcl.Scope) (*hcl.Evaluated, error)
}

// Definitions finds builders. It is asked once per build, so it should cache, as Catalog does.
type Definitions interface {
	Builder(ctx context.Context, gen model.Generation, name string) (*Definition, error)
}

// Config is what a Runner needs. Everything but CleanupTime, Now and Vault must be set.
type Config struct {
	Commands    Commands
	Logs        Logs
	Records     Records
	Loop        Loop
	Definitions Definitions
	Vault       Vault         // nil: only what steps have read is hidden
	Artifacts   string        // directory of uploaded files
	CleanupTime time.Duration // how long the always_run steps of a cancelled build may take together; default 5 min
	Now         func() time.Time
	Log         *slog.Logger
}

// Runner runs builds. It implements engine.Builds.
type Runner struct{ Config }

// New returns a Runner.
func New(c Config) *Runner {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.CleanupTime == 0 {
		c.CleanupTime = 5 * time.Minute
	}
	return &Runner{c}
}

var _ engine.Builds = (*Runner)(nil)

// Run runs one build to its end, or until it is told to detach.
func (r *Runner) Run(ctx context.Context, job engine.Job) (out engine.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			r.Log.Error("a build's runner has a bug", "build", job.Build.ID, "panic", p, "stack", string(debug.Stack()))
			out = engine.Outcome{Result: model.Exception, Text: "internal error; the master's log has the details"}
		}
	}()
	b := &run{Runner: r, job: job.Build, resumed: job.Resume}
	defer b.end()
	if r.Vault != nil {
		defer r.Vault.Forget(job.Build.ID)
	}
	b.begin(ctx)
	err := b.load()
	if err == nil {
		err = b.steps()
	}
	return b.outcome(err)
}
