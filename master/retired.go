package master

import (
	"context"
	"slices"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// A builder may be removed while its requests wait or its builds run. Within one process the core remembers how it was; after a restart it is found here,
// in the configurations of older generations.

// orphaned are the builders that a configuration has not but that have something to do, each with the oldest generation that knew it for certain.
func orphaned(cfg *hcl.Config, saved core.Saved) map[string]model.Generation {
	missing := map[string]model.Generation{}
	add := func(name string, gen model.Generation) {
		if old, ok := missing[name]; !ok || gen < old {
			missing[name] = gen
		}
	}
	for i := range saved.Requests {
		add(saved.Requests[i].Builder, saved.Requests[i].Generation)
	}
	for i := range saved.Builds {
		add(saved.Builds[i].Builder, saved.Builds[i].Generation)
	}
	if len(missing) == 0 {
		return nil
	}
	for i := range cfg.Builders {
		delete(missing, cfg.Builders[i].Name)
	}
	return missing
}

// retired finds the builders of which something is left, as they were in the last generation that had them, and the locks that they used and the
// configuration has no more. gen is the generation of cfg.
func (m *master) retired(ctx context.Context, gen model.Generation, cfg *hcl.Config, saved core.Saved) ([]core.Builder, []core.Lock) {
	r := retirement{missing: orphaned(cfg, saved), locks: map[string]bool{}}
	for _, k := range cfg.Locks {
		r.locks[k.Name] = true
	}
	for g := gen - 1; len(r.missing) > 0 && g > 0; g-- {
		if g < gen-lookBack && !r.wants(g) { // a builder's oldest request says where to find it for certain
			continue
		}
		old, err := m.loadGeneration(ctx, g)
		if err != nil {
			m.log.Warn("master: cannot look for a builder in an older configuration", "generation", g, "err", err)
			continue
		}
		for _, b := range r.take(old) {
			m.log.Info("master: a builder is no longer configured but has requests; it serves those", "builder", b, "generation", g)
		}
	}
	for name := range r.missing {
		m.log.Error("master: requests wait for a builder that is in no configuration: cancel them, or configure it", "builder", name)
	}
	return r.builders, r.lost
}

// retirement gathers what is found.
type retirement struct {
	missing  map[string]model.Generation
	locks    map[string]bool // known
	builders []core.Builder
	lost     []core.Lock
}

func (r *retirement) wants(g model.Generation) bool {
	for _, oldest := range r.missing {
		if oldest == g {
			return true
		}
	}
	return false
}

// take takes the missing builders out of a configuration, with their locks, and says which were found.
func (r *retirement) take(cfg *hcl.Config) (found []string) {
	for i := range cfg.Builders {
		b := &cfg.Builders[i]
		if _, ok := r.missing[b.Name]; !ok {
			continue
		}
		delete(r.missing, b.Name)
		found = append(found, b.Name)
		r.builders = append(r.builders, coreBuilder(b))
		for _, a := range b.Locks {
			at := slices.IndexFunc(cfg.Locks, func(k hcl.Lock) bool { return k.Name == a.Lock })
			if at >= 0 && !r.locks[a.Lock] {
				r.locks[a.Lock] = true
				r.lost = append(r.lost, coreLock(&cfg.Locks[at]))
			}
		}
	}
	return found
}

func coreBuilder(b *hcl.Builder) core.Builder {
	return core.Builder{Name: b.Name, Workers: b.Workers, Locks: accesses(b.Locks), Collapse: b.Collapse, MaxAttempts: b.MaxAttempts}
}

func coreLock(k *hcl.Lock) core.Lock {
	return core.Lock{Name: k.Name, Max: k.Max, PerWorker: k.PerWorker}
}
