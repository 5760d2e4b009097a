package libvirt

import (
	"context"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// place finds a host with room, the emptiest first, and takes the room until the domain is seen (or release is called). A key that was placed
// before stays where it was: its domain may be there.
func (p *provider) place(ctx context.Context, key providers.Key, spec Spec, before string) (*host, error) {
	if h := p.hostNamed(before); h != nil {
		return h, nil
	}
	var best *host
	var bestFree float64
	var why []string
	for _, h := range p.hosts {
		free, no := p.room(ctx, h, key, spec)
		if no != "" {
			why = append(why, h.Name+": "+no)
			continue
		}
		if best == nil || free > bestFree {
			best, bestFree = h, free
		}
	}
	if best == nil {
		return nil, providers.Errorf(providers.NoCapacity, "create", "no host has room (%s)", strings.Join(why, "; "))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.placed[key] = placement{best.Name, spec.VCPUs, spec.Memory}
	return best, nil
}

// release gives back the room that a create took.
func (p *provider) release(key providers.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.placed, key)
}

// room says how much of a host would stay free (1: all of it), or why the instance does not fit.
func (p *provider) room(ctx context.Context, h *host, key providers.Key, spec Spec) (free float64, no string) {
	l, err := h.link(ctx)
	if err != nil {
		return 0, err.Error()
	}
	n, err := l.Node(ctx)
	if err != nil {
		return 0, err.Error()
	}
	domains, err := l.Domains(ctx)
	if err != nil {
		return 0, err.Error()
	}
	vcpus, memory, slots := spec.VCPUs, spec.Memory, 1
	taken := map[providers.Key]bool{key: true}
	for i := range domains {
		if t := domains[i].Tags; t != nil && t.Owner == p.owner && !taken[t.Key] {
			taken[t.Key] = true
			vcpus, memory, slots = vcpus+t.VCPUs, memory+t.Memory, slots+1
		}
	}
	p.mu.Lock()
	for k, pl := range p.placed {
		if pl.host == h.Name && !taken[k] {
			vcpus, memory, slots = vcpus+pl.vcpus, memory+pl.memory, slots+1
		}
	}
	p.mu.Unlock()
	limitCPU, limitMemory := h.VCPUs, h.Memory
	if limitMemory == 0 {
		limitMemory = n.Memory
	}
	switch {
	case h.Slots > 0 && slots > h.Slots:
		return 0, fmt.Sprintf("all %d slots are taken", h.Slots)
	case limitCPU > 0 && vcpus > limitCPU: // without a limit processors are shared
		return 0, fmt.Sprintf("%d of %d vcpus would be needed", vcpus, limitCPU)
	case limitMemory > 0 && memory > limitMemory:
		return 0, fmt.Sprintf("%d of %d MiB of memory would be needed", memory>>20, limitMemory>>20)
	}
	return 1 - float64(memory)/float64(max(limitMemory, 1)), ""
}

// accelerator is the fastest kind of domain that a host can run.
func (h *host) accelerator(ctx context.Context, l link) string {
	text, err := l.Capabilities(ctx)
	if err != nil {
		return "qemu"
	}
	var caps libvirtxml.Caps
	if caps.Unmarshal(text) != nil {
		return "qemu"
	}
	for _, g := range caps.Guests {
		for _, d := range g.Arch.Domains {
			if d.Type == "kvm" {
				return "kvm"
			}
		}
	}
	for _, g := range caps.Guests {
		for _, d := range g.Arch.Domains {
			return d.Type
		}
	}
	return "qemu"
}
