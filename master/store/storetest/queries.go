package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

func buildIDs(builds []model.Build) (ids []model.BuildID) {
	for _, b := range builds {
		ids = append(ids, b.ID)
	}
	return ids
}

func testBuilds(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	var d core.Delta
	for i := range 6 {
		b := coreBuild(model.BuildID(i+1), model.RequestID(i+1))
		b.Builder, b.Worker = []string{"linux", "mac"}[i%2], []string{"w1", "w2", "w3"}[i%3]
		if i == 5 {
			b.Requests = []model.RequestID{6, 1}
		}
		d.Builds = append(d.Builds, b)
	}
	var requests []model.Request
	for i := range 700 {
		requests = append(requests, request(model.RequestID(i+1)))
	}
	commit(t, s, store.Tx{Requests: requests, Deltas: deltas(d), Props: []store.BuildProperties{{Build: 2, Properties: model.Properties{"a": {Value: "b"}}}}})
	for _, tc := range []struct {
		f    store.BuildFilter
		want []model.BuildID
	}{
		{store.BuildFilter{}, []model.BuildID{6, 5, 4, 3, 2, 1}},
		{store.BuildFilter{Limit: 2}, []model.BuildID{6, 5}},
		{store.BuildFilter{Before: 3}, []model.BuildID{2, 1}},
		{store.BuildFilter{Builder: "mac"}, []model.BuildID{6, 4, 2}},
		{store.BuildFilter{Worker: "w2"}, []model.BuildID{5, 2}},
		{store.BuildFilter{Builder: "mac", Worker: "w2"}, []model.BuildID{2}},
		{store.BuildFilter{Request: 1}, []model.BuildID{6, 1}},
		{store.BuildFilter{Request: 1, Before: 6}, []model.BuildID{1}},
		{store.BuildFilter{Request: 99}, nil},
		{store.BuildFilter{Builder: "' OR 1=1 --"}, nil},
	} {
		builds := ok[[]model.Build](t)(s.Builds(ctx(t), tc.f))
		same(t, fmt.Sprintf("%+v", tc.f), buildIDs(builds), tc.want)
		for _, b := range builds {
			if b.Properties != nil {
				t.Errorf("a list of builds carries properties")
			}
		}
	}
	var ids []model.RequestID
	for i := range 700 {
		ids = append(ids, model.RequestID(i+1))
	}
	same(t, "many requests", len(ok[[]model.Request](t)(s.Requests(ctx(t), append(ids, 9999)))), 700)
}

func testInstances(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	var d core.Delta
	add := func(key model.InstanceKey, worker string, f func(in *core.Instance)) {
		in := core.Instance{Key: key, Worker: worker, Provider: "p", AskedAt: at(1)}
		f(&in)
		d.Instances = append(d.Instances, in)
	}
	add("a", "w1", func(in *core.Instance) {})
	add("b", "w1", func(in *core.Instance) { in.BootedAt = at(2) })
	add("c", "w2", func(in *core.Instance) { in.BootedAt, in.AttachedAt = at(2), at(3) })
	add("d", "w2", func(in *core.Instance) { in.BootedAt, in.AttachedAt, in.LostAt = at(2), at(3), at(4) })
	add("e", "w2", func(in *core.Instance) { in.AttachedAt, in.Doomed, in.DoomedAt = at(3), true, at(4) })
	add("f", "w2", func(in *core.Instance) { in.Doomed, in.GoneAt = true, at(5) })
	commit(t, s, store.Tx{Deltas: deltas(d)})
	list := func(worker string, limit int) (out string) {
		for _, in := range ok[[]model.Instance](t)(s.Instances(ctx(t), worker, limit)) {
			out += fmt.Sprintf("%s %s;", in.Key, in.State)
		}
		return out
	}
	same(t, "all", list("", 0), "f gone;e doomed;d lost;c attached;b booting;a requested;")
	same(t, "w1", list("w1", 0), "b booting;a requested;")
	same(t, "limit", list("", 1), "f gone;")
}

func testConfigs(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	one := store.ConfigSnapshot{Generation: 1, AppliedAt: at(1), Files: map[string][]byte{"a.hcl": []byte("x = \"\xff\"\n")}, Variables: map[string]string{"v": `"1"`},
		By: "ann", From: "apply", Directory: "/etc/rouse", Reason: "more workers", Summary: []byte(`{"add":1}`)}
	two := store.ConfigSnapshot{Generation: 2, AppliedAt: at(2)}
	commit(t, s, store.Tx{Config: &one})
	commit(t, s, store.Tx{Config: &two})
	same(t, "1", ok[store.ConfigSnapshot](t)(s.Config(ctx(t), 1)), one)
	same(t, "latest", ok[store.ConfigSnapshot](t)(s.LatestConfig(ctx(t))), two)
	same(t, "newest first", ok[[]store.ConfigSnapshot](t)(s.Configs(ctx(t), 1)), []store.ConfigSnapshot{two})
	short := one
	short.Files, short.Variables = nil, nil
	same(t, "without the text", ok[[]store.ConfigSnapshot](t)(s.Configs(ctx(t), 0)), []store.ConfigSnapshot{two, short})
}

func seqs(rows []store.JournalRow) (out []string) {
	for _, r := range rows {
		out = append(out, r.Entry.Cause)
	}
	return out
}

func testTrace(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	first, second := coreBuild(1, 1), coreBuild(2, 1, 2)
	first.Instance, first.Phase = "i1", model.BuildDone
	second.Instance = "i2"
	commit(t, s, store.Tx{Requests: []model.Request{request(1), request(2), request(3)}, Deltas: deltas(core.Delta{
		Builds: []core.Build{first, second},
		Journal: []core.Entry{
			{Kind: "request", Request: 1, Cause: "submitted"},
			{Kind: "request", Request: 2, Cause: "submitted 2"},
			{Kind: "instance", Instance: "i1", Cause: "before it was bound"},
			{Kind: "build", Build: 1, Request: 1, Cause: "assigned"},
			{Kind: "instance", Instance: "i1", Cause: "asked for"},
			{Kind: "instance", Instance: "other", Cause: "another one"},
			{Kind: "build", Build: 1, Cause: "ended"},
			{Kind: "instance", Instance: "i1", Cause: "destroyed later"},
			{Kind: "build", Build: 2, Request: 1, Cause: "assigned again"},
			{Kind: "request", Build: 2, Request: 2, Cause: "claimed 2"},
			{Kind: "request", Build: 2, Request: 1, Cause: "claimed"},
			{Kind: "build", Build: 2, Cause: "running"},
			{Kind: "instance", Instance: "i2", Build: 2, Cause: "attached"},
			{Kind: "instance", Instance: "i2", Cause: "doomed"},
		}})})
	same(t, "request 1", seqs(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 1))),
		[]string{"submitted", "assigned", "asked for", "ended", "assigned again", "claimed", "running", "attached", "doomed"})
	same(t, "request 2", seqs(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 2))),
		[]string{"submitted 2", "assigned again", "claimed 2", "running", "attached", "doomed"})
	same(t, "request 3", len(ok[[]store.JournalRow](t)(s.Trace(ctx(t), 3))), 0)
}

func testJournal(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	for n := range 11 { // every remainder of the number of rows that an implementation may write at once
		var d core.Delta
		for i := range n {
			d.Journal = append(d.Journal, core.Entry{Kind: "build", Cause: fmt.Sprint(n, ".", i)})
		}
		commit(t, s, store.Tx{Deltas: deltas(d, core.Delta{})})
	}
	last := int64(0)
	var got, want []string
	for {
		rows := ok[[]store.JournalRow](t)(s.Journal(ctx(t), last, 7))
		if len(rows) == 0 {
			break
		}
		for _, r := range rows {
			if r.Seq <= last {
				t.Fatalf("row %d comes after %d", r.Seq, last)
			}
			last = r.Seq
		}
		got = append(got, seqs(rows)...)
	}
	for n := range 11 {
		for i := range n {
			want = append(want, fmt.Sprint(n, ".", i))
		}
	}
	same(t, "journal", got, want)
}

// testReaders reads while commits go on: a reader sees a request and its builds as one commit left them.
func testReaders(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	defer closing(t, s)
	r, b := coreRequest(1), coreBuild(1, 1)
	r.Text = b.Text
	commit(t, s, store.Tx{Requests: []model.Request{request(1)}, Deltas: deltas(core.Delta{Requests: []core.Request{r}, Builds: []core.Build{b}})})
	c, stop := context.WithCancel(ctx(t))
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for c.Err() == nil {
				saved, _, err := s.Load(context.Background())
				if err != nil {
					t.Errorf("load during commits: %v", err)
					return
				}
				if r, b := saved.Requests[0], saved.Builds[0]; r.Text != b.Text {
					t.Errorf("a reader saw half a commit: %q and %q", r.Text, b.Text)
					return
				}
			}
		})
	}
	for i := range 100 {
		r.Text, b.Text = fmt.Sprint(i), fmt.Sprint(i)
		commit(t, s, store.Tx{Deltas: deltas(core.Delta{Requests: []core.Request{r}, Builds: []core.Build{b}})})
	}
	stop()
	readers.Wait()
}
