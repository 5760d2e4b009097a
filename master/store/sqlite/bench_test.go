package sqlite

import (
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// cpu is the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkCommit stores the life of one-step builds as the engine does: ten builds side by side, each in three commits (submitted and begun,
// step, ended).
func BenchmarkCommit(b *testing.B) {
	s := mustOpen(b, b.TempDir())
	const side = 10
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	id := 0
	commit := func(tx store.Tx) {
		tx.Time = now
		if err := s.Commit(b.Context(), tx); err != nil {
			b.Fatal(err)
		}
	}
	start := cpu(b)
	for b.Loop() {
		var begin, step, end store.Tx
		for range side {
			id++
			r, bid := model.RequestID(id), model.BuildID(id)
			req := core.Request{ID: r, Builder: "linux", SubmittedAt: now, State: model.RequestClaimed, Attempts: 1, Build: bid, Result: model.NoResult}
			bld := core.Build{ID: bid, Requests: []model.RequestID{r}, Builder: "linux", Worker: "w1", Instance: "o-w1-1", Generation: 1, Attempt: 1,
				Phase: model.BuildRunning, AssignedAt: now, StartedAt: now, Result: model.NoResult}
			begin.Requests = append(begin.Requests, model.Request{ID: r, Builder: "linux", Reason: "bench", Generation: 1, SubmittedAt: now, Result: model.NoResult})
			begin.Deltas = append(begin.Deltas, core.Delta{Requests: []core.Request{req}, Builds: []core.Build{bld}, NextBuild: bid + 1, NextOp: 1, Journal: []core.Entry{
				{Event: "Submitted", Kind: "request", Request: r, To: "waiting", Cause: "linux"},
				{Event: "Submitted", Kind: "build", Request: r, Build: bid, Worker: "w1", Instance: "o-w1-1", To: "preparing"},
				{Event: "Submitted", Kind: "request", Request: r, Build: bid, Worker: "w1", From: "waiting", To: "claimed"},
				{Event: "Submitted", Kind: "build", Build: bid, Worker: "w1", Instance: "o-w1-1", From: "preparing", To: "running"}}})
			step.Steps = append(step.Steps, model.Step{Build: bid, Name: "true", Kind: "shell", StartedAt: now, Result: model.NoResult, Logs: []string{"stdio"}})
			end.Steps = append(end.Steps, model.Step{Build: bid, Name: "true", Kind: "shell", StartedAt: now, FinishedAt: now, Logs: []string{"stdio"}})
			req.State, req.Result, req.FinishedAt = model.RequestDone, model.Success, now
			bld.Phase, bld.Result, bld.FinishedAt = model.BuildDone, model.Success, now
			end.Deltas = append(end.Deltas, core.Delta{Requests: []core.Request{req}, Builds: []core.Build{bld}, NextBuild: bid + 1, NextOp: 1, Journal: []core.Entry{
				{Event: "BuildEnded", Kind: "build", Build: bid, Worker: "w1", Instance: "o-w1-1", From: "running", To: "done"},
				{Event: "BuildEnded", Kind: "request", Request: r, Build: bid, From: "claimed", To: "done"}}})
		}
		commit(begin)
		commit(step)
		commit(end)
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N*side), "cpu-µs/build")
	b.ReportMetric(0, "ns/op")
}
