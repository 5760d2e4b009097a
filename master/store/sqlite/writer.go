package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// writer is the one connection that writes. It speaks to the driver without database/sql in between: that package's bookkeeping costs as much
// again as the insertion of a row.
type writer struct {
	conn driver.Conn
	st   statements
	all  []*statement
	args []driver.NamedValue // of the call that runs
	mem  coalescer

	nextBuild, nextOp, maxRequest int64 // as they are in the table
}

type statement struct {
	text string
	s    driver.StmtExecContext
}

type statements struct {
	begin, commit, rollback                      *statement
	meta, config, counters                       *statement
	requestNew, requestMove                      *statement
	build, collapsed, props                      *statement
	step, worker, instance                       *statement
	journal, journal4                            *statement
	delRequest, delBuild, delCollapsed, delSteps *statement
	delInstance, delJournal, delConfig           *statement
}

const journalInsert = `INSERT INTO journal (time, event, kind, request, build, worker, instance, op, from_state, to_state, cause) VALUES `

func (w *writer) prepare() error {
	s := &w.st
	for _, p := range []struct {
		to   **statement
		text string
	}{
		{&s.begin, `BEGIN IMMEDIATE`},
		{&s.commit, `COMMIT`},
		{&s.rollback, `ROLLBACK`},
		{&s.meta, `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`},
		{&s.config, `INSERT INTO configs (generation, applied_at, files, variables, by_whom, origin, directory, reason, summary)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (generation) DO UPDATE SET applied_at = excluded.applied_at, files = excluded.files, variables = excluded.variables,
			by_whom = excluded.by_whom, origin = excluded.origin, directory = excluded.directory, reason = excluded.reason, summary = excluded.summary`},
		{&s.counters, `UPDATE counters SET next_build = $1, next_op = $2, max_request = $3`},
		{&s.requestNew, `INSERT INTO requests (id, builder, priority, reason, scheduler, owner, source, properties, worker, parent, generation, submitted_at,
			source_key, state, attempts, build, result, text, finished_at, interrupted)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) ON CONFLICT (id) DO NOTHING`},
		{&s.requestMove, `UPDATE requests SET source_key = $2, state = $3, attempts = $4, build = $5, result = $6, text = $7, finished_at = $8, interrupted = $9 WHERE id = $1`},
		{&s.build, `INSERT INTO builds (id, request, requests, builder, worker, instance, generation, attempt, phase, assigned_at, started_at, finished_at,
			result, text, cancelling, locks) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
			ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, phase = excluded.phase, started_at = excluded.started_at,
			finished_at = excluded.finished_at, result = excluded.result, text = excluded.text, cancelling = excluded.cancelling,
			locks = excluded.locks`},
		{&s.collapsed, `INSERT INTO collapsed (request, build) VALUES ($1, $2) ON CONFLICT DO NOTHING`},
		{&s.props, `UPDATE builds SET properties = $2 WHERE id = $1`},
		{&s.step, `INSERT INTO steps (build, number, name, kind, started_at, finished_at, result, text, logs, state)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			ON CONFLICT (build, number) DO UPDATE SET name = excluded.name, kind = excluded.kind, started_at = excluded.started_at,
			finished_at = excluded.finished_at, result = excluded.result, text = excluded.text, logs = excluded.logs, state = excluded.state`},
		{&s.worker, `INSERT INTO workers (name, generation, tries, backoff_until, last_error, paused, seen_at, fail_class, class_tries)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (name) DO UPDATE SET generation = excluded.generation, tries = excluded.tries, backoff_until = excluded.backoff_until,
			last_error = excluded.last_error, paused = excluded.paused, seen_at = excluded.seen_at, fail_class = excluded.fail_class,
			class_tries = excluded.class_tries`},
		{&s.instance, `INSERT INTO instances (key, worker, provider, provider_id, spec, price, asked_at, resolved, unresolved_at, booted_at, attached_at,
			lost_at, agent, served, doomed, doomed_at, reason, destroy_tries, gone_at, stopped_price, power, power_at, slept, detail, facts, place, vcpus, memory)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28)
			ON CONFLICT (key) DO UPDATE SET provider_id = excluded.provider_id, spec = excluded.spec, price = excluded.price, resolved = excluded.resolved,
			unresolved_at = excluded.unresolved_at, booted_at = excluded.booted_at, attached_at = excluded.attached_at, lost_at = excluded.lost_at,
			agent = excluded.agent, served = excluded.served, doomed = excluded.doomed, doomed_at = excluded.doomed_at, reason = excluded.reason,
			destroy_tries = excluded.destroy_tries, gone_at = excluded.gone_at, stopped_price = excluded.stopped_price, power = excluded.power,
			power_at = excluded.power_at, slept = excluded.slept, detail = excluded.detail, facts = excluded.facts, place = excluded.place,
			vcpus = excluded.vcpus, memory = excluded.memory`},
		{&s.journal, journalInsert + `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{&s.journal4, journalInsert + `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{&s.delRequest, `DELETE FROM requests WHERE id = $1 AND state = 2`},
		{&s.delBuild, `DELETE FROM builds WHERE id = $1 AND phase = 2`},
		{&s.delCollapsed, `DELETE FROM collapsed WHERE build = $2 AND request = $1`},
		{&s.delSteps, `DELETE FROM steps WHERE build = $1`},
		{&s.delInstance, `DELETE FROM instances WHERE key = $1 AND gone_at <> 0`},
		{&s.delJournal, `DELETE FROM journal WHERE seq = $1`},
		{&s.delConfig, `DELETE FROM configs WHERE generation = $1`},
	} {
		st, err := w.conn.Prepare(p.text)
		if err != nil {
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
		*p.to = &statement{text: p.text, s: st.(driver.StmtExecContext)}
		w.all = append(w.all, *p.to)
	}
	return nil
}

func openWriter(path string) (*writer, error) {
	conn, err := openConn(path)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn}
	if err := w.start(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *writer) start() error {
	if err := w.prepare(); err != nil {
		return err
	}
	rows, err := w.conn.(driver.QueryerContext).QueryContext(context.Background(), `SELECT next_build, next_op, max_request FROM counters`, nil)
	if err != nil {
		return err
	}
	dest := make([]driver.Value, 3)
	if err := errors.Join(rows.Next(dest), rows.Close()); err != nil {
		return fmt.Errorf("read the counters: %w", err)
	}
	for i, to := range []*int64{&w.nextBuild, &w.nextOp, &w.maxRequest} {
		n, ok := dest[i].(int64)
		if !ok {
			return fmt.Errorf("read the counters: column %d is a %T", i, dest[i])
		}
		*to = n
	}
	return nil
}

func (w *writer) close() error {
	var errs []error
	for _, s := range w.all {
		errs = append(errs, s.s.(driver.Stmt).Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// exec runs a statement. The values are int64, float64, bool, string, []byte or nil.
func (w *writer) exec(s *statement, values ...any) error {
	args := w.args[:0]
	for i, v := range values {
		args = append(args, named(i, v))
	}
	return w.run(s, args)
}

func named(i int, v any) driver.NamedValue { return driver.NamedValue{Ordinal: i + 1, Value: v} }

func (w *writer) run(s *statement, args []driver.NamedValue) error {
	w.args = args[:0]
	_, err := s.s.ExecContext(context.Background(), args) // not the caller's context: half a commit is worse than a late one
	clear(args)
	return err
}

// brokenError says that the connection is in an unknown state.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// transaction runs f and commits, or rolls everything back.
func (w *writer) transaction(f func(w *writer) error) error {
	if err := w.exec(w.st.begin); err != nil {
		return &brokenError{err}
	}
	counters := [3]int64{w.nextBuild, w.nextOp, w.maxRequest}
	err := f(w)
	if err == nil {
		if err = w.exec(w.st.commit); err == nil {
			return nil
		}
	}
	w.nextBuild, w.nextOp, w.maxRequest = counters[0], counters[1], counters[2]
	// SQLite rolls some errors back by itself, and then refuses the order to do so. To be sure, such a connection is not used again.
	if rerr := w.exec(w.st.rollback); rerr != nil {
		return &brokenError{err}
	}
	return err
}
