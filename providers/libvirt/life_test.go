package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

const me providers.Owner = "me"

func opened(t *testing.T, dir string, cfg Config, dial dialer) *provider {
	t.Helper()
	p, err := open(providers.Env{Name: "lab", Owner: me, Config: cfg, StateDir: dir, Log: slog.New(slog.DiscardHandler)}, dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func asked(key providers.Key, spec Spec) providers.CreateRequest {
	return providers.CreateRequest{Key: key, Owner: me, Worker: "w1", Spec: spec,
		Agent: providers.Agent{Master: "ws://master:9989", Name: "w1", Token: "the-token", Orphan: time.Hour}}
}

// ended calls for the end of an instance until it is proven, as the master does.
func ended(t *testing.T, p *provider, key providers.Key) {
	t.Helper()
	for range 20 {
		if err := p.Destroy(t.Context(), key); providers.ClassOf(err) == providers.NotFound {
			return
		}
	}
	t.Fatalf("%s can not be ended", key)
}

// brokenCalls are the calls of a host that a Create and a Destroy make.
var brokenCalls = []string{"Node", "Domains", "Domain", "Volume", "Volumes", "CreateVolume", "Upload", "Start", "Destroy", "DeleteVolume", "Pool", "Shutdown"}

// TestNothingIsLeftAndNothingIsDoubledWhateverCallFails does to a whole life, driven as the master drives it, every single fault: the n-th call of each name is
// refused in each way, or is done and its answer lost.
func TestNothingIsLeftAndNothingIsDoubledWhateverCallFails(t *testing.T) {
	t.Parallel()
	faults := map[string]error{"lost": nil}
	for kind, name := range map[errorKind]string{failed: "failed", unreachable: "unreachable", noSpace: "no space", exists: "exists"} {
		faults[name] = &linkError{kind, "refused on purpose"}
	}
	specs := map[string]Spec{"copy": good(), "seed": good(), "graceful": good()}
	for name, s := range specs {
		switch name {
		case "copy":
			s.Clone = "copy"
		case "seed":
			s.Identity = ByNoCloud
		case "graceful":
			s.Graceful = time.Nanosecond
		}
		specs[name] = s
	}
	struck := 0
	for specName, spec := range specs {
		for fault, err := range faults {
			for _, call := range brokenCalls {
				for n := 1; n <= 8; n++ {
					h, did := newFakeHost(), false
					p := opened(t, t.TempDir(), config(), h.dial)
					h.hook = func(c string, i int) (error, bool) {
						if c != call || i != n {
							return nil, false
						}
						did = true
						return err, err == nil
					}
					what := fmt.Sprintf("%s: %s of call %d of %s", specName, fault, n, call)
					wholeLife(t, what, p, h, spec)
					if err := p.Close(); err != nil {
						t.Error(err)
					}
					if !did {
						break // there is no such call
					}
					struck++
				}
			}
		}
	}
	if struck < 100 {
		t.Errorf("only %d faults struck", struck)
	}
}

// wholeLife creates, looks and destroys until the instance is proven gone or was certainly never made.
func wholeLife(t *testing.T, what string, p *provider, h *fakeHost, spec Spec) {
	t.Helper()
	const key = "me-w1-1"
	ctx := t.Context()
	up := false
	for range 10 {
		in, err := p.Create(ctx, asked(key, spec))
		if err == nil {
			if up = true; in.State != providers.Running || !h.alive(domainName(key)) {
				t.Errorf("%s: created, and it is %s", what, in.State)
			}
			break
		}
		if providers.ClassOf(err) != providers.Unknown { // the master believes that, and never asks again
			if left := h.left(); len(left) > 0 || h.alive(domainName(key)) {
				t.Errorf("%s: certainly not made (%v), and there is %v", what, err, left)
			}
			if n := len(p.records.on("host")); n > 0 {
				t.Errorf("%s: certainly not made (%v), and %d records are left", what, err, n)
			}
			return
		}
		if in, err := p.Get(ctx, key); err == nil && in.State == providers.Failed {
			break // it has ended, as far as can be seen
		}
	}
	if n := h.count(); n > 1 {
		t.Errorf("%s: %d domains", what, n)
	}
	for range 20 {
		err := p.Destroy(ctx, key)
		if c := providers.ClassOf(err); err != nil && c == providers.NotFound {
			if left := h.left(); len(left) > 0 || h.alive(domainName(key)) {
				t.Errorf("%s: proven gone, and there is %v", what, left)
			}
			if in, err := p.Create(ctx, asked(key, spec)); err == nil && in.State != providers.Gone && in.State != providers.Stopping || h.count() > 0 {
				t.Errorf("%s: made again after its end: %+v", what, in)
			}
			return
		} else if err != nil && c == providers.BadConfig {
			t.Errorf("%s: destroy: %v", what, err)
		}
	}
	t.Errorf("%s: can not be ended (up: %v)", what, up)
}

func TestForeignDomainsAreNeverTouched(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	for _, other := range []*tags{nil, {Owner: "somebody", Key: "me-w1-1"}, {Owner: me, Key: "me-w1-9"}} {
		h.domains["rouse-me-w1-1"] = &fakeDomain{domain: domain{Name: "rouse-me-w1-1", Power: powerOn, Tags: other}, stopped: make(chan struct{})}
		_, err := p.Create(t.Context(), asked("me-w1-1", good()))
		if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), "rouse-me-w1-1") {
			t.Errorf("%+v: create: %v", other, err)
		}
		if _, err := p.Get(t.Context(), "me-w1-1"); providers.ClassOf(err) != providers.NotFound {
			t.Errorf("%+v: get: %v", other, err)
		}
		if list, err := p.List(t.Context(), me); err != nil || len(list) != 0 {
			t.Errorf("%+v: list: %v, %v", other, list, err)
		}
		if !h.alive("rouse-me-w1-1") {
			t.Fatalf("%+v: it was ended", other)
		}
	}
	if err := p.Destroy(t.Context(), "me-w1-1"); providers.ClassOf(err) != providers.NotFound || !h.alive("rouse-me-w1-1") {
		t.Errorf("destroy: %v", err)
	}
}

func TestVolumesBesideAForeignDomainAreEnded(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	h.hook = func(call string, _ int) (error, bool) { // somebody takes the name a moment before
		if call == "Start" {
			h.domains["rouse-me-w1-1"] = &fakeDomain{domain: domain{Name: "rouse-me-w1-1", Power: powerOn}, stopped: make(chan struct{})}
		}
		return nil, false
	}
	if _, err := p.Create(t.Context(), asked("me-w1-1", good())); err == nil {
		t.Fatal("made under somebody's name")
	}
	ended(t, p, "me-w1-1")
	if left := h.left(); len(left) > 0 || !h.alive("rouse-me-w1-1") {
		t.Errorf("left: %v", left)
	}
}

func TestRecordsSurviveANewProvider(t *testing.T) {
	t.Parallel()
	h, dir := newFakeHost(), t.TempDir()
	first := opened(t, dir, config(), h.dial)
	for _, key := range []providers.Key{"me-w1-1", "me-w1-2"} {
		if _, err := first.Create(t.Context(), asked(key, good())); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, first, "me-w1-2")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if !h.alive("rouse-me-w1-1") {
		t.Fatal("closing ended a guest")
	}
	second := opened(t, dir, config(), h.dial)
	if in, err := second.Create(t.Context(), asked("me-w1-2", good())); err != nil || in.State != providers.Gone || h.alive("rouse-me-w1-2") {
		t.Errorf("an ended key was used again: %+v, %v", in, err)
	}
	if in, err := second.Create(t.Context(), asked("me-w1-1", good())); err != nil || in.State != providers.Running || h.count() != 1 {
		t.Errorf("%+v, %v, %d domains", in, err, h.count())
	}
	list, err := second.List(t.Context(), me)
	if err != nil || len(list) != 1 || list[0].Worker != "w1" || list[0].Place != "host" || list[0].Facts["host"] != "host" || list[0].CreatedAt.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	ended(t, second, "me-w1-1")
}

func TestGuestThatHasEndedIsFailedAndItsVolumesAreFound(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	told := make(chan providers.Key, 16)
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		_ = p.Watch(ctx, func(k providers.Key) { told <- k })
	}()
	defer func() { cancel(); <-watching }()
	if _, err := p.Create(t.Context(), asked("me-w1-1", good())); err != nil {
		t.Fatal(err)
	}
	h.stop("rouse-me-w1-1", "crashed")
	for deadline := time.After(5 * time.Second); ; {
		select {
		case k := <-told:
			if k != "me-w1-1" {
				continue
			}
		case <-deadline:
			t.Fatal("nobody was told")
		}
		break
	}
	in, err := p.Get(t.Context(), "me-w1-1")
	if err != nil || in.State != providers.Failed || !strings.Contains(in.Detail, "crashed") {
		t.Errorf("%+v, %v", in, err)
	}
	list, err := p.List(t.Context(), me)
	if err != nil || len(list) != 1 || list[0].State != providers.Failed {
		t.Errorf("%+v, %v", list, err)
	}
	ended(t, p, "me-w1-1")
	if left := h.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestGracefulStopHasALimit(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	spec := good()
	spec.Graceful = 2 * time.Second // whole seconds stand in the tags
	if _, err := p.Create(t.Context(), asked("me-w1-1", spec)); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), "me-w1-1"); err != nil || !h.alive("rouse-me-w1-1") || h.called("Shutdown") != 1 {
		t.Fatalf("%v, %d requests to shut down", err, h.called("Shutdown"))
	}
	if in, err := p.Get(t.Context(), "me-w1-1"); err != nil || in.State != providers.Stopping {
		t.Errorf("%+v, %v", in, err)
	}
	rec, _ := p.records.load("me-w1-1")
	rec.EndedAt = rec.EndedAt.Add(-spec.Graceful) // that much later
	if err := p.records.save("me-w1-1", rec); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), "me-w1-1"); err != nil || h.alive("rouse-me-w1-1") {
		t.Errorf("%v, still there", err)
	}
	ended(t, p, "me-w1-1")
}

func TestCloneIsAnOverlayOrACopy(t *testing.T) {
	t.Parallel()
	for clone, backing := range map[string]string{"overlay": "/pool/base.qcow2", "copy": ""} {
		h := newFakeHost()
		p := opened(t, t.TempDir(), config(), h.dial)
		spec := good()
		spec.Clone = clone
		for _, key := range []providers.Key{"me-w1-1", "me-w2-1"} {
			if _, err := p.Create(t.Context(), asked(key, spec)); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[string]bool{}
		for name, v := range h.pools["default"] {
			if strings.HasPrefix(name, prefix) {
				seen[v.Path] = true
				if v.Backing != backing || v.Capacity != 1<<30 || v.Format != "qcow2" {
					t.Errorf("%s: %+v", clone, v)
				}
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: disks %v, want two", clone, seen)
		}
	}
}

func TestBaseThatChangesUnderAFleetIsRefusedUntilTheLastOneHasEnded(t *testing.T) {
	t.Parallel()
	h, dir := newFakeHost(), t.TempDir()
	p := opened(t, dir, config(), h.dial)
	if _, err := p.Create(t.Context(), asked("me-w1-1", good())); err != nil {
		t.Fatal(err)
	}
	before, err := p.Resolve(t.Context(), good())
	if err != nil {
		t.Fatal(err)
	}
	base := h.pools["default"]["base.qcow2"]
	base.Changed = "2"
	h.pools["default"]["base.qcow2"] = base
	after, err := p.Resolve(t.Context(), good())
	if err != nil || after[0].Attr != "base_image" || after[0].Value == before[0].Value {
		t.Errorf("%+v, then %+v, %v", before, after, err)
	}
	p = opened(t, dir, config(), h.dial) // also after a restart
	_, err = p.Create(t.Context(), asked("me-w2-1", good()))
	if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), "/pool/base.qcow2") {
		t.Errorf("%v", err)
	}
	whole := good()
	whole.Clone = "copy" // which depends on nothing
	if _, err := p.Create(t.Context(), asked("me-w3-1", whole)); err != nil {
		t.Errorf("a copy: %v", err)
	}
	ended(t, p, "me-w3-1")
	ended(t, p, "me-w1-1")
	if _, err := p.Create(t.Context(), asked("me-w2-2", good())); err != nil {
		t.Errorf("after the last one's end: %v", err)
	}
}

func TestFullPoolIsNoCapacityAndLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	h.fail["CreateVolume"] = &linkError{noSpace, "No space left on device"}
	p := opened(t, t.TempDir(), config(), h.dial)
	_, err := p.Create(t.Context(), asked("me-w1-1", good()))
	if providers.ClassOf(err) != providers.NoCapacity || !strings.Contains(err.Error(), "No space left") || !strings.Contains(err.Error(), "host") {
		t.Errorf("%v", err)
	}
	if len(h.left()) > 0 {
		t.Error("something is left")
	}
}

func TestClassesOfAHostsRefusals(t *testing.T) {
	t.Parallel()
	for kind, want := range map[errorKind]providers.Class{failed: providers.Unknown, unreachable: providers.Transient, disconnected: providers.Unknown,
		denied: providers.Unauthorized, noSpace: providers.NoCapacity, noPool: providers.BadConfig, noNetwork: providers.BadConfig, invalid: providers.BadConfig,
		unsupported: providers.BadConfig, noLibrary: providers.BadConfig, notRunning: providers.Unknown} {
		if got := providers.ClassOf(classify("create", "h", &linkError{kind, "x"})); got != want {
			t.Errorf("create, %d: %s, want %s", kind, got, want)
		}
		if got := providers.ClassOf(classify("destroy", "h", &linkError{kind, "x"})); got == providers.BadConfig || got == providers.NotFound {
			t.Errorf("destroy, %d: %s proves what it does not", kind, got)
		}
	}
	if providers.ClassOf(classify("get", "h", errors.New("x"))) != providers.Unknown {
		t.Error("an error that nobody knows")
	}
}

func TestOrphanTimeIsRoundedUp(t *testing.T) {
	t.Parallel()
	req := asked("me-w1-1", good())
	req.Agent.Orphan = 1500 * time.Millisecond
	b, err := agentSettings(req)
	if err != nil || !strings.Contains(string(b), `"orphan_seconds":2,`) {
		t.Errorf("%s, %v", b, err)
	}
}
