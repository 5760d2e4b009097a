package master

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/providers"
)

// A standard worker that cannot attach looks like one that nobody has started: what keeps it away is noted with it, so that whoever looks for the worker finds it.

// refusals hold one note for each standard worker of the configuration at most, whoever knocks, and no secret.
type refusals struct {
	mu sync.Mutex
	m  map[string]refusal
}

type refusal struct {
	why    string
	at     time.Time
	locked bool // nobody can attach: the password cannot be read
}

func (r *refusals) of(worker string) (why string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.m[worker]
	return n.why, n.at
}

// set notes a refusal, and says whether that is news.
func (r *refusals) set(worker string, n refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string]refusal{}
	}
	old := r.m[worker]
	if old.locked && !n.locked {
		return false // who is turned away now would be so with any password
	}
	r.m[worker] = n
	return old.why != n.why
}

// clear forgets a note: of any kind, or only that the password cannot be read.
func (r *refusals) clear(worker string, lockedOnly bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !lockedOnly || r.m[worker].locked {
		delete(r.m, worker)
	}
}

// keep forgets the notes of workers that are not configured any more, or have another kind.
func (r *refusals) keep(standard map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.m {
		if !standard[name] {
			delete(r.m, name)
		}
	}
}

// tried notes what came of an agent's attempt.
func (m *master) tried(worker string, inst model.InstanceKey, ok bool) {
	w := m.current.Load().workers[worker]
	switch {
	case w == nil || w.Password == nil || inst != "":
	case ok:
		m.refused.clear(worker, false)
	default:
		m.refused.set(worker, refusal{why: "an agent with a wrong password was turned away", at: time.Now()})
	}
}

// unreadable notes whether the password of workers, who share it, can be read. Only what is new is logged: somebody may knock all the time.
func (m *master) unreadable(ws []*hcl.Worker, err error) {
	news := false
	for _, w := range ws {
		if err == nil {
			m.refused.clear(w.Name, true)
		} else if m.refused.set(w.Name, refusal{why: lockedText(err), at: time.Now(), locked: true}) {
			news = true
		}
	}
	if news {
		m.log.Warn("master: a password cannot be read, so no agent can attach as its worker", "worker", ws[0].Name, "more_workers", len(ws)-1, "secret", ws[0].Password.Name, "err", err)
	}
}

// lockedText says that a password cannot be read. Errors of secrets hold no value.
func lockedText(err error) string { return "its password cannot be read: " + err.Error() }

// readPasswords tells whoever reads the log which workers cannot attach, and notes it with each.
func (m *master) readPasswords(cfg *hcl.Config) {
	if m.current.Load().cfg != cfg { // another one was put into force, and is read for itself
		return
	}
	standard := map[string]bool{}
	by := map[string][]*hcl.Worker{}
	for i := range cfg.Workers {
		if w := &cfg.Workers[i]; w.Password != nil {
			standard[w.Name] = true
			by[w.Password.Name] = append(by[w.Password.Name], w)
		}
	}
	m.refused.keep(standard)
	for _, name := range slices.Sorted(maps.Keys(by)) {
		_, err := m.secrets.recent(*by[name][0].Password)
		if m.current.Load().cfg != cfg { // meanwhile
			return
		}
		m.unreadable(by[name], err)
	}
}

// lockedOut are the findings of a plan about passwords that cannot be read where that can be known without running anything, and soon. They are not remembered:
// a plan changes nothing.
func (m *master) lockedOut(ctx context.Context, cfg *hcl.Config) (out []plan.Finding) {
	ctx, cancel := context.WithTimeout(ctx, filesTimeout) // for all
	defer cancel()
	seen := map[string]bool{}
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		if w.Password == nil || len(w.Password.Command) > 0 || seen[w.Password.Name] || ctx.Err() != nil {
			continue
		}
		seen[w.Password.Name] = true
		if _, err := within(ctx, filesTimeout, func(ctx context.Context) ([]byte, error) { return w.Password.Read(ctx) }); err != nil {
			out = append(out, plan.Finding{Worker: w.Name, Finding: providers.Finding{Spec: -1, Summary: "A worker's password cannot be read",
				Detail: "No agent can attach as it: " + err.Error()}})
		}
	}
	slices.SortFunc(out, func(a, b plan.Finding) int {
		return cmp.Or(strings.Compare(a.Worker, b.Worker), strings.Compare(a.Detail, b.Detail))
	})
	return out
}
