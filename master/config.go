package master

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
)

// loaded is a configuration that is to be put into force.
type loaded struct {
	snap store.ConfigSnapshot
	cfg  *hcl.Config
	old  *hcl.Config       // what was in force before, if it is another one and known
	meta map[string]string // stored with it

	retired []core.Builder // after a restart: those of older generations that have something to do
	locks   []core.Lock    // that only they use
	news    string         // what is said once it is in force; "" if that is no news
}

func (l *loaded) gen() model.Generation { return l.snap.Generation }

// dirKey is the small fact that remembers what the configuration directory held when it was last looked at with the order to put it into force: as long
// as nobody edits it, a rollback, or an apply from elsewhere, outlasts a restart.
const dirKey = "config-directory"

// digestOf identifies a configuration's text and variables.
func digestOf(cfg *hcl.Config) string {
	h := sha256.New()
	part := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, int64(len(b)))
		_, _ = h.Write(b)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Files)) {
		part([]byte(name))
		part(cfg.Files[name])
	}
	part(nil)
	for _, name := range slices.Sorted(maps.Keys(cfg.Variables)) {
		part([]byte(name))
		part([]byte(cfg.Variables[name]))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// makeStateDir makes the state directory if there is none. The configuration is read before: whoever starts a first master with a broken one has
// nothing to clean up.
func (m *master) makeStateDir() error {
	if _, err := os.Stat(m.o.StateDir); errors.Is(err, fs.ErrNotExist) {
		cfg, err := m.read()
		if err != nil {
			return err
		}
		m.early = cfg
	}
	if err := os.MkdirAll(m.o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	return nil
}

// firstConfig chooses what a new master puts into force: the last generation if the configuration directory is what it was when it was last read for that, or else the
// directory. If that is broken and the state remembers a good generation, the master stays up on that.
func (m *master) firstConfig(ctx context.Context, live []core.Instance, meta map[string]string) (*loaded, error) {
	last, err := m.store.LatestConfig(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	cfg, err := m.early, error(nil)
	if m.early = nil; cfg == nil {
		cfg, err = m.read()
	}
	digest := ""
	if err == nil {
		digest = digestOf(cfg)
	}
	if last.Generation == 0 {
		if err != nil {
			return nil, err
		}
		return m.fromDirectory(cfg, nil, 1, digest, "the configuration directory is read for the first time"), nil
	}
	old, oldErr := m.parse(last)
	var kindErr error // of the directory
	if err == nil {
		kindErr = m.house.keepsKinds(cfg, m.kinds, savedOf(live))
	}
	switch {
	case err == nil && sameText(cfg, last):
		return &loaded{snap: last, cfg: cfg, meta: map[string]string{dirKey: digest}}, nil
	case err == nil && digest == meta[dirKey] && oldErr == nil:
		m.log.Info("master: the configuration directory was not edited since it was last applied; the last generation stays in force", "directory", m.o.ConfigDir,
			"generation", last.Generation, "from", last.From, "by", last.By)
		return &loaded{snap: last, cfg: old}, nil
	case err == nil && oldErr == nil:
		if err = kindErr; err == nil {
			return m.fromDirectory(cfg, old, last.Generation+1, digest, "the configuration directory was edited; it is put into force"), nil
		}
	case err == nil && kindErr == nil:
		m.log.Error("master: the last generation cannot be read any more", "generation", last.Generation, "err", oldErr)
		return m.fromDirectory(cfg, nil, last.Generation+1, digest, "the configuration directory is put into force"), nil
	case oldErr != nil:
		return nil, errors.Join(err, kindErr, oldErr)
	}
	m.log.Error("master: the configuration is broken; going on with the last good one", "directory", m.o.ConfigDir, "generation", last.Generation, "err", err)
	return &loaded{snap: last, cfg: old}, nil
}

func (m *master) fromDirectory(cfg, old *hcl.Config, gen model.Generation, digest, news string) *loaded {
	return &loaded{cfg: cfg, old: old, news: news, meta: map[string]string{dirKey: digest}, snap: store.ConfigSnapshot{Generation: gen, AppliedAt: time.Now(),
		Files: cfg.Files, Variables: cfg.Variables, From: "start", By: userName(os.Getuid()), Directory: m.o.ConfigDir}}
}

// read reads the configuration directory; what is wrong with it is reported with places.
func (m *master) read() (*hcl.Config, error) {
	cfg, diags := hcl.Load(m.o.ConfigDir, m.o.Hcl)
	if len(diags) > 0 && m.o.Report != nil {
		m.o.Report(cfg, diags)
	}
	if diags.HasErrors() {
		return nil, &invalidError{what: "the configuration in " + m.o.ConfigDir, cfg: cfg, diags: cfg.Relocate(m.o.ConfigDir, diags)}
	}
	return cfg, nil
}

// invalidError says that a configuration has mistakes.
type invalidError struct {
	what  string
	cfg   *hcl.Config
	diags hcl2.Diagnostics
}

func (e *invalidError) Error() string {
	return fmt.Sprintf("%s is not valid (errors: %d)", e.what, countErrors(e.diags))
}

// Report shows all mistakes with their places.
func (e *invalidError) Report() string {
	var b strings.Builder
	_ = e.cfg.WriteDiagnostics(&b, e.diags, 0, false)
	return b.String()
}

func countErrors(diags hcl2.Diagnostics) (n int) {
	for _, d := range diags {
		if d.Severity == hcl2.DiagError {
			n++
		}
	}
	return n
}

// parse makes a configuration from the text of an older generation.
func (m *master) parse(snap store.ConfigSnapshot) (*hcl.Config, error) {
	dir := snap.Directory
	if dir == "" {
		dir = m.o.ConfigDir
	}
	return parseStored(m.o.Hcl, dir, snap.Files, snap.Variables, fmt.Sprintf("the configuration of generation %d", snap.Generation))
}

// parseStored is parseText for a text that was in force: what is wrong with it by newer rules only is no reason to leave its instances and builds alone.
func parseStored(o hcl.Options, dir string, files map[string][]byte, variables map[string]string, what string) (*hcl.Config, error) {
	o.Accepted = true
	return parseText(o, dir, files, variables, what)
}

// parseText makes a configuration from text that was read elsewhere or before. Sensitive variables are never part of such text: they come from this process's
// command line and environment.
func parseText(o hcl.Options, dir string, files map[string][]byte, variables map[string]string, what string) (*hcl.Config, error) {
	o.Stored, o.Dir = variables, dir
	if o.Stored == nil {
		o.Stored = map[string]string{}
	}
	cfg, diags := hcl.LoadFiles(files, o)
	if diags.HasErrors() {
		return nil, &invalidError{what: what, cfg: cfg, diags: cfg.Relocate(dir, diags)}
	}
	return cfg, nil
}

// loadGeneration is how builds that began under an older generation find their definition.
func (m *master) loadGeneration(ctx context.Context, gen model.Generation) (*hcl.Config, error) {
	snap, err := m.store.Config(ctx, gen)
	if err != nil {
		return nil, fmt.Errorf("configuration of generation %d: %w", gen, err)
	}
	return m.parse(snap)
}

// sameText says whether a generation was made from just this text and these variables.
func sameText(cfg *hcl.Config, snap store.ConfigSnapshot) bool {
	return maps.EqualFunc(cfg.Files, snap.Files, bytes.Equal) && maps.Equal(cfg.Variables, snap.Variables)
}

// install puts a configuration into force. What the core decides with, what builds are made from and what the API knows change together. set are the
// providers that were opened for it; they are closed if it fails. Whatever can fail does so before anything has changed.
func (m *master) install(ctx context.Context, l *loaded, set map[string]engine.Opened) error {
	a, decide, err := m.makeApplied(ctx, l, set)
	if err != nil {
		return errors.Join(err, closeAll(set))
	}
	m.catalog.Put(l.gen(), l.cfg)
	before := m.current.Swap(a) // first: the core asks for instances of it as soon as it has it
	// Not cut off: once the loop has taken it, it happens. The loop answers in any case, if only that it has ended.
	if err := m.engine.ApplyWith(context.WithoutCancel(ctx), decide, l.snap, set, l.meta, m.stillMay(l.cfg)); err != nil {
		m.current.Store(before)
		return errors.Join(err, closeAll(set))
	}
	m.mu.Lock()
	maps.Copy(m.opened, set)
	maps.Copy(m.kinds, m.house.kindsOf(l.cfg.Providers))
	m.mu.Unlock()
	m.applied(l.gen(), nil)
	go m.readPasswords(l.cfg) // it may take long, and nobody waits for it
	return nil
}

func (m *master) makeApplied(ctx context.Context, l *loaded, set map[string]engine.Opened) (*applied, core.Config, error) {
	a := &applied{gen: int64(l.gen()), snap: l.snap, cfg: l.cfg, api: api.CatalogOf(l.cfg), workers: make(map[string]*hcl.Worker, len(l.cfg.Workers)),
		handles: m.house.handles(l.cfg.Providers), limits: map[string]providers.Limits{}}
	for i := range l.cfg.Workers {
		a.workers[l.cfg.Workers[i].Name] = &l.cfg.Workers[i]
	}
	m.mu.Lock()
	for _, opened := range []map[string]engine.Opened{m.opened, set} {
		for handle, o := range opened {
			a.limits[handle] = o.Limits
		}
	}
	prices := m.prices
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, secretTimeout*time.Duration(1+len(l.cfg.Master.Tokens)))
	defer cancel()
	for _, t := range l.cfg.Master.Tokens {
		v, err := m.secrets.now(ctx, t.Secret)
		if err != nil {
			return nil, core.Config{}, fmt.Errorf("read the secret of API token %s: %w", t.Name, err)
		}
		a.tokens = append(a.tokens, api.NewToken(t.Name, t.Role, string(v)))
	}
	decide, err := coreConfig(l, a.handles, a.limits, prices, m.house.kinds)
	return a, decide, err
}

func (m *master) applied(gen model.Generation, err error) {
	if f := m.o.Meter.Applied; f != nil {
		f(gen, err)
	}
}

// sweepGrace is how old an instance that no record knows must be before it is destroyed: longer than any create may take to be answered.
func sweepGrace(l providers.Limits) time.Duration { return 2*l.CreateTimeout + l.Settle }

// coreConfig is the part of a configuration that decisions depend on. Limits are of all providers that are open, those of older configurations too. Prices are by the digest
// of the spec.
func coreConfig(l *loaded, handles map[string]string, limits map[string]providers.Limits, prices map[string]providers.Price,
	kinds map[string]providers.Kind) (core.Config, error) {
	c := core.Config{Generation: l.gen(), Retired: l.retired, RetiredLocks: l.locks}
	var err error
	if c.Schedulers, err = schedulers(l.cfg.Schedulers); err != nil {
		return c, err
	}
	configured := map[string]bool{}
	for _, p := range l.cfg.Providers {
		handle := handles[p.Name]
		configured[handle] = true
		c.Providers = append(c.Providers, coreProvider(handle, limits[handle]))
	}
	for _, handle := range slices.Sorted(maps.Keys(limits)) {
		if !configured[handle] {
			c.Former = append(c.Former, coreProvider(handle, limits[handle]))
		}
	}
	c.Workers = make([]core.Worker, 0, len(l.cfg.Workers))
	for i := range l.cfg.Workers {
		w := &l.cfg.Workers[i]
		cw := core.Worker{Name: w.Name, Provider: handles[w.Provider], MaxBuilds: w.MaxBuilds, MissingTimeout: w.MissingTimeout,
			BuildWaitTimeout: w.BuildWaitTimeout, Locks: accesses(w.Locks), Spec: w.Spec, Price: w.Price}
		if cw.Latent() {
			cw.Idle, cw.StoppedPrice = w.Idle, prices[w.Spec].Stopped
			cw.VCPUs, cw.Memory = sizeOf(l.cfg, w, kinds)
			if cw.Price == 0 {
				cw.Price = prices[w.Spec].Running
			}
		}
		c.Workers = append(c.Workers, cw)
	}
	c.Builders = make([]core.Builder, 0, len(l.cfg.Builders))
	for i := range l.cfg.Builders {
		c.Builders = append(c.Builders, coreBuilder(&l.cfg.Builders[i]))
	}
	for i := range l.cfg.Locks {
		c.Locks = append(c.Locks, coreLock(&l.cfg.Locks[i]))
	}
	return c, nil
}

// sizeOf is what an instance of a worker takes of its provider's hosts, if its kind knows that.
func sizeOf(cfg *hcl.Config, w *hcl.Worker, kinds map[string]providers.Kind) (vcpus int, memory int64) {
	i := slices.IndexFunc(cfg.Providers, func(p hcl.Provider) bool { return p.Name == w.Provider })
	if i < 0 {
		return 0, 0
	}
	k, ok := kinds[cfg.Providers[i].Kind].(providers.SizeKind)
	if !ok {
		return 0, 0
	}
	vcpus, memory = k.Size(cfg.Providers[i].Config, w.Instance)
	return max(vcpus, 0), max(memory, 0)
}

func coreProvider(handle string, lim providers.Limits) core.Provider {
	return core.Provider{Name: handle, Interruptible: lim.Interruptible, Settle: lim.Settle, CheckInterval: lim.CheckInterval, DestroyBackoff: lim.DestroyBackoff,
		SweepInterval: lim.SweepInterval, SweepGrace: sweepGrace(lim)}
}

func accesses(in []hcl.Access) []core.Access {
	var out []core.Access
	for _, a := range in {
		out = append(out, core.Access{Lock: a.Lock, Exclusive: a.Exclusive})
	}
	return out
}
