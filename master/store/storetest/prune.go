package storetest

import (
	"fmt"
	"testing"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// past is a request with one build and one instance that all ended at minute n.
func past(n int, r model.RequestID, b model.BuildID) (model.Request, core.Delta) {
	q, build, in := coreRequest(r), coreBuild(b, r), coreInstance(model.InstanceKey(fmt.Sprint("i", b)))
	q.State, q.FinishedAt, q.Build, q.Result = model.RequestDone, at(n), b, model.Success
	build.Phase, build.FinishedAt, build.Instance = model.BuildDone, at(n), in.Key
	in.GoneAt = at(n)
	return request(r), core.Delta{Requests: []core.Request{q}, Builds: []core.Build{build}, Instances: []core.Instance{in}, Journal: []core.Entry{
		{Kind: "request", Request: r}, {Kind: "build", Build: b}, {Kind: "instance", Instance: in.Key}, {Kind: "worker", Worker: "w1"}}}
}

func testPrune(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	var old []model.BuildID
	for i := range 450 { // more than one chunk
		id := i + 1
		r, d := past(10, model.RequestID(id), model.BuildID(id))
		old = append(old, model.BuildID(id))
		commit(t, s, store.Tx{Time: at(10), Requests: []model.Request{r}, Deltas: deltas(d), Steps: []model.Step{{Build: model.BuildID(id), Name: "s"}}})
	}
	r, d := past(30, 1001, 1001)
	commit(t, s, store.Tx{Time: at(30), Requests: []model.Request{r}, Deltas: deltas(d), Steps: []model.Step{{Build: 1001, Name: "s"}}})
	live := coreInstance("live")
	commit(t, s, store.Tx{Time: at(5), Requests: []model.Request{request(2000)}, Deltas: deltas(core.Delta{Requests: []core.Request{coreRequest(2000)},
		Builds: []core.Build{coreBuild(2000, 2000)}, Instances: []core.Instance{live}, Journal: []core.Entry{{Kind: "request", Request: 2000}}})})
	before := load(t, s)

	same(t, "removed", ok[[]model.BuildID](t)(s.Prune(ctx(t), at(20))), old)
	same(t, "live", load(t, s), before)
	same(t, "builds", buildIDs(ok[[]model.Build](t)(s.Builds(ctx(t), store.BuildFilter{}))), []model.BuildID{2000, 1001})
	_, err := s.Request(ctx(t), 450)
	isNotFound(t, "old request", err)
	same(t, "old steps", len(ok[[]model.Step](t)(s.Steps(ctx(t), 450))), 0)
	same(t, "kept steps", len(ok[[]model.Step](t)(s.Steps(ctx(t), 1001))), 1)
	_, err = s.Instance(ctx(t), "i450")
	isNotFound(t, "old instance", err)
	ok[model.Instance](t)(s.Instance(ctx(t), "i1001"))
	same(t, "trace of the live request", len(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 2000))), 1)
	same(t, "trace of the newer request", len(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 1001))), 2)
	same(t, "journal", len(ok[[]store.JournalRow](t)(s.Journal(ctx(t), 0, 1000))), 4+1)
	same(t, "again", len(ok[[]model.BuildID](t)(s.Prune(ctx(t), at(20)))), 0)
}

func testPruneKeepsProviders(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	for g := range 4 {
		commit(t, s, store.Tx{Config: &store.ConfigSnapshot{Generation: model.Generation(g + 1), AppliedAt: at(g)}})
	}
	in := coreInstance("i1") // asked for at the time of generation 2
	commit(t, s, store.Tx{Deltas: deltas(core.Delta{Instances: []core.Instance{in}})})
	kept := func() (out []model.Generation) {
		ok[[]model.BuildID](t)(s.Prune(ctx(t), at(60)))
		for _, c := range ok[[]store.ConfigSnapshot](t)(s.Configs(ctx(t), 0)) {
			out = append(out, c.Generation)
		}
		return out
	}
	same(t, "while it lives", kept(), []model.Generation{4, 3, 2})
	in.GoneAt = at(7)
	commit(t, s, store.Tx{Deltas: deltas(core.Delta{Instances: []core.Instance{in}})})
	same(t, "when it is gone", kept(), []model.Generation{4})
}

func testPruneTogether(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	for g := range 3 {
		commit(t, s, store.Tx{Config: &store.ConfigSnapshot{Generation: model.Generation(g + 1), AppliedAt: at(g)}})
	}
	// Request 1 failed an old attempt and waits again: its attempt, that one's instance, its configuration and its journal are still wanted.
	r1, d1 := past(10, 1, 1)
	d1.Requests[0].State = model.RequestWaiting
	// Build 2 served requests 2 and 3; request 3 ended late.
	r2, d2 := past(10, 2, 2)
	d2.Builds[0].Requests = []model.RequestID{2, 3}
	r3, d3 := past(30, 3, 3)
	d3.Builds, d3.Instances = nil, nil
	// Request 4 is old, and its build is young.
	r4, d4 := past(30, 4, 4)
	d4.Requests[0].FinishedAt = at(10)
	commit(t, s, store.Tx{Time: at(10), Requests: []model.Request{r1, r2, r3, r4}, Deltas: deltas(d1, d2, d3, d4)})
	same(t, "removed", len(ok[[]model.BuildID](t)(s.Prune(ctx(t), at(20)))), 0)
	for id := range 4 {
		ok[model.Request](t)(s.Request(ctx(t), model.RequestID(id+1)))
	}
	ok[model.Instance](t)(s.Instance(ctx(t), "i1"))
	same(t, "trace of request 1", len(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 1))), 2) // its own, and its build's; the instance's came after the build's end
	_, err := s.Config(ctx(t), 1)
	isNotFound(t, "generation 1, which nothing uses", err)
	ok[store.ConfigSnapshot](t)(s.Config(ctx(t), 2))

	same(t, "later", ok[[]model.BuildID](t)(s.Prune(ctx(t), at(60))), []model.BuildID{2, 4})
	_, err = s.Request(ctx(t), 3)
	isNotFound(t, "request 3", err)
	ok[store.ConfigSnapshot](t)(s.Config(ctx(t), 3))
}
