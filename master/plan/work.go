package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// work finds the builds and requests that the plan touches.
func (pl *planner) work() {
	if sn := pl.Snapshot; sn != nil {
		for i := range sn.Builds {
			b := &sn.Builds[i]
			w := Work{Kind: "build", ID: int64(b.ID), Builder: b.Builder, Worker: b.Worker, Generation: b.Generation}
			builder, worker := pl.action("builder."+b.Builder), pl.action("worker."+b.Worker)
			switch {
			case builder == Remove:
				w.Effect, w.Text = "builder-removed", "goes on to its end; its builder is removed and keeps its history"
			case worker == Remove:
				w.Effect, w.Text = "worker-removed", "goes on to its end; then its worker's machine ends"
			case worker == Replace:
				w.Effect, w.Text = "worker-replaced", "goes on to its end; then its worker's machine is replaced"
			case pl.redefined[b.Builder]:
				w.Effect, w.Text = "keeps-definition", fmt.Sprintf("goes on with the definition of generation %d", b.Generation)
			default:
				continue
			}
			pl.p.Work = append(pl.p.Work, w)
		}
	}
	for i := range pl.Queued {
		r := &pl.Queued[i]
		if r.State != model.RequestWaiting {
			continue
		}
		w := Work{Kind: "request", ID: int64(r.ID), Builder: r.Builder, Worker: r.Worker, Generation: r.Generation}
		switch builder := pl.action("builder." + r.Builder); {
		case builder == Remove && !pl.keepsWorker(r.Builder):
			w.Effect, w.Text = "builder-removed", "waits: its builder is removed, and so are all its workers; one must be configured again, or the request cancelled"
		case builder == Remove:
			w.Effect, w.Text = "builder-removed", fmt.Sprintf("is built with the definition of generation %d all the same; its builder takes no other", r.Generation)
		case r.Worker != "" && pl.action("worker."+r.Worker) == Remove:
			w.Effect, w.Text = "no-worker", fmt.Sprintf("waits: only %s may build it, and that is removed", r.Worker)
		case pl.redefined[r.Builder]:
			w.Effect, w.Text = "keeps-definition", fmt.Sprintf("is built with the definition of generation %d", r.Generation)
		default:
			continue
		}
		pl.p.Work = append(pl.p.Work, w)
	}
	slices.SortStableFunc(pl.p.Work, func(a, b Work) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) })
}

// keepsWorker says whether any worker remains that a builder has had: those that wait for a removed builder are built where they would have been.
func (pl *planner) keepsWorker(builder string) bool {
	for i := range pl.old.Builders {
		if b := &pl.old.Builders[i]; b.Name == builder {
			return slices.ContainsFunc(b.Workers, func(w string) bool { return pl.newWorkers[w] != nil })
		}
	}
	return false
}

func (pl *planner) action(address string) Action {
	if c := pl.byAddress[address]; c != nil {
		return c.Action
	}
	return NoOp
}

// cost adds up one instance of each latent worker: more than one it never has.
func (pl *planner) cost() {
	c := &pl.p.Cost
	c.Currency = pl.New.Master.Currency
	for i := range pl.old.Workers {
		w := &pl.old.Workers[i]
		price, known := w.Price, w.Price > 0
		if p, ok := pl.PricesBefore[w.Name]; !known && ok {
			price, known = most(p), true
		}
		if n := pl.newWorkers[w.Name]; !known && n != nil && n.Spec == w.Spec {
			price, known = most(pl.Prices[w.Name]), true
		}
		if in := pl.fleet.live[w.Name]; !known && in != nil {
			price = in.Instance.Price
		}
		if w.Provider != "" {
			c.Before += price
		}
	}
	for i := range pl.New.Workers {
		w := &pl.New.Workers[i]
		if w.Provider == "" {
			continue
		}
		p, ok := pl.Prices[w.Name]
		switch {
		case w.Price > 0:
			c.After += w.Price
		case ok:
			c.After += most(p)
		default:
			c.Unpriced++
		}
	}
	c.Before, c.After = round(c.Before), round(c.After)
}

// most is what an instance costs at worst.
func most(p providers.Price) float64 { return max(p.Running, p.Most) }

// round makes sums of the same prices the same in whatever order they are added.
func round(x float64) float64 { return float64(int64(x*1e6+0.5)) / 1e6 }
