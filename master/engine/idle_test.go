package engine

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// An engine that has nothing to do sleeps: in a day it turns for its sweeps and for nothing else.
func TestAnIdleEngineSleeps(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var turns atomic.Int64
		w.obs.Turn = func(time.Duration, int) { turns.Add(1) }
		w.start()
		synctest.Wait()
		before := turns.Load()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := turns.Load() - before; n > 2*24+2 { // each sweep is a timer and a list
			t.Errorf("%d turns in a day", n)
		}
		w.stop(core.StopKeep)
	})
}

func TestTheJournalIsWhatTheLogAndTheMetricsShow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var buf strings.Builder
		w.log = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return buf.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
		var entries []core.Entry
		ops := map[string]int{}
		commits := 0
		w.obs = Observe{
			Entry: func(_ time.Time, e core.Entry) { entries = append(entries, e) },
			Op: func(provider, op string, class core.OpClass, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				ops[provider+" "+op+" "+class.String()]++
			},
			Commit: func(_ time.Duration, items int, err error) { commits++ },
		}
		w.start()
		w.wait(w.submit(1)[0])
		w.stop(core.StopDrain)
		w.open()
		rows, err := w.db.Journal(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != len(entries) || len(rows) == 0 {
			t.Fatalf("%d rows are stored, %d were shown", len(rows), len(entries))
		}
		for i, r := range rows {
			if r.Entry != entries[i] {
				t.Errorf("row %d: %+v and %+v", i, r.Entry, entries[i])
			}
			if !strings.Contains(buf.String(), `msg="`+r.Entry.Kind+" "+r.Entry.To+`"`) {
				t.Errorf("the log says nothing of %+v", r.Entry)
			}
		}
		if ops["p create ok"] != 1 || ops["p destroy not-found"] == 0 || commits == 0 {
			t.Errorf("calls: %v, commits: %d", ops, commits)
		}
		trace, err := w.db.Trace(t.Context(), 1)
		if err != nil || len(trace) < 5 {
			t.Errorf("the trace has %d rows, %v", len(trace), err)
		}
		if err := w.e.Stop(context.Background(), core.StopKeep); err != nil {
			t.Error(err)
		}
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Many at once: IDs are distinct, everybody gets an answer, and nothing races.
func TestManyCallersAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start()
		var mu sync.Mutex
		seen := map[model.RequestID]bool{}
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				for range 5 {
					ids, err := w.e.Submit(context.Background(), []model.Request{{Builder: "b"}, {Builder: "b"}})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for _, id := range ids {
						if seen[id] {
							t.Errorf("request %d twice", id)
						}
						seen[id] = true
					}
					mu.Unlock()
					w.e.Latest()
					if _, err := w.e.Snapshot(context.Background()); err != nil {
						t.Error(err)
					}
					w.wait(ids[1])
				}
			})
		}
		callers.Wait()
		if len(seen) != 200 {
			t.Errorf("%d requests", len(seen))
		}
		w.stop(core.StopDrain)
	})
}
