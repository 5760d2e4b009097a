package libvirt

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// place finds a host with room and takes the room until the instance's end (or release is called). If the caller has chosen a host, only that one will do:
// he knows what else he has asked for. Without a choice it is the one with most free memory. A key that was placed before stays where it was: its domain
// may be there.
func (p *provider) place(ctx context.Context, req providers.CreateRequest, spec Spec, before *host) (*host, error) {
	if h := before; h != nil {
		vcpus, memory := spec.size()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.placed[req.Key] = placement{h.Name, vcpus, memory}
		return h, nil
	}
	hosts := p.hosts
	if req.Place != "" {
		h := p.hostNamed(req.Place)
		if h == nil {
			return nil, providers.Errorf(providers.NoCapacity, "create", "there is no host %q any more", req.Place)
		}
		hosts = []*host{h}
	}
	looks := make([]look, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() { looks[i] = p.look(ctx, h, req.Worker, spec) })
	}
	all.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	best, down := -1, 0
	var bestFree int64
	var why []string
	for i, h := range hosts {
		free, no := p.room(h, &looks[i], req.Key)
		switch {
		case no != "":
			why = append(why, h.title()+": "+no)
			if kindOf(looks[i].err) == unreachable {
				down++
			}
		case best < 0 || free > bestFree:
			best, bestFree = i, free
		}
	}
	if best < 0 {
		class := providers.NoCapacity
		if down == len(hosts) {
			class = providers.Transient
		}
		if len(hosts) == 1 && looks[0].err != nil {
			return nil, classify("create", hosts[0].Name, looks[0].err)
		}
		return nil, providers.Errorf(class, "create", "no host has room (%s)", strings.Join(why, "; "))
	}
	p.placed[req.Key] = placement{hosts[best].Name, looks[best].vcpus, looks[best].memory}
	return hosts[best], nil
}

// release gives back the room that a create took.
func (p *provider) release(key providers.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.placed, key)
}

// look is what a host has, and what an instance would take of it.
type look struct {
	node    node
	domains []domain
	vcpus   int
	memory  int64
	err     error
}

func (p *provider) look(ctx context.Context, h *host, worker string, spec Spec) (k look) {
	var l link
	if l, k.err = h.link(ctx); k.err != nil {
		return k
	}
	if k.node, k.err = l.Node(ctx); k.err != nil {
		return k
	}
	if k.domains, k.err = l.Domains(ctx); k.err != nil {
		return k
	}
	k.vcpus, k.memory = spec.size()
	if name := spec.template(worker); name != "" {
		if d, err := l.Domain(ctx, name); err == nil { // if it is not there, the create says so
			k.vcpus, k.memory = sizeIn(d.XML)
		}
	}
	return k
}

// room says how much of a host's memory would stay free, or why the instance does not fit. The caller holds mu, so that no two creates take the same
// room.
func (p *provider) room(h *host, k *look, key providers.Key) (free int64, no string) {
	if k.err != nil {
		return 0, k.err.Error()
	}
	vcpus, memory, slots := k.vcpus, k.memory, 1
	taken := map[providers.Key]bool{key: true}
	for i := range k.domains {
		if t := k.domains[i].Tags; t != nil && t.Owner == p.owner && !taken[t.Key] {
			taken[t.Key] = true
			vcpus, memory, slots = vcpus+t.VCPUs, memory+t.Memory, slots+1
		}
	}
	for other, pl := range p.placed { // their domains may not have been there yet
		if pl.host == h.Name && !taken[other] {
			vcpus, memory, slots = vcpus+pl.vcpus, memory+pl.memory, slots+1
		}
	}
	limit := h.memoryLimit(k.node)
	switch {
	case h.Slots > 0 && slots > h.Slots:
		return 0, fmt.Sprintf("all %d slots are taken", h.Slots)
	case h.VCPUs > 0 && vcpus > h.VCPUs: // without a limit processors are shared
		return 0, fmt.Sprintf("%d of %d vcpus would be needed", vcpus, h.VCPUs)
	case limit > 0 && memory > limit:
		return 0, fmt.Sprintf("%d of %d MiB of memory would be needed", memory>>20, limit>>20)
	}
	return limit - memory, ""
}

// memoryLimit is what guests may have together: what the configuration says, or all that the host has.
func (h *host) memoryLimit(n node) int64 {
	if h.Memory > 0 {
		return h.Memory
	}
	return n.Memory
}

// size is what a guest takes of its host, as far as the configuration alone says it.
func (s Spec) size() (vcpus int, memory int64) {
	switch {
	case s.XML != "":
		return sizeIn(s.XML)
	case s.Domain != "" || s.image() == "":
		return 0, 0 // a predefined domain says it
	}
	return s.VCPUs, s.Memory
}

// sizeIn is what a definition takes; one that cannot be read is refused elsewhere.
func sizeIn(xml string) (vcpus int, memory int64) {
	d := &libvirtxml.Domain{}
	if d.Unmarshal(xml) != nil {
		return 0, 0
	}
	return size(d)
}

// Size implements providers.SizeKind.
func (Kind) Size(_, spec any) (vcpus int, memory int64) {
	s, ok := spec.(Spec)
	if !ok {
		return 0, 0
	}
	return s.size()
}

// Rooms implements providers.Roomer: the hosts, each asked at the same time.
func (p *provider) Rooms(ctx context.Context) ([]providers.Room, error) {
	rooms := make([]providers.Room, len(p.hosts))
	var all sync.WaitGroup
	for i, h := range p.hosts {
		all.Go(func() {
			rooms[i] = providers.Room{Name: h.Name, VCPUs: h.VCPUs, Memory: h.Memory, Slots: h.Slots, Down: true}
			l, err := h.link(ctx)
			if err != nil {
				return
			}
			if n, err := l.Node(ctx); err == nil {
				rooms[i].Memory, rooms[i].Down = h.memoryLimit(n), false
			}
		})
	}
	all.Wait()
	return rooms, nil
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
