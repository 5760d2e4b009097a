package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
)

// run is one build under way. One goroutine owns it.
type run struct {
	*Runner
	job     core.Build
	resumed bool

	ctx     context.Context // ends when the build is told to stop or to detach
	base    context.Context // ends only when it is told to detach: what must be done after a stop uses it
	cleanup context.Context // for the always_run steps of a cancelled build; nil until needed
	closers []func()

	def   *Definition
	req   model.Request
	props model.Properties
	scope hcl.Scope
	rows  map[int]model.Step // of an earlier master process

	tally   tally
	blame   []string        // texts of the steps that gave the build its result
	reason  string          // why it was stopped
	secrets [][]byte        // that were learned
	known   map[string]bool // the same
	masker  *steplog.Masker // of the same
	heard   uint64          // how much of what the vault has learned is among them

	dirty   bool         // props are not saved
	pending []model.Step // rows of ended steps that are not saved yet; they ride with the next step's start
	forget  []string     // commands that the agent need not keep once they are saved
}

// begin splits the engine's context by cause.
func (b *run) begin(ctx context.Context) {
	base, detach := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if stopCause(ctx) == nil {
			detach(engine.ErrDetach)
		}
	})
	b.base, b.ctx = base, ctx
	b.closers = append(b.closers, func() { stop(); detach(nil) })
	if b.job.Cancelling != "" { // ordered while the last master ran, or just before the build started
		c, cancel := context.WithCancelCause(ctx)
		cancel(&engine.StopCause{Result: model.Cancelled, Reason: b.job.Cancelling})
		b.ctx = c
	}
}

func (b *run) end() {
	for _, f := range b.closers {
		f()
	}
}

// stopCause returns why ctx was told to stop; nil if it was not, or was told to detach.
func stopCause(ctx context.Context) *engine.StopCause {
	var c *engine.StopCause
	if errors.As(context.Cause(ctx), &c) {
		return c
	}
	return nil
}

// detached says whether the build must be left to the next master. A cancellation without a cause counts: leaving everything as it is loses
// nothing.
func (b *run) detached() bool {
	return b.base.Err() != nil || b.ctx.Err() != nil && stopCause(b.ctx) == nil
}

// letGo says whether an error means that the master is stopping under the build: whatever it did not finish, the next master does.
func letGo(err error) bool {
	return errors.Is(err, engine.ErrDetach) || errors.Is(err, engine.ErrStopped) || errors.Is(err, session.ErrDetached)
}

// load reads what the build is about.
func (b *run) load() error {
	var err error
	b.hide(b.base)
	if b.def, err = b.Definitions.Builder(b.base, b.job.Generation, b.job.Builder); err != nil {
		return fmt.Errorf("builder %s of configuration %d: %w", b.job.Builder, b.job.Generation, err)
	}
	if len(b.job.Requests) == 0 {
		return errors.New("the build has no request")
	}
	if b.req, err = b.Records.Request(b.base, b.job.Requests[0]); err != nil {
		return fmt.Errorf("request %d: %w", b.job.Requests[0], err)
	}
	var inst model.Instance
	if b.job.Instance != "" {
		if inst, err = b.Records.Instance(b.base, b.job.Instance); err != nil {
			return fmt.Errorf("instance %s: %w", b.job.Instance, err)
		}
	}
	info := b.Commands.Info(b.job.Worker)
	if b.resumed {
		if err := b.reload(); err != nil {
			return err
		}
	}
	if b.props == nil { // new, or the old master stopped before anything was saved
		b.props, b.dirty = b.startProperties(info, inst), true
	}
	b.startScope(info, inst)
	return nil
}

// reload reads what an earlier master saved of the build.
func (b *run) reload() error {
	old, err := b.Records.Build(b.base, b.job.ID)
	if err != nil {
		return fmt.Errorf("build %d: %w", b.job.ID, err)
	}
	rows, err := b.Records.Steps(b.base, b.job.ID)
	if err != nil {
		return fmt.Errorf("steps of build %d: %w", b.job.ID, err)
	}
	b.rows = make(map[int]model.Step, len(rows))
	for _, row := range rows {
		b.rows[row.Number] = row
	}
	if len(rows) > 0 {
		b.props = maps.Clone(old.Properties)
	}
	return nil
}

// steps runs the steps that are still to run. An error means that the build could not go on; the steps' own failures are results.
func (b *run) steps() error {
	for n, st := range b.def.Builder.Steps {
		row, known := b.rows[n]
		if known && !row.FinishedAt.IsZero() {
			b.recall(n, st)
			b.count(st, row)
			continue
		}
		if !known {
			if b.detached() {
				return engine.ErrDetach
			}
			if c := stopCause(b.ctx); c != nil && !b.tally.ended {
				b.stopped(c)
			}
			if !b.tally.wants(st) {
				continue
			}
		}
		if err := b.step(n, st, row, known); err != nil {
			return err
		}
	}
	return b.flush()
}

// recall reads again the secrets that a step had read which ended under an earlier master: what comes after it may print them.
func (b *run) recall(n int, st *hcl.Step) {
	b.scopeStep(n, st)
	ev, err := b.def.Eval(b.base, st, b.scope)
	b.read(ev)
	if err != nil {
		b.Log.Warn("cannot tell what secrets an earlier step has read; they are not masked from here on", "build", b.job.ID, "step", n, "error", err)
	}
}

// stopped counts an order to stop.
func (b *run) stopped(c *engine.StopCause) {
	b.tally.result = model.Worst(b.tally.result, c.Result)
	b.tally.halted = true
	b.tally.ended = c.Result == model.Retry
	b.reason = c.Reason
}

// count adds an ended step to what is known of the build.
func (b *run) count(st *hcl.Step, row model.Step) {
	before := b.tally.result
	b.tally.add(st, row.Result)
	switch {
	case b.tally.result == before && row.Result != before, b.tally.result == model.Success:
	case b.tally.result != before:
		b.blame = []string{row.Text}
	default:
		b.blame = append(b.blame, row.Text)
	}
	if b.scope.Step == nil {
		b.scope.Step = map[string]any{}
	}
	b.scope.Step[st.Name] = map[string]any{"result": row.Result.String()}
}

// flush saves all that is not saved yet, with the given rows, and then does what had to wait for that. It costs one round trip to the loop,
// or none if there is nothing to save.
func (b *run) flush(rows ...model.Step) error {
	tx := store.Tx{Time: b.Now(), Steps: append(b.pending, rows...)}
	if b.dirty {
		tx.Props = []store.BuildProperties{{Build: b.job.ID, Properties: maps.Clone(b.props)}}
	}
	if len(tx.Steps)+len(tx.Props) > 0 {
		if err := b.Loop.Save(b.base, tx); err != nil {
			return fmt.Errorf("cannot record the build's progress: %w", err)
		}
	}
	b.pending, b.dirty = nil, false
	for _, id := range b.forget {
		b.Commands.Forget(b.job.Worker, id)
	}
	b.forget = nil
	return nil
}

// outcome is what the engine gets to know.
func (b *run) outcome(err error) engine.Outcome {
	switch {
	case letGo(err), err != nil && b.detached():
		return engine.Outcome{Result: model.NoResult, Detached: true}
	case err != nil:
		b.Log.Error("a build cannot go on", "build", b.job.ID, "error", err)
		return engine.Outcome{Result: model.Exception, Text: b.clean(err.Error())}
	}
	return engine.Outcome{Result: b.tally.result, Text: b.text()}
}

// text says in a few words how the build ended.
func (b *run) text() string {
	const shown = 3
	blame := b.blame
	if len(blame) > shown {
		blame = append(blame[:shown:shown], fmt.Sprintf("and %d more", len(b.blame)-shown))
	}
	why := strings.Join(blame, "; ")
	switch b.tally.result {
	case model.Success:
		return "build successful"
	case model.Cancelled, model.Retry:
		if b.reason != "" {
			why = b.reason
		}
	}
	return b.clean(b.tally.result.String() + ": " + why)
}
