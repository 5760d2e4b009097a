package build

import (
	"context"
	"errors"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

func TestACatalogKeepsTheLastGenerationsAndReadsOthersAgain(t *testing.T) {
	t.Parallel()
	read := 0
	older := &hcl.Config{}
	c := NewCatalog(func(_ context.Context, gen model.Generation) (*hcl.Config, error) {
		if read++; gen != 1 {
			return nil, errors.New("it is there")
		}
		return older, nil
	})
	cfgs := map[model.Generation]*hcl.Config{}
	for gen := model.Generation(1); gen <= maxGenerations+1; gen++ {
		cfgs[gen] = &hcl.Config{}
		c.Put(gen, cfgs[gen])
	}
	again := &hcl.Config{}
	c.Put(maxGenerations+1, again) // the same one, after it could not be put into force
	kept := c.Kept()
	if len(kept) != maxGenerations || kept[0] != again || kept[1] != cfgs[maxGenerations] || kept[maxGenerations-1] != cfgs[2] {
		t.Errorf("%d are kept", len(kept))
	}
	if cfg, err := c.Config(t.Context(), 2); err != nil || cfg != cfgs[2] || read > 0 {
		t.Error(err, read)
	}
	for range 2 {
		if cfg, err := c.Config(t.Context(), 1); err != nil || cfg != older || read != 1 {
			t.Error(err, read)
		}
	}
}
