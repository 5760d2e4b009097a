package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is everything around a runner: what survives a master, and the agent.
type world struct {
	instance model.Instance // of every build
	t        testing.TB
	def      *Definition
	evals    map[string]func() (*hcl.Evaluated, error)

	mu       sync.Mutex
	request  model.Request
	props    model.Properties
	rows     map[int]model.Step
	saves    int
	logs     map[steplog.ID]*fakeLog
	agent    map[string]*fakeCommand
	order    []string // command IDs in the order of their starts
	forgot   []string
	answers  map[string]answer // by step name or command name
	children map[model.RequestID]model.Result
	kids     []model.Request
	events   []core.Event
	dir      string
	real     *steplog.Dir // where logs are kept, if not in memory
	opened   []Log        // of these
	base     string       // the agent's directory

	calls    int // external calls so far, two for each: before and after
	crashAt  int // the runner's goroutine ends at this call
	dead     bool
	onCall   func(n int)
	onSave   func(row model.Step)
	onOutput func() // before each piece
	saveErr  func() error
	clock    time.Time
	vault    Vault
	exec     func(ctx context.Context, c session.Command) (session.Outcome, error) // instead of answers
}

// answer is how the fake agent treats a command.
type answer struct {
	out    []chunk
	rc     int
	why    string
	text   string
	upd    map[string][]any
	upload []byte
	hang   bool // runs until it is interrupted
	err    error
}

type chunk struct {
	s proto.Stream
	p string
}

type fakeCommand struct {
	c     session.Command
	got   []byte // what a download brought
	acked int64  // output before this is gone: the master has it
}

type fakeLog struct {
	w      *world
	text   strings.Builder
	pos    int64
	closed bool
	masks  [][]byte
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, rows: map[int]model.Step{}, logs: map[steplog.ID]*fakeLog{}, agent: map[string]*fakeCommand{}, answers: map[string]answer{},
		children: map[model.RequestID]model.Result{}, evals: map[string]func() (*hcl.Evaluated, error){}, clock: time.Unix(1_700_000_000, 0), base: "/srv/w1"}
	w.request = model.Request{ID: 7, Builder: "lin", Reason: "force", Owner: "ann",
		Source:     model.Source{Repository: "https://example.org/r.git", Branch: "main"},
		Properties: model.Properties{"flavour": {Value: "vanilla", Source: "Force Build"}}}
	w.def = &Definition{
		Builder:    &hcl.Builder{Name: "lin", BuildDir: "lin"},
		Workers:    map[string]*hcl.Worker{"w1": {Name: "w1"}},
		Schedulers: map[string]*hcl.Scheduler{"deps": {Name: "deps", Kind: "triggerable", Builders: []string{"a", "b"}, Priority: 3}},
		Eval: func(_ context.Context, st *hcl.Step, _ hcl.Scope) (*hcl.Evaluated, error) {
			return w.evals[st.Name]()
		},
	}
	return w
}

// add adds a step with Buildbot's defaults for its kind.
func (w *world) add(name string, spec any, change ...func(*hcl.Step)) {
	st := &hcl.Step{Name: name, Kind: strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", spec), "*hcl."), "Spec")), HaltOnFailure: true, FlunkOnFailure: true, WarnOnWarnings: true}
	for _, f := range change {
		f(st)
	}
	w.def.Builder.Steps = append(w.def.Builder.Steps, st)
	w.evals[name] = func() (*hcl.Evaluated, error) { return &hcl.Evaluated{Spec: spec, Run: true}, nil }
}

func (w *world) runner() *Runner {
	return New(Config{Commands: w, Logs: w, Records: w, Loop: w, Definitions: w, Artifacts: w.dir, Vault: w.vault,
		Now: w.now, Log: slog.New(slog.DiscardHandler), CleanupTime: time.Minute})
}

func (w *world) job(resume bool) engine.Job {
	return engine.Job{Build: core.Build{ID: 12, Requests: []model.RequestID{7}, Builder: "lin", Worker: "w1", Generation: 1, Attempt: 1}, Resume: resume}
}

func (w *world) run() engine.Outcome { return w.runner().Run(context.Background(), w.job(false)) }

// crashing runs the build in a goroutine that ends at the n-th external call as if the master had died. It says whether it did.
func (w *world) crashing(n int, resume bool) (out engine.Outcome, crashed bool) {
	w.mu.Lock()
	w.calls, w.crashAt, w.dead = 0, n, false
	w.mu.Unlock()
	crashed = true
	end := make(chan struct{})
	go func() {
		defer close(end)
		out = w.runner().Run(context.Background(), w.job(resume))
		crashed = false
	}()
	<-end
	w.mu.Lock()
	w.dead, w.crashAt = false, 0
	w.mu.Unlock()
	for _, l := range w.opened {
		if err := l.Abandon(); err != nil { // what it held back in memory is gone
			w.t.Error(err)
		}
	}
	w.opened = nil
	return out, crashed
}

// call counts an external call; a dead master makes none.
func (w *world) call() {
	w.mu.Lock()
	w.calls++
	n, hook := w.calls, w.onCall
	die := w.dead || n == w.crashAt
	w.dead = die
	w.mu.Unlock()
	if die {
		runtime.Goexit()
	}
	if hook != nil {
		hook(n)
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(time.Second)
	return w.clock
}

func (w *world) Builder(_ context.Context, gen model.Generation, name string) (*Definition, error) {
	if gen != 1 || name != "lin" {
		return nil, errors.New("no such builder")
	}
	return w.def, nil
}

func (w *world) Request(_ context.Context, id model.RequestID) (model.Request, error) {
	return w.request, nil
}

func (w *world) Build(context.Context, model.BuildID) (model.Build, error) {
	return model.Build{ID: 12, Properties: w.props}, nil
}

func (w *world) Steps(context.Context, model.BuildID) ([]model.Step, error) {
	var rows []model.Step
	for i := range len(w.def.Builder.Steps) {
		if r, ok := w.rows[i]; ok {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func (w *world) Instance(context.Context, model.InstanceKey) (model.Instance, error) {
	return w.instance, nil
}

func (w *world) Save(ctx context.Context, tx store.Tx) error {
	w.call()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.saveErr != nil {
		if err := w.saveErr(); err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.saves++
	for _, row := range tx.Steps {
		w.rows[row.Number] = row
		if w.onSave != nil {
			w.onSave(row)
		}
	}
	for _, p := range tx.Props {
		w.props = p.Properties
	}
	w.mu.Unlock()
	w.call()
	return nil
}

func (w *world) SubmitWith(ctx context.Context, reqs []model.Request, also func([]model.RequestID) store.Tx) ([]model.RequestID, error) {
	w.call()
	w.mu.Lock()
	var ids []model.RequestID
	for i := range reqs {
		ids = append(ids, model.RequestID(100+len(w.kids)+i))
	}
	w.kids = append(w.kids, reqs...)
	for _, row := range also(ids).Steps {
		w.rows[row.Number] = row
	}
	w.mu.Unlock()
	w.call()
	return ids, nil
}

func (w *world) Wait(ctx context.Context, id model.RequestID) (model.Result, error) {
	w.call()
	if r, ok := w.children[id]; ok {
		w.call()
		return r, nil
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

func (w *world) Do(_ context.Context, ev core.Event) error {
	w.call()
	w.events = append(w.events, ev)
	w.call()
	return nil
}

func (w *world) Info(string) map[string]any {
	return map[string]any{"basedir": w.base, "numcpus": int64(4), "os_name": "debian", "environ": map[string]any{"X": "y"}}
}

func (w *world) Forget(_, id string) {
	w.call()
	w.mu.Lock()
	w.forgot = append(w.forgot, id)
	delete(w.agent, id)
	w.mu.Unlock()
	w.call()
}

// Run is the agent: each ID starts at most once, output is kept, and an outcome is kept until it is forgotten.
func (w *world) Run(ctx context.Context, worker string, c session.Command) (session.Outcome, error) {
	w.call()
	w.mu.Lock()
	have := w.agent[c.ID]
	if have == nil && c.Resume {
		w.mu.Unlock()
		return session.Outcome{}, session.ErrLost
	}
	if have == nil {
		if slices.Contains(w.order, c.ID) {
			w.t.Errorf("command %s is started again", c.ID)
		}
		have = &fakeCommand{c: c}
		w.agent[c.ID] = have
		w.order = append(w.order, c.ID)
	}
	if c.Pos < have.acked {
		w.t.Errorf("command %s is wanted from %d, but only what follows %d is kept", c.ID, c.Pos, have.acked)
	}
	w.mu.Unlock()
	w.call()
	if w.exec != nil {
		return w.exec(ctx, c)
	}
	a, ok := w.answers[c.ID]
	if !ok {
		a = w.answers[c.Name]
	}
	var pos int64
	for _, ch := range a.out {
		p := []byte(ch.p)
		pos += int64(len(p))
		if pos <= c.Pos {
			continue
		}
		w.call()
		if w.onOutput != nil {
			w.onOutput()
		}
		if err := c.Output(ch.s, p, pos); err != nil {
			return session.Outcome{}, err
		}
		have.acked = min(pos, c.Durable())
		w.call()
	}
	if c.Download != nil {
		have.got, _ = io.ReadAll(c.Download)
	}
	for p := range slices.Chunk(a.upload, 700) {
		if _, err := c.Upload.Write(p); err != nil {
			return session.Outcome{}, err
		}
	}
	if a.hang {
		<-ctx.Done()
		if errors.Is(context.Cause(ctx), engine.ErrDetach) {
			return session.Outcome{}, ctx.Err()
		}
		return session.Outcome{RC: -1}, nil
	}
	return session.Outcome{RC: a.rc, FailureReason: a.why, Text: a.text, Updates: a.upd}, a.err
}

func (w *world) Create(id steplog.ID, secrets [][]byte) (Log, error) {
	w.call()
	if w.real != nil {
		return w.counted(StepLogs(w.real, slog.New(slog.DiscardHandler)).Create(id, secrets))
	}
	if w.logs[id] != nil {
		return nil, fs.ErrExist
	}
	w.logs[id] = &fakeLog{w: w, masks: secrets}
	w.call()
	return w.logs[id], nil
}

func (w *world) Resume(id steplog.ID, secrets [][]byte) (Log, error) {
	w.call()
	if w.real != nil {
		return w.counted(StepLogs(w.real, slog.New(slog.DiscardHandler)).Resume(id, secrets))
	}
	l := w.logs[id]
	if l == nil {
		return w.Create(id, secrets)
	}
	l.closed = false
	return l, nil
}

func (l *fakeLog) Write(s proto.Stream, p []byte, end int64) error {
	l.w.call()
	if l.closed {
		l.w.t.Error("write to a closed log")
	}
	if end < l.pos {
		l.w.t.Errorf("log goes back from %x to %x", l.pos, end)
	}
	for _, m := range l.masks {
		p = bytes.ReplaceAll(p, m, []byte(maskText))
	}
	prefix := map[proto.Stream]string{proto.Header: "| ", proto.Stdout: "", proto.Stderr: "! "}[s]
	for line := range strings.Lines(string(p)) {
		l.text.WriteString(prefix + line)
	}
	l.pos = end
	l.w.call()
	return nil
}

func (l *fakeLog) Position() int64 { return l.pos }

func (l *fakeLog) Hide(secrets [][]byte) { l.masks = append(l.masks, secrets...) }

func (l *fakeLog) Flush() error { return nil }

func (l *fakeLog) Close() error {
	l.w.call()
	if l.closed {
		l.w.t.Error("log closed twice")
	}
	l.closed = true
	l.w.call()
	return nil
}

func (l *fakeLog) Abandon() error { return nil }

// log is the text of one step's log, with "| " before the header lines and "! " before standard error.
func (w *world) log(step int) string {
	l := w.logs[steplog.ID{Build: 12, Step: step, Name: stdio}]
	if l == nil {
		return "(none)"
	}
	if !l.closed {
		return l.text.String() + "(open)"
	}
	return l.text.String()
}

// countedLog is a real log whose calls count as external ones.
type countedLog struct {
	Log
	w *world
}

func (w *world) counted(l Log, err error) (Log, error) {
	w.call()
	if err != nil {
		w.t.Error(err)
	}
	w.opened = append(w.opened, l)
	return &countedLog{l, w}, err
}

func (l *countedLog) Write(s proto.Stream, p []byte, end int64) error {
	l.w.call()
	err := l.Log.Write(s, p, end)
	l.w.call()
	return err
}

func (l *countedLog) Flush() error {
	l.w.call()
	err := l.Log.Flush()
	l.w.call()
	return err
}

func (l *countedLog) Close() error {
	l.w.call()
	err := l.Log.Close()
	l.w.call()
	return err
}
