package sim

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// Days on which the configuration changes all the time (Options.Applies). Whatever sequence of configurations is applied, with builds running and the
// usual faults: no build is lost, no busy instance is ended, each build follows the definition that its request was queued under, and in the end
// everything is as if only the last configuration had ever been there.

// aligned is due at each multiple of a period, so that when it is due next does not depend on when it was due last.
type aligned time.Duration

// Next implements schedule.Calendar.
func (a aligned) Next(after time.Time) time.Time {
	return after.Truncate(time.Duration(a)).Add(time.Duration(a))
}

const (
	latents   = 6 // names of workers: w0, w1, … make instances, s0, s1 are started by somebody else, or make instances for a while
	standards = 2
)

// firstConfig draws what the day begins with.
func (w *world) firstConfig() core.Config {
	c := core.Config{Generation: 1}
	for range 12 {
		c = w.mutated(c)
	}
	return c
}

// reshape applies another configuration: the one in force with some changes, or an older one once more.
func (w *world) reshape() {
	if len(w.history) > 0 && w.chance(0.15) {
		w.apply(w.history[w.rng.IntN(len(w.history))])
		return
	}
	c := w.running
	for range 1 + w.rng.IntN(4) {
		c = w.mutated(c)
	}
	w.apply(c)
}

// mutated is a copy of a configuration with one change. It is valid: it has workers and builders, and every name in it exists.
func (w *world) mutated(c core.Config) core.Config {
	c.Workers, c.Builders, c.Locks = slices.Clone(c.Workers), slices.Clone(c.Builders), slices.Clone(c.Locks)
	c.Providers, c.Schedulers = slices.Clone(c.Providers), slices.Clone(c.Schedulers)
	switch w.rng.IntN(12) {
	case 0, 1:
		if i := w.pick(len(c.Workers)); i >= 0 && c.Workers[i].Latent() {
			c.Workers[i].Spec += "x"
		}
	case 2:
		w.addWorker(&c)
	case 3:
		c.Workers = without(c.Workers, w.pick(len(c.Workers)))
	case 4:
		if i := w.pick(len(c.Workers)); i >= 0 {
			old := c.Workers[i]
			c.Workers[i] = w.drawWorker(&c, old.Name)
			c.Workers[i].Spec = old.Spec
		}
	case 5:
		w.addBuilder(&c)
	case 6:
		c.Builders = without(c.Builders, w.pick(len(c.Builders)))
	case 7:
		if i := w.pick(len(c.Builders)); i >= 0 {
			c.Builders[i] = w.drawBuilder(&c, c.Builders[i].Name)
		}
	case 8, 9:
		w.changeLocks(&c)
	case 10:
		if i := w.pick(len(c.Providers)); i >= 0 && w.chance(0.5) {
			c.Providers = without(c.Providers, i)
		} else {
			addNamed(&c.Providers, w.free("p", 3, len(c.Providers), func(i int) string { return c.Providers[i].Name }), w.drawProvider)
		}
	case 11:
		w.changeSchedulers(&c)
	}
	w.mend(&c)
	return c
}

// pick is a random index, or -1.
func (w *world) pick(n int) int {
	if n == 0 {
		return -1
	}
	return w.rng.IntN(n)
}

func without[T any](list []T, i int) []T {
	if i < 0 {
		return list
	}
	return slices.Delete(list, i, i+1)
}

func addNamed[T any](list *[]T, name string, draw func(string) T) {
	if name != "" {
		*list = append(*list, draw(name))
	}
}

// free is a random name of a kind that is not used, or "".
func (w *world) free(kind string, most, n int, name func(int) string) string {
	var names []string
	for i := range most {
		names = append(names, fmt.Sprintf("%s%d", kind, i))
	}
	for i := range n {
		names = slices.DeleteFunc(names, func(s string) bool { return s == name(i) })
	}
	if len(names) == 0 {
		return ""
	}
	return names[w.rng.IntN(len(names))]
}

func (w *world) addWorker(c *core.Config) {
	kind, most := "w", latents
	if w.chance(0.15) {
		kind, most = "s", standards
	}
	name := w.free(kind, most, len(c.Workers), func(i int) string { return c.Workers[i].Name })
	addNamed(&c.Workers, name, func(name string) core.Worker { return w.drawWorker(c, name) })
}

func (w *world) drawWorker(c *core.Config, name string) core.Worker {
	waits := []time.Duration{0, 0, time.Minute, 10 * time.Minute, -1}
	idles := []string{"", core.IdleTerminate, core.IdleStop}
	k := core.Worker{Name: name, MaxBuilds: w.rng.IntN(3), MissingTimeout: w.between(2*time.Minute, 20*time.Minute), Locks: w.drawAccess(c)}
	if (name[0] == 'w' || w.chance(0.3)) && len(c.Providers) > 0 {
		k.Provider, k.Spec, k.Price, k.StoppedPrice = c.Providers[w.rng.IntN(len(c.Providers))].Name, "1", 1, 0.1
		k.BuildWaitTimeout, k.Idle = waits[w.rng.IntN(len(waits))], idles[w.rng.IntN(len(idles))]
	}
	return k
}

func (w *world) drawProvider(name string) core.Provider {
	return core.Provider{Name: name, Interruptible: true, Settle: settle, CheckInterval: 20 * time.Second, DestroyBackoff: time.Second, SweepInterval: time.Minute, SweepGrace: sweepGrace}
}

func (w *world) drawAccess(c *core.Config) (out []core.Access) {
	if len(c.Locks) > 0 && w.chance(0.4) {
		out = append(out, core.Access{Lock: c.Locks[w.rng.IntN(len(c.Locks))].Name, Exclusive: w.chance(0.3)})
	}
	return out
}

func (w *world) addBuilder(c *core.Config) {
	addNamed(&c.Builders, w.free("b", 5, len(c.Builders), func(i int) string { return c.Builders[i].Name }), func(name string) core.Builder { return w.drawBuilder(c, name) })
}

func (w *world) drawBuilder(c *core.Config, name string) core.Builder {
	b := core.Builder{Name: name, Locks: w.drawAccess(c), Collapse: w.chance(0.4), MaxAttempts: 3 + w.rng.IntN(4)}
	for i := range c.Workers {
		if w.chance(0.6) {
			b.Workers = append(b.Workers, c.Workers[i].Name)
		}
	}
	return b
}

func (w *world) changeLocks(c *core.Config) {
	i := w.pick(len(c.Locks))
	switch w.rng.IntN(4) {
	case 0:
		c.Locks = without(c.Locks, i)
	case 1: // a new name for the same
		if name := w.free("l", 4, len(c.Locks), func(i int) string { return c.Locks[i].Name }); name != "" && i >= 0 {
			c.Locks[i].Name = name
		}
	case 2:
		if i >= 0 {
			c.Locks[i].Max, c.Locks[i].PerWorker = 1+w.rng.IntN(3), w.chance(0.3)
		}
	default:
		addNamed(&c.Locks, w.free("l", 4, len(c.Locks), func(i int) string { return c.Locks[i].Name }), func(name string) core.Lock {
			return core.Lock{Name: name, Max: 1 + w.rng.IntN(3), PerWorker: w.chance(0.3)}
		})
	}
}

func (w *world) changeSchedulers(c *core.Config) {
	periods := []time.Duration{10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}
	calendar := aligned(periods[w.rng.IntN(len(periods))])
	switch i := w.pick(len(c.Schedulers)); {
	case i >= 0 && w.chance(0.4):
		c.Schedulers = without(c.Schedulers, i)
	case i >= 0 && w.chance(0.3):
		c.Schedulers[i].Calendar = calendar
	default:
		addNamed(&c.Schedulers, w.free("c", 2, len(c.Schedulers), func(i int) string { return c.Schedulers[i].Name }), func(name string) core.Scheduler {
			return core.Scheduler{Name: name, Calendar: calendar}
		})
	}
}

// mend makes a configuration valid.
func (w *world) mend(c *core.Config) {
	if len(c.Providers) == 0 {
		c.Providers = append(c.Providers, w.drawProvider("p0"))
	}
	if len(c.Workers) == 0 {
		c.Workers = append(c.Workers, w.drawWorker(c, "w0"))
	}
	known := func(a core.Access) bool {
		return !slices.ContainsFunc(c.Locks, func(l core.Lock) bool { return l.Name == a.Lock })
	}
	for i := range c.Workers {
		k := &c.Workers[i]
		if (k.Name[0] == 'w' || k.Latent()) && !slices.ContainsFunc(c.Providers, func(p core.Provider) bool { return p.Name == k.Provider }) {
			k.Provider, k.Spec = c.Providers[w.rng.IntN(len(c.Providers))].Name, k.Spec+"1"
		}
		k.Locks = slices.DeleteFunc(slices.Clone(k.Locks), known)
	}
	for i := range c.Builders {
		b := &c.Builders[i]
		b.Locks = slices.DeleteFunc(slices.Clone(b.Locks), known)
		b.Workers = slices.DeleteFunc(slices.Clone(b.Workers), func(name string) bool { return workerNamed(c, name) == nil })
	}
	c.Builders = slices.DeleteFunc(c.Builders, func(b core.Builder) bool { return len(b.Workers) == 0 })
	if len(c.Builders) == 0 {
		c.Builders = append(c.Builders, core.Builder{Name: "b0", Workers: []string{c.Workers[0].Name}, MaxAttempts: 5})
	}
}

func workerNamed(c *core.Config, name string) *core.Worker {
	for i := range c.Workers {
		if c.Workers[i].Name == name {
			return &c.Workers[i]
		}
	}
	return nil
}

func builderNamed(c *core.Config, name string) *core.Builder {
	for i := range c.Builders {
		if c.Builders[i].Name == name {
			return &c.Builders[i]
		}
	}
	return nil
}

// withRetired is the configuration as a master gives it to the core when it starts: with the builders of older generations that have something to do.
func (w *world) withRetired(c core.Config) core.Config {
	for _, r := range w.disk.saved().Requests {
		if builderNamed(&c, r.Builder) != nil || slices.ContainsFunc(c.Retired, func(b core.Builder) bool { return b.Name == r.Builder }) {
			continue
		}
		for i := len(w.history) - 1; i >= 0; i-- {
			if old := builderNamed(&w.history[i], r.Builder); old != nil {
				c.Retired, c.RetiredLocks = append(c.Retired, *old), append(c.RetiredLocks, w.history[i].Locks...)
				break
			}
		}
	}
	return c
}

// withFormer adds the providers that are not in a configuration and that this process has opened: those of earlier configurations, or, after a restart, those that
// have instances.
func (w *world) withFormer(c core.Config) core.Config {
	c.Former = nil
	for _, name := range sortedKeys(w.opened) {
		if !slices.ContainsFunc(c.Providers, func(p core.Provider) bool { return p.Name == name }) {
			c.Former = append(c.Former, w.drawProvider(name))
		}
	}
	for _, p := range c.Providers {
		w.opened[p.Name] = true
	}
	return c
}

// openAgain forgets what an earlier process has opened.
func (w *world) openAgain() {
	clear(w.opened)
	for _, in := range w.disk.saved().Instances {
		w.opened[in.Provider] = true
	}
}

// submittedUnder remembers what a request must be served with.
func (w *world) submittedUnder(reqs []core.Request) {
	for _, r := range reqs {
		w.queued[r.ID] = w.running.Generation
		w.refusable[r.ID] = builderNamed(&w.running, r.Builder) == nil
	}
}

// checkDefinition: a build follows what its requests were queued under, whatever was applied since.
func (w *world) checkDefinition(b core.Build) {
	for _, id := range b.Requests {
		if gen, ok := w.queued[id]; ok && gen != b.Generation {
			w.fail("a build keeps the definition it was queued under", "request %d was queued under generation %d, build %d follows %d", id, gen, b.ID, b.Generation)
		}
	}
}

// checkRefused: a request for a builder that was there when it came is never refused.
func (w *world) checkRefused(e core.Ended) {
	if r := w.disk.requests[e.Request]; strings.Contains(r.Text, "not configured") && !w.refusable[e.Request] {
		w.fail("no build is lost", "request %d of %s was refused: %s", r.ID, r.Builder, r.Text)
	}
}

// checkUntouched: an apply says nothing to the agents and instances of workers that it does not change.
func (w *world) checkUntouched(before, after core.Config, effects []core.Effect) {
	for _, e := range effects {
		name := ""
		switch e := e.(type) {
		case core.Hangup:
			name = e.Worker
		case core.DestroyInstance:
			name = w.disk.instances[e.Key].Worker
		}
		if w.gave[name] { // what has changed brought work that needs its room
			continue
		}
		old, now := workerNamed(&before, name), workerNamed(&after, name)
		if old != nil && now != nil && reflect.DeepEqual(old, now) {
			w.fail("what did not change is left alone", "%s got %T when generation %d was applied", name, e, after.Generation)
		}
	}
}

// forlorn says whether nobody may serve a request: its builder was removed, or it is for one worker, and those who could are not configured any more.
func (w *world) forlorn(r core.Request) bool {
	b := builderNamed(&w.running, r.Builder)
	for i := len(w.history) - 1; b == nil && i >= 0; i-- {
		b = builderNamed(&w.history[i], r.Builder)
	}
	return b == nil || !slices.ContainsFunc(b.Workers, func(name string) bool {
		return workerNamed(&w.running, name) != nil && (r.Worker == "" || r.Worker == name)
	})
}

// checkSame: after the calm, everything is as if only the last configuration had ever been applied.
func (w *world) checkSame() {
	fresh := core.New("sim")
	fresh.Step(w.now, core.ConfigApplied{Config: w.running})
	want, got := w.essence(fresh.Snapshot(w.now)), w.essence(w.core.Snapshot(w.now))
	for i := range max(len(want), len(got)) {
		a, b := "nothing", "nothing"
		if i < len(want) {
			a = want[i]
		}
		if i < len(got) {
			b = got[i]
		}
		if a != b {
			w.fail("as if the last configuration were the only one", "there should be\n  %s\nand there is\n  %s", a, b)
		}
	}
	for _, k := range sortedKeys(w.disk.instances) {
		in := w.disk.instances[k]
		c := workerNamed(&w.running, in.Worker)
		if in.GoneAt.IsZero() && (c == nil || c.Spec != in.Spec || c.Provider != in.Provider) {
			w.fail("no instance of an old configuration", "%s has spec %q of %s", k, in.Spec, in.Provider)
		}
	}
}

// essence is what a snapshot says of the configuration, without the history.
func (w *world) essence(sn *core.Snapshot) (out []string) {
	for _, k := range sn.Workers {
		out = append(out, fmt.Sprintf("worker %+v retired=%v paused=%q builds=%d", k.Worker, k.Retired, k.Paused, len(k.Builds)))
	}
	for _, b := range sn.Builders {
		if b.Retired && b.Waiting > 0 && b.Running == 0 { // only what nobody can serve is left of it
			continue
		}
		waiting := b.Waiting
		for _, r := range sn.Requests {
			if r.Builder == b.Name && r.State == model.RequestWaiting && w.forlorn(r) {
				waiting--
			}
		}
		out = append(out, fmt.Sprintf("builder %s waiting=%d running=%d retired=%v", b.Name, waiting, b.Running, b.Retired))
	}
	for _, p := range sn.Providers {
		out = append(out, "provider "+p.Name)
	}
	for _, l := range sn.Locks {
		if len(l.Holders) > 0 {
			out = append(out, fmt.Sprintf("lock %s %s held", l.Name, l.Worker))
		}
	}
	for _, t := range sn.Timers {
		if strings.HasPrefix(t.Name, "schedule:") {
			out = append(out, fmt.Sprintf("%s at %s", t.Name, t.At))
		}
	}
	return out
}
