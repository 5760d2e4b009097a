package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// noRoomTexts say that there is no room for the worker's instance: what it needs, what each host lacks and who is there, and what would help. One line each. The tenants are
// those of all rooms.
func (s *State) noRoomTexts(w *worker, tenants map[site]*tenancy) []string {
	p := s.providers[w.home()]
	if p == nil {
		return []string{lacking}
	}
	need, in := w.needs(), w.facts.Instance
	var hosts []string
	large, up, coming := 0, 0, false // hosts that would do if they were empty, those of them that can be reached, and whether one of them is about to have room
	for i := range p.rooms {
		r := &p.rooms[i]
		if in != nil && in.Place != r.Name {
			continue
		}
		if !r.free(share{}).holds(need) {
			hosts = append(hosts, r.title()+": too small, with "+r.lessText(share{}, need)+" in all")
			continue
		}
		large++
		if r.Down {
			hosts = append(hosts, fmt.Sprintf("%s: cannot be reached (for %s)", r.title(), s.now.Sub(p.downs[r.Name]).Round(time.Second)))
			continue
		}
		up++
		at := site{p.cfg.Name, r.Name}
		in := tenants[at].orNone()
		coming = coming || r.free(s.taken[at]).plus(in.going).holds(need)
		hosts = append(hosts, r.title()+": "+r.lessText(s.taken[at], need)+" free"+s.tenantsText(in))
	}
	provider := model.ProviderName(p.cfg.Name)
	what := fmt.Sprintf("no host of provider %s has room for %s", provider, need.text())
	todo := "it waits until an instance there ends"
	if p.limited() {
		what = fmt.Sprintf("provider %s has as many instances as it may", provider)
	}
	switch {
	case in != nil && p.limited():
		what = "its instance is switched off, and " + what
	case in != nil:
		what = fmt.Sprintf("its instance is switched off, with its disk on %s of provider %s, which has no room for %s", (&Room{Name: in.Place}).title(), provider, need.text())
	}
	switch {
	case large == 0 && in == nil:
		todo = "no host is large enough, even when it is empty: let the worker need less, or give a host more"
	case large == 0:
		todo = "the host is not large enough, even when it is empty: give it more, or end the instance (rouse end " + w.cfg.Name + "), so that the next one is made elsewhere"
	case up == 0:
		todo = "it waits until a host that is large enough can be reached again: look what is wrong there"
	case coming:
		todo = "it waits until what is ending has ended"
	}
	return append(append([]string{what}, hosts...), todo)
}

// limitRoom is the room of a provider that has no others (providers.LimitRoom).
const limitRoom = "max_instances"

func (p *provider) limited() bool { return len(p.rooms) == 1 && p.rooms[0].Name == limitRoom }

// title is what people call a room. The one of a provider that has no others is called host.
func (r *Room) title() string {
	switch r.Name {
	case "host":
		return "the host"
	case limitRoom:
		return limitRoom
	}
	return "host " + r.Name
}

// text says what an instance needs.
func (f share) text() string {
	var parts []string
	if f.vcpus > 0 {
		parts = append(parts, of(f.vcpus, f.vcpus, "vcpu"))
	}
	if f.memory > 0 {
		parts = append(parts, Amount(f.memory))
	}
	if len(parts) == 0 {
		return "one more instance"
	}
	return strings.Join(parts, " and ")
}

// lessText names what is left of a room where that is not enough.
func (r *Room) lessText(taken, need share) string {
	var short []string
	free := r.free(taken)
	if need.vcpus > free.vcpus {
		short = append(short, of(free.vcpus, r.VCPUs, "vcpu"))
	}
	if need.memory > free.memory {
		if free.memory == r.Memory {
			short = append(short, Amount(r.Memory))
		} else {
			short = append(short, Amount(max(free.memory, 0))+" of "+Amount(r.Memory))
		}
	}
	if need.slots > free.slots {
		short = append(short, of(free.slots, r.Slots, "slot"))
	}
	return strings.Join(short, " and ")
}

// of is a part of so many things, or all of them.
func of(part, whole int, noun string) string {
	text := fmt.Sprintf("%d %s", whole, noun)
	if whole != 1 {
		text += "s"
	}
	if part == whole {
		return text
	}
	return fmt.Sprintf("%d of %s", max(part, 0), text)
}

// tenantsText says whose instances take a room.
func (s *State) tenantsText(t *tenancy) string {
	const many = 4
	var busy, idle, ending, stuck []string
	for _, w := range t.all {
		in := w.facts.Instance
		switch {
		case in != nil && s.stuck(in):
			stuck = append(stuck, w.cfg.Name)
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
	}{{"busy", busy}, {"idle", idle}, {"ending", ending}, {"ought to have ended", stuck}} {
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
