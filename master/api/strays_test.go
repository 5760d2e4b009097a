package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// strayWorld is a world whose providers hold what no record knows. A list shows it one look later than it was asked for.
type strayWorld struct {
	*apitest.World
	mu     sync.Mutex
	live   core.Snapshot
	late   int // looks until the lists are there; negative: never
	asked  int
	orders []core.Event
}

func (w *strayWorld) Snapshot(context.Context) (*core.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked > 0 && w.late >= 0 {
		if w.asked--; w.asked == 0 {
			w.live.Providers = slices.Clone(w.live.Providers)
			for i := range w.live.Providers {
				w.live.Providers[i].Lists++
			}
		}
	}
	c := w.live
	return &c, nil
}

func (w *strayWorld) Do(_ context.Context, ev core.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orders = append(w.orders, ev)
	w.asked = w.late
	return nil
}

func strays(t *testing.T) (*strayWorld, *api.Client) {
	t.Helper()
	w := &strayWorld{World: apitest.New(), late: 3}
	w.live = w.Live
	w.live.Providers = []core.ProviderView{{Name: "here", LastListAt: apitest.At(time.Second)}, {Name: "cloud@north-0a1b2c3d", LastListErr: "unauthorized: expired"}}
	w.live.Strays = []core.StrayView{
		{Sighting: core.Sighting{Key: "abc-linux-1-9", ProviderID: "4712", State: core.SightRunning, CreatedAt: apitest.At(time.Hour)}, Provider: "here",
			FirstSeen: apitest.At(3 * time.Second), Sightings: 2, Grace: time.Minute, Sure: true},
		{Sighting: core.Sighting{Key: "abc-linux-2-4", State: core.SightPending, CreatedAt: apitest.At(10 * time.Second)}, Provider: "cloud@north-0a1b2c3d",
			FirstSeen: apitest.At(3 * time.Second), Sightings: 2, Grace: time.Minute},
		{Sighting: core.Sighting{Key: "abc-linux-2-5", State: core.SightStopped}, Provider: "here", FirstSeen: apitest.At(time.Hour), Sightings: 1, Grace: time.Minute},
	}
	return w, local(t, w.World, func(o *api.Options) { o.Engine = w })
}

func TestALookWaitsForTheListsAndShowsWhatNoRecordKnows(t *testing.T) {
	t.Parallel()
	w, c := strays(t)
	var got api.StrayList
	if err := c.Post(t.Context(), "/strays/look", nil, nil, &got); err != nil {
		t.Fatal(err)
	}
	want := api.StrayList{
		Providers: []api.StrayProvider{{Name: "here", ListedAt: apitest.At(time.Second)}, {Name: "cloud", Error: "unauthorized: expired"}},
		Strays: []api.Stray{
			{Provider: "here", Instance: "abc-linux-1-9", ID: "4712", State: "running", CreatedAt: apitest.At(time.Hour), FirstSeen: apitest.At(3 * time.Second), Age: 3600, Sure: true},
			{Provider: "cloud", Instance: "abc-linux-2-4", State: "pending", CreatedAt: apitest.At(10 * time.Second), FirstSeen: apitest.At(3 * time.Second), Age: 10,
				Why: "it must be 1m0s old: a call that is still on its way may have made it"},
			{Provider: "here", Instance: "abc-linux-2-5", State: "stopped", FirstSeen: apitest.At(time.Hour), Age: 3600, Why: "seen once so far"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]core.Event{core.SweepAsked{}}, w.orders); diff != "" {
		t.Error(diff)
	}
	if err := c.Get(t.Context(), "/strays", nil, &got); err != nil || len(got.Strays) != 3 || len(w.orders) != 1 {
		t.Errorf("reading: %v, %d strays, %d orders", err, len(got.Strays), len(w.orders))
	}
	if err := c.Post(t.Context(), "/strays/look", url.Values{"provider": {"cloud"}}, nil, &got); err != nil || len(got.Strays) != 1 || len(got.Providers) != 1 {
		t.Errorf("one provider: %v, %+v", err, got)
	}
	var p *api.Problem
	if err := c.Post(t.Context(), "/strays/look", url.Values{"provider": {"clou"}}, nil, &got); !errors.As(err, &p) || p.Status != 404 || p.Detail != `There is no provider "clou". Did you mean "cloud"?` {
		t.Errorf("a misspelt provider: %v", err)
	}
}

func TestOnlyAStrayThatIsSureIsDestroyed(t *testing.T) {
	t.Parallel()
	w, c := strays(t)
	for _, tc := range []struct {
		key    string
		status int
	}{
		{"abc-linux-1-2", http.StatusConflict}, // in use
		{"abc-linux-2-4", http.StatusConflict},
		{"abc-linux-2-5", http.StatusConflict},
		{"abc-linux-7-7", http.StatusNotFound},
	} {
		var p *api.Problem
		if err := c.Post(t.Context(), "/strays/"+tc.key+"/destroy", nil, nil, new(api.Done)); !errors.As(err, &p) || p.Status != tc.status {
			t.Errorf("%s: %v, want status %d", tc.key, err, tc.status)
		}
	}
	if len(w.orders) > 0 {
		t.Fatalf("ordered: %v", w.orders)
	}
	var d api.Done
	if err := c.Post(t.Context(), "/strays/abc-linux-1-9/destroy", nil, nil, &d); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]core.Event{core.ReapAsked{Key: model.InstanceKey("abc-linux-1-9")}}, w.orders); diff != "" {
		t.Error(diff)
	}
}

func TestALookDoesNotOutwaitItsCaller(t *testing.T) {
	t.Parallel()
	w, c := strays(t)
	w.late = -1
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Post(ctx, "/strays/look", nil, nil, new(api.StrayList)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
