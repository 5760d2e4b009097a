// Package apitest is a small world behind an API: an engine, records and logs with a fixed past, for tests of the API and of its clients.
package apitest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// Now is the world's time.
var Now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// Secret is in every private corner of the world. No answer may hold it.
const Secret = "s3cr3t-that-must-not-leave"

// World implements api.Engine, api.Records and api.Logs. Its fields may be changed before it is used.
type World struct {
	mu     sync.Mutex
	Events []core.Event // what Do was told
	Result model.Result // what a forced build comes to
	Live   core.Snapshot

	requests map[model.RequestID]model.Request
	builds   map[model.BuildID]model.Build
	steps    map[model.BuildID][]model.Step
	looks    map[model.RequestID]int // how often a forced request was looked at: each look moves it on
}

// At is a time before Now.
func At(before time.Duration) time.Time { return Now.Add(-before) }

// New makes the world: build 1 has succeeded, build 2 runs on an instance, request 3 waits.
func New() *World {
	props := model.Properties{"suite": {Value: "fast", Source: "Force Build"}}
	w := &World{Result: model.Success, looks: map[model.RequestID]int{}}
	w.requests = map[model.RequestID]model.Request{
		1: {ID: 1, Builder: "hello", Scheduler: "force", Owner: "ann", Reason: "first try", State: model.RequestDone, Attempts: 1, Build: 1, Result: model.Success,
			Text: "build successful", SubmittedAt: At(time.Hour), FinishedAt: At(58 * time.Minute), Properties: props, Generation: 1},
		2: {ID: 2, Builder: "hello", Scheduler: "force", Owner: "ann", State: model.RequestClaimed, Attempts: 1, Build: 2, Result: model.NoResult,
			SubmittedAt: At(3 * time.Minute), Generation: 1, Source: model.Source{Repository: "https://example.org/hello.git", Branch: "main"}},
		3: {ID: 3, Builder: "slow", Scheduler: "force", Priority: 5, State: model.RequestWaiting, Result: model.NoResult, SubmittedAt: At(90 * time.Second), Generation: 1},
	}
	w.builds = map[model.BuildID]model.Build{
		1: {ID: 1, Requests: []model.RequestID{1}, Builder: "hello", Worker: "linux-1", Instance: "abc-linux-1-1", Generation: 1, Attempt: 1, Phase: model.BuildDone,
			AssignedAt: At(time.Hour), StartedAt: At(59*time.Minute + 30*time.Second), FinishedAt: At(58 * time.Minute), Result: model.Success, Text: "build successful", Properties: props},
		2: {ID: 2, Requests: []model.RequestID{2}, Builder: "hello", Worker: "linux-1", Instance: "abc-linux-1-2", Generation: 1, Attempt: 1, Phase: model.BuildRunning,
			AssignedAt: At(3 * time.Minute), StartedAt: At(2 * time.Minute), Result: model.NoResult},
	}
	w.steps = map[model.BuildID][]model.Step{
		1: {
			{Build: 1, Number: 0, Name: "fetch", Kind: "git", StartedAt: At(59*time.Minute + 30*time.Second), FinishedAt: At(59 * time.Minute), Result: model.Success, Logs: []string{"stdio"}, State: []byte(Secret)},
			{Build: 1, Number: 1, Name: "test", Kind: "shell", StartedAt: At(59 * time.Minute), FinishedAt: At(58 * time.Minute), Result: model.Success, Logs: []string{"stdio"}, State: []byte(Secret)},
		},
		2: {{Build: 2, Number: 0, Name: "fetch", Kind: "git", StartedAt: At(2 * time.Minute), Result: model.NoResult, Logs: []string{"stdio"}}},
	}
	w.Live = core.Snapshot{
		Time: Now, Generation: 1,
		Workers: []core.WorkerView{
			{Worker: core.Worker{Name: "linux-1", Provider: "here", MaxBuilds: 1, Price: 0.12}, State: "substantiated", Attached: true, Session: 7, Instance: "abc-linux-1-2", Builds: []model.BuildID{2}},
			{Worker: core.Worker{Name: "linux-2", Provider: "here", MaxBuilds: 1, Price: 0.12}, State: "not-substantiated", Tries: 2, BackoffUntil: Now.Add(20 * time.Second), LastError: "create: no machine left (no-capacity)"},
			{Worker: core.Worker{Name: "mac"}, State: "detached", Paused: "being repaired"},
		},
		Builders:  []core.BuilderView{{Name: "hello", Running: 1}, {Name: "slow", Waiting: 1, Oldest: At(90 * time.Second)}},
		Requests:  []core.Request{{ID: 3, Builder: "slow", Priority: 5, SubmittedAt: At(90 * time.Second)}, {ID: 2, Builder: "hello", State: model.RequestClaimed, Build: 2, SubmittedAt: At(3 * time.Minute)}},
		Builds:    []core.Build{{ID: 2, Requests: []model.RequestID{2}, Builder: "hello", Worker: "linux-1", Phase: model.BuildRunning, StartedAt: At(2 * time.Minute)}},
		Instances: []core.InstanceView{{Instance: core.Instance{Key: "abc-linux-1-2", Worker: "linux-1", Provider: "here", ProviderID: "4711", Price: 0.12, AskedAt: At(3 * time.Minute), BootedAt: At(2*time.Minute + 50*time.Second), AttachedAt: At(2*time.Minute + 1*time.Second), Agent: Secret, Spec: Secret}, State: model.InstanceAttached, Builds: 1}},
		Providers: []core.ProviderView{{Name: "here", LastListAt: At(10 * time.Second)}},
		Timers:    []core.TimerView{{Name: "backoff linux-2", At: Now.Add(20 * time.Second)}, {Name: "sweep here", At: Now.Add(5 * time.Second)}},
	}
	return w
}

// Server makes a server of the world. edit may change its options.
func (w *World) Server(edit func(*api.Options)) *api.Server {
	catalog := &api.Catalog{
		Builders: []api.Builder{{Name: "hello", Description: "Says hello", Workers: []string{"linux-1", "linux-2"}}, {Name: "slow", Workers: []string{"mac"}}, {Name: "hidden", Workers: []string{"mac"}}},
		Schedulers: []api.Scheduler{
			{Name: "force", Kind: "force", Builders: []string{"hello", "slow"}, Priority: 3, Properties: map[string]any{"suite": "all"}},
			{Name: "night", Kind: "nightly", Builders: []string{"hidden"}, Cron: "30 2 * * *"},
		},
		Pools: map[string]string{"linux-1": "linux", "linux-2": "linux"},
	}
	o := api.Options{Engine: w, Records: w, Logs: w, Catalog: func() *api.Catalog { return catalog }, Version: "1.2.3", Name: "rouse", Now: func() time.Time { return Now }}
	if edit != nil {
		edit(&o)
	}
	return api.New(o)
}

// Submit implements api.Engine.
func (w *World) Submit(_ context.Context, reqs []model.Request) ([]model.RequestID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []model.RequestID
	for _, r := range reqs {
		r.ID = model.RequestID(len(w.requests) + 1)
		r.SubmittedAt = Now
		w.requests[r.ID] = r
		w.looks[r.ID] = 1
		ids = append(ids, r.ID)
	}
	return ids, nil
}

// Do implements api.Engine.
func (w *World) Do(_ context.Context, ev core.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Events = append(w.Events, ev)
	switch ev := ev.(type) {
	case core.SweepAsked:
		w.Live.Providers = slices.Clone(w.Live.Providers)
		for i := range w.Live.Providers {
			w.Live.Providers[i].Lists++
		}
	case core.ReapAsked:
		w.Live.Strays = slices.DeleteFunc(slices.Clone(w.Live.Strays), func(v core.StrayView) bool { return v.Key == ev.Key })
	}
	return nil
}

// AddStrays adds instances that no record knows: one that may be destroyed, and one that is too young.
func (w *World) AddStrays() {
	w.Live.Strays = []core.StrayView{
		{Sighting: core.Sighting{Key: "abc-linux-1-9", ProviderID: "4712", State: core.SightRunning, CreatedAt: At(time.Hour)}, Provider: "here",
			FirstSeen: At(3 * time.Second), Sightings: 2, Grace: time.Minute, Sure: true},
		{Sighting: core.Sighting{Key: "abc-linux-2-4", State: core.SightPending, CreatedAt: At(10 * time.Second)}, Provider: "here",
			FirstSeen: At(3 * time.Second), Sightings: 2, Grace: time.Minute},
	}
}

// Snapshot implements api.Engine.
func (w *World) Snapshot(context.Context) (*core.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.Live
	return &c, nil
}

// Explain implements api.Engine.
func (w *World) Explain(_ context.Context, id model.RequestID) (core.Explanation, error) {
	return core.Explanation{Request: core.Request{ID: id}, Ahead: 0, Text: "No worker can take it now.",
		Candidates: []core.Candidate{{Worker: "mac", State: "detached", Blocks: []string{"it is not attached", "it is paused: being repaired"}}}}, nil
}

// Wait implements api.Engine: what waits here waits for ever.
func (w *World) Wait(ctx context.Context, _ model.RequestID) (model.Result, error) {
	<-ctx.Done()
	return model.NoResult, ctx.Err()
}

// Request implements api.Records. Each look at a forced request moves it one phase on.
func (w *World) Request(_ context.Context, id model.RequestID) (model.Request, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.requests[id]
	if !ok {
		return r, store.ErrNotFound
	}
	if n := w.looks[id]; n > 0 {
		w.looks[id]++
		w.advance(&r, n)
	}
	return r, nil
}

func (w *World) advance(r *model.Request, look int) {
	b := model.Build{ID: model.BuildID(r.ID), Requests: []model.RequestID{r.ID}, Builder: r.Builder, Worker: "linux-2", Attempt: 1, AssignedAt: Now, Result: model.NoResult}
	st := model.Step{Build: b.ID, Name: "greet", Kind: "shell", StartedAt: Now, Result: model.NoResult, Logs: []string{"stdio"}}
	switch look {
	case 1:
		return
	case 2:
		r.State, r.Build, r.Attempts = model.RequestClaimed, b.ID, 1
	case 3:
		b.Phase, b.StartedAt = model.BuildRunning, Now
		w.steps[b.ID] = []model.Step{st}
	case 4:
		b.Phase, b.StartedAt, b.FinishedAt, b.Result = model.BuildDone, Now, Now, w.Result
		st.FinishedAt, st.Result = Now, w.Result
		w.steps[b.ID] = []model.Step{st}
		text := "build " + w.Result.String()
		if w.Result != model.Success {
			text = w.Result.String() + ": 'greet' failed (exit 1)" // as the runner tells it
		}
		b.Text = text
		r.State, r.Result, r.FinishedAt, r.Text = model.RequestDone, w.Result, Now, text
	default:
		return
	}
	w.builds[b.ID] = b
	w.requests[r.ID] = *r
}

// Requests implements api.Records.
func (w *World) Requests(_ context.Context, ids []model.RequestID) ([]model.Request, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []model.Request
	for _, id := range ids {
		if r, ok := w.requests[id]; ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// Build implements api.Records.
func (w *World) Build(_ context.Context, id model.BuildID) (model.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.builds[id]
	if !ok {
		return b, store.ErrNotFound
	}
	return b, nil
}

// Builds implements api.Records.
func (w *World) Builds(_ context.Context, f store.BuildFilter) ([]model.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []model.Build
	for _, b := range w.builds {
		if (f.Builder == "" || f.Builder == b.Builder) && (f.Worker == "" || f.Worker == b.Worker) && (f.Before == 0 || b.ID < f.Before) &&
			(f.Request == 0 || slices.Contains(b.Requests, f.Request)) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b model.Build) int { return int(b.ID - a.ID) })
	return out[:min(len(out), f.Limit)], nil
}

// Steps implements api.Records.
func (w *World) Steps(_ context.Context, build model.BuildID) ([]model.Step, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps[build], nil
}

// Instances implements api.Records.
func (w *World) Instances(_ context.Context, worker string, _ int) ([]model.Instance, error) {
	if worker != "" && worker != "linux-1" {
		return nil, nil
	}
	return []model.Instance{
		{Key: "abc-linux-1-2", Worker: "linux-1", Provider: "here", ProviderID: "4711", State: model.InstanceAttached, AskedAt: At(3 * time.Minute), Price: 0.12},
		{Key: "abc-linux-1-1", Worker: "linux-1", Provider: "here", ProviderID: "4242", State: model.InstanceGone, Reason: "idle", AskedAt: At(time.Hour),
			BootedAt: At(59*time.Minute + 50*time.Second), AttachedAt: At(59*time.Minute + 40*time.Second), DoomedAt: At(50 * time.Minute), GoneAt: At(49 * time.Minute), Price: 0.12},
	}, nil
}

// Configs implements api.Records.
func (w *World) Configs(_ context.Context, limit int) ([]store.ConfigSnapshot, error) {
	all := []store.ConfigSnapshot{
		{Generation: 2, AppliedAt: At(time.Hour), By: "ann", From: "apply", Directory: "/etc/rouse", Reason: "more workers", Summary: []byte(`{"add":2,"change":1,"instances":{}}`)},
		{Generation: 1, AppliedAt: At(2 * time.Hour), By: "root", From: "start", Directory: "/etc/rouse"},
	}
	return all[:min(limit, len(all))], nil
}

// Config implements api.Records.
func (w *World) Config(ctx context.Context, g model.Generation) (store.ConfigSnapshot, error) {
	all, _ := w.Configs(ctx, 100)
	for _, c := range all {
		if c.Generation == g {
			c.Files, c.Variables = map[string][]byte{"rouse.hcl": []byte("# nothing\n")}, map[string]string{"branch": `"main"`}
			return c, nil
		}
	}
	return store.ConfigSnapshot{}, store.ErrNotFound
}

// Instance implements api.Records.
func (w *World) Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error) {
	all, _ := w.Instances(ctx, "", 0)
	if i := slices.IndexFunc(all, func(m model.Instance) bool { return m.Key == key }); i >= 0 {
		return all[i], nil
	}
	return model.Instance{}, store.ErrNotFound
}

// ReadConsole implements api.Consoles: a machine that boots, and drives whatever terminal shows it.
func (w *World) ReadConsole(_ context.Context, key model.InstanceKey, follow bool, out io.Writer) error {
	if key != "abc-linux-1-2" {
		return fmt.Errorf("console of instance %s: %w", key, store.ErrNotFound)
	}
	text := "\x1b[2J\x1b[1;32mbooting\x1b[0m\r\nrouse: userland after 1.73 s\r\n"
	if follow {
		text += "rouse: the agent ended with 0\r\n"
	}
	_, err := io.WriteString(out, text)
	return err
}

// Trace implements api.Records.
func (w *World) Trace(_ context.Context, id model.RequestID) ([]store.JournalRow, error) {
	row := func(seq int64, at time.Duration, e core.Entry) store.JournalRow {
		return store.JournalRow{Seq: seq, Time: At(time.Hour - at), Entry: e}
	}
	return []store.JournalRow{
		row(1, 0, core.Entry{Event: "Submitted", Kind: "request", Request: id, To: "waiting"}),
		row(2, 0, core.Entry{Event: "Submitted", Kind: "build", Request: id, Build: 1, Worker: "linux-1", To: "preparing", Cause: "linux-1 is free"}),
		row(3, 0, core.Entry{Event: "Submitted", Kind: "effect", Worker: "linux-1", Instance: "abc-linux-1-1", Op: 1, To: "CreateInstance"}),
		row(4, 10*time.Second, core.Entry{Event: "OpDone", Kind: "instance", Worker: "linux-1", Instance: "abc-linux-1-1", Op: 1, From: "requested", To: "booting"}),
		row(5, 20*time.Second, core.Entry{Event: "Attached", Kind: "instance", Worker: "linux-1", Instance: "abc-linux-1-1", From: "booting", To: "attached"}),
		row(6, 30*time.Second, core.Entry{Event: "Attached", Kind: "build", Build: 1, From: "preparing", To: "running"}),
		row(7, 2*time.Minute, core.Entry{Event: "BuildEnded", Kind: "request", Request: id, From: "claimed", To: "done", Cause: "success"}),
	}, nil
}

// OpenLog implements api.Logs: every step of every build has the same log, of which some is only seen by followers.
func (w *World) OpenLog(build model.BuildID, step int, name string) (api.Log, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if step >= len(w.steps[build]) || name != "stdio" {
		return nil, fmt.Errorf("log: %w", fs.ErrNotExist)
	}
	return log(fmt.Sprintf("header|sh -c 'echo %d.%d'\nstdout|%d.%d\nstderr|a warning\nstdout|done <b>&\nheader|exit code 0", build, step, build, step)), nil
}

type log string

func (l log) lines() []api.Line {
	var out []api.Line
	for i, s := range strings.Split(string(l), "\n") {
		stream, text, _ := strings.Cut(s, "|")
		out = append(out, api.Line{N: int64(i), Stream: stream, Text: text})
	}
	return out
}

func (l log) Lines(_ context.Context, from int64, n int, fn func(api.Line) error) error {
	all := l.lines()
	if from < 0 {
		from = max(0, int64(len(all))+from)
	}
	for _, line := range all[min(from, int64(len(all))):] {
		if n--; n < 0 {
			return nil
		}
		if err := fn(line); err != nil {
			return err
		}
	}
	return nil
}

func (l log) Follow(ctx context.Context, from int64, fn func(api.Line) error) error {
	return l.Lines(ctx, from, 1000, fn)
}

func (l log) WriteText(_ context.Context, w io.Writer, stream string) error {
	for _, line := range l.lines() {
		if stream == "" || stream == line.Stream {
			if _, err := io.WriteString(w, line.Text+"\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l log) Close() error { return nil }
