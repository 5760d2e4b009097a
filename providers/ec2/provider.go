package ec2

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// provider is one account and region.
type provider struct {
	*chooser // images and prices
	providers.Limit
	api    *api
	cfg    Config
	owner  providers.Owner
	region string
	log    *slog.Logger

	journal  journal
	memory   memory
	refusals refusals
	poll     *poller
	looks    *batcher[[]seen]                  // by key
	ends     *batcher[types.InstanceStateName] // terminations, by instance

	base context.Context // of everything that outlives a call; ends with stop
	stop context.CancelFunc
	work sync.WaitGroup
}

var errClosed = errors.New("the provider is closed")

// Open implements providers.Kind. It makes no call: what is wrong with region or credentials shows in the first one, or in Check.
func (Kind) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	cfg, ok := env.Config.(Config)
	if !ok {
		return nil, providers.Limits{}, providers.Errorf(providers.BadConfig, "open", "the configuration is a %T, not one of ec2's", env.Config)
	}
	c, region, err := connect(ctx, cfg, env.Log)
	if err != nil {
		return nil, providers.Limits{}, &providers.Error{Class: providers.BadConfig, Op: "open", Err: err}
	}
	p, err := open(env, cfg, region, newAPI(newGovernor(cfg.RateFactor), c))
	if err != nil {
		return nil, providers.Limits{}, err
	}
	return p, cfg.limits(), nil
}

// open makes a provider of an api, which tests fake.
func open(env providers.Env, cfg Config, region string, a *api) (*provider, error) {
	dir := filepath.Join(env.StateDir, "launches")
	if !env.ReadOnly {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, &providers.Error{Class: providers.BadConfig, Op: "open", Err: err}
		}
	}
	p := &provider{
		chooser: newChooser(a, cfg, region, env.Owner, env.Log), Limit: providers.Limit(cfg.MaxInstances), api: a, cfg: cfg, owner: env.Owner, region: region, log: env.Log, journal: journal{dir},
	}
	p.base, p.stop = context.WithCancel(context.Background())
	p.poll = newPoller(p.base, &p.work, cfg.PollInterval, 2*cfg.CallTimeout, func(ctx context.Context) ([]seen, error) { return p.describeOwner(inHaste(ctx), p.owner) })
	p.looks = &batcher[[]seen]{window: lookWindow, size: 100, deadline: cfg.CallTimeout, base: p.base, work: &p.work, run: p.lookupKeys}
	p.ends = &batcher[types.InstanceStateName]{window: endWindow, size: 100, deadline: cfg.CallTimeout, base: p.base, work: &p.work, run: p.terminateBatch}
	if env.ReadOnly {
		return p, nil
	}
	unfinished, err := p.journal.all(time.Now())
	if err != nil {
		p.stop()
		return nil, &providers.Error{Class: providers.BadConfig, Op: "open", Err: err}
	}
	p.work.Go(func() {
		for sleep(p.base, time.Hour) {
			if _, err := p.journal.all(time.Now()); err != nil { // it removes what is old
				p.log.Warn("old launches are not forgotten", "error", err)
			}
		}
	})
	for _, r := range unfinished {
		if r.Care && r.ID != "" && time.Since(r.Launched) < careFor {
			p.work.Go(func() { p.care(*r) })
		}
	}
	return p, nil
}

const (
	lookWindow = 5 * time.Millisecond  // a launch waits for it
	endWindow  = 50 * time.Millisecond // nobody waits for the end
)

// limits: a create waits for its turn among up to some hundred others (EC2 lets two instances start per second), and tries several choices.
func (c Config) limits() providers.Limits {
	return providers.Limits{
		CreateTimeout:  5 * time.Minute,
		CallTimeout:    2 * c.CallTimeout,
		Settle:         c.Settle,
		Concurrency:    512,
		SweepInterval:  time.Minute,
		CheckInterval:  10 * time.Second,
		DestroyBackoff: 2 * time.Second,
		Interruptible:  true,
	}
}

// Get implements providers.Provider. All Gets of an account share one poll.
func (p *provider) Get(ctx context.Context, key providers.Key) (providers.Instance, error) {
	s, err := p.find(ctx, "get", key)
	if err != nil {
		return providers.Instance{}, err
	}
	return p.show(s), nil
}

// find looks for one instance.
func (p *provider) find(ctx context.Context, op string, key providers.Key) (seen, error) {
	if !key.Valid() {
		return seen{}, providers.Errorf(providers.NotFound, op, "the key %.140q is malformed", string(key))
	}
	list, err := p.sweep(ctx)
	if err != nil {
		return seen{}, fail(op, err, "look for the instance")
	}
	for _, s := range list {
		if s.Key == key {
			return s, nil
		}
	}
	if r, err := p.journal.load(key); err == nil && r != nil && r.ID != "" && time.Since(r.Launched) < p.cfg.Settle && !p.journal.doomed(key) {
		return p.recorded(r), nil // launched by a process before this one, and not listed yet
	}
	return seen{}, providers.Errorf(providers.NotFound, op, "no instance %q", string(key))
}

// sweep is the common poll, made whole with what this process knows.
func (p *provider) sweep(ctx context.Context) ([]seen, error) {
	list, err := p.poll.fresh(ctx)
	if err != nil {
		return nil, err
	}
	p.health(list)
	return p.memory.merge(list, time.Now(), p.cfg.Settle), nil
}

// List implements providers.Provider.
func (p *provider) List(ctx context.Context, owner providers.Owner) ([]providers.Instance, error) {
	var list []seen
	var err error
	if owner == p.owner {
		list, err = p.sweep(ctx)
	} else {
		list, err = p.describeOwner(inHaste(ctx), owner)
	}
	if err != nil {
		return nil, fail("list", err, "list instances")
	}
	all := make([]providers.Instance, 0, len(list))
	for _, s := range list {
		all = append(all, p.show(s))
	}
	return all, nil
}

// show is what the contract says of an instance. Its end is a failure if this master has launched it and did not order its end.
func (p *provider) show(s seen) providers.Instance {
	k, _ := p.memory.find(s.Key)
	unexpected := false
	if s.leaving() && s.Owner == string(p.owner) && k.asked.IsZero() && !p.journal.doomed(s.Key) {
		r, err := p.journal.load(s.Key)
		unexpected = err == nil && r != nil
	}
	in := s.instance(unexpected, p.memory.notes(s))
	in.Place = p.Limit.Place()
	return in
}

// Interrupted implements providers.Interruptee: where spot instances are taken back again and again, none is launched for a while. Others are never taken back,
// whatever an agent has heard.
func (p *provider) Interrupted(key providers.Key) {
	if !key.Valid() {
		return
	}
	if r, err := p.journal.load(key); err == nil && r != nil && r.ID != "" && r.Choice.Market == spot {
		p.refusals.interrupted(r.Choice, time.Now())
	}
}

// recorded is an instance that only its record knows.
func (p *provider) recorded(r *record) seen {
	return seen{
		ID: r.ID, Key: r.Key, Worker: r.Worker, Owner: string(p.owner), State: types.InstanceStateNamePending, Launched: r.Launched,
		Type: r.Choice.Type, Zone: r.Choice.Zone, Image: r.Choice.Image, Spot: r.Choice.Market == spot,
	}
}

// fresh is what Create says of an instance that was launched a short while ago and is not listed yet.
func (p *provider) fresh(r *record) providers.Instance { return p.show(p.recorded(r)) }

// remains is what Create says of a key whose end was ordered.
func (p *provider) remains(key providers.Key, worker string) providers.Instance {
	in := providers.Instance{Key: key, Worker: worker, State: providers.Gone, Detail: "its end was ordered"}
	if k, ok := p.memory.find(key); ok && k.seen.ID != "" {
		in.ID, in.CreatedAt = k.seen.ID, k.seen.Launched
		if !k.seen.over() {
			in.State = providers.Stopping
		}
	}
	return in
}

// Close implements providers.Provider.
func (p *provider) Close() error {
	p.stop()
	p.work.Wait()
	return nil
}

// maxConsole is how much of a console the contract wants.
const maxConsole = 64 << 10

// consoleText is the end of what EC2 gives in base64.
func consoleText(text string) ([]byte, error) {
	out, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, providers.Errorf(providers.Unknown, "console", "read the console: %w", fmt.Errorf("it is not base64: %w", err))
	}
	return out[max(0, len(out)-maxConsole):], nil
}
