package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

// Catalog finds builders in the configurations that are or were applied: a build goes on with the definition that it began with. It is safe
// for concurrent use.
type Catalog struct {
	load func(ctx context.Context, gen model.Generation) (*hcl.Config, error)

	mu   sync.Mutex
	gens map[model.Generation]*generation
}

type generation struct {
	cfg  *hcl.Config
	defs map[string]*Definition
}

// maxGenerations bounds how many configurations stay parsed.
const maxGenerations = 8

// NewCatalog returns an empty catalog. load makes the configuration of a generation that was not Put here, from the store.
func NewCatalog(load func(ctx context.Context, gen model.Generation) (*hcl.Config, error)) *Catalog {
	return &Catalog{load: load, gens: make(map[model.Generation]*generation)}
}

// Put adds a configuration that has just been applied.
func (c *Catalog) Put(gen model.Generation, cfg *hcl.Config) {
	g := &generation{cfg, definitions(cfg)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(gen, g)
}

// put makes room by dropping the oldest generation. mu is held.
func (c *Catalog) put(gen model.Generation, g *generation) {
	if c.gens[gen] == nil && len(c.gens) >= maxGenerations {
		delete(c.gens, slices.Min(slices.Collect(maps.Keys(c.gens))))
	}
	c.gens[gen] = g
}

// Builder implements Definitions.
func (c *Catalog) Builder(ctx context.Context, gen model.Generation, name string) (*Definition, error) {
	g, err := c.generation(ctx, gen)
	if err != nil {
		return nil, err
	}
	if d := g.defs[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("there is no builder %q", name)
}

// Config returns the configuration of a generation.
func (c *Catalog) Config(ctx context.Context, gen model.Generation) (*hcl.Config, error) {
	g, err := c.generation(ctx, gen)
	if err != nil {
		return nil, err
	}
	return g.cfg, nil
}

// Kept returns the configurations that are parsed, the latest first: those of the last few generations, and with them the values of variables that they were read with.
func (c *Catalog) Kept() (out []*hcl.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, gen := range slices.Backward(slices.Sorted(maps.Keys(c.gens))) {
		out = append(out, c.gens[gen].cfg)
	}
	return out
}

func (c *Catalog) generation(ctx context.Context, gen model.Generation) (*generation, error) {
	c.mu.Lock()
	g := c.gens[gen]
	c.mu.Unlock()
	if g != nil {
		return g, nil
	}
	cfg, err := c.load(ctx, gen) // two builds may load it at once, which does no harm
	if err != nil {
		return nil, err
	}
	g = &generation{cfg, definitions(cfg)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(gen, g)
	return g, nil
}

func definitions(cfg *hcl.Config) map[string]*Definition {
	env := cfg.Env()
	eval := func(ctx context.Context, st *hcl.Step, scope hcl.Scope) (*hcl.Evaluated, error) {
		ev, diags := st.EvalContext(ctx, scope, env)
		if diags.HasErrors() {
			return ev, mistakes(diags)
		}
		return ev, nil
	}
	workers := make(map[string]*hcl.Worker, len(cfg.Workers))
	for i := range cfg.Workers {
		workers[cfg.Workers[i].Name] = &cfg.Workers[i]
	}
	schedulers := make(map[string]*hcl.Scheduler, len(cfg.Schedulers))
	for i := range cfg.Schedulers {
		schedulers[cfg.Schedulers[i].Name] = &cfg.Schedulers[i]
	}
	defs := make(map[string]*Definition, len(cfg.Builders))
	for i := range cfg.Builders {
		defs[cfg.Builders[i].Name] = &Definition{Builder: &cfg.Builders[i], Workers: workers, Schedulers: schedulers, Eval: eval}
	}
	return defs
}

// mistakes makes one error of the mistakes that a step's evaluation has found, each on a line of its own.
func mistakes(diags hcl2.Diagnostics) error {
	var lines []string
	for _, d := range diags {
		if d.Severity != hcl2.DiagError {
			continue
		}
		line := d.Summary
		if d.Subject != nil {
			line = fmt.Sprintf("%s:%d: %s", d.Subject.Filename, d.Subject.Start.Line, line)
		}
		if d.Detail != "" {
			line += ": " + d.Detail
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "\n"))
}
