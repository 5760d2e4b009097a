package master

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

// openFirst opens the providers that a new master needs: those of its configuration, and those of instances that an earlier one made.
func (m *master) openFirst(ctx context.Context, first *loaded, live []core.Instance) error {
	set, _, err := m.house.openNew(ctx, first.cfg, nil, false)
	if err != nil {
		_ = closeAll(set)
		return err
	}
	m.opened = maps.Clone(set)
	maps.Copy(m.kinds, m.house.kindsOf(first.cfg.Providers))
	maps.Copy(m.opened, m.adopt(ctx, first.gen(), set, savedOf(live)))
	return nil
}

// start puts the first configuration into force. If it is a new one, its plan is made for the records; nobody is asked, and nothing can refuse it any more.
func (m *master) start(ctx context.Context, first *loaded) error {
	if first.snap.Summary == nil && first.snap.From == "start" {
		p := plan.Compute(plan.Input{Master: m.owner, Base: first.gen() - 1, Now: time.Now(), Old: first.old, New: first.cfg, Snapshot: shown(m.engine.Latest())})
		b, err := json.Marshal(p.Summary)
		if err != nil {
			return err
		}
		first.snap.Summary = b
	}
	if err := m.install(ctx, first, nil); err != nil {
		return err
	}
	if first.news != "" {
		m.log.Info("master: "+first.news, "directory", m.o.ConfigDir, "generation", first.gen())
	}
	return nil
}

// observe is the meter's, with providers by the names that people see.
func (m *master) observe() engine.Observe {
	o := m.o.Meter.Observe
	if op := o.Op; op != nil {
		o.Op = func(provider, kind string, class core.OpClass, took time.Duration) {
			op(model.ProviderName(provider), kind, class, took)
		}
	}
	return o
}
