package master

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
)

// An instance may outlive the block of the provider that made it, or the place that the block named. What is left of such a block is here: as long as it
// has instances, somebody must be able to end them, and only who was opened with the block of then can.

// lookBack bounds how many older configurations are searched for a provider's block.
const lookBack = 200

// adopt opens the providers of live instances that nobody can end: a configuration before gen named their handle. Those that cannot be opened now are tried
// again later (see tend); until then their instances stay in the records.
func (m *master) adopt(ctx context.Context, gen model.Generation, have map[string]engine.Opened, live map[string]int) map[string]engine.Opened {
	missing := map[string]int{}
	for handle, n := range live {
		if _, ok := have[handle]; !ok {
			missing[handle] = n
		}
	}
	found := map[string]engine.Opened{}
	if len(missing) == 0 {
		return found
	}
	list, err := m.store.Configs(ctx, lookBack)
	if err != nil {
		m.log.Error("master: cannot look for providers in older configurations", "err", err)
		return found
	}
	for _, snap := range list {
		if len(missing) == 0 {
			break
		}
		if snap.Generation > gen {
			continue
		}
		blocks, err := m.blocksOf(ctx, snap.Generation)
		if err != nil {
			m.log.Warn("master: cannot look for every provider in an older configuration", "generation", snap.Generation, "err", err)
		}
		for i := range blocks {
			b := &blocks[i]
			handle := m.house.handle(b)
			if missing[handle] == 0 {
				continue
			}
			o, err := m.house.openWithin(ctx, b, false) // a start waits for it
			if err != nil {
				m.log.Error("master: instances cannot be ended now: their provider cannot be opened as it was configured then; it is tried again",
					"provider", handle, "generation", snap.Generation, "instances", missing[handle], "err", err)
			} else {
				m.log.Info("master: a provider is no longer configured so but has instances; it is used to end them", "provider", handle,
					"generation", snap.Generation, "instances", missing[handle])
				found[handle] = o
				m.noteKind(handle, b.Kind)
			}
			delete(missing, handle)
		}
	}
	for handle, n := range missing {
		m.log.Error("master: nobody can end these instances: their provider is in no configuration", "provider", handle, "instances", n)
	}
	return found
}

// blocksOf are the providers of an older configuration. If that cannot be read any more, they are those whose blocks are whole; err says why there may be others.
func (m *master) blocksOf(ctx context.Context, gen model.Generation) ([]hcl.Provider, error) {
	cfg, err := m.loadGeneration(ctx, gen)
	if invalid := (*invalidError)(nil); errors.As(err, &invalid) {
		return invalid.cfg.SoundProviders(), err
	}
	if err != nil {
		return nil, err
	}
	return cfg.Providers, nil
}

// knownKinds says of which kind the providers of live instances were: the last configuration that named their handle says it, however long ago that was
// (within lookBack). Whether they can be opened does not matter.
func (m *master) knownKinds(ctx context.Context, live map[string]int) (map[string]string, error) {
	kinds := map[string]string{}
	if len(live) == 0 {
		return kinds, nil
	}
	list, err := m.store.Configs(ctx, lookBack)
	if err != nil {
		return nil, err
	}
	for _, snap := range list {
		if len(kinds) == len(live) {
			break
		}
		blocks, err := m.blocksOf(ctx, snap.Generation)
		if err != nil {
			m.log.Warn("master: cannot look for the kinds of all providers in an older configuration", "generation", snap.Generation, "err", err)
		}
		for handle, kind := range m.house.kindsOf(blocks) {
			if live[handle] > 0 && kinds[handle] == "" {
				kinds[handle] = kind
			}
		}
	}
	return kinds, nil
}

// stillMay is mayReplace for the moment of the change: a machine may have been asked for since the providers were. It is nil if no kind changes, so that an
// apply pays nothing for it.
func (m *master) stillMay(cfg *hcl.Config) func(*core.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for handle, kind := range m.house.kindsOf(cfg.Providers) {
		if was := m.kinds[handle]; was != "" && was != kind {
			return func(sn *core.Snapshot) error {
				if err := m.mayReplace(cfg, sn); err != nil {
					return &api.Refused{Status: http.StatusUnprocessableEntity, Text: err.Error() + ". Nothing was changed."}
				}
				return nil
			}
		}
	}
	return nil
}

// mayReplace refuses what keepsKinds refuses, of the providers that this process has opened.
func (m *master) mayReplace(cfg *hcl.Config, sn *core.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.house.keepsKinds(cfg, m.kinds, liveOf(sn))
}

// keepsKinds refuses a configuration that gives the handle of a provider with instances to one of another kind: it would not find them, would
// take that for proof that they are gone, and nobody would end them.
func (h *house) keepsKinds(cfg *hcl.Config, before map[string]string, inUse map[string]int) error {
	for i := range cfg.Providers {
		b := &cfg.Providers[i]
		handle := h.handle(b)
		if was := before[handle]; was != "" && was != b.Kind && inUse[handle] > 0 {
			return fmt.Errorf("provider %s %q was of kind %s and has %d instances, which the new one could not end: give the new one another name, or wait until they have ended",
				b.Kind, b.Name, was, inUse[handle])
		}
	}
	return nil
}

func (m *master) noteKind(handle, kind string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kinds[handle] = kind
}

// liveOf counts live instances by their provider's handle.
func liveOf(sn *core.Snapshot) map[string]int {
	n := map[string]int{}
	for i := range sn.Instances {
		n[sn.Instances[i].Instance.Provider]++
	}
	return n
}

func savedOf(live []core.Instance) map[string]int {
	n := map[string]int{}
	for i := range live {
		n[live[i].Provider]++
	}
	return n
}
