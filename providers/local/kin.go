//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"maps"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// seen returns what was seen of an instance last.
func (p *provider) seen(key providers.Key) map[id]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kin[key]
}

func (p *provider) see(key providers.Key, kin map[id]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(kin) == 0 {
		delete(p.kin, key)
	} else {
		p.kin[key] = kin
	}
}

// collect notes the descendants of all agents from time to time, so that they are known when their agent dies and they become init's. One look
// at the processes serves all instances, and no environment is read.
func (p *provider) collect() {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		watched := slices.Collect(maps.Values(p.watched))
		for i := range watched {
			watched[i].kin = p.kin[watched[i].Key]
		}
		p.mu.Unlock()
		if len(watched) == 0 {
			continue
		}
		all, err := scan()
		if err != nil {
			p.log.Warn("cannot look at processes", "error", err)
			continue
		}
		for _, e := range watched {
			e.collect(all, false)
			p.mu.Lock()
			if _, still := p.watched[e.Key]; still && !p.busy[e.Key] { // a Destroy looks more often, and sees more
				p.kin[e.Key] = e.kin
			}
			p.mu.Unlock()
		}
	}
}
