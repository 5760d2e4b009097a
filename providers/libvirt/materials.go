package libvirt

import (
	"context"
	"errors"
	"path"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// What an instance is made from: a template or none, a base image, a kernel, and the pools in which they are.

// materials are what a host has for an instance.
type materials struct {
	template       *libvirtxml.Domain // nil: the spec says it all
	base           volume
	pool           string // of the clone
	dir            string // of that pool, if PoolOf found it
	machine        string
	kernel, initrd string
	booted         string // fingerprints of the two, where they are volumes
	vcpus          int
	memory         int64
}

// materials finds the template, the base image and the kernel on a host. A directory in which one of them is becomes a pool if mayMake says so.
func (p *provider) materials(ctx context.Context, l link, h *host, worker string, spec Spec, mayMake bool) (*materials, error) {
	m := &materials{pool: p.cfg.Pool, machine: spec.Type, vcpus: spec.VCPUs, memory: spec.Memory}
	bad := func(format string, args ...any) error {
		return providers.Errorf(providers.BadConfig, "create", format, args...)
	}
	text := spec.XML
	basePool, baseName, baseFile := p.cfg.Pool, "", ""
	if name := spec.template(worker); name != "" {
		d, err := l.Domain(ctx, name)
		switch {
		case err != nil && kindOf(err) == noDomain:
			return nil, bad("%s has no domain %q to make guests from, and the instance block says neither xml nor base_image", h.title(), name)
		case err != nil:
			return nil, classify("create", h.Name, err)
		case d.Power != powerOff:
			return nil, bad("the domain %q of %s is a template and must be shut off; it is %s. It is left alone", name, h.title(), d.Power)
		}
		text = d.XML
	}
	if text != "" {
		d, err := parseDomain(text, spec.Disk)
		if err != nil {
			return nil, bad("the definition for worker %s: %w", worker, err)
		}
		m.template = d
		m.vcpus, m.memory = size(d)
		var pool string
		if pool, baseName, baseFile = diskSource(d, spec.Disk); pool != "" {
			basePool = pool
		}
	}
	if image := spec.image(); image != "" {
		basePool, baseName, baseFile = p.cfg.Pool, image, ""
		if path.IsAbs(image) {
			baseName, baseFile = "", image
		}
	}
	if spec.HDImage != "" && spec.BaseImage != "" && path.IsAbs(spec.HDImage) {
		pool, err := poolOf(ctx, l, h, spec.HDImage, mayMake)
		if err != nil {
			return nil, err
		}
		m.pool, m.dir = pool, path.Dir(spec.HDImage)
	}
	if baseName == "" && baseFile == "" {
		return nil, bad("the disk of worker %s points at nothing: say base_image", worker)
	}
	var err error
	if m.base, err = lookUp(ctx, l, h, basePool, baseName, baseFile, mayMake); err != nil {
		return nil, err
	}
	switch m.base.Format {
	case "qcow2", "raw":
	default:
		return nil, bad("the base image %s of %s is of format %s; a clone needs qcow2 or raw", m.base.Path, h.title(), m.base.Format)
	}
	for _, f := range []struct {
		attr, name string
		to         *string
	}{{"kernel", spec.Kernel, &m.kernel}, {"initrd", spec.Initrd, &m.initrd}} {
		if f.name == "" {
			continue
		}
		*f.to = f.name
		if path.IsAbs(f.name) {
			if v, err := l.VolumeByPath(ctx, f.name); err == nil { // it need not be in a pool
				m.booted += v.fingerprint() + " "
			}
		} else {
			v, err := lookUp(ctx, l, h, p.cfg.Pool, f.name, "", mayMake)
			if err != nil {
				return nil, &attrError{f.attr, err}
			}
			*f.to = v.Path
			m.booted += v.fingerprint() + " "
		}
	}
	if m.machine == "" && (m.template == nil || m.template.Type == "") {
		m.machine = h.accelerator(ctx, l)
	}
	return m, nil
}

// attrError is about one attribute of the instance block.
type attrError struct {
	attr string
	err  error
}

func (e *attrError) Error() string { return e.err.Error() }
func (e *attrError) Unwrap() error { return e.err }

// template is the name of the predefined domain that guests are made from, or "".
func (s Spec) template(worker string) string {
	switch {
	case s.Domain != "":
		return s.Domain
	case s.XML != "" || s.image() != "":
		return ""
	}
	return worker
}

// image is the base image that the configuration names, or "".
func (s Spec) image() string {
	if s.BaseImage != "" {
		return s.BaseImage
	}
	return s.HDImage
}

// size is what a definition takes of its host.
func size(d *libvirtxml.Domain) (vcpus int, memory int64) {
	vcpus = 1
	if d.VCPU != nil {
		vcpus = max(1, int(d.VCPU.Value))
	}
	if m := d.Memory; m != nil {
		unit := map[string]int64{"b": 1, "bytes": 1, "KB": 1e3, "": 1 << 10, "k": 1 << 10, "KiB": 1 << 10, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20,
			"GB": 1e9, "G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40}[m.Unit]
		memory = int64(m.Value) * unit
	}
	return vcpus, memory
}

// poolOf finds the pool of a file's directory.
func poolOf(ctx context.Context, l link, h *host, file string, mayMake bool) (string, error) {
	pool, err := l.PoolOf(ctx, path.Dir(file), mayMake)
	var refused *linkError
	switch {
	case err == nil:
		return pool, nil
	case !mayMake && kindOf(err) == noPool:
		return "", providers.Errorf(providers.Transient, "create", "%s: %w; the first create makes the directory of %s a pool, and only then it can be seen what is there", h.title(), err, file)
	case errors.As(err, &refused) && refused.Kind == failed:
		return "", providers.Errorf(providers.BadConfig, "create", "%s: %s is in no storage pool, and its directory cannot become one: %w", h.title(), file, err)
	}
	return "", classify("create", h.Name, err)
}

// lookUp finds a volume by its name in a pool or by its path (see poolOf).
func lookUp(ctx context.Context, l link, h *host, pool, name, file string, mayMake bool) (volume, error) {
	if file != "" {
		if v, err := l.VolumeByPath(ctx, file); err == nil {
			return v, nil
		}
		var err error
		if pool, err = poolOf(ctx, l, h, file, mayMake); err != nil {
			return volume{}, err
		}
		name = path.Base(file)
	}
	v, err := l.Volume(ctx, pool, name)
	if err != nil && kindOf(err) == noVolume {
		if err = l.Refresh(ctx, pool); err == nil {
			v, err = l.Volume(ctx, pool, name)
		}
	}
	switch kindOf(err) {
	case noVolume:
		return v, providers.Errorf(providers.BadConfig, "create", "%s has no image %q in pool %s%s", h.title(), name, pool, among(ctx, l, pool))
	case noPool:
		return v, providers.Errorf(providers.BadConfig, "create", "%s has no storage pool %q: define it (virsh pool-define-as %s dir --target /var/lib/libvirt/images; virsh pool-start %s) or say which (pool = …)",
			h.title(), pool, pool, pool)
	}
	if err != nil {
		return v, classify("create", h.Name, err)
	}
	return v, nil
}

// among lists what a pool has, for somebody who misspelt a name.
func among(ctx context.Context, l link, pool string) string {
	all, err := l.Volumes(ctx, pool)
	if err != nil {
		return ""
	}
	var names []string
	for _, v := range all {
		if !strings.HasPrefix(v.Name, prefix) && len(names) < 10 {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return "; the pool is empty"
	}
	return "; there are " + strings.Join(names, ", ")
}
