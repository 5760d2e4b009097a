package libvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// Create implements providers.Provider. The order makes it safe to repeat after a crash anywhere: first the record says on which host, then the
// volumes are made, then the domain starts with its tags. Whoever finds volumes without a domain knows that nobody uses them.
func (p *provider) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	spec, ok := req.Spec.(Spec)
	switch {
	case !req.Key.Valid():
		return providers.Instance{}, providers.Errorf(providers.BadConfig, "create", "%q is no key", req.Key)
	case !ok:
		return providers.Instance{}, providers.Errorf(providers.BadConfig, "create", "the specification is a %T, not one of libvirt's", req.Spec)
	case req.Owner != p.owner:
		return providers.Instance{}, providers.Errorf(providers.BadConfig, "create", "the owner %s is not this master", req.Owner)
	}
	unlock, err := keys.lock(ctx, p.records.file(req.Key))
	if err != nil {
		return providers.Instance{}, err
	}
	defer unlock()
	rec, err := p.records.reload(req.Key)
	if err != nil {
		return providers.Instance{}, providers.Errorf(providers.Transient, "create", "%w", err)
	}
	if rec.Ended {
		return providers.Instance{Key: req.Key, Worker: req.Worker, State: providers.Gone, Detail: "its end was asked for"}, nil
	}
	f, err := p.find(ctx, "create", req.Key, req.Place) // an earlier call may have gone through
	switch {
	case err != nil && (len(p.hosts) == 1 || rec.Host != ""):
		return providers.Instance{}, err
	case f != nil && f.foreign:
		return providers.Instance{}, providers.Errorf(providers.BadConfig, "create", "%s has a domain %s that is not ours; it is left alone", f.host.title(), f.domain.Name)
	case f != nil && f.domain != nil:
		return p.seen(ctx, req.Key, f), nil
	case f != nil: // volumes that nobody uses
		for _, v := range f.volumes {
			if err := f.link.DeleteVolume(ctx, v.Pool, v.Name); err != nil {
				return providers.Instance{}, classify("create", f.host.Name, err)
			}
		}
	}
	return p.make(ctx, req, spec, rec)
}

func (p *provider) make(ctx context.Context, req providers.CreateRequest, spec Spec, rec record) (in providers.Instance, err error) {
	h, err := p.place(ctx, req, spec, p.hostOf(rec))
	if err != nil {
		return in, err
	}
	first := rec.Host == ""
	defer func() {
		if err == nil || providers.ClassOf(err) == providers.Unknown {
			return
		}
		p.release(req.Key)
		if first { // nothing is there, and nobody will call for its end
			if dropErr := p.records.drop(req.Key); dropErr != nil {
				p.log.Warn("libvirt: forget a create that came to nothing", "instance", req.Key, "err", dropErr)
			}
		}
	}()
	l, err := h.link(ctx)
	if err != nil {
		return in, classify("create", h.Name, err)
	}
	m, err := p.materials(ctx, l, h, req.Worker, spec, true)
	if err != nil {
		return in, err
	}
	if n := p.records.users(h.Name, m.base.Path, m.base.fingerprint()); n > 0 && spec.Clone == "overlay" {
		return in, providers.Errorf(providers.BadConfig, "create",
			"the base image %s on %s has changed under %d instances whose disks depend on it: give a new version a new name, or wait until they have ended", m.base.Path, h.title(), n)
	}
	rec = record{Worker: req.Worker, Host: h.Name, URI: h.URI, Pool: m.pool, Dir: m.dir, Image: m.base.fingerprint(), NVRAM: hasVariables(m.template), At: time.Now()}
	if err := p.records.save(req.Key, rec); err != nil {
		return in, providers.Errorf(providers.Transient, "create", "remember the place of %s: %w", req.Key, err)
	}
	g := &guest{key: req.Key, spec: spec, machine: m.machine, kernel: m.kernel, initrd: m.initrd, tags: tags{
		Owner: req.Owner, Key: req.Key, Worker: req.Worker, Created: rec.At.Unix(), Pool: m.pool, Image: rec.Image, Base: m.base.Name,
		VCPUs: m.vcpus, Memory: m.memory, Graceful: int(spec.Graceful / time.Second)}}
	if req.Agent.Orphan > 0 {
		g.tags.Expiry = rec.At.Add(req.Agent.Orphan).Unix()
	}
	if g.agent, err = agentSettings(req); err != nil {
		return in, providers.Errorf(providers.BadConfig, "create", "%w", err)
	}
	if spec.Fast {
		if restored, err := p.fromMemory(ctx, l, h, g, m); err != nil {
			return in, err
		} else if restored {
			return p.started(req.Key, h, l, g), nil
		}
	}
	if err := p.volumes(ctx, l, h, g, m); err != nil {
		return in, p.undo(l, h, g, m, err)
	}
	text, err := g.define(m.template)
	if err != nil {
		return in, p.undo(l, h, g, m, providers.Errorf(providers.BadConfig, "create", "%w", err))
	}
	if err := l.Start(ctx, text); err != nil {
		if kindOf(err) == exists {
			err = fmt.Errorf("a domain %s is there already", domainName(req.Key))
		}
		return in, p.undo(l, h, g, m, classify("create", h.Name, err))
	}
	return p.started(req.Key, h, l, g), nil
}

func (p *provider) started(key providers.Key, h *host, l link, g *guest) providers.Instance {
	p.console.follow(p, key, l)
	d := domain{Name: domainName(key), UUID: uuidOf(key), Power: powerOn, Tags: &g.tags}
	return p.instance(key, h, &d)
}

// fromMemory starts an instance from a template's memory if it can. Where it cannot, nothing is left of the attempt, and the instance boots; an error
// means that something may be left, so that nothing else may be started under its name.
func (p *provider) fromMemory(ctx context.Context, l link, h *host, g *guest, m *materials) (bool, error) {
	t, err := p.memoryFor(ctx, l, h, g, m)
	if err == nil && t != nil {
		g.tags.Fast = true
		err = p.restore(ctx, l, g, m, t)
		if ctx.Err() == nil {
			p.templates.restored(t, err)
		}
		if err == nil {
			return true, nil
		}
		g.tags.Fast, g.tags.Agent = false, ""
		if left := p.scrap(l, g, m); left != nil {
			p.templates.forget(g.key) // if it runs on, the next call tells it who it is
			return false, providers.Errorf(providers.Unknown, "create", "%s: restore from memory: %w; and what is left of it: %w", h.title(), err, left)
		}
	}
	if err != nil {
		p.log.Warn("libvirt: not restored from memory; the instance boots", "instance", g.key, "host", h.Name, "err", err)
	}
	return false, ctx.Err()
}

// scrap removes a domain and its volumes, whatever has become of the caller.
func (p *provider) scrap(l link, g *guest, m *materials) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := p.pullPlug(ctx, l, g.key); err != nil {
		return err
	}
	left, err := p.volumesOf(ctx, l, m.pool, g.key, hasVariables(m.template))
	for _, v := range left {
		err = errors.Join(err, l.DeleteVolume(ctx, v.Pool, v.Name))
	}
	return err
}

// pullPlug ends the machine of a guest of ours. Somebody else's domain that has taken its name is left alone.
func (p *provider) pullPlug(ctx context.Context, l link, key providers.Key) error {
	d, err := l.Domain(ctx, domainName(key))
	switch {
	case err != nil:
		return unless(noDomain, err)
	case d.Tags == nil || d.Tags.Owner != p.owner || d.Tags.Key != key:
		return nil
	}
	return l.Destroy(ctx, d.Name)
}

// undo removes the volumes of a create that has certainly failed. Where that is not certain, they stay: the domain may run from them.
func (p *provider) undo(l link, h *host, g *guest, m *materials, err error) error {
	if providers.ClassOf(err) == providers.Unknown {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	left, lookErr := p.volumesOf(ctx, l, m.pool, g.key, hasVariables(m.template))
	for _, v := range left {
		if delErr := l.DeleteVolume(ctx, v.Pool, v.Name); delErr != nil {
			lookErr = delErr
		}
	}
	if lookErr != nil { // then the answer must not be a certain no: somebody must come back for them
		return providers.Errorf(providers.Unknown, "create", "%w; and its volumes on %s could not be removed: %w", err, h.title(), lookErr)
	}
	return err
}

// volumes makes an instance's disk, and its seed if it has one.
func (p *provider) volumes(ctx context.Context, l link, h *host, g *guest, m *materials) error {
	name := volumeName(p.owner, g.key, diskSuffix)
	if g.spec.Clone == "copy" {
		text, err := whole(name, m.base.Format, m.base.Capacity)
		if err != nil {
			return err
		}
		if err := l.CopyVolume(ctx, m.pool, text, m.base.Pool, m.base.Name); err != nil {
			return classify("create", h.Name, err)
		}
	} else {
		text, err := overlay(name, m.base)
		if err != nil {
			return err
		}
		if err := l.CreateVolume(ctx, m.pool, text); err != nil {
			return classify("create", h.Name, err)
		}
	}
	var err error
	if g.disk, err = l.Volume(ctx, m.pool, name); err != nil {
		return classify("create", h.Name, err)
	}
	g.nvram = path.Join(path.Dir(g.disk.Path), volumeName(p.owner, g.key, nvramSuffix))
	if g.spec.Identity != ByNoCloud {
		return nil
	}
	iso, err := seedImage(g)
	if err != nil {
		return providers.Errorf(providers.BadConfig, "create", "make the seed image: %w", err)
	}
	seed := volumeName(p.owner, g.key, seedSuffix)
	text, err := whole(seed, "raw", int64(len(iso)))
	if err != nil {
		return err
	}
	if err := l.CreateVolume(ctx, m.pool, text); err != nil {
		return classify("create", h.Name, err)
	}
	if err := l.Upload(ctx, m.pool, seed, bytes.NewReader(iso), int64(len(iso))); err != nil {
		return classify("create", h.Name, err)
	}
	v, err := l.Volume(ctx, m.pool, seed)
	if err != nil {
		return classify("create", h.Name, err)
	}
	g.seed = v.Path
	return nil
}

// agentSettings is the file that `rouse-worker run -config` reads.
func agentSettings(req providers.CreateRequest) ([]byte, error) {
	return json.Marshal(struct {
		Master        string `json:"master"`
		Name          string `json:"name"`
		Token         string `json:"token"`
		Instance      string `json:"instance"`
		OrphanSeconds int64  `json:"orphan_seconds,omitempty"`
		OnEnd         string `json:"on_end,omitempty"`
		CAPEM         string `json:"ca_pem,omitempty"`
	}{req.Agent.Master, req.Agent.Name, req.Agent.Token.Reveal(), string(req.Key), int64((req.Agent.Orphan + time.Second - 1) / time.Second), "poweroff", string(req.Agent.TLSRoot)})
}
