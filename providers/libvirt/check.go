package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rouse-ci/rouse/providers"
)

// Check implements providers.Checker: every host is asked, and nothing is changed. (A path whose directory is no pool yet is only reported: a create
// would make it one.)
func (p *provider) Check(ctx context.Context, specs []any) (found []providers.Finding) {
	add := func(fatal bool, spec int, attr, summary, format string, args ...any) {
		f := providers.Finding{Fatal: fatal, Spec: spec, Attr: attr, Summary: summary, Detail: fmt.Sprintf(format, args...)}
		if !slices.Contains(found, f) {
			found = append(found, f)
		}
	}
	for i, spec := range specs {
		if _, ok := spec.(Spec); !ok {
			add(true, i, "", "Not a specification of this provider", "It is a %T.", spec)
		}
	}
	links, errs := make([]link, len(p.hosts)), make([]error, len(p.hosts))
	var all sync.WaitGroup
	for i, h := range p.hosts { // at once: one that does not answer takes its time
		all.Go(func() { links[i], errs[i] = h.link(ctx) })
	}
	all.Wait()
	reached := 0
	for i, h := range p.hosts {
		l, err := links[i], errs[i]
		if err != nil {
			add(kindOf(err) == noLibrary || kindOf(err) == denied, -1, p.attrOf(h, "uri"), p.noConnection(h), "%s: %s.%s", h.URI, err, advice(err))
			continue
		}
		reached++
		p.checkHost(ctx, h, l, specs, add)
	}
	if reached == 0 && !slices.ContainsFunc(found, func(f providers.Finding) bool { return f.Fatal }) {
		add(true, -1, "", "No host can be reached", "Without a host there are no instances.")
	}
	return found
}

// noConnection names a host, unless there is only one.
func (p *provider) noConnection(h *host) string {
	if len(p.hosts) == 1 && h.Name == onlyHost {
		return "No connection to libvirt"
	}
	return "No connection to host " + h.Name
}

// attrOf is where a host's attribute stands: in its block, or in the provider's own if that is the only host.
func (p *provider) attrOf(h *host, name string) string {
	if len(p.hosts) == 1 && h.Name == onlyHost {
		return name
	}
	return "host." + name
}

func advice(err error) string {
	switch kindOf(err) {
	case noLibrary:
		return " Install libvirt's client library (Debian: apt-get install libvirt0)."
	case denied:
		return " On Debian the user who runs the master must be in the group libvirt: adduser USER libvirt."
	case unreachable:
		return " Is libvirtd running there (systemctl status libvirtd), and is the URI right (virsh -c URI version)?"
	}
	return ""
}

type addFinding func(fatal bool, spec int, attr, summary, format string, args ...any)

// checkHost looks whether a host has what each spec needs.
func (p *provider) checkHost(ctx context.Context, h *host, l link, specs []any, add addFinding) {
	n, err := l.Node(ctx)
	if err != nil {
		add(false, -1, "", h.Title()+" does not say what it has", "%s.", err)
		return
	}
	if h.Memory > n.Memory && n.Memory > 0 {
		add(false, -1, p.attrOf(h, "memory"), "More memory than the host has", "%s has %d MiB.", h.Title(), n.Memory>>20)
	}
	if h.VCPUs > 4*n.CPUs && n.CPUs > 0 {
		add(false, -1, p.attrOf(h, "vcpus"), "Many more virtual processors than real ones", "%s has %d processors.", h.Title(), n.CPUs)
	}
	if pl, err := l.Pool(ctx, p.cfg.Pool); err != nil && kindOf(err) == noPool {
		add(true, -1, "pool", "No such storage pool", "%s has no pool %q: virsh pool-define-as %s dir --target /var/lib/libvirt/images; virsh pool-start %s; virsh pool-autostart %s.",
			h.Title(), p.cfg.Pool, p.cfg.Pool, p.cfg.Pool, p.cfg.Pool)
		return
	} else if err == nil && !pl.Active {
		add(true, -1, "pool", "The storage pool is not active", "On %s: virsh pool-start %s.", h.title(), p.cfg.Pool)
		return
	} else if err == nil && pl.Capacity > 0 && pl.Available < pl.Capacity/50 {
		add(false, -1, "pool", "The storage pool is nearly full", "Pool %s of %s has %d MiB left.", p.cfg.Pool, h.title(), pl.Available>>20)
	}
	for i, spec := range specs {
		if s, ok := spec.(Spec); ok {
			p.checkSpec(ctx, h, l, n, i, s, add)
		}
	}
}

func (p *provider) checkSpec(ctx context.Context, h *host, l link, n node, i int, s Spec, add addFinding) {
	if s.template("") == "" && s.XML == "" && s.image() == "" {
		return // the worker's name says which domain; only a create knows it
	}
	m, err := p.materials(ctx, l, h, "", s, false)
	if err != nil {
		var e *providers.Error
		text, attr := err.Error(), attrFor(s)
		if errors.As(err, &e) {
			text = e.Err.Error()
		}
		if a := (*attrError)(nil); errors.As(err, &a) {
			attr = a.attr
		}
		bad := providers.ClassOf(err) == providers.BadConfig
		add(bad, i, attr, map[bool]string{true: "This instance can not be made on ", false: "Not all can be seen of what this instance needs on "}[bad]+h.title(), "%s.", strings.TrimSuffix(text, "."))
		return
	}
	limit := h.Memory
	if limit == 0 {
		limit = n.Memory
	}
	if limit > 0 && m.memory > limit {
		add(true, i, "memory", "The guest does not fit", "%s has %d MiB for guests; it needs %d.", h.Title(), limit>>20, m.memory>>20)
	}
	if h.VCPUs > 0 && m.vcpus > h.VCPUs {
		add(true, i, "vcpus", "The guest does not fit", "%s has %d virtual processors for guests; it needs %d.", h.Title(), h.VCPUs, m.vcpus)
	}
	for _, name := range networksOf(s, m) {
		switch net, err := l.Network(ctx, name); {
		case err != nil && kindOf(err) == noNetwork:
			add(true, i, "network", "No such network", "%s has no network %q. rouse libvirt network %s prints a definition for virsh net-define.", h.Title(), name, name)
		case err == nil && !net.Active:
			add(true, i, "network", "The network is not active", "On %s: virsh net-start %s; virsh net-autostart %s.", h.title(), name, name)
		}
	}
	if s.Fast && !mayRelabel(n.Libvirt) {
		add(false, i, "fast", "Instances will boot", "They can be restored from memory with libvirt %s only; %s has %s.", strings.Join(relabelled, "x, ")+"x", h.title(), n.Libvirt)
	}
	if s.Fast && hasVariables(m.template) {
		add(false, i, "fast", "Instances will boot", "The guest's firmware (UEFI) keeps variables in a file: it cannot be restored from a memory that others share. Use one with BIOS.")
	}
	if used := p.records.users(h.Name, m.base.Path, m.base.fingerprint()); used > 0 && s.Clone == "overlay" {
		add(false, i, "base_image", "The base image has changed", "%d instances on %s depend on what %s was before. Until they have ended, no instance is made.", used, h.title(), m.base.Path)
	}
}

// attrFor is the attribute that says what the guest is.
func attrFor(s Spec) string {
	switch {
	case s.Domain != "":
		return "domain"
	case s.BaseImage != "":
		return "base_image"
	case s.HDImage != "":
		return "hd_image"
	case s.XML != "":
		return "xml"
	}
	return ""
}

// networksOf are the host's networks that the guest is connected to.
func networksOf(s Spec, m *materials) (names []string) {
	if m.template == nil {
		return []string{s.Network}
	}
	if m.template.Devices == nil {
		return nil
	}
	for _, in := range m.template.Devices.Interfaces {
		if in.Source != nil && in.Source.Network != nil {
			names = append(names, in.Source.Network.Network)
		}
	}
	return names
}

// Resolve implements providers.Resolver: the content of the base image, on each host that can be asked.
func (p *provider) Resolve(ctx context.Context, spec any) ([]providers.Resolved, error) {
	s, ok := spec.(Spec)
	if !ok {
		return nil, providers.Errorf(providers.BadConfig, "resolve", "the specification is a %T, not one of libvirt's", spec)
	}
	if s.template("") == "" && s.XML == "" && s.image() == "" {
		return nil, nil
	}
	var values, details []string
	for _, h := range p.hosts {
		l, err := h.link(ctx)
		if err != nil {
			return nil, classify("resolve", h.Name, err)
		}
		m, err := p.materials(ctx, l, h, "", s, false)
		if err != nil {
			return nil, err
		}
		if v := m.base.fingerprint(); !slices.Contains(values, v) {
			values = append(values, v)
			details = append(details, fmt.Sprintf("%s on %s", m.base.Path, h.Name))
		}
	}
	slices.Sort(values)
	return []providers.Resolved{{Attr: attrFor(s), Value: strings.Join(values, " "), Detail: strings.Join(details, ", ")}}, nil
}
