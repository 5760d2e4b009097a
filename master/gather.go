package master

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/providers"
)

const (
	gatherCalls   = 8                // of one provider at once, beside the engine's own
	gatherTimeout = 2 * time.Minute  // of all questions together
	openTimeout   = 30 * time.Second // of one provider's Open
	lateCall      = time.Second      // how long after its deadline a call may take to return
)

// survey is what the providers said.
type survey struct {
	mu       sync.Mutex
	seen     map[string]plan.Seen
	resolved map[string][]providers.Resolved // by worker
	prices   map[string]providers.Price      // by digest of the spec
	findings []plan.Finding
}

// survey asks the providers, at the same time, what they hold, what the moving parts of the specs stand for, what is wrong and what it costs. It changes nothing
// there. Each call has a deadline, and one that does not return is left behind. live are the handles whose instances are listed although cfg does not name them.
func (h *house) survey(ctx context.Context, cfg *hcl.Config, opened map[string]engine.Opened, live map[string]int) *survey {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	s := &survey{seen: map[string]plan.Seen{}, resolved: map[string][]providers.Resolved{}, prices: map[string]providers.Price{}}
	handles := h.handles(cfg.Providers)
	specs := specsOf(cfg)
	var all sync.WaitGroup
	for handle, o := range opened {
		name := model.ProviderName(handle)
		configured := handles[name] == handle
		if !configured && live[handle] == 0 {
			continue
		}
		all.Go(func() {
			g := new(errgroup.Group)
			g.SetLimit(gatherCalls)
			if h.owner != "" {
				g.Go(func() error { s.list(ctx, h.owner, name, o, !configured); return nil })
			}
			if configured {
				s.ask(ctx, g, name, o, specs[name])
			}
			_ = g.Wait() // what fails is noted where it belongs
		})
	}
	all.Wait()
	s.once()
	slices.SortStableFunc(s.findings, func(a, b plan.Finding) int {
		if a.Provider != b.Provider {
			return strings.Compare(a.Provider, b.Provider)
		}
		return a.Spec - b.Spec
	})
	return s
}

const unresolved = "What the instance would be made from is not known"

// once leaves out that a spec could not be resolved where the provider's own preflight has found why: it knows the attribute.
func (s *survey) once() {
	explained := map[string]bool{}
	for _, f := range s.findings {
		explained[f.Provider] = explained[f.Provider] || f.Fatal && f.Summary != unresolved
	}
	s.findings = slices.DeleteFunc(s.findings, func(f plan.Finding) bool { return f.Summary == unresolved && explained[f.Provider] })
}

// pool is all workers of one provider with the same spec: what is asked is asked once.
type pool struct {
	workers []string
	digest  string
	spec    any
	priced  bool // all have a price of their own
}

func specsOf(cfg *hcl.Config) map[string][]*pool {
	by := map[string]*pool{}
	out := map[string][]*pool{}
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		if w.Provider == "" {
			continue
		}
		key := w.Provider + "\x00" + w.Spec
		p := by[key]
		if p == nil {
			p = &pool{digest: w.Spec, spec: w.Instance, priced: true}
			by[key] = p
			out[w.Provider] = append(out[w.Provider], p)
		}
		p.workers = append(p.workers, w.Name)
		p.priced = p.priced && w.Price > 0
	}
	return out
}

func (s *survey) list(ctx context.Context, owner providers.Owner, name string, o engine.Opened, left bool) {
	list, err := within(ctx, o.Limits.CallTimeout, func(ctx context.Context) ([]providers.Instance, error) { return o.Provider.List(ctx, owner) })
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen[name] // of another place of the same block, perhaps: together they are all that it has
	seen.Instances, seen.Err = append(seen.Instances, list...), errors.Join(seen.Err, err)
	for i := range list {
		if !left {
			break
		}
		if seen.Left == nil {
			seen.Left = map[string]bool{}
		}
		seen.Left[string(list[i].Key)] = true
	}
	s.seen[name] = seen
}

func (s *survey) ask(ctx context.Context, g *errgroup.Group, name string, o engine.Opened, pools []*pool) {
	if c, ok := o.Provider.(providers.Checker); ok && len(pools) > 0 {
		g.Go(func() error { s.check(ctx, name, o, c, pools); return nil })
	}
	for _, p := range pools {
		if r, ok := o.Provider.(providers.Resolver); ok {
			g.Go(func() error { s.resolve(ctx, name, o, r, p); return nil })
		}
		if r, ok := o.Provider.(providers.Pricer); ok && !p.priced {
			g.Go(func() error { s.price(ctx, o, r, p); return nil })
		}
	}
}

func (s *survey) check(ctx context.Context, name string, o engine.Opened, c providers.Checker, pools []*pool) {
	specs := make([]any, len(pools))
	for i, p := range pools {
		specs[i] = p.spec
	}
	found, err := within(ctx, 2*o.Limits.CallTimeout, func(ctx context.Context) ([]providers.Finding, error) { return c.Check(ctx, specs), nil })
	if err != nil {
		found = []providers.Finding{{Spec: -1, Summary: "The preflight did not end", Detail: err.Error()}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range found {
		one := plan.Finding{Provider: name, Finding: f}
		if f.Spec >= 0 && f.Spec < len(pools) {
			one.Worker = pools[f.Spec].workers[0]
		}
		s.findings = append(s.findings, one)
	}
}

func (s *survey) resolve(ctx context.Context, name string, o engine.Opened, r providers.Resolver, p *pool) {
	parts, err := within(ctx, o.Limits.CallTimeout, func(ctx context.Context) ([]providers.Resolved, error) { return r.Resolve(ctx, p.spec) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.findings = append(s.findings, plan.Finding{Provider: name, Worker: p.workers[0], Finding: providers.Finding{
			Fatal: providers.ClassOf(err) == providers.BadConfig, Summary: unresolved, Detail: err.Error()}})
		return
	}
	for _, w := range p.workers {
		s.resolved[w] = parts
	}
}

func (s *survey) price(ctx context.Context, o engine.Opened, r providers.Pricer, p *pool) {
	price, err := within(ctx, o.Limits.CallTimeout, func(ctx context.Context) (providers.Price, error) { return r.Price(ctx, p.spec) })
	if err != nil {
		return // it counts as unpriced, which the plan says
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prices[p.digest] = price
}

// within makes one call of a provider. It returns soon after the deadline, whether or not the provider heeds it, and survives its panic.
func within[T any](ctx context.Context, limit time.Duration, f func(ctx context.Context) (T, error)) (T, error) {
	if limit <= 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	c := make(chan result, 1)
	go func() { // not waited for when it is late: it may never return
		var r result
		defer func() {
			if v := recover(); v != nil {
				r.err = fmt.Errorf("internal error: %v", v)
			}
			c <- r
		}()
		r.v, r.err = f(ctx)
	}()
	select {
	case r := <-c:
		return r.v, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(lateCall)
	defer late.Stop()
	select {
	case r := <-c:
		return r.v, r.err
	case <-late.C:
		return *new(T), fmt.Errorf("no answer within %s: %w", limit, ctx.Err())
	}
}

// openNew opens the providers of a configuration that are new or changed since old (nil: all), one after the other. Those that cannot be opened are findings and errors. With
// readOnly they are good for being asked, and for nothing else.
func (h *house) openNew(ctx context.Context, cfg *hcl.Config, old *hcl.Config, readOnly bool) (map[string]engine.Opened, []plan.Finding, error) {
	set := map[string]engine.Opened{}
	var findings []plan.Finding
	var errs []error
	for i := range cfg.Providers {
		b := &cfg.Providers[i]
		if old != nil && h.same(b, old.Providers) {
			continue
		}
		o, err := h.openWithin(ctx, b, readOnly)
		if err != nil {
			errs = append(errs, err)
			findings = append(findings, plan.Finding{Provider: b.Name, Finding: providers.Finding{Fatal: true, Spec: -1, Summary: "The provider cannot be opened", Detail: err.Error()}})
			continue
		}
		set[h.handle(b)] = o
	}
	return set, findings, errors.Join(errs...)
}

// openWithin is open with a deadline. What comes after it is closed again.
func (h *house) openWithin(ctx context.Context, b *hcl.Provider, readOnly bool) (engine.Opened, error) {
	return within(ctx, openTimeout, func(ctx context.Context) (engine.Opened, error) {
		o, err := h.open(ctx, b, readOnly)
		if err == nil && ctx.Err() != nil { // nobody waits for it any more
			return o, errors.Join(ctx.Err(), o.Provider.Close())
		}
		return o, err
	})
}

// closeAll closes providers that were opened and are not used.
func closeAll(set map[string]engine.Opened) error {
	var errs []error
	for _, o := range set {
		errs = append(errs, o.Provider.Close())
	}
	return errors.Join(errs...)
}

// priceOf gives each worker of a configuration its price.
func priceOf(cfg *hcl.Config, known map[string]providers.Price) map[string]providers.Price {
	out := map[string]providers.Price{}
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		if p, ok := known[w.Spec]; ok && w.Provider != "" {
			out[w.Name] = p
		}
	}
	return out
}
