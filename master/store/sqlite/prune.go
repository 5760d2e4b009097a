package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// pruneChunk bounds how long one step of Prune can make a Commit wait: a few milliseconds.
const pruneChunk = 200

// Prune removes what ended before the time and that nothing refers to which is kept. Readers find the rows, so that the writer is held for
// short deletions only; between two of them commits go on.
func (s *Store) Prune(ctx context.Context, before time.Time) ([]model.BuildID, error) {
	removed, err := s.prune(ctx, micros(before))
	if err != nil {
		return removed, fmt.Errorf("prune: %w", explain(s.path, err))
	}
	return removed, nil
}

func (s *Store) prune(ctx context.Context, before int64) ([]model.BuildID, error) {
	removed, err := s.pruneBuilds(ctx, before)
	if err != nil {
		return removed, err
	}
	// A request stays as long as any of its builds does.
	if err := pruneRows(ctx, s, `SELECT id FROM requests AS r WHERE id > $2 AND state = 2 AND finished_at < $1
		AND NOT EXISTS (SELECT 1 FROM builds WHERE request = r.id) AND NOT EXISTS (SELECT 1 FROM collapsed WHERE request = r.id) ORDER BY id LIMIT $3`, before,
		func(w *writer, id int64) error { return w.exec(w.st.delRequest, id) }); err != nil {
		return removed, err
	}
	keys, err := collect(ctx, s.read, `SELECT key FROM instances WHERE gone_at <> 0 AND gone_at < $1 AND key NOT IN (SELECT instance FROM builds)`, []any{before},
		func(r scanner, k *string) error { return r.Scan(k) })
	if err != nil {
		return removed, err
	}
	for len(keys) > 0 {
		n := min(len(keys), pruneChunk)
		if err := s.writing(func(w *writer) error {
			for _, k := range keys[:n] {
				if err := w.exec(w.st.delInstance, k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return removed, err
		}
		keys = keys[n:]
	}
	// The journal is in the order of time but for jumps of the clock, which only make some rows stay a little longer.
	if err := pruneRows(ctx, s, `SELECT seq FROM journal AS j WHERE seq > $2
		AND seq < coalesce((SELECT seq FROM journal WHERE time >= $1 ORDER BY seq LIMIT 1), 9223372036854775807)
		AND (request = 0 OR NOT EXISTS (SELECT 1 FROM requests WHERE id = j.request))
		AND (build = 0 OR NOT EXISTS (SELECT 1 FROM builds WHERE id = j.build))
		AND (instance = '' OR NOT EXISTS (SELECT 1 FROM instances WHERE key = j.instance)) ORDER BY seq LIMIT $3`, before,
		func(w *writer, seq int64) error { return w.exec(w.st.delJournal, seq) }); err != nil {
		return removed, err
	}
	return removed, s.pruneConfigs(ctx, before)
}

// pruneBuilds removes builds all of whose requests ended before the time, too.
func (s *Store) pruneBuilds(ctx context.Context, before int64) ([]model.BuildID, error) {
	var removed []model.BuildID
	type row struct {
		id, request int64
		more        string
	}
	for last := int64(0); ; {
		rows, err := collect(ctx, s.read, `SELECT id, request, coalesce(requests, '') FROM builds AS b WHERE id > $2 AND phase = 2 AND finished_at < $1
			AND NOT EXISTS (SELECT 1 FROM requests WHERE id = b.request AND (state <> 2 OR finished_at >= $1))
			AND NOT EXISTS (SELECT 1 FROM collapsed AS c JOIN requests AS r ON r.id = c.request
				WHERE b.requests IS NOT NULL AND c.build = b.id AND (r.state <> 2 OR r.finished_at >= $1))
			ORDER BY id LIMIT $3`, []any{before, last, int64(pruneChunk)}, func(r scanner, b *row) error { return r.Scan(&b.id, &b.request, &b.more) })
		if err != nil || len(rows) == 0 {
			return removed, err
		}
		if err := s.writing(func(w *writer) error {
			for _, b := range rows {
				for f := range strings.FieldsSeq(b.more) {
					request, err := strconv.ParseInt(f, 10, 64)
					if err != nil {
						return err
					}
					if err := w.exec(w.st.delCollapsed, request, b.id); err != nil {
						return err
					}
				}
				if err := w.exec(w.st.delSteps, b.id); err != nil {
					return err
				}
				if err := w.exec(w.st.delBuild, b.id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return removed, err
		}
		for _, b := range rows {
			removed = append(removed, model.BuildID(b.id))
		}
		last = rows[len(rows)-1].id
	}
}

// pruneConfigs removes generations that are older than everything that is left, but never the newest. One that was in force when a live instance was asked for, or came
// after it, stays: only its provider's block of then may be able to end that instance.
func (s *Store) pruneConfigs(ctx context.Context, before int64) error {
	return pruneRows(ctx, s, `SELECT generation FROM configs WHERE generation > $2 AND applied_at < $1
		AND generation < (SELECT max(generation) FROM configs)
		AND (NOT EXISTS (SELECT 1 FROM instances WHERE gone_at = 0) OR generation < (SELECT max(generation) FROM configs
			WHERE applied_at <= (SELECT min(asked_at) FROM instances WHERE gone_at = 0)))
		AND generation < coalesce((SELECT min(generation) FROM builds), 9223372036854775807)
		AND generation < coalesce((SELECT min(generation) FROM requests), 9223372036854775807) ORDER BY generation LIMIT $3`, before,
		func(w *writer, g int64) error { return w.exec(w.st.delConfig, g) })
}

// pruneRows deletes the rows that a query names, in chunks. The query's parameters are the time, the last row of the chunk before, and the
// chunk's size.
func pruneRows(ctx context.Context, s *Store, query string, before int64, del func(w *writer, id int64) error) error {
	for last := int64(0); ; {
		ids, err := collect(ctx, s.read, query, []any{before, last, int64(pruneChunk)}, scanID[int64])
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := s.writing(func(w *writer) error {
			for _, id := range ids {
				if err := del(w, id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		last = ids[len(ids)-1]
	}
}
