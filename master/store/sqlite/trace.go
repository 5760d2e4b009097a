package sqlite

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

const journalColumns = `SELECT seq, time, event, kind, request, build, worker, instance, op, from_state, to_state, cause FROM journal`

// Trace returns the journal of one request, in the order in which it happened. An instance's rows belong to it from the moment one of the
// request's builds was given to the instance's worker until that build ended.
func (s *Store) Trace(ctx context.Context, id model.RequestID) ([]store.JournalRow, error) {
	if _, err := s.Request(ctx, id); err != nil {
		return nil, err
	}
	rows, err := many(ctx, s, "journal", journalColumns+` WHERE request = $1 AND request <> 0 AND build = 0`, []any{int64(id)}, scanJournal)
	if err != nil {
		return nil, err
	}
	builds, err := s.Builds(ctx, store.BuildFilter{Request: id, Limit: math.MaxInt32})
	if err != nil {
		return nil, err
	}
	for _, b := range builds {
		mine, err := many(ctx, s, "journal", journalColumns+` WHERE build = $1 AND build <> 0 ORDER BY seq`, []any{int64(b.ID)}, scanJournal)
		if err != nil {
			return nil, err
		}
		if len(mine) == 0 {
			continue
		}
		from, to := mine[0].Seq, int64(math.MaxInt64)
		if b.Phase == model.BuildDone {
			to = mine[len(mine)-1].Seq
		}
		// The rows of the other requests that the build serves are theirs, except those that say something of the build itself.
		mine = slices.DeleteFunc(mine, func(r store.JournalRow) bool {
			return r.Entry.Kind == "request" && r.Entry.Request != 0 && r.Entry.Request != id
		})
		rows = append(rows, mine...)
		if b.Instance == "" {
			continue
		}
		its, err := many(ctx, s, "journal", journalColumns+` WHERE instance = $1 AND instance <> '' AND build = 0 AND request = 0 AND seq BETWEEN $2 AND $3`,
			[]any{string(b.Instance), from, to}, scanJournal)
		if err != nil {
			return nil, err
		}
		rows = append(rows, its...)
	}
	slices.SortFunc(rows, func(a, b store.JournalRow) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(rows, func(a, b store.JournalRow) bool { return a.Seq == b.Seq }), nil
}

// Journal returns up to limit rows (0 = 100) that come after a sequence number.
func (s *Store) Journal(ctx context.Context, after int64, limit int) ([]store.JournalRow, error) {
	if limit < 0 {
		return nil, errors.New("read journal: the limit is negative")
	}
	if limit == 0 {
		limit = 100
	}
	return many(ctx, s, "journal", journalColumns+` WHERE seq > $1 ORDER BY seq LIMIT $2`, []any{after, int64(limit)}, scanJournal)
}
