package storetest

import (
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

func testEmpty(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	saved, meta, err := s.Load(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	owner := saved.Owner
	if len(owner) != 12 || strings.Trim(owner, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("the owner is %q, not 12 characters of lower-case base32", owner)
	}
	same(t, "saved", saved, core.Saved{Owner: owner, NextBuild: 1, NextOp: 1})
	same(t, "meta", meta, map[string]string{"owner": owner})
	same(t, "max request", ok[model.RequestID](t)(s.MaxRequest(ctx(t))), model.RequestID(0))
	closing(t, s)

	s = open(t)
	defer closing(t, s)
	same(t, "owner after reopening", load(t, s).Owner, owner)
}

func testRoundTrip(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	full, moved := request(5), coreRequest(5)
	build, in := coreBuild(9, 5, 6, 4), coreInstance("o-w1-1")
	worker := core.WorkerState{Name: "w1", Generation: 8, Tries: 2, BackoffUntil: at(10), LastError: "no capacity", Paused: "by hand", SeenAt: at(3),
		FailClass: "missing", ClassTries: 1}
	step := model.Step{Build: 9, Number: 2, Name: "compile", Kind: "shell", StartedAt: at(3), FinishedAt: at(4), Result: model.Warnings, Text: "2 warnings",
		Logs: []string{"stdio", "a\nb"}, State: []byte(`{"pos":1}`)}
	entry := core.Entry{Event: "OpDone", Kind: "instance", Request: 5, Build: 9, Worker: "w1", Instance: "o-w1-1", Op: 77, From: "a", To: "b", Cause: "c\n\x00ü"}
	commit(t, s, store.Tx{Time: at(3), Requests: []model.Request{full},
		Deltas: deltas(core.Delta{Requests: []core.Request{moved}, Builds: []core.Build{build}, Workers: []core.WorkerState{worker}, Instances: []core.Instance{in},
			NextBuild: 10, NextOp: 78, Journal: []core.Entry{entry}}),
		Steps: []model.Step{step}, Props: []store.BuildProperties{{Build: 9, Properties: full.Properties}}, Meta: map[string]string{"k": "v"}})

	check := func(s store.Store) {
		t.Helper()
		saved, meta, err := s.Load(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "saved", saved, core.Saved{Owner: saved.Owner, Requests: []core.Request{moved}, Builds: []core.Build{build}, Workers: []core.WorkerState{worker},
			Instances: []core.Instance{in}, NextBuild: 10, NextOp: 78})
		same(t, "meta", meta["k"], "v")
		same(t, "request", ok[model.Request](t)(s.Request(ctx(t), 5)), full)
		same(t, "build", ok[model.Build](t)(s.Build(ctx(t), 9)), model.Build{ID: 9, Requests: []model.RequestID{5, 6, 4}, Builder: "linux", Worker: "w1",
			Instance: "o-w1-1", Generation: 2, Attempt: 3, Phase: model.BuildRunning, AssignedAt: at(2), StartedAt: at(3), Result: model.NoResult, Text: "t",
			Properties: full.Properties})
		same(t, "steps", ok[[]model.Step](t)(s.Steps(ctx(t), 9)), []model.Step{step})
		same(t, "instance", ok[model.Instance](t)(s.Instance(ctx(t), "o-w1-1")), model.Instance{Key: "o-w1-1", Worker: "w1", Provider: "p", ProviderID: "i-1",
			State: model.InstanceDoomed, Reason: "idle", AskedAt: at(1), BootedAt: at(3), AttachedAt: at(4), DoomedAt: at(6), Price: 0.125,
			StoppedPrice: 0.0625, Place: "host-2", StoppedAt: at(5), Stopped: 90, Detail: "a machine", Facts: map[string]string{"zone": "a", "type": "m5"}})
		same(t, "journal", ok[[]store.JournalRow](t)(s.Journal(ctx(t), 0, 10)), []store.JournalRow{{Seq: 1, Time: at(3), Entry: entry}})
	}
	check(s)
	closing(t, s)
	s = open(t)
	defer closing(t, s)
	check(s)
}

func testReplace(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	first := coreBuild(1, 1)
	first.Phase, first.StartedAt, first.Instance, first.Text, first.Cancelling = model.BuildPreparing, time.Time{}, "", "", ""
	born := core.Instance{Key: "o-w1-1", Worker: "w1", Provider: "p", AskedAt: at(1)}
	commit(t, s, store.Tx{Requests: []model.Request{request(1)}, Deltas: deltas(
		core.Delta{Requests: []core.Request{coreRequest(1)}, Builds: []core.Build{first}, Instances: []core.Instance{born}, Workers: []core.WorkerState{{Name: "w1", Paused: "x"}}}),
		Steps: []model.Step{{Build: 1, Name: "a", Result: model.NoResult}}, Meta: map[string]string{"k": "1"}})

	// Of several rows of one thing in one transaction the last one counts.
	moved, mid := coreRequest(1), coreRequest(1)
	mid.State, mid.Attempts = model.RequestClaimed, 1
	moved.State, moved.Attempts, moved.Build, moved.Result, moved.Text, moved.Interrupted = model.RequestWaiting, 2, 4, model.Retry, "lost", 4
	second, in := coreBuild(1, 1), coreInstance("o-w1-1")
	commit(t, s, store.Tx{Deltas: deltas(
		core.Delta{Requests: []core.Request{mid}, Builds: []core.Build{first}},
		core.Delta{Requests: []core.Request{moved}, Builds: []core.Build{second}, Instances: []core.Instance{in}, Workers: []core.WorkerState{{Name: "w1", Tries: 1}}}),
		Steps: []model.Step{{Build: 1, Name: "a", Result: model.Success, Logs: []string{"stdio"}}}, Props: []store.BuildProperties{{Build: 1}},
		Meta: map[string]string{"k": "2"}})

	saved, meta, err := s.Load(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "saved", saved, core.Saved{Owner: saved.Owner, Requests: []core.Request{moved}, Builds: []core.Build{second}, Instances: []core.Instance{in},
		Workers: []core.WorkerState{{Name: "w1", Tries: 1}}, NextBuild: 1, NextOp: 1})
	same(t, "meta", meta["k"], "2")
	same(t, "steps", ok[[]model.Step](t)(s.Steps(ctx(t), 1)), []model.Step{{Build: 1, Name: "a", Result: model.Success, Logs: []string{"stdio"}}})
	want := request(1)
	want.Attempts, want.Build, want.Result, want.Text = 2, 4, model.Retry, "lost"
	same(t, "request", ok[model.Request](t)(s.Request(ctx(t), 1)), want)

	// A request's row and its first moves in one transaction, and a repetition of the row (a commit that is tried again after all) harms nothing.
	done := coreRequest(2)
	done.State, done.FinishedAt, done.Result, done.Text = model.RequestDone, at(9), model.Cancelled, "by bob"
	for range 2 {
		commit(t, s, store.Tx{Requests: []model.Request{request(2)}, Deltas: deltas(core.Delta{Requests: []core.Request{coreRequest(2)}}, core.Delta{Requests: []core.Request{done}})})
	}
	want = request(2)
	want.State, want.FinishedAt, want.Result, want.Text = model.RequestDone, at(9), model.Cancelled, "by bob"
	same(t, "request 2", ok[model.Request](t)(s.Request(ctx(t), 2)), want)
}

func testLoad(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	doneReq, doneBuild, goneIn := coreRequest(1), coreBuild(1, 1), coreInstance("o-w1-1")
	doneReq.State, doneReq.FinishedAt = model.RequestDone, at(5)
	doneBuild.Phase, doneBuild.FinishedAt = model.BuildDone, at(5)
	goneIn.GoneAt = at(6)
	claimed, live := coreRequest(2), coreInstance("o-w1-2")
	claimed.State = model.RequestClaimed
	commit(t, s, store.Tx{Requests: []model.Request{request(1), request(2), request(3)}, Deltas: deltas(core.Delta{
		Requests:  []core.Request{doneReq, claimed, coreRequest(3)},
		Builds:    []core.Build{doneBuild, coreBuild(2, 2)},
		Instances: []core.Instance{goneIn, live}})})
	saved := load(t, s)
	same(t, "requests", saved.Requests, []core.Request{claimed, coreRequest(3)})
	same(t, "builds", saved.Builds, []core.Build{coreBuild(2, 2)})
	same(t, "instances", saved.Instances, []core.Instance{live})
}

// testAtomic commits something that cannot be stored in the last row of a transaction.
func testAtomic(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	before := load(t, s)
	bad := store.Tx{Time: at(1), Requests: []model.Request{request(1)}, Deltas: deltas(core.Delta{Requests: []core.Request{coreRequest(1)}, Builds: []core.Build{coreBuild(1, 1)},
		NextBuild: 2, NextOp: 3, Journal: []core.Entry{{Kind: "request", Request: 1}}}),
		Props: []store.BuildProperties{{Build: 1, Properties: model.Properties{"f": {Value: func() {}}}}}}
	if err := s.Commit(ctx(t), bad); err == nil {
		t.Fatal("a property that is a function was stored")
	}
	same(t, "state", load(t, s), before)
	same(t, "max request", ok[model.RequestID](t)(s.MaxRequest(ctx(t))), model.RequestID(0))
	same(t, "journal", len(ok[[]store.JournalRow](t)(s.Journal(ctx(t), 0, 10))), 0)

	bad.Props = nil
	commit(t, s, bad)
	same(t, "requests", len(load(t, s).Requests), 1)
	same(t, "next build", load(t, s).NextBuild, model.BuildID(2))
	same(t, "max request", ok[model.RequestID](t)(s.MaxRequest(ctx(t))), model.RequestID(1))
}

func testCounters(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	done := coreRequest(41)
	done.State, done.FinishedAt = model.RequestDone, at(1)
	commit(t, s, store.Tx{Requests: []model.Request{request(41)}, Deltas: deltas(core.Delta{Requests: []core.Request{done}, NextBuild: 5, NextOp: 9}, core.Delta{})})
	commit(t, s, store.Tx{Deltas: deltas(core.Delta{NextBuild: 4, NextOp: 10})})
	if _, err := s.Prune(ctx(t), at(100)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Request(ctx(t), 41)
	isNotFound(t, "pruned request", err)
	closing(t, s)
	s = open(t)
	defer closing(t, s)
	saved := load(t, s)
	if saved.NextBuild != 5 || saved.NextOp != 10 {
		t.Errorf("next build %d, next op %d", saved.NextBuild, saved.NextOp)
	}
	same(t, "max request", ok[model.RequestID](t)(s.MaxRequest(ctx(t))), model.RequestID(41))
}

func testNotFound(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	_, err := s.Request(ctx(t), 1)
	isNotFound(t, "Request", err)
	_, err = s.Build(ctx(t), 1)
	isNotFound(t, "Build", err)
	_, err = s.Instance(ctx(t), "x")
	isNotFound(t, "Instance", err)
	_, err = s.Config(ctx(t), 1)
	isNotFound(t, "Config", err)
	_, err = s.LatestConfig(ctx(t))
	isNotFound(t, "LatestConfig", err)
	_, err = s.Trace(ctx(t), 1)
	isNotFound(t, "Trace", err)
	same(t, "steps", len(ok[[]model.Step](t)(s.Steps(ctx(t), 1))), 0)
	same(t, "requests", len(ok[[]model.Request](t)(s.Requests(ctx(t), []model.RequestID{1, 2}))), 0)
}
