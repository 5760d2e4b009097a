package master

import (
	"cmp"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

// fill puts what the providers said into a plan's input. before are the prices that were known, by digest of the spec.
func (s *survey) fill(in *plan.Input, findings []plan.Finding, before map[string]providers.Price) {
	known := map[string]providers.Price{}
	for digest, p := range before {
		known[digest] = p
	}
	for digest, p := range s.prices {
		known[digest] = p
	}
	in.Seen, in.Resolved, in.Findings = s.seen, s.resolved, append(findings, s.findings...)
	in.Prices = priceOf(in.New, known)
	if in.Old != nil {
		in.PricesBefore = priceOf(in.Old, known)
	}
}

// configs is what the API asks of the master about its configuration.
type configs struct{ m *master }

// maxPlans is how many plans are made at once: each holds a configuration of its own, and asks the providers. Others wait.
const maxPlans = 3

// Plan says what a configuration would do. It changes nothing, and holds up no apply.
func (c configs) Plan(ctx context.Context, ask api.PlanAsk) (*plan.Plan, error) {
	select {
	case c.m.plans <- struct{}{}:
		defer func() { <-c.m.plans }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	done := thrifty()
	defer func() { done() }()
	cfg, err := c.m.given(ask)
	if err != nil {
		return nil, refused(err)
	}
	done() // providers may take long
	open := notAtAll
	if ask.Refresh {
		open = toAsk
	}
	g, err := c.m.gather(ctx, cfg, ask.Refresh, open)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := closeAll(g.fresh); err != nil {
			c.m.log.Warn("master: close a provider that was opened for a plan", "err", err)
		}
	}()
	done = thrifty()
	g.input.Unlike = unlike(cfg, ask.Sensitive)
	return plan.Compute(g.input), nil
}

// Apply puts a configuration into force.
func (c configs) Apply(ctx context.Context, ask api.ApplyAsk) (api.Applied, error) {
	return c.order(ctx, change{from: "apply", by: ask.By, reason: ask.Reason, dir: ask.Dir, refresh: ask.Refresh, strict: true, expect: ask.Expect,
		read: func() (*hcl.Config, error) { return c.m.given(ask.PlanAsk) }})
}

// Rollback puts the text of an older generation into force again, as a new generation.
func (c configs) Rollback(ctx context.Context, ask api.RollbackAsk) (api.Applied, error) {
	snap, err := c.m.older(ctx, ask.Generation)
	if err != nil {
		return api.Applied{}, err
	}
	reason := ask.Reason
	if reason == "" {
		reason = fmt.Sprintf("back to generation %d", snap.Generation)
	}
	return c.order(ctx, change{from: "rollback", by: ask.By, reason: reason, dir: snap.Directory, refresh: ask.Refresh, strict: true, expect: ask.Expect,
		old: true, read: func() (*hcl.Config, error) { return c.m.parse(snap) }})
}

// Reconfig reads the configuration directory again.
func (c configs) Reconfig(ctx context.Context, ask api.ReconfigAsk) (api.Applied, error) {
	out, err := c.order(ctx, change{from: "reload", by: ask.By, reason: ask.Reason, dir: c.m.o.ConfigDir, read: c.m.read, own: true})
	if err == nil && out.Changed {
		c.m.lookAgain()
	}
	return out, err
}

func (c configs) order(ctx context.Context, o change) (api.Applied, error) {
	t, err := c.m.begin(ctx, false)
	if err != nil {
		return api.Applied{}, err
	}
	defer c.m.end()
	out, _, err := c.m.change(ctx, t, o)
	if err != nil {
		c.m.log.Warn("master: the configuration is not applied; the old one stays in force", "from", o.from, "by", o.by, "apply", t.id, "err", err)
		return out, refused(err)
	}
	return out, nil
}

// Progress says which apply is under way, and what it does.
func (c configs) Progress() (id, phase string) {
	if t := c.m.turn.Load(); t != nil && !t.own {
		return t.id, *t.phase.Load()
	}
	return "", ""
}

// unlike are the sensitive variables whose values elsewhere are not those of a configuration.
func unlike(cfg *hcl.Config, given *api.SensitiveGiven) (names []string) {
	if given == nil {
		return nil
	}
	own := cfg.SensitiveDigests(given.Key, slices.Collect(maps.Keys(given.Digests)))
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if digest, ok := given.Digests[name]; ok && !hmac.Equal([]byte(digest), []byte(own[name])) {
			names = append(names, name)
		}
	}
	return names
}

// given makes a configuration of the text in an order.
func (m *master) given(ask api.PlanAsk) (*hcl.Config, error) {
	dir := ask.Dir
	if dir == "" {
		dir = m.o.ConfigDir
	}
	return parseText(m.o.Hcl, dir, ask.Files, ask.Variables, "the configuration")
}

// older finds a generation; 0 is the one before the one in force.
func (m *master) older(ctx context.Context, gen model.Generation) (store.ConfigSnapshot, error) {
	if gen == 0 {
		list, err := m.store.Configs(ctx, 2)
		if err != nil {
			return store.ConfigSnapshot{}, err
		}
		if len(list) < 2 {
			return store.ConfigSnapshot{}, &api.Refused{Status: http.StatusConflict, Text: "There is no generation before the one in force."}
		}
		gen = list[1].Generation
	}
	snap, err := m.store.Config(ctx, gen)
	if errors.Is(err, store.ErrNotFound) {
		return snap, &api.Refused{Status: http.StatusNotFound, Text: fmt.Sprintf("There is no generation %d. `rouse generations` lists them.", gen)}
	}
	return snap, err
}

// refused makes what a person can correct into an answer.
func refused(err error) error {
	var invalid *invalidError
	if errors.As(err, &invalid) {
		report := invalid.cfg.Report(invalid.diags)
		return &api.Refused{Status: http.StatusUnprocessableEntity, Report: &report, Text: capital(invalid.Error()) + ". Nothing was changed.\n\n" + strings.TrimRight(invalid.Report(), "\n")}
	}
	return err
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// PlanOffline says what a configuration would do to the fleet that the state on disk remembers, without a master: it takes no lock and writes nothing. Of o, StateDir,
// Hcl and Log are used. With refresh the providers are asked with the credentials of whoever runs it.
func PlanOffline(ctx context.Context, o Options, cfg *hcl.Config, refresh bool) (*plan.Plan, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &house{kinds: o.Hcl.Kinds, stateDir: o.StateDir, log: o.Log}
	in := plan.Input{Now: time.Now(), New: cfg, Offline: true, Refreshed: refresh}
	sn, err := remembered(ctx, o, h, &in)
	if err != nil {
		return nil, err
	}
	s := &survey{}
	var findings []plan.Finding
	if refresh {
		opened, found, _ := h.openNew(ctx, cfg, nil, true)
		findings = found
		if in.Old != nil { // what lives may be elsewhere
			live := liveOf(sn)
			for i := range in.Old.Providers {
				b := &in.Old.Providers[i]
				if handle := h.handle(b); live[handle] > 0 && opened[handle].Provider == nil {
					if o, err := h.openWithin(ctx, b, true); err == nil {
						opened[handle] = o
					} else {
						findings = append(findings, plan.Finding{Provider: b.Name, Finding: providers.Finding{Spec: -1, Summary: "Its instances cannot be listed", Detail: err.Error()}})
					}
				}
			}
		}
		s = h.survey(ctx, cfg, opened, liveOf(sn))
		defer func() { _ = closeAll(opened) }()
	}
	s.fill(&in, findings, nil)
	return plan.Compute(in), nil
}

// remembered reads the state on disk into a plan's input. A directory without one is an empty fleet.
func remembered(ctx context.Context, o Options, h *house, in *plan.Input) (*core.Snapshot, error) {
	r, err := sqlite.OpenReader(ctx, o.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return &core.Snapshot{Time: in.Now}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	saved, _, err := r.Load(ctx)
	if err != nil {
		return nil, err
	}
	h.owner, in.Master = providers.Owner(saved.Owner), saved.Owner
	state := core.Restore(saved)
	last, err := r.LatestConfig(ctx)
	switch {
	case err == nil:
		if in.Old, err = parseStored(o.Hcl, cmp.Or(last.Directory, o.ConfigDir), last.Files, last.Variables, fmt.Sprintf("the configuration of generation %d", last.Generation)); err != nil {
			return nil, err
		}
		in.Base = last.Generation
		decide, err := coreConfig(&loaded{snap: last, cfg: in.Old}, h.handles(in.Old.Providers), nil, nil, h.kinds)
		if err != nil {
			return nil, err
		}
		state.Step(in.Now, core.ConfigApplied{Config: decide}) // in memory only, so that workers are seen as they are configured
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	sn := state.Snapshot(in.Now)
	in.Snapshot = shown(sn)
	in.Queued, err = queued(ctx, r, sn.Requests)
	return sn, err
}

// lookAgain asks the providers in the background about the configuration that is in force now: what is wrong is logged, and what things cost is learnt.
func (m *master) lookAgain() {
	select {
	case m.look <- struct{}{}:
	default:
	}
}

// tend asks the providers about the configuration in force, whenever it has changed and once a day, and sees to the providers of instances that nobody can end.
// A cloud that is down delays nothing but this.
func (m *master) tend(ctx context.Context) error {
	var asked time.Time
	for {
		all := time.Since(asked) >= tendEvery
		if all {
			asked = time.Now()
		}
		wait := tendEvery
		if m.tendOnce(ctx, all) {
			wait = m.retry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-m.look:
			asked = time.Time{}
		case <-timer.C:
		}
		timer.Stop()
	}
}

const (
	tendEvery  = 24 * time.Hour
	retryEvery = time.Minute // for the providers of instances that nobody can end now
)

// tendOnce asks the providers (if all is set), and says whether there are still instances that nobody can end.
func (m *master) tendOnce(ctx context.Context, all bool) (lost bool) {
	a := m.current.Load()
	sn, err := m.engine.Snapshot(ctx)
	if err != nil {
		return true
	}
	m.mu.Lock()
	opened := make(map[string]engine.Opened, len(m.opened))
	for handle, o := range m.opened {
		opened[handle] = o
	}
	m.mu.Unlock()
	s := &survey{}
	if all {
		s = m.house.survey(ctx, a.cfg, opened, nil)
	}
	if ctx.Err() != nil {
		return false
	}
	for _, f := range s.findings {
		level := slog.LevelInfo
		if f.Fatal {
			level = slog.LevelWarn
		}
		m.log.Log(ctx, level, "master: preflight: "+f.Summary, "provider", f.Provider, "worker", f.Worker, "attribute", f.Attr, "detail", f.Detail, "fatal", f.Fatal)
	}
	live := liveOf(sn)
	more := m.adopt(ctx, model.Generation(a.gen), opened, live)
	for handle := range live {
		lost = lost || opened[handle].Provider == nil && more[handle].Provider == nil
	}
	if !m.learn(s) && len(more) == 0 {
		return lost
	}
	t, err := m.take(ctx, &turn{own: true}, true)
	if err != nil {
		_ = closeAll(more)
		return true
	}
	defer m.end()
	t.enter("storing")
	a = m.current.Load() // the same generation, with what is known now
	if err := m.install(ctx, &loaded{snap: a.snap, cfg: a.cfg}, more); err != nil {
		m.log.Error("master: what is known of prices and providers cannot be used", "err", err)
		return true
	}
	return lost
}

// learn takes in prices. It says whether any is new.
func (m *master) learn(s *survey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	next := make(map[string]providers.Price, len(m.prices)+len(s.prices)) // a new map: the old one may be in use
	for digest, p := range m.prices {
		next[digest] = p
	}
	for digest, p := range s.prices {
		changed = changed || next[digest].Running != p.Running || next[digest].Stopped != p.Stopped
		next[digest] = p
	}
	m.prices = next
	return changed
}
