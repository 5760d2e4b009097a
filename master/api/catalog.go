package api

import (
	"github.com/rouse-ci/rouse/hcl"
)

// CatalogOf takes from a configuration what the API must know of it.
func CatalogOf(cfg *hcl.Config) *Catalog {
	c := &Catalog{Builders: []Builder{}, Schedulers: []Scheduler{}}
	for i := range cfg.Workers {
		if w := &cfg.Workers[i]; w.Pool != "" {
			if c.Pools == nil {
				c.Pools = map[string]string{}
			}
			c.Pools[w.Name] = w.Pool
		}
	}
	for _, b := range cfg.Builders {
		c.Builders = append(c.Builders, Builder{Name: b.Name, Description: b.Description, Workers: b.Workers})
	}
	for _, s := range cfg.Schedulers {
		c.Schedulers = append(c.Schedulers, Scheduler{Name: s.Name, Kind: s.Kind, Builders: s.Builders, Priority: s.Priority, Properties: s.Properties,
			Every: s.Every.Seconds(), Cron: s.Cron, Zone: s.Zone})
	}
	return c
}
