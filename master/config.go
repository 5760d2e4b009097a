package master

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
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
	gen model.Generation
	cfg *hcl.Config
}

// firstConfig reads the configuration directory. If that is broken and the state remembers a good one, the master stays up on that.
func (m *master) firstConfig(ctx context.Context, live []core.Instance) (*loaded, error) {
	last, err := m.store.LatestConfig(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	cfg, err := m.read()
	if err == nil && len(live) > 0 && nextGeneration(cfg, last) != last.Generation {
		if old, oldErr := m.parse(last); oldErr == nil {
			err = keepsKinds(cfg, kindsOf(old.Providers), providersOf(live))
		}
	}
	if err == nil {
		return &loaded{nextGeneration(cfg, last), cfg}, nil
	}
	if last.Generation == 0 {
		return nil, err
	}
	old, oldErr := m.parse(last)
	if oldErr != nil {
		return nil, errors.Join(err, oldErr)
	}
	m.log.Error("master: the configuration is broken; going on with the last good one", "directory", m.o.ConfigDir, "generation", last.Generation, "err", err)
	return &loaded{last.Generation, old}, nil
}

// read reads the configuration directory; what is wrong with it is reported with places.
func (m *master) read() (*hcl.Config, error) {
	cfg, diags := hcl.Load(m.o.ConfigDir, m.o.Hcl)
	if len(diags) > 0 && m.o.Report != nil {
		m.o.Report(cfg, diags)
	}
	if diags.HasErrors() {
		return nil, fmt.Errorf("the configuration in %s is not valid (errors: %d)", m.o.ConfigDir, countErrors(diags))
	}
	return cfg, nil
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
	o := m.o.Hcl
	o.Stored, o.Dir = snap.Variables, m.o.ConfigDir // sensitive variables are not stored: they come from the command line again
	if o.Stored == nil {
		o.Stored = map[string]string{}
	}
	cfg, diags := hcl.LoadFiles(snap.Files, o)
	if diags.HasErrors() {
		return nil, fmt.Errorf("configuration of generation %d: %w", snap.Generation, diags)
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

// nextGeneration numbers a configuration: the same text is the same generation.
func nextGeneration(cfg *hcl.Config, last store.ConfigSnapshot) model.Generation {
	if last.Generation > 0 && maps.EqualFunc(cfg.Files, last.Files, bytes.Equal) && maps.Equal(cfg.Variables, last.Variables) {
		return last.Generation
	}
	return last.Generation + 1
}

// apply puts a configuration into force. What the core decides with, what builds are made from and what the API knows change together.
func (m *master) apply(ctx context.Context, l *loaded, set map[string]engine.Opened, limits map[string]providers.Limits) error {
	a := &applied{gen: int64(l.gen), cfg: l.cfg, api: api.CatalogOf(l.cfg), workers: map[string]*hcl.Worker{}, limits: limits}
	for i := range l.cfg.Workers {
		a.workers[l.cfg.Workers[i].Name] = &l.cfg.Workers[i]
	}
	for _, t := range l.cfg.Master.Tokens {
		v, err := t.Secret.Read(ctx)
		if err != nil {
			return fmt.Errorf("read the secret of API token %s: %w", t.Name, err)
		}
		a.tokens = append(a.tokens, api.NewToken(t.Name, t.Role, string(v)))
	}
	decide, err := coreConfig(l, limits)
	if err != nil {
		return err
	}
	m.catalog.Put(l.gen, l.cfg)
	before := m.current.Swap(a) // first: the core asks for instances of it as soon as it has it
	snap := store.ConfigSnapshot{Generation: l.gen, AppliedAt: time.Now(), Files: l.cfg.Files, Variables: l.cfg.Variables}
	if err := m.engine.ApplyWith(ctx, decide, snap, set); err != nil {
		m.current.Store(before)
		return err
	}
	m.applied(l.gen, nil)
	return nil
}

func (m *master) applied(gen model.Generation, err error) {
	if f := m.o.Meter.Applied; f != nil {
		f(gen, err)
	}
}

// reload reads the configuration directory again. A broken one changes nothing.
func (m *master) reload(ctx context.Context) {
	cfg, err := m.read()
	if err != nil {
		m.log.Error("master: the configuration is not applied; the old one stays in force", "err", err)
		return
	}
	last, err := m.store.LatestConfig(ctx)
	if err != nil {
		m.log.Error("master: cannot reload", "err", err)
		return
	}
	gen := nextGeneration(cfg, last)
	if gen == last.Generation {
		m.log.Info("master: the configuration has not changed", "generation", gen)
		return
	}
	if err = m.mayReplace(ctx, cfg); err == nil {
		var set map[string]engine.Opened
		var limits map[string]providers.Limits
		if set, limits, err = m.openProviders(ctx, cfg.Providers, m.current.Load()); err == nil {
			err = m.apply(ctx, &loaded{gen, cfg}, set, limits)
		}
	}
	if err == nil {
		maps.Copy(m.kinds, kindsOf(cfg.Providers))
	}
	if err != nil {
		m.applied(gen, err)
		m.log.Error("master: the configuration is not applied; the old one stays in force", "err", err)
		return
	}
	m.log.Info("master: the configuration is applied", "generation", gen)
}

// openProviders opens the providers that are new or changed since an applied configuration (nil: all).
func (m *master) openProviders(ctx context.Context, blocks []hcl.Provider, old *applied) (map[string]engine.Opened, map[string]providers.Limits, error) {
	set, limits := map[string]engine.Opened{}, map[string]providers.Limits{}
	for _, b := range blocks {
		if old != nil && unchanged(b, old.cfg.Providers) {
			limits[b.Name] = old.limits[b.Name]
			continue
		}
		dir := filepath.Join(m.o.StateDir, "providers", b.Kind, b.Name)
		p, lim, err := m.o.Hcl.Kinds[b.Kind].Open(ctx, providers.Env{Name: b.Name, Owner: providers.Owner(m.owner), Config: b.Config, StateDir: dir, Log: m.log})
		if err != nil {
			for _, o := range set {
				err = errors.Join(err, o.Provider.Close())
			}
			return nil, nil, fmt.Errorf("open provider %s %q: %w", b.Kind, b.Name, err)
		}
		set[b.Name], limits[b.Name] = engine.Opened{Provider: p, Limits: lim}, lim
	}
	return set, limits, nil
}

func unchanged(b hcl.Provider, old []hcl.Provider) bool {
	for _, o := range old {
		if o.Name == b.Name {
			return o.Kind == b.Kind && reflect.DeepEqual(o.Config, b.Config)
		}
	}
	return false
}

// sweepGrace is how old an instance that no record knows must be before it is destroyed: longer than any create may take to be answered.
func sweepGrace(l providers.Limits) time.Duration { return 2*l.CreateTimeout + l.Settle }

// coreConfig is the part of a configuration that decisions depend on.
func coreConfig(l *loaded, limits map[string]providers.Limits) (core.Config, error) {
	c := core.Config{Generation: l.gen}
	var err error
	if c.Schedulers, err = schedulers(l.cfg.Schedulers); err != nil {
		return c, err
	}
	for _, p := range l.cfg.Providers {
		lim := limits[p.Name]
		c.Providers = append(c.Providers, core.Provider{Name: p.Name, Settle: lim.Settle, CheckInterval: lim.CheckInterval,
			DestroyBackoff: lim.DestroyBackoff, SweepInterval: lim.SweepInterval, SweepGrace: sweepGrace(lim)})
	}
	for _, w := range l.cfg.Workers {
		c.Workers = append(c.Workers, core.Worker{Name: w.Name, Provider: w.Provider, MaxBuilds: w.MaxBuilds, MissingTimeout: w.MissingTimeout,
			BuildWaitTimeout: w.BuildWaitTimeout, Locks: accesses(w.Locks), Spec: w.Spec, Price: w.Price})
	}
	for _, b := range l.cfg.Builders {
		c.Builders = append(c.Builders, core.Builder{Name: b.Name, Workers: b.Workers, Locks: accesses(b.Locks), Collapse: b.Collapse, MaxAttempts: b.MaxAttempts})
	}
	for _, k := range l.cfg.Locks {
		c.Locks = append(c.Locks, core.Lock{Name: k.Name, Max: k.Max, PerWorker: k.PerWorker})
	}
	return c, nil
}

func accesses(in []hcl.Access) []core.Access {
	var out []core.Access
	for _, a := range in {
		out = append(out, core.Access{Lock: a.Lock, Exclusive: a.Exclusive})
	}
	return out
}
