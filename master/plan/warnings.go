package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

func (pl *planner) say(severity, summary, detail, address string, rng *hcl.Range) {
	pl.p.Diagnostics = append(pl.p.Diagnostics, Diagnostic{Severity: severity, Summary: summary, Detail: detail, Address: address, Range: rng})
}

func (pl *planner) warn(summary, detail, address string, rng *hcl.Range) {
	pl.say("warning", summary, detail, address, rng)
}

// warnings says what people should know before they agree.
func (pl *planner) warnings() {
	pl.findings()
	pl.changedKinds()
	pl.renamedLocks()
	pl.strandedRequests()
	pl.needsRestart()
	pl.unlikeVariables()
}

// unlikeVariables: the values of sensitive variables stay where they are, so that giving another one with an order does nothing.
func (pl *planner) unlikeVariables() {
	for _, name := range pl.Unlike {
		pl.warn("A sensitive variable has another value here than at the master", fmt.Sprintf("var.%s: the value that was given here is not sent, and an apply does not change it: the master goes by "+
			"its own. To change that, start the master again with the new one.", name), "variable."+name, nil)
	}
}

// findings are what the providers' preflights say.
func (pl *planner) findings() {
	for _, f := range pl.Findings {
		severity := "warning"
		if f.Fatal {
			severity = "error"
		}
		address, rng := pl.providerAt(f.Provider), (*hcl.Range)(nil)
		if w := pl.newWorkers[f.Worker]; w != nil {
			address = "worker." + w.Name
			if rng = attrRange(w.Attrs, f.Attr); rng == nil {
				rng = place(w.Range)
			}
		} else {
			for i := range pl.New.Providers {
				if p := &pl.New.Providers[i]; p.Name == f.Provider {
					if rng = attrRange(p.Attrs, f.Attr); rng == nil {
						rng = place(p.Range)
					}
				}
			}
		}
		pl.say(severity, f.Summary, f.Detail, address, rng)
	}
}

// changedKinds foresees what applying refuses: the new provider would not find the old one's instances, and nobody would end them.
func (pl *planner) changedKinds() {
	if pl.Snapshot == nil {
		return
	}
	inUse := map[string]int{}
	for i := range pl.Snapshot.Instances {
		inUse[model.ProviderName(pl.Snapshot.Instances[i].Instance.Provider)]++
	}
	for _, o := range pl.old.Providers {
		for _, n := range pl.New.Providers {
			if o.Name == n.Name && o.Kind != n.Kind && inUse[o.Name] > 0 {
				pl.say("error", "A provider with instances becomes one of another kind",
					fmt.Sprintf("provider.%s.%s has %s, which provider.%s.%s could not end. Give the new one another name, or wait until they have ended.",
						o.Kind, o.Name, plural(inUse[o.Name], "instance"), n.Kind, n.Name), "provider."+n.Kind+"."+n.Name, place(n.Range))
			}
		}
	}
}

// renamedLocks: two locks know nothing of each other, so what one holds does not keep the other from being taken.
func (pl *planner) renamedLocks() {
	if pl.Old == nil {
		return
	}
	oldUsers, newUsers := usersOf(pl.old), usersOf(pl.New)
	taken := map[string]bool{}
	for _, o := range pl.old.Locks {
		if slices.ContainsFunc(pl.New.Locks, func(n hcl.Lock) bool { return n.Name == o.Name }) {
			continue
		}
		best := -1
		for i, n := range pl.New.Locks {
			added := !slices.ContainsFunc(pl.old.Locks, func(x hcl.Lock) bool { return x.Name == n.Name })
			moved := slices.ContainsFunc(oldUsers[o.Name], func(u string) bool { return slices.Contains(newUsers[n.Name], u) })
			alike := o.Max == n.Max && o.PerWorker == n.PerWorker
			if added && !taken[n.Name] && (moved || alike && best < 0) {
				if best = i; moved {
					break
				}
			}
		}
		if best < 0 {
			continue
		}
		n := pl.New.Locks[best]
		taken[n.Name] = true
		text := fmt.Sprintf("lock.%s goes and lock.%s comes. If that is a new name for the old lock: they have nothing to do with each other, so builds that should wait for what holds lock.%s may start.",
			o.Name, n.Name, o.Name)
		if held := pl.holders(o.Name); held > 0 {
			text += fmt.Sprintf(" It is held by %s now.", plural(held, "build"))
		}
		pl.warn("A renamed lock is a new lock", text, "lock."+n.Name, place(n.Range))
	}
}

func (pl *planner) holders(lock string) (n int) {
	if pl.Snapshot != nil {
		for _, l := range pl.Snapshot.Locks {
			if l.Name == lock {
				n += len(l.Holders)
			}
		}
	}
	return n
}

// usersOf are the addresses of what takes each lock.
func usersOf(cfg *hcl.Config) map[string][]string {
	m := map[string][]string{}
	for i := range cfg.Workers {
		for _, a := range cfg.Workers[i].Locks {
			m[a.Lock] = append(m[a.Lock], "worker."+cfg.Workers[i].Name)
		}
	}
	for i := range cfg.Builders {
		for _, a := range cfg.Builders[i].Locks {
			m[a.Lock] = append(m[a.Lock], "builder."+cfg.Builders[i].Name)
		}
	}
	return m
}

// strandedRequests: what waits for a builder that goes, or that keeps none of the workers that it had.
func (pl *planner) strandedRequests() {
	waiting := map[string]int{}
	for i := range pl.Queued {
		waiting[pl.Queued[i].Builder]++
	}
	for i := range pl.old.Builders {
		o := &pl.old.Builders[i]
		n := waiting[o.Name]
		if n == 0 {
			continue
		}
		address := "builder." + o.Name
		if pl.action(address) == Remove {
			what := "What waits is still built, as it was submitted and on the workers that the builder has now; `rouse cancel` ends it."
			if !pl.keepsWorker(o.Name) {
				what = fmt.Sprintf("Its workers, %s, are removed, too: what waits is kept until one of them is configured again; `rouse cancel` ends it.", some(o.Workers))
			}
			pl.warn("A builder with waiting requests is removed", fmt.Sprintf("%s for %s. %s", verb(n, "request waits", "requests wait"), address, what), address, nil)
			continue
		}
		if !pl.keepsWorker(o.Name) {
			pl.warn("A builder loses all its workers", fmt.Sprintf("%s for %s, and of its workers, %s, none remains. What waits is for those that it has now.",
				verb(n, "request waits", "requests wait"), address, some(o.Workers)), address, nil)
		}
	}
}

// restartOnly are the master's attributes that a running one does not change.
var restartOnly = []string{"name", "listen", "url", "api", "tls_cert", "tls_key", "artifacts_dir"}

func (pl *planner) needsRestart() {
	if pl.Old == nil || pl.Offline {
		return
	}
	var names []string
	for _, a := range pl.byAddress["master"].Attributes {
		if slices.Contains(restartOnly, a.Path) {
			names = append(names, a.Path)
		}
	}
	if len(names) > 0 {
		pl.warn("The master must be started again", fmt.Sprintf("Until then it goes on with the old %s.", strings.Join(names, ", ")), "master", place(pl.New.Master.Range))
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func verb(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// some names a few.
func some(names []string) string {
	if len(names) <= 4 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(names[:3], ", "), len(names)-3)
}

// masked takes secrets out of a text.
func masked(s string, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= shortSecret {
			s = strings.ReplaceAll(s, secret, "(sensitive)")
		}
	}
	return s
}
