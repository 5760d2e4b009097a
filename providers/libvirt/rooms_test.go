package libvirt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rouse-ci/rouse/providers"
)

func TestHostThatIsDownIsNotAFailedStart(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	h.down = &linkError{unreachable, "connection refused"}
	p := opened(t, t.TempDir(), config(), h.dial)
	_, err := p.Create(t.Context(), asked("me-w1-1", good()))
	if providers.ClassOf(err) != providers.Transient {
		t.Errorf("create: %v", err)
	}
	if _, err := p.List(t.Context(), me); err == nil {
		t.Error("a list of a host that cannot be asked")
	}
	if err := p.Destroy(t.Context(), "me-w1-1"); err == nil || providers.ClassOf(err) == providers.NotFound {
		t.Errorf("destroy: %v", err)
	}
	rooms, err := p.Rooms(t.Context())
	if err != nil || len(rooms) != 1 || !rooms[0].Down {
		t.Errorf("%+v, %v", rooms, err)
	}
}

// twoHosts is a provider with two hosts: a with limits, b as large as it is.
func twoHosts(t *testing.T) (a, b *fakeHost, p *provider) {
	a, b = newFakeHost(), newFakeHost()
	cfg := config()
	cfg.Hosts = []Host{{Name: "a", URI: "fake://a", VCPUs: 2, Memory: 1 << 30, Slots: 3}, {Name: "b", URI: "fake://b"}}
	b.node.Memory = 512 << 20
	return a, b, opened(t, t.TempDir(), cfg, func(ctx context.Context, uri string, event func(event), lost func(error)) (link, error) {
		if uri == "fake://a" {
			return a.dial(ctx, uri, event, lost)
		}
		return b.dial(ctx, uri, event, lost)
	})
}

func TestTwoHostsOfWhichOneIsDown(t *testing.T) {
	t.Parallel()
	a, b, p := twoHosts(t)
	b.down = &linkError{unreachable, "connection refused"}
	rooms, err := p.Rooms(t.Context())
	if want := []providers.Room{{Name: "a", VCPUs: 2, Memory: 1 << 30, Slots: 3}, {Name: "b", Down: true}}; err != nil || !slices.Equal(rooms, want) {
		t.Errorf("%+v, %v", rooms, err)
	}
	in, err := p.Create(t.Context(), asked("me-w1-1", good()))
	if err != nil || in.Place != "a" || !a.alive("rouse-me-w1-1") {
		t.Errorf("%+v, %v", in, err)
	}
	req := asked("me-w1-2", good())
	req.Place = "b"
	if _, err := p.Create(t.Context(), req); providers.ClassOf(err) != providers.Transient {
		t.Errorf("on the one that is down: %v", err)
	}
	ended(t, p, "me-w1-1")
	if _, err := p.List(t.Context(), me); err == nil {
		t.Error("half a list counts as a whole one")
	}
}

func TestInstanceGoesWhereItIsPlacedAndTheHostHasTheLastWord(t *testing.T) {
	t.Parallel()
	a, b, p := twoHosts(t)
	create := func(key providers.Key, place string, spec Spec) error {
		req := asked(key, spec)
		req.Place = place
		in, err := p.Create(t.Context(), req)
		if err == nil && place != "" && in.Place != place {
			t.Errorf("%s is on %s, not on %s", key, in.Place, place)
		}
		return err
	}
	if err := create("me-w1-1", "b", good()); err != nil || !b.alive("rouse-me-w1-1") {
		t.Fatal(err)
	}
	if err := create("me-w2-1", "", good()); err != nil || !a.alive("rouse-me-w2-1") { // which has more memory
		t.Fatal(err)
	}
	big := good()
	big.Memory = 900 << 20
	for place, want := range map[string]string{"a": "1028 of 1024 MiB", "b": "1028 of 512 MiB", "gone": "no host \"gone\""} {
		if err := create("me-w3-1", place, big); providers.ClassOf(err) != providers.NoCapacity || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", place, err)
		}
	}
	if left := append(a.left(), b.left()...); len(left) != 2 {
		t.Errorf("what was refused has left something: %v", left)
	}
	many := good()
	many.VCPUs = 2
	if err := create("me-w4-1", "a", many); providers.ClassOf(err) != providers.NoCapacity || !strings.Contains(err.Error(), "3 of 2 vcpus") {
		t.Errorf("%v", err)
	}
	ended(t, p, "me-w2-1")
	if err := create("me-w4-1", "a", many); err != nil {
		t.Errorf("after room was made: %v", err)
	}
}

func TestCreatesAtOnceDoNotTakeTheSameRoom(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	cfg := config()
	cfg.Hosts[0].Slots = 3
	p := opened(t, t.TempDir(), cfg, h.dial)
	var all sync.WaitGroup
	var mu sync.Mutex
	made, refused := 0, 0
	for i := range 20 {
		all.Go(func() {
			_, err := p.Create(t.Context(), asked(providers.Key(fmt.Sprintf("me-w%d-1", i)), good()))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case providers.ClassOf(err) == providers.NoCapacity:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made != 3 || refused != 17 || h.count() != 3 {
		t.Errorf("%d made, %d refused, %d there", made, refused, h.count())
	}
}

func TestWhatAPredefinedDomainTakesIsReadFromIt(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	cfg := config()
	cfg.Hosts[0].VCPUs = 4
	p := opened(t, t.TempDir(), cfg, h.dial)
	h.domains["w1"] = &fakeDomain{domain: domain{Name: "w1", Power: powerOff, XML: predefined}, stopped: make(chan struct{})}
	byName := Spec{Clone: "overlay", Identity: ByNothing}
	if v, m := (Kind{}).Size(nil, byName); v != 0 || m != 0 {
		t.Errorf("%d, %d known without looking", v, m)
	}
	if _, err := p.Create(t.Context(), asked("me-w1-1", byName)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), asked("me-w1-2", byName)); providers.ClassOf(err) != providers.NoCapacity {
		t.Errorf("6 of 4 vcpus: %v", err)
	}
	if v, m := (Kind{}).Size(nil, Spec{XML: predefined}); v != 3 || m != 256<<20 {
		t.Errorf("%d vcpus, %d bytes", v, m)
	}
	if v, m := (Kind{}).Size(nil, good()); v != 1 || m != 128<<20 {
		t.Errorf("%d vcpus, %d bytes", v, m)
	}
}
