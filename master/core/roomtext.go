package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// noRoomTexts say that there is no room for the worker's instance: what it needs, what each host lacks and who is there, and what would help. One line each.
func (s *State) noRoomTexts(w *worker) []string {
	p := s.providers[w.home()]
	if p == nil {
		return []string{lacking}
	}
	need, in := w.needs(), w.facts.Instance
	var hosts []string
	up, large, coming := 0, 0, false
	for i := range p.rooms {
		r := &p.rooms[i]
		if in != nil && in.Place != r.Name {
			continue
		}
		if r.free(share{}).holds(need) {
			large++
		}
		if r.Down {
			hosts = append(hosts, fmt.Sprintf("host %s: cannot be reached (for %s)", r.Name, s.now.Sub(p.downs[r.Name]).Round(time.Second)))
			continue
		}
		up++
		at := site{p.cfg.Name, r.Name}
		_, going := s.tenants(at)
		coming = coming || r.free(s.taken[at]).plus(going).holds(need)
		hosts = append(hosts, "host "+r.Name+": "+r.freeText(s.taken[at], need)+s.tenantsText(at))
	}
	provider := model.ProviderName(p.cfg.Name)
	what := fmt.Sprintf("no host of provider %s has room for %s", provider, need.text())
	todo := "it waits until an instance there ends"
	if in != nil {
		what = fmt.Sprintf("its instance is switched off, with its disk on host %s of provider %s, which has no room for %s", in.Place, provider, need.text())
	}
	switch {
	case large == 0 && in == nil:
		todo = "no host has as much even when it is empty: let the worker need less, or give a host more"
	case large == 0:
		todo = "the host has not as much even when it is empty: give it more, or end the instance (rouse end " + w.cfg.Name + "), so that the next one is made elsewhere"
	case up == 0:
		todo = "it waits until a host can be reached again: look what is wrong there"
	case coming:
		todo = "it waits until what is ending has ended"
	}
	return append(append([]string{what}, hosts...), todo)
}

// text says what an instance needs.
func (f share) text() string {
	var parts []string
	if f.vcpus == 1 {
		parts = append(parts, "1 vcpu")
	} else if f.vcpus > 1 {
		parts = append(parts, fmt.Sprintf("%d vcpus", f.vcpus))
	}
	if f.memory > 0 {
		parts = append(parts, Amount(f.memory))
	}
	if len(parts) == 0 {
		return "one more instance"
	}
	return strings.Join(parts, " and ")
}

// freeText names what of a room is not enough.
func (r *Room) freeText(taken, need share) string {
	var short []string
	free := r.free(taken)
	if need.vcpus > free.vcpus {
		short = append(short, fmt.Sprintf("%d of %d vcpus", max(free.vcpus, 0), r.VCPUs))
	}
	if need.memory > free.memory {
		short = append(short, fmt.Sprintf("%s of %s", Amount(max(free.memory, 0)), Amount(r.Memory)))
	}
	if need.slots > free.slots {
		short = append(short, fmt.Sprintf("%d of %d slots", max(free.slots, 0), r.Slots))
	}
	return strings.Join(short, " and ") + " free"
}

// tenantsText says whose instances take a room.
func (s *State) tenantsText(at site) string {
	const many = 4
	var busy, idle, ending []string
	for _, w := range s.order {
		in := w.facts.Instance
		switch {
		case w.takes.at != at:
		case in != nil && (in.Doomed || in.Power == latent.Stopping):
			ending = append(ending, w.cfg.Name)
		case w.sparing != "":
			idle = append(idle, w.cfg.Name)
		default:
			busy = append(busy, w.cfg.Name)
		}
	}
	var text strings.Builder
	for _, g := range []struct {
		is   string
		list []string
	}{{"busy", busy}, {"idle", idle}, {"ending", ending}} {
		if n := len(g.list) - many; n > 1 {
			g.list = append(slices.Clone(g.list[:many]), fmt.Sprintf("%d more", n))
		}
		if len(g.list) > 0 {
			fmt.Fprintf(&text, ", %s: %s", g.is, strings.Join(g.list, " "))
		}
	}
	return text.String()
}

// Amount of bytes, for people.
func Amount(n int64) string {
	if n >= 1<<30 {
		if n%(1<<30) == 0 {
			return fmt.Sprintf("%d GiB", n>>30)
		}
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
