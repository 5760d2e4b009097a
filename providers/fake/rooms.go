package fake

import (
	"context"
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// Size implements providers.SizeKind.
func (*Kind) Size(_, spec any) (vcpus int, memory int64) {
	s, _ := spec.(Spec)
	return int(s.VCPUs), s.Memory
}

// Rooms implements providers.Roomer.
func (p *provider) Rooms(ctx context.Context) ([]providers.Room, error) {
	if _, err := p.begin(ctx, "rooms", ""); err != nil {
		return nil, err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	return p.rooms(), nil
}

// rooms are the hosts. The caller holds the world's mu.
func (p *provider) rooms() (all []providers.Room) {
	for i := range p.cfg.Hosts {
		name := fmt.Sprint("h", i+1)
		all = append(all, providers.Room{Name: name, VCPUs: int(p.cfg.HostVCPUs), Memory: p.cfg.HostMemory, Slots: int(p.cfg.HostSlots), Down: p.world.down[name]})
	}
	return all
}

// room is where an instance goes: where it shall, or the first host that has room. The caller holds the world's mu.
func (p *provider) room(shall string, spec Spec, now time.Time) (string, bool) {
	if p.cfg.Hosts == 0 {
		return "", true
	}
	for _, r := range p.rooms() {
		if shall != "" && shall != r.Name || r.Down {
			continue
		}
		vcpus, memory, slots := int(spec.VCPUs), spec.Memory, 1
		for _, in := range p.world.instances {
			if s := in.state(now); in.room == r.Name && s != providers.Gone && s != providers.Stopped {
				vcpus, memory, slots = vcpus+int(in.spec.VCPUs), memory+in.spec.Memory, slots+1
			}
		}
		if (r.VCPUs == 0 || vcpus <= r.VCPUs) && (r.Memory == 0 || memory <= r.Memory) && (r.Slots == 0 || slots <= r.Slots) {
			return r.Name, true
		}
	}
	return "", false
}

// SetDown makes a host of a provider unreachable, or reachable again. Instances on it go on.
func (k *Kind) SetDown(name, host string, down bool) {
	for _, w := range k.of(name) {
		w.mu.Lock()
		w.down[host] = down
		w.tell("")
		w.mu.Unlock()
	}
}

// Vanish ends an instance as if it had never been. It returns false if there is none.
func (k *Kind) Vanish(name string, key providers.Key) bool {
	for _, w := range k.of(name) {
		w.mu.Lock()
		in, now := w.instances[key], time.Now()
		found := in != nil && in.state(now) != providers.Gone
		if found {
			in.destroyed, in.gone = now, now
			w.stop(in)
			w.tell(key)
		}
		w.mu.Unlock()
		if found {
			return true
		}
	}
	return false
}

// Watch implements providers.Watcher. With silent, nothing is told.
func (p *provider) Watch(ctx context.Context, changed func(providers.Key)) error {
	w := p.world
	if !p.cfg.Silent {
		w.mu.Lock()
		n := w.nextWatch
		w.nextWatch++
		w.watchers[n] = changed
		w.mu.Unlock()
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.watchers, n)
		}()
	}
	<-ctx.Done()
	return nil
}

// tell passes a change on. The caller holds mu; nobody who hears of it blocks.
func (w *world) tell(key providers.Key) {
	for _, f := range w.watchers {
		f(key)
	}
}
