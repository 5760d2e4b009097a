package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a provider in memory. Each hook, if set, takes the place of the call.
type cloud struct {
	w        *world
	mu       sync.Mutex
	have     map[providers.Key]string // key -> worker
	made     int
	calls    map[string]int
	inFlight int
	most     int
	mostLive int

	create  func(ctx context.Context, req providers.CreateRequest) (providers.Instance, error)
	destroy func(ctx context.Context, key providers.Key) error
	get     func(ctx context.Context, key providers.Key) (providers.Instance, error)
	closed  bool
}

func (c *cloud) enter(what string) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[what]++
	c.inFlight++
	c.most = max(c.most, c.inFlight)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inFlight--
	}
}

// living is a copy of what it has: calls go on while a test looks.
func (c *cloud) living() map[providers.Key]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.have)
}

// load is how many calls are under way, and how many were at once at most.
func (c *cloud) load() (inFlight, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight, c.most
}

func (c *cloud) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	defer c.enter("create")()
	if c.create != nil {
		return c.create(ctx, req)
	}
	return c.make(req), nil
}

func (c *cloud) make(req providers.CreateRequest) providers.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.have[req.Key]; !there {
		c.have[req.Key] = req.Worker
		c.made++
		c.mostLive = max(c.mostLive, len(c.have))
		c.w.boot(req.Worker, model.InstanceKey(req.Key))
	}
	return providers.Instance{Key: req.Key, ID: "id-" + string(req.Key), State: providers.Running}
}

func (c *cloud) Destroy(ctx context.Context, key providers.Key) error {
	defer c.enter("destroy")()
	if c.destroy != nil {
		return c.destroy(ctx, key)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.have[key]; !there {
		return providers.Errorf(providers.NotFound, "destroy", "no %s", key)
	}
	delete(c.have, key)
	return nil
}

func (c *cloud) Get(ctx context.Context, key providers.Key) (providers.Instance, error) {
	defer c.enter("check")()
	if c.get != nil {
		return c.get(ctx, key)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.have[key]; !there {
		return providers.Instance{}, providers.Errorf(providers.NotFound, "get", "no %s", key)
	}
	return providers.Instance{Key: key, ID: "id-" + string(key), State: providers.Running}, nil
}

func (c *cloud) List(context.Context, providers.Owner) ([]providers.Instance, error) {
	defer c.enter("list")()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []providers.Instance
	for k := range c.have {
		out = append(out, providers.Instance{Key: k, State: providers.Running})
	}
	return out, nil
}

func (c *cloud) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *cloud) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[what]
}

func (c *cloud) live() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.have)
}

// world is an engine with everything around it in memory but the store, which is real.
type world struct {
	t      testing.TB
	dir    string
	db     *sqlite.Store
	e      *Engine
	cloud  *cloud
	cfg    core.Config
	limits providers.Limits
	run    func(ctx context.Context, job Job) Outcome
	wrap   func(store.Store) store.Store
	obs    Observe
	log    *slog.Logger

	provider func() providers.Provider // nil: the cloud
	spec     any
	token    func(model.InstanceKey) providers.Secret
	mask     func(ctx context.Context, worker string, key model.InstanceKey, w io.Writer) (io.Writer, func() error)
	console  func(context.Context, core.ReadConsole, []byte, error)

	mu      sync.Mutex
	session model.SessionID
	live    map[model.SessionID]string
	jobs    []Job
	deaf    bool // agents do not attach
	ran     chan error
	agents  sync.WaitGroup
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), live: map[model.SessionID]string{}, log: slog.New(slog.DiscardHandler)}
	w.cloud = &cloud{w: w, have: map[providers.Key]string{}, calls: map[string]int{}}
	w.limits = providers.Limits{CreateTimeout: time.Minute, CallTimeout: 10 * time.Second, Settle: time.Minute, Concurrency: 4}
	w.cfg = core.Config{Generation: 1,
		Workers:  []core.Worker{{Name: "w1", Provider: "p", MaxBuilds: 1, MissingTimeout: 20 * time.Minute, BuildWaitTimeout: 10 * time.Minute, Spec: "s"}},
		Builders: []core.Builder{{Name: "b", Workers: []string{"w1"}, MaxAttempts: 5}},
		Providers: []core.Provider{{Name: "p", Interruptible: true, Settle: time.Minute, CheckInterval: 30 * time.Second, DestroyBackoff: time.Second, SweepInterval: time.Hour,
			SweepGrace: time.Minute}}}
	return w
}

func (w *world) open() {
	w.t.Helper()
	db, err := sqlite.Open(context.Background(), w.dir, sqlite.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.db = db
	saved, _, err := db.Load(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var st store.Store = db
	if w.wrap != nil {
		st = w.wrap(db)
	}
	provider := providers.Provider(w.cloud)
	if w.provider != nil {
		provider = w.provider()
	}
	w.e, err = New(context.Background(), Options{Store: st, Saved: saved, Log: w.log, Builds: w, Sessions: w, Observe: w.obs,
		Providers: map[string]Opened{"p": {Provider: provider, Limits: w.limits}}, Console: w.console, Token: w.token, Mask: w.mask,
		Describe: func(worker string, key model.InstanceKey) (any, providers.Agent, error) {
			if w.spec != nil {
				return w.spec, providers.Agent{Name: worker}, nil
			}
			return "spec", providers.Agent{Name: worker}, nil
		}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// start runs the engine and applies the configuration.
func (w *world) start() {
	w.t.Helper()
	w.open()
	w.ran = make(chan error, 1)
	e, ran := w.e, w.ran
	go func() { ran <- e.Run(context.Background()) }()
	w.apply()
}

func (w *world) apply() {
	w.t.Helper()
	if err := w.e.Apply(context.Background(), w.cfg, store.ConfigSnapshot{Generation: w.cfg.Generation}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop(p core.StopPolicy) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := w.e.Stop(ctx, p); err != nil {
		w.t.Errorf("stop: %v", err)
	}
	w.close()
}

func (w *world) close() {
	w.t.Helper()
	if err := <-w.ran; err != nil {
		w.t.Errorf("run: %v", err)
	}
	if err := w.db.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.agents.Wait()
}

// Run is the builds'.
func (w *world) Run(ctx context.Context, job Job) Outcome {
	w.mu.Lock()
	w.jobs = append(w.jobs, job)
	run := w.run
	w.mu.Unlock()
	if run != nil {
		return run(ctx, job)
	}
	return Outcome{Result: model.Success}
}

// succeeds lets all further builds succeed at once.
func (w *world) succeeds() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.run = nil
}

// until runs a build until it is told to end.
func until(ctx context.Context, _ Job) Outcome {
	<-ctx.Done()
	var stop *StopCause
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrDetach):
		return Outcome{Detached: true}
	case errors.As(cause, &stop):
		return Outcome{Result: stop.Result, Text: stop.Reason}
	}
	return Outcome{Result: model.Exception, Text: "no cause"}
}

func (w *world) ranJobs() []Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Job(nil), w.jobs...)
}

// boot lets an agent attach after a while.
func (w *world) boot(worker string, key model.InstanceKey) {
	e := w.e
	w.agents.Go(func() {
		time.Sleep(5 * time.Second)
		w.attach(e, worker, key)
	})
}

func (w *world) attach(e *Engine, worker string, key model.InstanceKey) {
	w.mu.Lock()
	if w.deaf {
		w.mu.Unlock()
		return
	}
	w.session++
	s := w.session
	w.live[s] = worker
	w.mu.Unlock()
	e.Deliver(core.Attached{Worker: worker, Session: s, Instance: key, Agent: "agent-" + string(key) + worker, Resumable: true})
}

func (w *world) Admit(string, model.SessionID) {}
func (w *world) Lost(string)                   {}
func (w *world) Hangup(worker string, s model.SessionID, _ string, _ bool) {
	w.mu.Lock()
	_, live := w.live[s]
	delete(w.live, s)
	w.mu.Unlock()
	if live {
		e := w.e
		w.agents.Go(func() { e.Deliver(core.Detached{Worker: worker, Session: s}) })
	}
}

func (w *world) submit(n int) []model.RequestID {
	w.t.Helper()
	reqs := make([]model.Request, n)
	for i := range reqs {
		reqs[i] = model.Request{Builder: w.cfg.Builders[i%len(w.cfg.Builders)].Name, Reason: fmt.Sprint("n", i)}
	}
	ids, err := w.e.Submit(context.Background(), reqs)
	if err != nil {
		w.t.Fatal(err)
	}
	return ids
}

func (w *world) wait(id model.RequestID) model.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	r, err := w.e.Wait(ctx, id)
	if err != nil {
		w.t.Errorf("wait: %v", err)
	}
	return r
}

func (w *world) snapshot() *core.Snapshot {
	w.t.Helper()
	sn, err := w.e.Snapshot(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return sn
}

// bubble runs a test with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}
