package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// act starts the effects of the batch, in order. Its deltas are durable. Nothing here blocks.
func (l *loop) act(now time.Time) {
	for i := range l.items {
		if f := l.items[i].after; f != nil && l.items[i].refused == nil {
			f()
		}
	}
	for i := range l.batches {
		for j := range l.batches[i].Delta.Instances {
			if in := &l.batches[i].Delta.Instances[j]; !in.GoneAt.IsZero() {
				l.e.o.Sessions.Lost(in.Worker)
			}
		}
		for _, ef := range l.batches[i].Effects {
			l.effect(ef, now)
		}
	}
}

func (l *loop) effect(ef core.Effect, now time.Time) {
	e := l.e
	switch ef := ef.(type) {
	case core.SetTimer:
		l.timers.set(ef.Timer, ef.At)
	case core.StartBuild:
		l.startBuild(ef)
	case core.StopBuild:
		if r := l.runners[ef.Build]; r != nil {
			r.cancel(&StopCause{Result: ef.Result, Reason: ef.Reason})
		}
	case core.Admit:
		e.o.Sessions.Admit(ef.Worker, ef.Session)
	case core.Hangup:
		e.o.Sessions.Hangup(ef.Worker, ef.Session, ef.Reason, ef.End)
	case core.Ended:
		e.waiters.ended(ef.Request, ef.Result)
	case core.Notify:
		if e.o.Notify != nil {
			e.work.Go(func() {
				defer e.survive("notify", nil)
				e.o.Notify(ef)
			})
		}
	case core.Due:
		e.work.Go(func() { e.due(ef) })
	case core.CreateInstance:
		l.create(ef)
	case core.DestroyInstance:
		l.destroy(ef)
	case core.CheckInstance:
		l.check(ef)
	case core.StopInstance:
		l.stopInstance(ef)
	case core.StartInstance:
		l.startInstance(ef)
	case core.ReadConsole:
		l.readConsole(ef)
	case core.TellInterrupted:
		l.tellInterrupted(ef)
	case core.ListInstances:
		l.list(ef, now)
	default:
		e.log.Error("engine: unknown effect", "effect", fmt.Sprintf("%T", ef))
	}
}

// runner is one build that runs.
type runner struct {
	build  model.BuildID
	cancel context.CancelCauseFunc
	out    Outcome // valid when the runner's item has arrived
}

func (l *loop) startBuild(ef core.StartBuild) {
	e := l.e
	if e.detaching.Load() { // the build is stored as running: the next master resumes it
		return
	}
	if l.runners[ef.Build.ID] != nil {
		e.log.Error("engine: the build has a runner already", "build", ef.Build.ID)
		return
	}
	ctx, cancel := context.WithCancelCause(e.building)
	r := &runner{build: ef.Build.ID, cancel: cancel}
	l.runners[r.build] = r
	e.runs.Go(func() {
		defer cancel(nil)
		r.out = e.runBuild(ctx, Job{Build: ef.Build, Resume: ef.Resume})
		_ = e.send(context.Background(), item{ran: r})
	})
}

// runBuild gives exactly one outcome, whatever happens.
func (e *Engine) runBuild(ctx context.Context, job Job) (out Outcome) {
	defer e.survive(fmt.Sprintf("build %d", job.Build.ID), func(v any) {
		out = Outcome{Result: model.Exception, Text: clip(fmt.Sprintf("internal error: %v", v))}
	})
	return e.o.Builds.Run(ctx, job)
}

// returned makes the event of a runner that has returned.
func (l *loop) returned(it *item) {
	r := it.ran
	delete(l.runners, r.build)
	switch {
	case !r.out.Detached:
		it.event = core.BuildEnded{Build: r.build, Result: r.out.Result, Text: r.out.Text}
	case !l.e.detaching.Load(): // nobody asked for that
		it.event = core.BuildEnded{Build: r.build, Result: model.Retry, Text: "internal error: the build let go of its worker"}
	}
}

// survive turns a panic of somebody else's code into a line in the log with its stack, and calls f.
func (e *Engine) survive(what string, f func(v any)) {
	if v := recover(); v != nil {
		e.log.Error("engine: panic in "+what, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		if f != nil {
			f(v)
		}
	}
}

// journal shows what was stored: to the log and to the metrics, from the same entries.
func (l *loop) journal(now time.Time) {
	e := l.e
	ctx := context.Background()
	debugging, informing := e.log.Enabled(ctx, slog.LevelDebug), e.log.Enabled(ctx, slog.LevelInfo)
	observe := e.o.Observe.Entry
	if !informing && observe == nil {
		return
	}
	for i := range l.batches {
		for j := range l.batches[i].Delta.Journal {
			en := &l.batches[i].Delta.Journal[j]
			if observe != nil {
				observe(now, *en)
			}
			if level := levelOf(en); level >= slog.LevelInfo && informing || debugging {
				e.log.LogAttrs(ctx, level, en.Kind+" "+en.To, entryAttrs(en)...)
			}
		}
	}
}

// levelOf: what becomes of workers, instances and builds is for everyone; orders to the outside and requests are in the trace.
func levelOf(e *core.Entry) slog.Level {
	switch e.Kind {
	case "effect", "request":
		return slog.LevelDebug
	case "build":
		if e.From == "" {
			return slog.LevelDebug
		}
	}
	return slog.LevelInfo
}

func entryAttrs(e *core.Entry) []slog.Attr {
	a := make([]slog.Attr, 0, 8)
	number := func(key string, n int64) {
		if n != 0 {
			a = append(a, slog.Int64(key, n))
		}
	}
	text := func(key, s string) {
		if s != "" {
			a = append(a, slog.String(key, s))
		}
	}
	text("event", e.Event)
	number("request", int64(e.Request))
	number("build", int64(e.Build))
	text("worker", e.Worker)
	text("instance", string(e.Instance))
	number("op", int64(e.Op))
	text("from", e.From)
	text("cause", e.Cause)
	return a
}

// maxText bounds what a provider's error may bring into the state, in bytes.
const maxText = 500

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && s[n]&0xc0 == 0x80 { // not in the middle of a character
		n--
	}
	return s[:n] + "…"
}

var errNoProvider = errors.New("no provider of this name is configured")
