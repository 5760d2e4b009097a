package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Commit writes one transaction. ctx is looked at only before it begins: once begun, it ends one way or the other.
func (s *Store) Commit(ctx context.Context, tx store.Tx) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.writing(func(w *writer) error { return w.commit(&tx) }); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// coalescer finds the last row of each thing in a transaction: rows are written over the old ones, so only the last one counts.
type coalescer struct {
	requests  map[model.RequestID]*core.Request
	builds    map[model.BuildID]*core.Build
	workers   map[string]*core.WorkerState
	instances map[model.InstanceKey]*core.Instance
	inserted  map[model.RequestID]bool
}

func (c *coalescer) read(deltas []core.Delta) {
	if c.requests == nil {
		c.requests, c.builds = map[model.RequestID]*core.Request{}, map[model.BuildID]*core.Build{}
		c.workers, c.instances = map[string]*core.WorkerState{}, map[model.InstanceKey]*core.Instance{}
		c.inserted = map[model.RequestID]bool{}
	}
	for i := range deltas {
		d := &deltas[i]
		for j := range d.Requests {
			c.requests[d.Requests[j].ID] = &d.Requests[j]
		}
		for j := range d.Builds {
			c.builds[d.Builds[j].ID] = &d.Builds[j]
		}
		for j := range d.Workers {
			c.workers[d.Workers[j].Name] = &d.Workers[j]
		}
		for j := range d.Instances {
			c.instances[d.Instances[j].Key] = &d.Instances[j]
		}
	}
}

func (c *coalescer) forget() {
	clear(c.requests)
	clear(c.builds)
	clear(c.workers)
	clear(c.instances)
	clear(c.inserted)
}

func (w *writer) commit(tx *store.Tx) error {
	c := &w.mem
	c.read(tx.Deltas)
	defer c.forget()

	counters := [3]int64{w.nextBuild, w.nextOp, w.maxRequest}
	for i := range tx.Requests {
		r := &tx.Requests[i]
		if err := w.newRequest(r, c.requests[r.ID]); err != nil {
			return fmt.Errorf("request %d: %w", r.ID, err)
		}
		c.inserted[r.ID] = true
		w.maxRequest = max(w.maxRequest, int64(r.ID))
	}
	// In the order of the deltas, not of the maps: rows with ascending keys are cheaper to insert, and runs can be compared.
	for i := range tx.Deltas {
		if err := w.delta(&tx.Deltas[i]); err != nil {
			return err
		}
	}
	if err := w.journal(tx.Time, tx.Deltas); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for i := range tx.Steps {
		if err := w.step(&tx.Steps[i]); err != nil {
			return fmt.Errorf("step %d of build %d: %w", tx.Steps[i].Number, tx.Steps[i].Build, err)
		}
	}
	for _, p := range tx.Props {
		v, err := jsonText(p.Properties, len(p.Properties) == 0)
		if err == nil {
			err = w.exec(w.st.props, int64(p.Build), v)
		}
		if err != nil {
			return fmt.Errorf("properties of build %d: %w", p.Build, err)
		}
	}
	if tx.Config != nil {
		if err := w.config(tx.Config); err != nil {
			return fmt.Errorf("configuration %d: %w", tx.Config.Generation, err)
		}
	}
	for name, value := range tx.Meta {
		if err := w.exec(w.st.meta, name, value); err != nil {
			return fmt.Errorf("meta %s: %w", name, err)
		}
	}
	if counters != [3]int64{w.nextBuild, w.nextOp, w.maxRequest} {
		return w.exec(w.st.counters, w.nextBuild, w.nextOp, w.maxRequest)
	}
	return nil
}

func (w *writer) delta(d *core.Delta) error {
	c := &w.mem
	for i := range d.Requests {
		r := &d.Requests[i]
		if c.requests[r.ID] != r || c.inserted[r.ID] {
			continue
		}
		if err := w.exec(w.st.requestMove, int64(r.ID), r.SourceKey, int64(r.State), int64(r.Attempts), int64(r.Build), int64(r.Result), r.Text,
			micros(r.FinishedAt), int64(r.Interrupted)); err != nil {
			return fmt.Errorf("request %d: %w", r.ID, err)
		}
	}
	for i := range d.Builds {
		b := &d.Builds[i]
		if c.builds[b.ID] != b {
			continue
		}
		if err := w.build(b); err != nil {
			return fmt.Errorf("build %d: %w", b.ID, err)
		}
	}
	for i := range d.Workers {
		k := &d.Workers[i]
		if c.workers[k.Name] != k {
			continue
		}
		if err := w.exec(w.st.worker, k.Name, int64(k.Generation), int64(k.Tries), micros(k.BackoffUntil), k.LastError, k.Paused, micros(k.SeenAt),
			k.FailClass, int64(k.ClassTries)); err != nil {
			return fmt.Errorf("worker %s: %w", k.Name, err)
		}
	}
	for i := range d.Instances {
		in := &d.Instances[i]
		if c.instances[in.Key] != in {
			continue
		}
		facts, err := jsonText(in.Facts, len(in.Facts) == 0)
		if err != nil {
			return fmt.Errorf("facts of instance %s: %w", in.Key, err)
		}
		if err := w.exec(w.st.instance, string(in.Key), in.Worker, in.Provider, in.ProviderID, in.Spec, in.Price, micros(in.AskedAt), flag(in.Resolved),
			micros(in.UnresolvedAt), micros(in.BootedAt), micros(in.AttachedAt), micros(in.LostAt), in.Agent, flag(in.Served), flag(in.Doomed),
			micros(in.DoomedAt), in.Reason, int64(in.DestroyTries), micros(in.GoneAt), in.StoppedPrice, int64(in.Power), micros(in.PowerAt),
			in.Slept.Microseconds(), in.Detail, facts, in.Place, int64(in.VCPUs), in.Memory); err != nil {
			return fmt.Errorf("instance %s: %w", in.Key, err)
		}
	}
	w.nextBuild = max(w.nextBuild, int64(d.NextBuild))
	w.nextOp = max(w.nextOp, int64(d.NextOp))
	return nil
}

// newRequest inserts a whole row. moved is what the deltas of the same transaction made of it, or nil.
func (w *writer) newRequest(r *model.Request, moved *core.Request) error {
	source, err := jsonText(r.Source, r.Source == model.Source{})
	if err != nil {
		return err
	}
	properties, err := jsonText(r.Properties, len(r.Properties) == 0)
	if err != nil {
		return err
	}
	m := core.Request{State: r.State, Attempts: r.Attempts, Build: r.Build, Result: r.Result, Text: r.Text, FinishedAt: r.FinishedAt}
	if moved != nil {
		m = *moved
	}
	return w.exec(w.st.requestNew, int64(r.ID), r.Builder, int64(r.Priority), r.Reason, r.Scheduler, r.Owner, source, properties, r.Worker, int64(r.Parent),
		int64(r.Generation), micros(r.SubmittedAt), m.SourceKey, int64(m.State), int64(m.Attempts), int64(m.Build), int64(m.Result), m.Text, micros(m.FinishedAt), int64(m.Interrupted))
}

func (w *writer) build(b *core.Build) error {
	var first model.RequestID
	var list any
	if len(b.Requests) > 0 {
		first = b.Requests[0]
	}
	if len(b.Requests) > 1 {
		list = numbers(b.Requests, ' ')
		for _, r := range b.Requests[1:] {
			if err := w.exec(w.st.collapsed, int64(r), int64(b.ID)); err != nil {
				return err
			}
		}
	}
	locks, err := jsonText(b.Locks, len(b.Locks) == 0)
	if err != nil {
		return err
	}
	return w.exec(w.st.build, int64(b.ID), int64(first), list, b.Builder, b.Worker, string(b.Instance), int64(b.Generation), int64(b.Attempt), int64(b.Phase),
		micros(b.AssignedAt), micros(b.StartedAt), micros(b.FinishedAt), int64(b.Result), b.Text, b.Cancelling, locks)
}

func (w *writer) step(s *model.Step) error {
	logs, err := jsonText(s.Logs, len(s.Logs) == 0)
	if err != nil {
		return err
	}
	var state any
	if s.State != nil {
		state = s.State
	}
	return w.exec(w.st.step, int64(s.Build), int64(s.Number), s.Name, s.Kind, micros(s.StartedAt), micros(s.FinishedAt), int64(s.Result), s.Text, logs, state)
}

// journal writes all entries, four to a statement: the cost of a row is mostly the cost of the call.
func (w *writer) journal(at time.Time, deltas []core.Delta) error {
	const columns, rows = 11, 4
	args, n := w.args[:0], 0
	t := micros(at)
	for i := range deltas {
		for j := range deltas[i].Journal {
			e := &deltas[i].Journal[j]
			for _, v := range [columns]any{t, e.Event, e.Kind, int64(e.Request), int64(e.Build), e.Worker, string(e.Instance), int64(e.Op), e.From, e.To, e.Cause} {
				args = append(args, named(len(args), v))
			}
			if n++; n < rows {
				continue
			}
			if err := w.run(w.st.journal4, args); err != nil {
				return err
			}
			args, n = args[:0], 0
		}
	}
	rest := args
	for ; n > 0; n-- {
		one := rest[:columns:columns]
		rest = rest[columns:]
		for i := range one {
			one[i].Ordinal = i + 1
		}
		if err := w.run(w.st.journal, one); err != nil {
			return err
		}
	}
	w.args = args[:0]
	return nil
}

func (w *writer) config(c *store.ConfigSnapshot) error {
	files, err := json.Marshal(c.Files)
	if err != nil {
		return err
	}
	variables, err := json.Marshal(c.Variables)
	if err != nil {
		return err
	}
	var summary any
	if c.Summary != nil {
		summary = string(c.Summary)
	}
	return w.exec(w.st.config, int64(c.Generation), micros(c.AppliedAt), string(files), string(variables), c.By, c.From, c.Directory, c.Reason, summary)
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// jsonText is the JSON of a value, or nil (NULL) when there is none.
func jsonText(v any, none bool) (any, error) {
	if none {
		return nil, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}
