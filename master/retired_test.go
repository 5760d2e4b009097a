package master

import (
	"slices"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// TestRetiredBuildersAreThoseWithSomethingToDo: what is removed and idle is forgotten, what waits or runs is taken from the last generation that had it.
func TestRetiredBuildersAreThoseWithSomethingToDo(t *testing.T) {
	t.Parallel()
	saved := core.Saved{
		Requests: []core.Request{{ID: 1, Builder: "waits", Generation: 3}, {ID: 2, Builder: "waits", Generation: 2}, {ID: 3, Builder: "stays", Generation: 1}},
		Builds:   []core.Build{{ID: 1, Builder: "runs", Generation: 4}},
	}
	now := &hcl.Config{Builders: []hcl.Builder{{Name: "stays"}}, Locks: []hcl.Lock{{Name: "kept", Max: 1}}}
	r := retirement{missing: orphaned(now, saved), locks: map[string]bool{"kept": true}}
	if len(r.missing) != 2 || r.missing["waits"] != 2 || r.missing["runs"] != 4 {
		t.Fatalf("missing are %v", r.missing)
	}
	if r.wants(3) || !r.wants(2) || !r.wants(model.Generation(4)) {
		t.Error("the generations of the oldest requests are not known")
	}
	newer := &hcl.Config{
		Builders: []hcl.Builder{{Name: "waits", Workers: []string{"w2"}, MaxAttempts: 4, Locks: []hcl.Access{{Lock: "kept"}, {Lock: "lost", Exclusive: true}}}, {Name: "idle"}},
		Locks:    []hcl.Lock{{Name: "lost", Max: 3, PerWorker: true}, {Name: "kept", Max: 7}},
	}
	older := &hcl.Config{Builders: []hcl.Builder{{Name: "waits", Workers: []string{"w1"}}, {Name: "runs", Workers: []string{"w1"}}}}
	if got := r.take(newer); !slices.Equal(got, []string{"waits"}) {
		t.Errorf("the newer one gave %v", got)
	}
	if got := r.take(older); !slices.Equal(got, []string{"runs"}) {
		t.Errorf("the older one gave %v", got)
	}
	if len(r.missing) > 0 || len(r.builders) != 2 {
		t.Fatalf("%v are missing, found are %v", r.missing, r.builders)
	}
	if b := r.builders[0]; !slices.Equal(b.Workers, []string{"w2"}) || b.MaxAttempts != 4 || len(b.Locks) != 2 || !b.Locks[1].Exclusive {
		t.Errorf("the builder is %+v", b)
	}
	if want := []core.Lock{{Name: "lost", Max: 3, PerWorker: true}}; !slices.Equal(r.lost, want) {
		t.Errorf("the locks are %v, want %v", r.lost, want)
	}
}
