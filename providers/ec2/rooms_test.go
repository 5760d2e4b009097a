package ec2

import (
	"testing"

	"github.com/rouse-ci/rouse/providers"
)

// TestAStoppedInstanceLeavesItsPlaceToAnother: max_instances bounds what runs, and the caller counts in the same way.
func TestAStoppedInstanceLeavesItsPlaceToAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFakeEC2(), func(c *Config) { c.MaxInstances = 1 })
	if rooms, err := r.Rooms(t.Context()); err != nil || len(rooms) != 1 || rooms[0] != (providers.Room{Name: providers.LimitRoom, Slots: 1}) {
		t.Fatalf("rooms %+v, %v", rooms, err)
	}
	if in, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil || in.Place != providers.LimitRoom {
		t.Fatalf("%+v, %v", in, err)
	}
	_, err := r.Create(t.Context(), request("k-2", testSpec()))
	wantClass(t, err, providers.OverQuota)
	if err := r.Stop(t.Context(), "k-1", false); err != nil {
		t.Fatal(err)
	}
	if in, err := r.Get(t.Context(), "k-1"); err != nil || in.State != providers.Stopped || in.Place != providers.LimitRoom {
		t.Fatalf("%+v, %v", in, err)
	}
	if _, err := r.Create(t.Context(), request("k-3", testSpec())); err != nil {
		t.Error(err)
	}
}

func TestWithoutALimitThereAreNoRooms(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFakeEC2())
	if rooms, err := r.Rooms(t.Context()); err != nil || len(rooms) != 0 {
		t.Errorf("%+v, %v", rooms, err)
	}
	if in, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil || in.Place != "" {
		t.Errorf("%+v, %v", in, err)
	}
}
