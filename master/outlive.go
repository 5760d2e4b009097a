package master

import (
	"context"
	"fmt"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
)

// An instance may outlive the block of the provider that made it. What is left of such a block is here: as long as it has instances, somebody
// must be able to end them.

// lookBack bounds how many older configurations are searched for a provider's block.
const lookBack = 50

// outlived finds the blocks of providers that are configured no more but have instances, which an earlier master made.
func (m *master) outlived(ctx context.Context, first *loaded, live []core.Instance) []hcl.Provider {
	missing := providersOf(live)
	for name := range kindsOf(first.cfg.Providers) {
		delete(missing, name)
	}
	var found []hcl.Provider
	for gen := first.gen - 1; len(missing) > 0 && gen > 0 && gen >= first.gen-lookBack; gen-- {
		old, err := m.loadGeneration(ctx, gen)
		if err != nil {
			m.log.Warn("master: cannot look for a provider in an older configuration", "generation", gen, "err", err)
			continue
		}
		for _, b := range old.Providers {
			if missing[b.Name] > 0 {
				m.log.Info("master: a provider is no longer configured but has instances; it is used to end them", "provider", b.Name, "instances", missing[b.Name])
				found = append(found, b)
				delete(missing, b.Name)
			}
		}
	}
	for name, n := range missing {
		m.log.Error("master: nobody can end these instances: their provider is in no configuration", "provider", name, "instances", n)
	}
	return found
}

// mayReplace refuses what keepsKinds refuses, of the providers that this process has opened.
func (m *master) mayReplace(ctx context.Context, cfg *hcl.Config) error {
	sn, err := m.engine.Snapshot(ctx)
	if err != nil {
		return err
	}
	inUse := map[string]int{}
	for i := range sn.Instances {
		inUse[sn.Instances[i].Instance.Provider]++
	}
	return keepsKinds(cfg, m.kinds, inUse)
}

// keepsKinds refuses a configuration that gives the name of a provider with instances to one of another kind: it would not find them, would
// take that for proof that they are gone, and nobody would end them.
func keepsKinds(cfg *hcl.Config, before map[string]string, inUse map[string]int) error {
	for _, b := range cfg.Providers {
		if was := before[b.Name]; was != "" && was != b.Kind && inUse[b.Name] > 0 {
			return fmt.Errorf("provider %s %q was of kind %s and has %d instances, which the new one could not end: give the new one another name, or wait until they have ended",
				b.Kind, b.Name, was, inUse[b.Name])
		}
	}
	return nil
}

func kindsOf(blocks []hcl.Provider) map[string]string {
	kinds := map[string]string{}
	for _, b := range blocks {
		kinds[b.Name] = b.Kind
	}
	return kinds
}

func providersOf(live []core.Instance) map[string]int {
	n := map[string]int{}
	for i := range live {
		n[live[i].Provider]++
	}
	return n
}
