package libvirt

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// templateOf makes a first instance, which boots, ends it, and waits for the template that is made meanwhile.
func templateOf(t *testing.T, h *fakeHost, p *provider, spec Spec) {
	t.Helper()
	if _, err := p.Create(t.Context(), asked("me-w1-1", spec)); err != nil {
		t.Fatal(err)
	}
	ended(t, p, "me-w1-1")
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		p.templates.mu.Lock()
		ready := false
		for _, m := range p.templates.all {
			ready = ready || m.ready
		}
		p.templates.mu.Unlock()
		if ready {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("no template")
		}
	}
	if left := h.left(); len(left) != 2 {
		t.Fatalf("beside the template there are %v", left)
	}
}

// fastHost is a host on which a template is ready, a provider on it, and what is asked for to have guests restored from it.
func fastHost(t *testing.T) (*fakeHost, *provider, Spec) {
	t.Helper()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	spec := good()
	spec.Fast = true
	templateOf(t, h, p, spec)
	return h, p, spec
}

// TestARestoredGuestHasItsOrderBeforeAnythingElse holds that nothing stands between a guest that was restored and its order, and that the copy of the memory, if
// it cannot be deleted then, costs the guest nothing and goes at its end.
func TestARestoredGuestHasItsOrderBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	const key = "me-w1-2"
	var calls []string
	h.mu.Lock()
	h.hook = func(call string, _ int) (error, bool) {
		calls = append(calls, call)
		if call == "DeleteVolume" {
			return &linkError{failed, "busy"}, false
		}
		return nil, false
	}
	h.mu.Unlock()
	if _, err := p.Create(t.Context(), asked(key, spec)); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.hook = nil
	said, all := h.sent[domainName(key)], strings.Join(calls, " ")
	h.mu.Unlock()
	if !strings.Contains(all, "Start Send DeleteVolume") {
		t.Errorf("the calls were %s", all)
	}
	var o struct {
		Agent         struct{ Name, Token string }
		MAC, Hostname string
		Seed          []byte
		Time          int64
	}
	if err := json.Unmarshal(said, &o); err != nil || o.Agent.Token != "the-token" || o.MAC != macOf(key, 0) || o.Hostname != "w1" || len(o.Seed) < 32 || o.Time == 0 {
		t.Errorf("it was told %s (%v)", said, err)
	}
	save := volumeName(me, key, saveSuffix)
	if left := strings.Join(h.left(), " "); !h.alive(domainName(key)) || !strings.Contains(left, save) {
		t.Errorf("the guest lives: %v; there are %s", h.alive(domainName(key)), left)
	}
	ended(t, p, key)
	if left := h.left(); len(left) != 2 || h.alive(domainName(key)) {
		t.Errorf("left: %v", left)
	}
}

// TestAGuestThatCannotBeToldIsScrappedAndBoots holds that a guest without an order never stays beside the one that takes its place.
func TestAGuestThatCannotBeToldIsScrappedAndBoots(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Send", "Start", "CreateVolume", "Upload"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			h, p, spec := fastHost(t)
			const key = "me-w1-2"
			broken := false
			h.mu.Lock()
			h.hook = func(c string, _ int) (error, bool) {
				if c == call && !broken {
					broken = true
					return &linkError{failed, "no"}, false
				}
				return nil, false
			}
			h.mu.Unlock()
			in, err := p.Create(t.Context(), asked(key, spec))
			if err != nil || in.State != providers.Running {
				t.Fatalf("%+v, %v", in, err)
			}
			d, err := (&fakeLink{h: h}).Domain(t.Context(), domainName(key))
			if err != nil || d.Tags == nil || d.Tags.Fast || !broken {
				t.Errorf("%+v, %v; broken: %v", d.Tags, err, broken)
			}
			ended(t, p, key)
			if left := h.left(); len(left) != 2 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestATemplateThatCannotBeRestoredIsMadeAnew damages what was saved: instances boot meanwhile, and are restored again from another one.
func TestATemplateThatCannotBeRestoredIsMadeAnew(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	h.mu.Lock()
	for file, b := range h.content {
		h.content[file] = append([]byte("damaged "), b[8:]...)
	}
	h.mu.Unlock()
	fast := false
	for n := 2; n < 50 && !fast; n++ {
		key := providers.Key(fmt.Sprintf("me-w1-%d", n))
		if _, err := p.Create(t.Context(), asked(key, spec)); err != nil {
			t.Fatal(err)
		}
		d, err := (&fakeLink{h: h}).Domain(t.Context(), domainName(key))
		if err != nil || d.Tags == nil {
			t.Fatalf("%+v, %v", d, err)
		}
		if fast = d.Tags.Fast; fast && n <= 1+mostFailures {
			t.Errorf("instance %d was restored from what is damaged", n)
		}
		ended(t, p, key)
		for limit := time.Now().Add(time.Second); !fast && n > mostFailures+1 && !p.templates.any(func(m *memory) bool { return m.ready }) && time.Now().Before(limit); {
			time.Sleep(time.Millisecond)
		}
	}
	if !fast {
		t.Error("no instance was restored again")
	}
	if left := h.left(); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func (t *templates) any(so func(*memory) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.all {
		if so(m) {
			return true
		}
	}
	return false
}

func TestAnotherKernelMakesAnotherTemplate(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"vmlinuz", "/pool/vmlinuz"} {
		h := newFakeHost()
		p := opened(t, t.TempDir(), config(), h.dial)
		spec := good()
		spec.Fast, spec.Kernel = true, name
		digests := map[string]bool{}
		for _, changed := range []string{"1", "2"} {
			h.pools["default"]["vmlinuz"] = volume{Pool: "default", Name: "vmlinuz", Path: "/pool/vmlinuz", Format: "raw", Changed: changed}
			l, err := p.hosts[0].link(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m, err := p.materials(t.Context(), l, p.hosts[0], "w1", spec, false)
			if err != nil || m.kernel != "/pool/vmlinuz" {
				t.Fatalf("%+v, %v", m, err)
			}
			d, err := templateDigest(h.node, &guest{spec: spec}, m)
			if err != nil {
				t.Fatal(err)
			}
			digests[d] = true
		}
		if len(digests) != 2 {
			t.Errorf("%s: the memory of a guest with another kernel is taken", name)
		}
	}
}

func TestATemplateThatCannotBeLookedAtIsNotDeleted(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	h.mu.Lock()
	h.fail["Volume"] = &linkError{failed, "no"}
	h.mu.Unlock()
	digest := ""
	p.templates.any(func(m *memory) bool { _, digest, _ = strings.Cut(m.id, " "); return true })
	l, err := p.hosts[0].link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{key: "me-w1-2", spec: spec}
	if _, err := p.makeTemplate(t.Context(), l, g, &materials{pool: "default", base: volume{Path: "/pool/base.qcow2", Format: "qcow2"}}, digest); err == nil {
		t.Error("made")
	}
	if left := h.left(); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

// TestATemplateThatStillBootsFromAnEarlierLifeIsEndedFirst is about a master that was killed while it made one.
func TestATemplateThatStillBootsFromAnEarlierLifeIsEndedFirst(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	digest := ""
	p.templates.any(func(m *memory) bool { _, digest, _ = strings.Cut(m.id, " "); return true })
	key := p.templateKey(digest)
	h.mu.Lock()
	delete(h.pools["default"], p.templateName(digest, saveSuffix))
	h.domains[domainName(key)] = &fakeDomain{domain: domain{Name: domainName(key), Power: powerOn, Tags: &tags{Owner: me, Key: key}}, stopped: make(chan struct{})}
	h.mu.Unlock()
	p = opened(t, t.TempDir(), config(), h.dial)
	templateOf(t, h, p, spec)
}

func TestATemplateThatEndsAtOnceIsAnErrorToRead(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	h.domains["x"] = &fakeDomain{domain: domain{Name: "x", Power: powerOn}, stopped: make(chan struct{})}
	close(h.domains["x"].stopped)
	err := untilSaid(t.Context(), &fakeLink{h: h}, "x", "what it never says")
	if err == nil || strings.Contains(fmt.Sprint(err), "%!") || !strings.Contains(err.Error(), "booting x") {
		t.Errorf("%v", err)
	}
}

func TestARestoredGuestThatCouldBeNeitherToldNorScrappedIsToldByTheNextCall(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	h.mu.Lock()
	h.fail["Send"], h.fail["Destroy"] = &linkError{failed, "no"}, &linkError{failed, "no"}
	h.mu.Unlock()
	if _, err := p.Create(t.Context(), asked("me-w1-2", spec)); providers.ClassOf(err) != providers.Unknown {
		t.Fatalf("%v", err)
	}
	h.mu.Lock()
	clear(h.fail)
	h.mu.Unlock()
	if in, err := p.Create(t.Context(), asked("me-w1-2", spec)); err != nil || in.State != providers.Running {
		t.Fatalf("%+v, %v", in, err)
	}
	h.mu.Lock()
	said := string(h.sent["rouse-me-w1-2"])
	h.mu.Unlock()
	if !strings.Contains(said, "the-token") {
		t.Errorf("it runs and was told %q", said)
	}
	ended(t, p, "me-w1-2")
}
