package api_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/core"
)

func TestStatusShowsTheHostsOfAProvider(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	w.Live.Providers = []core.ProviderView{{Name: "here"}, {Name: "lab", Rooms: []core.RoomView{
		{Room: core.Room{Name: "a", VCPUs: 8, Memory: 16 << 30, Slots: 4}, TakenVCPUs: 3, TakenMemory: 6 << 30, Instances: 2},
		{Room: core.Room{Name: "b", Down: true}, Instances: 1, DownSince: apitest.At(time.Minute)},
	}}}
	var got api.Status
	if err := local(t, w, nil).Get(t.Context(), "/status", nil, &got); err != nil {
		t.Fatal(err)
	}
	want := []api.ProviderStatus{{Name: "here"}, {Name: "lab", Hosts: []api.Host{
		{Name: "a", Instances: 2, Slots: 4, VCPUs: 3, VCPULimit: 8, Memory: 6 << 30, MemoryLimit: 16 << 30},
		{Name: "b", Down: true, DownSince: apitest.At(time.Minute), Instances: 1},
	}}}
	if diff := cmp.Diff(want, got.Providers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
