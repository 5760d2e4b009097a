package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Load reads what is live. It is one read transaction, so that its parts fit together.
func (s *Store) Load(ctx context.Context) (core.Saved, map[string]string, error) {
	saved, meta, err := s.load(ctx)
	if err != nil {
		return core.Saved{}, nil, fmt.Errorf("load the state: %w", explain(s.path, err))
	}
	return saved, meta, nil
}

func (s *Store) load(ctx context.Context) (saved core.Saved, meta map[string]string, err error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return saved, nil, err
	}
	defer func() { _ = tx.Rollback() }()

	meta = map[string]string{}
	saved.Owner = s.owner
	err = each(ctx, tx, `SELECT name, value FROM meta`, nil, func(r scanner) error {
		var name, value string
		err := r.Scan(&name, &value)
		meta[name] = value
		return err
	})
	if err != nil {
		return saved, nil, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT next_build, next_op FROM counters`).Scan(&saved.NextBuild, &saved.NextOp); err != nil {
		return saved, nil, err
	}
	saved.Requests, err = collect(ctx, tx, `SELECT id, builder, priority, submitted_at, worker, source_key, generation, state, attempts, build, result, text, finished_at,
		interrupted FROM requests WHERE state <> 2 ORDER BY id`, nil, scanCoreRequest)
	if err != nil {
		return saved, nil, err
	}
	saved.Builds, err = collect(ctx, tx, buildColumns+` FROM builds WHERE phase <> 2 ORDER BY id`, nil, scanCoreBuild)
	if err != nil {
		return saved, nil, err
	}
	saved.Workers, err = collect(ctx, tx, `SELECT name, generation, tries, backoff_until, last_error, paused, seen_at, fail_class, class_tries FROM workers ORDER BY name`, nil, scanWorker)
	if err != nil {
		return saved, nil, err
	}
	saved.Instances, err = collect(ctx, tx, instanceColumns+` FROM instances WHERE gone_at = 0 ORDER BY n`, nil, scanCoreInstance)
	return saved, meta, err
}

// What every build asks for is prepared once.
const (
	requestQuery  = requestColumns + ` FROM requests WHERE id = $1`
	instanceQuery = instanceColumns + ` FROM instances WHERE key = $1`
)

// Request returns one request.
func (s *Store) Request(ctx context.Context, id model.RequestID) (model.Request, error) {
	return oneOf(ctx, s, prepared{s.request}, fmt.Sprintf("request %d", id), requestQuery, []any{int64(id)}, scanRequest)
}

// Requests returns those of the requests that exist, in the order of their IDs.
func (s *Store) Requests(ctx context.Context, ids []model.RequestID) ([]model.Request, error) {
	var out []model.Request
	for len(ids) > 0 {
		n := min(len(ids), 500)
		part, err := many(ctx, s, "requests", requestColumns+` FROM requests WHERE id IN (`+numbers(ids[:n], ',')+`) ORDER BY id`, nil, scanRequest)
		if err != nil {
			return nil, err
		}
		out, ids = append(out, part...), ids[n:]
	}
	return out, nil
}

// MaxRequest is the greatest request ID ever used.
func (s *Store) MaxRequest(ctx context.Context) (model.RequestID, error) {
	return one(ctx, s, "counters", `SELECT max_request FROM counters`, nil, scanID[model.RequestID])
}

// Build returns one build with its properties.
func (s *Store) Build(ctx context.Context, id model.BuildID) (model.Build, error) {
	return one(ctx, s, fmt.Sprintf("build %d", id), buildColumns+`, properties FROM builds WHERE id = $1`, []any{int64(id)}, scanBuild)
}

// Builds returns the builds that the filter selects, newest first.
func (s *Store) Builds(ctx context.Context, f store.BuildFilter) ([]model.Build, error) {
	q := buildColumns + `, NULL FROM builds WHERE true`
	var args []any
	where := func(cond string, v any) {
		args = append(args, v)
		q += ` AND ` + strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(args)))
	}
	if f.Builder != "" {
		where(`builder = ?`, f.Builder)
	}
	if f.Worker != "" {
		where(`worker = ?`, f.Worker)
	}
	if f.Request != 0 {
		where(`id IN (SELECT id FROM builds WHERE request = ? UNION SELECT build FROM collapsed WHERE request = ?)`, int64(f.Request))
	}
	if f.Before != 0 {
		where(`id < ?`, int64(f.Before))
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	return many(ctx, s, "builds", q+` ORDER BY id DESC LIMIT `+strconv.Itoa(limit), args, scanBuild)
}

// Steps returns a build's steps in order.
func (s *Store) Steps(ctx context.Context, build model.BuildID) ([]model.Step, error) {
	return many(ctx, s, "steps", `SELECT build, number, name, kind, started_at, finished_at, result, text, logs, state FROM steps WHERE build = $1 ORDER BY number`,
		[]any{int64(build)}, scanStep)
}

// Instance returns one instance.
func (s *Store) Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error) {
	return oneOf(ctx, s, prepared{s.instance}, "instance "+string(key), instanceQuery, []any{string(key)}, scanInstance)
}

// Instances returns instances, newest first; limit 0 = 100.
func (s *Store) Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error) {
	if limit <= 0 {
		limit = 100
	}
	q, args := instanceColumns+` FROM instances`, []any(nil)
	if worker != "" {
		q, args = q+` WHERE worker = $1`, []any{worker}
	}
	return many(ctx, s, "instances", q+` ORDER BY n DESC LIMIT `+strconv.Itoa(limit), args, scanInstance)
}

const (
	configMore    = `, by_whom, origin, directory, reason, summary FROM configs`
	configColumns = `SELECT generation, applied_at, files, variables` + configMore
)

// Config returns the configuration of one generation.
func (s *Store) Config(ctx context.Context, g model.Generation) (store.ConfigSnapshot, error) {
	return one(ctx, s, fmt.Sprintf("configuration %d", g), configColumns+` WHERE generation = $1`, []any{int64(g)}, scanConfig)
}

// LatestConfig returns the configuration that was applied last.
func (s *Store) LatestConfig(ctx context.Context) (store.ConfigSnapshot, error) {
	return one(ctx, s, "configuration", configColumns+` ORDER BY generation DESC LIMIT 1`, nil, scanConfig)
}

// Configs returns the generations, newest first, without their text.
func (s *Store) Configs(ctx context.Context, limit int) ([]store.ConfigSnapshot, error) {
	if limit <= 0 {
		limit = 100
	}
	return many(ctx, s, "configurations", `SELECT generation, applied_at, NULL, NULL`+configMore+` ORDER BY generation DESC LIMIT `+strconv.Itoa(limit), nil, scanConfig)
}

type queryer interface {
	QueryContext(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// prepared asks its own query, whichever it is given.
type prepared struct{ s *sql.Stmt }

func (p prepared) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.s.QueryContext(ctx, args...)
}

type scanner interface{ Scan(dest ...any) error }

// each calls f for each row.
func each(ctx context.Context, db queryer, q string, args []any, f func(scanner) error) error {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := f(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func collect[T any](ctx context.Context, db queryer, q string, args []any, scan func(scanner, *T) error) ([]T, error) {
	var out []T
	err := each(ctx, db, q, args, func(r scanner) error {
		out = append(out, *new(T))
		return scan(r, &out[len(out)-1])
	})
	return out, err
}

func many[T any](ctx context.Context, s *Store, what, q string, args []any, scan func(scanner, *T) error) ([]T, error) {
	return manyOf(ctx, s, s.read, what, q, args, scan)
}

func manyOf[T any](ctx context.Context, s *Store, db queryer, what, q string, args []any, scan func(scanner, *T) error) ([]T, error) {
	out, err := collect(ctx, db, q, args, scan)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, explain(s.path, err))
	}
	return out, nil
}

func one[T any](ctx context.Context, s *Store, what, q string, args []any, scan func(scanner, *T) error) (T, error) {
	return oneOf(ctx, s, s.read, what, q, args, scan)
}

func oneOf[T any](ctx context.Context, s *Store, db queryer, what, q string, args []any, scan func(scanner, *T) error) (T, error) {
	out, err := manyOf(ctx, s, db, what, q, args, scan)
	if err != nil {
		return *new(T), err
	}
	if len(out) == 0 {
		return *new(T), fmt.Errorf("%s: %w", what, store.ErrNotFound)
	}
	return out[0], nil
}

// numbers joins IDs.
func numbers[T ~int64](ids []T, separator byte) string {
	var b []byte
	for i, id := range ids {
		if i > 0 {
			b = append(b, separator)
		}
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return string(b)
}

func fromJSON(v sql.NullString, to any) error {
	if !v.Valid {
		return nil
	}
	return json.Unmarshal([]byte(v.String), to)
}
