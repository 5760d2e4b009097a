package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// limits: a clone is milliseconds if it is an overlay and minutes if it is a whole copy.
var limits = providers.Limits{
	CreateTimeout: 5 * time.Minute, CallTimeout: time.Minute, Settle: 5 * time.Second, Concurrency: 16,
	SweepInterval: time.Minute, CheckInterval: time.Second, DestroyBackoff: 500 * time.Millisecond,
}

// provider is one provider block in force.
type provider struct {
	cfg   Config
	owner providers.Owner
	log   *slog.Logger

	readOnly bool // of Env

	hosts   []*host
	records *records
	console *consoles

	templates templates
	watchers  watchers

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	ends   map[string]string           // by domain: why its machine stopped, from events
	placed map[providers.Key]placement // creates that are under way, which have taken room already
}

// placement is room that an instance takes.
type placement struct {
	host   string
	vcpus  int
	memory int64
}

// Open implements providers.Kind. It dials nobody: a host that is down is a host that is down, not a failed start.
func (Kind) Open(_ context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	p, err := open(env, dial)
	if err != nil {
		return nil, providers.Limits{}, err
	}
	return p, limits, nil
}

func open(env providers.Env, dial dialer) (*provider, error) {
	cfg, ok := env.Config.(Config)
	if !ok {
		return nil, providers.Errorf(providers.BadConfig, "open", "the configuration is a %T, not one of libvirt's", env.Config)
	}
	rec, err := openRecords(filepath.Join(env.StateDir, "instances"), env.ReadOnly)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(env.StateDir, "consoles")
	if !env.ReadOnly {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of consoles: %w", err)
		}
	}
	p := &provider{cfg: cfg, owner: env.Owner, log: env.Log, readOnly: env.ReadOnly, records: rec, ends: map[string]string{}, placed: map[providers.Key]placement{},
		console:   &consoles{dir: dir, live: map[providers.Key]*follower{}, broke: map[providers.Key]time.Time{}},
		templates: templates{all: map[string]*memory{}, wanted: map[string]want{}, told: map[providers.Key]bool{}, since: time.Now()}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, h := range cfg.Hosts {
		p.hosts = append(p.hosts, &host{Host: h, dial: dial, event: p.observed, changed: p.connected, log: env.Log})
	}
	return p, nil
}

// Close implements providers.Provider. Guests go on.
func (p *provider) Close() error {
	p.cancel()
	p.work.Wait()
	var all sync.WaitGroup
	for _, h := range p.hosts { // one that hangs is waited for until its connection counts as broken
		all.Go(h.close)
	}
	all.Wait()
	return nil
}

// observed takes in what a host says of its domains.
func (p *provider) observed(e event) {
	if e.Gone {
		p.mu.Lock()
		if len(p.ends) > 10_000 {
			clear(p.ends) // only why somebody ended is forgotten
		}
		p.ends[e.Name] = e.What
		p.mu.Unlock()
	}
	p.heard(e.Name)
}

func (p *provider) endOf(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ends[name]
}

func (p *provider) hostNamed(name string) *host {
	for _, h := range p.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// hostOf is the host that a record names, or nil.
func (p *provider) hostOf(rec record) *host {
	if rec.URI == "" {
		return p.hostNamed(rec.Host)
	}
	for _, h := range p.hosts {
		if h.URI == rec.URI {
			return h
		}
	}
	return nil
}

// found is where an instance is, and what is there of it.
type found struct {
	host    *host
	link    link
	domain  *domain // nil: its machine has ended
	volumes []volume
	foreign bool // the domain of its name is somebody else's
}

// find looks for an instance: on the host that its record names, or else where the caller has placed it, or else on all. An error means that somebody could
// not be asked, so that absence would prove nothing.
func (p *provider) find(ctx context.Context, op string, key providers.Key, place string) (*found, error) {
	hosts := p.hosts
	rec, known := p.records.load(key)
	if h := p.hostOf(rec); known && h != nil {
		hosts = []*host{h}
	} else if h := p.hostNamed(place); h != nil {
		hosts = []*host{h}
	}
	for _, h := range hosts {
		f, err := p.findOn(ctx, h, key, rec, op == "destroy")
		if err != nil {
			return nil, classify(op, h.Name, err)
		}
		if f != nil {
			return f, nil
		}
	}
	return nil, nil
}

// findOn looks on one host: for the domain and, where there is none or all of it is wanted, for the volumes.
func (p *provider) findOn(ctx context.Context, h *host, key providers.Key, rec record, all bool) (*found, error) {
	l, err := h.link(ctx)
	if err != nil {
		return nil, err
	}
	f, pool := &found{host: h, link: l}, rec.Pool
	d, err := l.Domain(ctx, domainName(key))
	switch {
	case err == nil:
		f.domain = &d
		f.foreign = d.Tags == nil || d.Tags.Owner != p.owner || d.Tags.Key != key
		if d.Tags != nil && d.Tags.Pool != "" {
			pool = d.Tags.Pool
		}
	case kindOf(err) != noDomain:
		return nil, err
	}
	if f.domain != nil && !all {
		return f, nil
	}
	if pool == "" {
		pool = p.cfg.Pool
	}
	f.volumes, err = p.volumesOf(ctx, l, pool, key, rec.NVRAM)
	if err != nil && kindOf(err) == noPool && rec.Dir != "" { // a pool that we made is forgotten when its host starts anew; its files are not
		if pool, err = l.PoolOf(ctx, rec.Dir, !p.readOnly); err == nil {
			f.volumes, err = p.volumesOf(ctx, l, pool, key, false) // it is new, and knows all
		}
	}
	if err != nil && kindOf(err) != noPool { // a pool that is not there holds nothing
		return nil, err
	}
	if f.domain == nil && len(f.volumes) == 0 {
		return nil, nil
	}
	return f, nil
}

// volumesOf returns what a pool holds of an instance; with beside, also what the hypervisor has made there.
func (p *provider) volumesOf(ctx context.Context, l link, pool string, key providers.Key, beside bool) ([]volume, error) {
	if beside {
		if err := l.Refresh(ctx, pool); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, suffix := range suffixes {
		names = append(names, volumeName(p.owner, key, suffix))
	}
	return l.VolumesNamed(ctx, pool, names)
}

// Get implements providers.Provider.
func (p *provider) Get(ctx context.Context, key providers.Key) (providers.Instance, error) {
	if !key.Valid() {
		return providers.Instance{}, providers.Errorf(providers.NotFound, "get", "%q is no key", key)
	}
	f, err := p.find(ctx, "get", key, "")
	if err != nil {
		return providers.Instance{}, err
	}
	if f == nil || f.foreign {
		return providers.Instance{}, providers.Errorf(providers.NotFound, "get", "no domain and no volume of %s", key)
	}
	return p.seen(ctx, key, f), nil
}

// seen takes up what an earlier life of this master may have left undone for an instance, and describes it.
func (p *provider) seen(ctx context.Context, key providers.Key, f *found) providers.Instance {
	if f.domain != nil && f.domain.Power == powerOn && !p.readOnly {
		p.orderAgain(ctx, f.link, f.domain)
		p.console.follow(p, key, f.link)
	}
	return p.instance(key, f.host, f.domain)
}

// instance describes what is there of an instance. Without a domain its machine has ended, and only its volumes are left.
func (p *provider) instance(key providers.Key, h *host, d *domain) providers.Instance {
	in := providers.Instance{Key: key, ID: domainName(key), State: providers.Failed, Place: h.Name, Facts: map[string]string{"host": h.Name}}
	if rec, ok := p.records.load(key); ok {
		in.CreatedAt, in.Worker = rec.At, rec.Worker
		if rec.Ended {
			in.State = providers.Stopping
		}
	}
	if d == nil {
		in.Detail = "its machine is not there any more"
		if why := p.endOf(domainName(key)); why != "" {
			in.Detail = "its machine has " + why
		}
		return in
	}
	in.CreatedAt, in.Worker = d.Tags.createdAt(), d.Tags.Worker
	in.Facts["image"], in.Facts["uuid"] = d.Tags.Image, d.UUID
	in.Detail = d.Power.String() + " on " + h.Name
	switch d.Power {
	case powerOn, powerPaused:
		if in.State != providers.Stopping {
			in.State = providers.Running
		}
	case powerStopping:
		in.State = providers.Stopping
	default:
		in.State, in.Detail = providers.Failed, d.Power.String()+" ("+d.Why+") on "+h.Name
	}
	return in
}

// List implements providers.Provider: the owner's domains, and the volumes of those whose domain has gone.
func (p *provider) List(ctx context.Context, owner providers.Owner) ([]providers.Instance, error) {
	if owner != p.owner {
		return nil, nil
	}
	var all []providers.Instance
	for _, h := range p.hosts {
		l, err := h.link(ctx)
		if err != nil {
			return nil, classify("list", h.Name, err)
		}
		domains, err := l.Domains(ctx)
		if err != nil {
			return nil, classify("list", h.Name, err)
		}
		seen := map[providers.Key]bool{}
		pools := map[string]bool{p.cfg.Pool: true}
		for i := range domains {
			if t := domains[i].Tags; t != nil && t.Owner == owner && domains[i].Name == domainName(t.Key) && !p.making(h, t.Key) {
				seen[t.Key] = true
				pools[t.Pool] = true
				if !p.isTemplate(t.Key) {
					p.seen(ctx, t.Key, &found{host: h, link: l, domain: &domains[i]})
				}
				all = append(all, p.instance(t.Key, h, &domains[i]))
			}
		}
		for _, pool := range p.records.pools() {
			pools[pool] = true
		}
		for pool := range pools {
			if pool == "" {
				continue
			}
			volumes, err := l.Volumes(ctx, pool)
			if err != nil && kindOf(err) != noPool {
				return nil, classify("list", h.Name, err)
			}
			if !p.readOnly {
				p.tidyTemplates(ctx, h, l, volumes)
			}
			for _, v := range volumes {
				if key, ok := keyOfVolume(owner, v.Name); ok && !seen[key] {
					seen[key] = true
					all = append(all, p.instance(key, h, nil))
				}
			}
		}
	}
	if !p.readOnly {
		p.records.tidy()
		p.console.tidy()
	}
	return all, nil
}

// Destroy implements providers.Provider. The machine goes first, its volumes after it; the caller repeats until nothing is there.
func (p *provider) Destroy(ctx context.Context, key providers.Key) error {
	if !key.Valid() {
		return providers.Errorf(providers.NotFound, "destroy", "%q is no key", key)
	}
	unlock, err := keys.lock(ctx, p.records.file(key))
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.records.askedAgain(key); err != nil {
		return providers.Errorf(providers.Transient, "destroy", "remember that the end of %s is asked for: %w", key, err)
	}
	f, err := p.find(ctx, "destroy", key, "")
	if err != nil {
		return err
	}
	if f != nil && f.foreign { // it is left alone; volumes of ours may be there beside it
		if f.domain = nil; len(f.volumes) == 0 {
			return providers.Errorf(providers.NotFound, "destroy", "the domain %s is not ours", domainName(key))
		}
	}
	if err := p.records.end(key); err != nil { // before anything is done: no create may follow
		return providers.Errorf(providers.Transient, "destroy", "remember the end of %s: %w", key, err)
	}
	p.release(key)
	p.templates.forget(key)
	if f == nil {
		return providers.Errorf(providers.NotFound, "destroy", "no domain and no volume of %s", key)
	}
	if f.domain != nil {
		if graceful := time.Duration(f.domain.Tags.Graceful) * time.Second; graceful > 0 && f.domain.Power == powerOn {
			if rec, _ := p.records.load(key); time.Since(rec.EndedAt) < graceful {
				if err := f.link.Shutdown(ctx, f.domain.Name); err == nil {
					return nil // asked; the next call looks again
				}
			}
		}
		if err := f.link.Destroy(ctx, f.domain.Name); err != nil {
			return classify("destroy", f.host.Name, err)
		}
	}
	for _, v := range f.volumes {
		if err := f.link.DeleteVolume(ctx, v.Pool, v.Name); err != nil {
			return classify("destroy", f.host.Name, err)
		}
	}
	return nil
}
