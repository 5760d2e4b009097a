package master

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/master/store"
)

// Everything that changes the configuration of a running master goes through change: read, ask, plan, look whether it is still what was agreed to, open, and
// then one transaction in the engine. Until that one nothing has changed, and after it everything has; a crash is on one side or the other of it.

// turn is one change that is under way. There is one at a time.
type turn struct {
	id    string
	own   bool // the master's own: it takes what it has learnt into force, which is short
	phase atomic.Pointer[string]
}

func (t *turn) enter(phase string) { t.phase.Store(&phase) }

// begin takes the turn. With wait it waits for the one that has it, or else refuses and names that one.
func (m *master) begin(ctx context.Context, wait bool) (*turn, error) {
	return m.take(ctx, &turn{id: strings.ToLower(rand.Text()[:10])}, wait)
}

func (m *master) take(ctx context.Context, t *turn, wait bool) (*turn, error) {
	t.enter("reading")
	for !m.turn.CompareAndSwap(nil, t) {
		other := m.turn.Load()
		if other == nil {
			continue
		}
		if !wait && !other.own {
			return nil, &api.Refused{Status: http.StatusConflict, Text: fmt.Sprintf("Another apply is under way (%s, %s). Wait until it has ended: rouse generations shows what came of it.",
				other.id, *other.phase.Load())}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return t, nil
}

func (m *master) end() { m.turn.Store(nil) }

// change is one order to change the configuration.
type change struct {
	from, by, reason, dir string

	read    func() (*hcl.Config, error)
	refresh bool
	strict  bool        // what the preflight calls fatal refuses it
	expect  *api.Expect // may be nil
	own     bool        // the text is the configuration directory's, as it is now
	old     bool        // the text is an older generation's, wherever that came from
}

// change carries out an order. It returns what came of it, and the plan if one was made.
func (m *master) change(ctx context.Context, t *turn, c change) (out api.Applied, p *plan.Plan, err error) {
	defer func() {
		if err != nil && c.from == "reload" { // whoever gave another order has been told
			m.applied(model.Generation(m.current.Load().gen)+1, err)
		}
	}()
	base := m.current.Load()
	out = api.Applied{ID: t.id, From: c.from, Generation: model.Generation(base.gen)}
	done := thrifty()
	cfg, err := c.read()
	done()
	if err != nil {
		return out, nil, err
	}
	t.enter("asking")
	g, err := m.gather(ctx, cfg, c.refresh, toInstall)
	if err != nil {
		return out, nil, err
	}
	p = plan.Compute(g.input)
	out.Summary = p.Summary
	if err := m.mayInstall(c, g, p); err != nil {
		return out, p, errors.Join(err, closeAll(g.fresh))
	}
	l := &loaded{cfg: cfg, snap: base.snap, meta: m.remember(c, cfg)}
	if s := p.Summary; s.Add+s.Change+s.Replace+s.Remove == 0 && sameText(cfg, base.snap) { // what still drains does so without another generation
		return out, p, errors.Join(m.note(ctx, l.meta), closeAll(g.fresh))
	}
	out.Changed, out.Generation = true, l.snap.Generation+1
	summary, err := json.Marshal(p.Summary)
	if err != nil {
		return out, p, errors.Join(err, closeAll(g.fresh))
	}
	l.snap = store.ConfigSnapshot{Generation: out.Generation, AppliedAt: time.Now(), Files: cfg.Files, Variables: cfg.Variables, By: c.by, From: c.from,
		Directory: c.dir, Reason: c.reason, Summary: summary}
	t.enter("storing")
	m.learn(g.survey)
	if err := m.install(ctx, l, g.fresh); err != nil {
		return out, p, err
	}
	m.leave(context.WithoutCancel(ctx), p, g.input.Old, cfg) // it is in force, whether or not anybody still waits for the answer
	m.log.Info("master: the configuration is applied", "generation", out.Generation, "from", c.from, "by", c.by, "apply", t.id, "added", p.Summary.Add,
		"changed", p.Summary.Change, "replaced", p.Summary.Replace, "removed", p.Summary.Remove)
	return out, p, nil
}

// gathered is what a plan is made from, and the providers that were opened to ask them. Whoever gathers closes or installs them.
type gathered struct {
	input  plan.Input
	survey *survey
	fresh  map[string]engine.Opened
	broken error // a provider that could not be opened
	sn     *core.Snapshot
}

// opening says what the providers of a new configuration are opened for.
type opening int

const (
	notAtAll opening = iota
	toAsk            // for a plan: they may not write
	toInstall
)

// gather reads what is live and, with refresh, asks the providers: those that are in use, and those that the new configuration would add or change. These are
// opened as open says, which is needed to ask them, and to install them.
func (m *master) gather(ctx context.Context, cfg *hcl.Config, refresh bool, open opening) (*gathered, error) {
	base := m.current.Load()
	sn, err := m.engine.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	g := &gathered{sn: sn, survey: &survey{}, input: plan.Input{Master: m.owner, Base: model.Generation(base.gen), Now: time.Now(), Old: base.cfg, New: cfg,
		Snapshot: shown(sn), Refreshed: refresh}}
	if g.input.Queued, err = queued(ctx, m.store, sn.Requests); err != nil {
		return nil, err
	}
	var findings []plan.Finding
	if open != notAtAll {
		g.fresh, findings, g.broken = m.house.openNew(ctx, cfg, base.cfg, open == toAsk)
	}
	if refresh {
		m.mu.Lock()
		all := make(map[string]engine.Opened, len(m.opened)+len(g.fresh))
		for handle, o := range m.opened {
			all[handle] = o
		}
		m.mu.Unlock()
		for handle, o := range g.fresh {
			all[handle] = o
		}
		listed := liveOf(sn)
		for _, handle := range m.house.handles(base.cfg.Providers) { // for the last time, perhaps
			listed[handle]++
		}
		g.survey = m.house.survey(ctx, cfg, all, listed)
	}
	m.mu.Lock()
	before := m.prices
	m.mu.Unlock()
	g.survey.fill(&g.input, append(findings, m.lockedOut(ctx, cfg)...), before)
	return g, nil
}

// requestReader reads requests.
type requestReader interface {
	Requests(ctx context.Context, ids []model.RequestID) ([]model.Request, error)
}

func queued(ctx context.Context, r requestReader, live []core.Request) ([]model.Request, error) {
	var ids []model.RequestID
	for i := range live {
		if live[i].State == model.RequestWaiting {
			ids = append(ids, live[i].ID)
		}
	}
	return r.Requests(ctx, ids)
}

// mayInstall refuses a plan that is not what was agreed to, or that would not work.
func (m *master) mayInstall(c change, g *gathered, p *plan.Plan) error {
	if err := stale(c.expect, p); err != nil {
		return err
	}
	if g.broken != nil {
		return &api.Refused{Status: http.StatusUnprocessableEntity, Text: g.broken.Error() + ". Nothing was changed."}
	}
	if err := m.mayReplace(g.input.New, g.sn); err != nil {
		return &api.Refused{Status: http.StatusUnprocessableEntity, Text: err.Error() + ". Nothing was changed."}
	}
	if !c.strict || p.Summary.Errors == 0 {
		return nil
	}
	var lines []string
	for _, d := range p.Diagnostics {
		if d.Severity == "error" {
			line := d.Summary
			if d.Address != "" {
				line = d.Address + ": " + line
			}
			if d.Detail != "" {
				line += ": " + d.Detail
			}
			lines = append(lines, line)
		}
	}
	return &api.Refused{Status: http.StatusUnprocessableEntity, Text: "The plan has errors; nothing was changed. With -refresh=false the providers are not asked.\n  " + strings.Join(lines, "\n  ")}
}

// stale says what has moved since a plan was agreed to.
func stale(e *api.Expect, now *plan.Plan) error {
	if e == nil {
		return nil
	}
	then := plan.Plan{ID: e.Plan, Master: e.Master, Base: e.Base, Refreshed: e.Refreshed || len(e.Resolved) > 0, Resolved: e.Resolved}
	if err := then.Stale(now); err != nil {
		return &api.Refused{Status: http.StatusConflict, Text: capital(err.Error()) + ". Nothing was changed."}
	}
	return nil
}

// remember is what is stored so that a later start knows that the configuration directory, as it is now, has been dealt with.
func (m *master) remember(c change, cfg *hcl.Config) map[string]string {
	switch {
	case c.own:
		return map[string]string{dirKey: digestOf(cfg)}
	case c.old: // the directory is as it was when somebody dealt with it
	case c.dir == m.o.ConfigDir: // as this master would read it, whatever variables the order came with
		if own, diags := hcl.Load(m.o.ConfigDir, m.o.Hcl); !diags.HasErrors() {
			return map[string]string{dirKey: digestOf(own)}
		}
	}
	return nil
}

// note stores small facts by themselves.
func (m *master) note(ctx context.Context, meta map[string]string) error {
	if len(meta) == 0 {
		return nil
	}
	return m.engine.Save(ctx, store.Tx{Meta: meta})
}

// leave lets instances end whose definition is the same, but which were made from something that has moved since. Those with another definition the core
// finds by itself. It is no part of the transaction: after a crash the next plan shows them again.
func (m *master) leave(ctx context.Context, p *plan.Plan, old, cfg *hcl.Config) {
	type made struct{ spec, provider string }
	before := map[string]made{}
	if old != nil {
		for i := range old.Workers {
			w := &old.Workers[i]
			before[w.Name] = made{w.Spec, w.Provider}
		}
	}
	same := map[string]bool{}
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		same[w.Name] = before[w.Name] == made{w.Spec, w.Provider}
	}
	for _, in := range p.Instances {
		if (in.Fate == plan.ReplaceWhenIdle || in.Fate == plan.ReplaceAfterWork) && same[in.Worker] {
			if err := m.engine.Do(ctx, core.LeaveAsked{Worker: in.Worker, Reason: in.Reason, Instance: model.InstanceKey(in.Key)}); err != nil {
				m.log.Error("master: an instance is not replaced now; the next plan shows it again", "instance", in.Key, "err", err)
				return
			}
		}
	}
}

// reload reads the configuration directory again, because of a signal. A broken one changes nothing.
func (m *master) reload(ctx context.Context) {
	t, err := m.begin(ctx, true)
	if err != nil {
		return
	}
	defer m.end()
	out, _, err := m.change(ctx, t, change{from: "reload", by: userName(os.Getuid()), reason: "SIGHUP", dir: m.o.ConfigDir, read: m.read, own: true})
	switch {
	case err != nil:
		m.log.Error("master: the configuration is not applied; the old one stays in force", "err", err)
	case !out.Changed:
		m.log.Info("master: the configuration has not changed", "generation", out.Generation)
	default:
		m.lookAgain()
	}
}

// userName is who a local user is, for people.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}
