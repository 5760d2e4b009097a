// Package master puts the parts together and runs them: store, logs, sessions, providers, engine, API. It is composition only: whatever
// decides something is in the core, whatever does something is in the part that it wires. DESIGN.md beside it follows one build request through all of them.
package master

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	hcl2 "github.com/hashicorp/hcl/v2"
	"golang.org/x/sync/errgroup"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/build"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/notify"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

// Options say what to run. ConfigDir, StateDir and Kinds are needed.
type Options struct {
	ConfigDir string
	StateDir  string
	Hcl       hcl.Options // kinds, variables
	Log       *slog.Logger
	Version   string
	Takeover  bool                                // ask a master that holds the state to end, and wait for it
	Report    func(*hcl.Config, hcl2.Diagnostics) // shows what is wrong with a configuration; may be nil
	Serving   func(worker net.Addr, api []string) // called once everything is up, with the local socket and the URLs of the API; may be nil
	Reload    <-chan os.Signal                    // each value makes the configuration be read again; may be nil
	Meter     Meter                               // measures; may be zero

	retry time.Duration // for tests; 0 is retryEvery
}

// Meter is how the master is measured. It is made by whoever knows what to measure with.
type Meter struct {
	Observe engine.Observe
	Handler http.Handler // serves /metrics
	Watch   func(snapshot func() *core.Snapshot, records Records)
	Applied func(gen model.Generation, err error) // a configuration was put into force, or refused
}

// Records is what a Meter may read of the past.
type Records interface {
	Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error)
}

// SocketName is the local API's socket in the state directory.
const SocketName = "rouse.sock"

// master is what the parts share.
type master struct {
	o       Options
	log     *slog.Logger
	store   *sqlite.Store
	logs    *steplog.Dir
	hub     *session.Hub
	engine  *engine.Engine
	catalog *build.Catalog
	notices *notify.Notifier
	owner   string
	key     []byte // of instances' tokens
	url     string // how agents reach the worker port
	house   *house
	current atomic.Pointer[applied]
	turn    atomic.Pointer[turn] // the change that is under way
	look    chan struct{}        // asks for tend
	plans   chan struct{}        // one element for each plan that is being made
	retry   time.Duration        // pause before a provider that could not be opened is tried again
	secrets *vault
	refused refusals

	mu     sync.Mutex
	opened map[string]engine.Opened   // all providers of this process, by their handles
	kinds  map[string]string          // their kinds
	prices map[string]providers.Price // by digest of the spec

	early *hcl.Config // the configuration directory, if it was read before there was a state
}

// applied is a configuration in force.
type applied struct {
	gen     int64
	snap    store.ConfigSnapshot
	cfg     *hcl.Config
	api     *api.Catalog
	tokens  []api.Token
	workers map[string]*hcl.Worker
	handles map[string]string           // of the providers, by their names
	limits  map[string]providers.Limits // by handle, of all that are open
}

// Run runs a master until ctx ends, and then stops it as its configuration says (on_master_stop).
func Run(ctx context.Context, o Options) (err error) {
	m := &master{o: o, log: o.Log, look: make(chan struct{}, 1), plans: make(chan struct{}, maxPlans), retry: cmp.Or(o.retry, retryEvery)}
	m.secrets = newVault(o.Log)
	if err := m.makeStateDir(); err != nil {
		return err
	}
	var undo cleanup
	defer func() { err = errors.Join(err, undo.run()) }()

	if m.store, err = m.openStore(ctx); err != nil {
		return err
	}
	undo.add(m.store.Close)
	saved, meta, err := m.store.Load(ctx)
	if err != nil {
		return err
	}
	m.owner, saved.Schedules = saved.Owner, engine.Schedules(meta)
	if m.key, err = tokenKey(o.StateDir, tokensOf(saved.Instances)); err != nil {
		return err
	}
	m.house = &house{kinds: o.Hcl.Kinds, owner: providers.Owner(m.owner), stateDir: o.StateDir, log: m.log}
	if m.kinds, err = m.knownKinds(ctx, savedOf(saved.Instances)); err != nil {
		return err
	}
	done := thrifty()
	first, err := m.firstConfig(ctx, saved.Instances, meta)
	done()
	if err != nil {
		return err
	}
	first.retired, first.locks = m.retired(ctx, first.gen(), first.cfg, saved)

	if m.logs, err = steplog.Open(filepath.Join(o.StateDir, logsName), steplog.Options{Log: m.log}); err != nil {
		return err
	}
	undo.add(m.logs.Close)
	if saved.NextBuild, err = m.nextBuild(saved.NextBuild); err != nil {
		return err
	}
	if err := m.openFirst(ctx, first, saved.Instances); err != nil {
		return err
	}
	m.hub = session.New(session.Options{Log: m.log, Keepalive: m.keepalive, Detach: engine.ErrDetach, Notice: m.notice,
		Deliver: func(ev core.Event) { m.engine.Deliver(ev) },
		Auth:    session.Accounts{Key: m.key, Password: m.password, Worker: m.workerOf, Tried: m.tried}})
	m.catalog = build.NewCatalog(m.loadGeneration)
	runner := build.New(build.Config{Commands: m.hub, Logs: build.StepLogs(m.logs, m.log), Records: m.store, Loop: lazyLoop{m},
		Definitions: m.catalog, Vault: hidden{m.secrets, m}, Artifacts: filepath.Join(o.StateDir, first.cfg.Master.ArtifactsDir), Log: m.log})
	m.notices = notify.New(notify.Options{Targets: m.targets, Log: m.log})
	m.engine, err = engine.New(ctx, engine.Options{Store: m.store, Saved: saved, First: first.snap.Generation == 1 && first.snap.Summary == nil, Log: m.log, Builds: runner, Sessions: m.hub, Notify: m.notify,
		Providers: m.opened, Describe: m.describe, Due: m.due, Console: m.keepConsole, Token: m.token, Mask: m.mask, Observe: m.observe()})
	if err != nil {
		return err
	}
	if o.Meter.Watch != nil {
		o.Meter.Watch(m.snapshot, shownRecords{m.store})
	}

	worker, err := m.listen(first.cfg.Master)
	if err != nil {
		return err
	}
	undo.add(ignoreClosed(worker.Close))
	m.url = masterURL(first.cfg.Master, worker.Addr())

	return m.serve(ctx, first, worker)
}

// serve runs all servers and loops until ctx ends, and then ends them in an order in which nothing is lost: first no new orders, then the
// engine, then the connections, then the records.
func (m *master) serve(ctx context.Context, first *loaded, worker net.Listener) error {
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	g, running := errgroup.WithContext(running)
	listeners, err := m.apiListeners(first.cfg.Master) // before anything is put into force: a port may be taken
	if err != nil {
		return errors.Join(err, m.engine.Stop(ctx, core.StopKeep))
	}
	g.Go(func() error { return m.engine.Run(context.WithoutCancel(ctx)) })
	if err := m.start(running, first); err != nil {
		cancel(err)
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		return errors.Join(err, m.engine.Stop(ctx, core.StopKeep), g.Wait())
	}

	hubServer := m.hub.Server()
	hubServer.Handler = m.hub
	g.Go(func() error { return unlessClosed(hubServer.Serve(worker)) })

	server := api.New(api.Options{Engine: shownEngine{m.engine}, Records: shownRecords{m.store}, Configs: configs{m}, Logs: api.StepLogs(m.logs), Log: m.log, Version: m.o.Version,
		Name: first.cfg.Master.Name, Metrics: m.o.Meter.Handler, Ready: m.engine.Health, Latest: func() *core.Snapshot { return shown(m.engine.Latest()) },
		Refused: m.refused.of, Catalog: func() *api.Catalog { return m.current.Load().api },
		Tokens: func() []api.Token { return m.current.Load().tokens }})
	serving, stopServing := context.WithCancel(running)
	defer stopServing()
	for _, l := range listeners {
		g.Go(func() error { return server.Serve(serving, l) })
	}
	g.Go(func() error { return m.keepHouse(serving) })
	g.Go(func() error { return m.tend(serving) })
	g.Go(func() error { return m.watchdog(serving) })
	g.Go(func() error { return m.notices.Run(serving) })

	apis := m.apiAddresses(first.cfg.Master, listeners)
	m.log.Info("master: serving", "workers", worker.Addr().String(), "url", m.url, "api", apis, "generation", m.current.Load().gen)
	if m.o.Serving != nil {
		m.o.Serving(worker.Addr(), apis)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)

	m.untilStopped(ctx, running)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	policy := stopPolicy(m.current.Load().cfg.Master.OnStop)
	m.sayStopping(policy)
	stopCtx, stopCancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout(policy))
	defer stopCancel()
	if policy == core.StopKeep {
		stopServing() // no new orders; with the other policies people may still watch and cancel
	}
	err = m.engine.Stop(stopCtx, policy)
	stopServing()
	closeErr := hubServer.Close()
	hubErr := m.shutHub()
	return errors.Join(err, closeErr, hubErr, g.Wait())
}

// untilStopped waits for the order to stop, and reads the configuration again when told to.
func (m *master) untilStopped(ctx, running context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-running.Done():
			return
		case <-m.o.Reload:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyReloading)
			done := make(chan struct{})
			go func() { defer close(done); m.reload(ctx) }()
			select {
			case <-done:
			case <-ctx.Done(): // it ends with the engine, at the latest
				return
			}
			_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
		}
	}
}

// sayStopping says what the end of this master means for what is live.
func (m *master) sayStopping(policy core.StopPolicy) {
	sn := m.snapshot()
	instances, builds := count(len(sn.Instances), "instance"), count(len(sn.Builds), "build")
	means := fmt.Sprintf("%s and %s: it waits until the builds have ended, and ends the instances", instances, builds)
	switch {
	case policy == core.StopKeep && len(sn.Instances)+len(sn.Builds) > 0:
		means = fmt.Sprintf("%s and %s are kept for the next master of this state (on_master_stop = \"drain\" ends them)", instances, builds)
	case policy == core.StopKeep:
		means = "nothing is left behind"
	case policy == core.StopTerminate:
		means = fmt.Sprintf("%s and %s: the builds are stopped, to be tried again, and the instances end", instances, builds)
	}
	m.log.Info("master: stopping: "+means, "on_master_stop", policy.String(), "instances", len(sn.Instances), "builds", len(sn.Builds))
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// shutHub closes the agents' connections without a word to their commands.
func (m *master) shutHub() error { return m.hub.Shutdown(true) }

// stopTimeout bounds how long a stop may take: builds may run for hours, but somebody waits.
func stopTimeout(p core.StopPolicy) time.Duration {
	switch p {
	case core.StopDrain:
		return 24 * time.Hour
	case core.StopTerminate:
		return 10 * time.Minute
	}
	return time.Minute
}

func stopPolicy(s string) core.StopPolicy {
	switch s {
	case "drain":
		return core.StopDrain
	case "terminate":
		return core.StopTerminate
	}
	return core.StopKeep
}

// listen opens the worker port.
func (m *master) listen(c hcl.Master) (net.Listener, error) {
	l, err := m.listenTCP(c)
	if err != nil {
		return nil, err
	}
	if c.TLSCert == "" {
		return l, nil
	}
	conf, err := tlsConfig(c)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tls.NewListener(l, conf), nil
}

func tlsConfig(c hcl.Master) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("load the certificate (master.tls_cert, master.tls_key): %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// masterURL is how agents reach the worker port, unless the configuration says otherwise.
func masterURL(c hcl.Master, addr net.Addr) string {
	if c.URL != "" {
		return c.URL
	}
	scheme := "ws://"
	if c.TLSCert != "" {
		scheme = "wss://"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

func (m *master) apiListeners(c hcl.Master) ([]net.Listener, error) {
	local, err := api.ListenLocal(m.socket())
	if err != nil || c.API == "" {
		return []net.Listener{local}, err
	}
	var conf *tls.Config
	if c.TLSCert != "" {
		if conf, err = tlsConfig(c); err != nil {
			return nil, errors.Join(err, local.Close())
		}
	}
	l, err := api.ListenTCP(c.API, conf)
	if err != nil {
		return nil, errors.Join(err, local.Close())
	}
	return []net.Listener{local, l}, nil
}

// apiAddresses are the local socket and the URLs of the API's other listeners.
func (m *master) apiAddresses(c hcl.Master, listeners []net.Listener) []string {
	out := []string{m.socket()}
	scheme := "http://"
	if c.TLSCert != "" {
		scheme = "https://"
	}
	for _, l := range listeners {
		if a := l.Addr(); a.Network() == "tcp" {
			out = append(out, scheme+a.String())
		}
	}
	return out
}

// watchdog tells systemd that the loop still turns, if systemd wants to know.
func (m *master) watchdog(ctx context.Context) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return nil
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := m.engine.Explain(ctx, 0); err == nil || errors.Is(err, store.ErrNotFound) { // the loop has answered
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	}
}

func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func ignoreClosed(f func() error) func() error {
	return func() error { return unlessClosed(f()) }
}

// cleanup undoes in reverse order.
type cleanup []func() error

func (c *cleanup) add(f func() error) { *c = append(*c, f) }
func (c *cleanup) run() error {
	var err error
	for i := len(*c) - 1; i >= 0; i-- {
		err = errors.Join(err, (*c)[i]())
	}
	return err
}

// snapshot is what is live now, or what was so last if the engine cannot say soon.
func (m *master) snapshot() *core.Snapshot {
	if m.current.Load() == nil { // the loop does not run yet
		return shown(m.engine.Latest())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if sn, err := m.engine.Snapshot(ctx); err == nil {
		return shown(sn)
	}
	return shown(m.engine.Latest())
}

func (m *master) socket() string { return filepath.Join(m.o.StateDir, SocketName) }
