package ec2

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// provider is one account and region.
type provider struct {
	cfg    Config
	owner  providers.Owner
	region string
	api    *api
	log    *slog.Logger

	*chooser // which image, at which price; also the abilities of a plan (see images.go, pricer.go)

	base context.Context // of everything that outlives a call; ends with stop
	stop context.CancelFunc
	work sync.WaitGroup
}

// open makes a provider of an api, which tests fake.
func open(env providers.Env, cfg Config, region string, a *api) (*provider, error) {
	p := &provider{cfg: cfg, owner: env.Owner, region: region, api: a, log: env.Log, chooser: newChooser(a, cfg, region, env.Owner, env.Log)}
	p.base, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// limits: a create waits for its turn among up to some hundred others (EC2 lets two instances start per second), and tries several choices.
func (c Config) limits() providers.Limits {
	return providers.Limits{
		CreateTimeout:  5 * time.Minute,
		CallTimeout:    2 * c.CallTimeout,
		Settle:         c.Settle,
		Concurrency:    256,
		SweepInterval:  time.Minute,
		CheckInterval:  10 * time.Second,
		DestroyBackoff: 2 * time.Second,
	}
}
