package libvirt

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/providers"
)

func TestPreflightFindsWhatACreateWouldMeet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spec  Spec
		spoil func(h *fakeHost, cfg *Config, s *Spec)
		want  providers.Finding // Summary and Detail: parts
	}{
		"no libvirtd":     {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.down = &linkError{unreachable, "no such socket"} }, providers.Finding{Spec: -1, Attr: "uri", Detail: "systemctl status libvirtd"}},
		"no permission":   {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.down = &linkError{denied, "permission denied"} }, providers.Finding{Fatal: true, Spec: -1, Attr: "uri", Detail: "group libvirt"}},
		"no library":      {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.down = &linkError{noLibrary, "libvirt.so.0"} }, providers.Finding{Fatal: true, Spec: -1, Attr: "uri", Detail: "apt-get install libvirt0"}},
		"nobody there":    {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.down = &linkError{unreachable, "no such socket"} }, providers.Finding{Fatal: true, Spec: -1, Summary: "No host can be reached"}},
		"down in a block": {good(), func(h *fakeHost, cfg *Config, _ *Spec) { h.down, cfg.Hosts[0].Name = &linkError{unreachable, "x"}, "a" }, providers.Finding{Spec: -1, Attr: "host.uri"}},
		"no pool":         {good(), func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Pool = "fast" }, providers.Finding{Fatal: true, Spec: -1, Attr: "pool", Detail: "virsh pool-define-as fast"}},
		"stopped pool":    {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.poolIs = &pool{Name: "default"} }, providers.Finding{Fatal: true, Spec: -1, Attr: "pool", Detail: "pool-start default"}},
		"full pool": {good(), func(h *fakeHost, _ *Config, _ *Spec) {
			h.poolIs = &pool{Name: "default", Active: true, Capacity: 100 << 30, Available: 1 << 30}
		}, providers.Finding{Spec: -1, Attr: "pool", Detail: "1024 MiB left"}},
		"no image":             {good(), func(_ *fakeHost, _ *Config, s *Spec) { s.BaseImage = "bse.qcow2" }, providers.Finding{Fatal: true, Attr: "base_image", Detail: "there are base.qcow2"}},
		"no image, empty pool": {good(), func(h *fakeHost, _ *Config, _ *Spec) { clear(h.pools["default"]) }, providers.Finding{Fatal: true, Attr: "base_image", Detail: "the pool is empty"}},
		"image elsewhere":      {good(), func(_ *fakeHost, _ *Config, s *Spec) { s.BaseImage = "/nowhere/b.qcow2" }, providers.Finding{Attr: "base_image", Detail: "the first create makes the directory of /nowhere/b.qcow2 a pool"}},
		"other format": {good(), func(h *fakeHost, _ *Config, _ *Spec) {
			v := h.pools["default"]["base.qcow2"]
			v.Format = "vmdk"
			h.pools["default"]["base.qcow2"] = v
		}, providers.Finding{Fatal: true, Attr: "base_image", Detail: "vmdk"}},
		"no kernel":         {good(), func(_ *fakeHost, _ *Config, s *Spec) { s.Kernel = "vmlinuz" }, providers.Finding{Fatal: true, Attr: "kernel", Detail: `"vmlinuz"`}},
		"no network":        {good(), func(_ *fakeHost, _ *Config, s *Spec) { s.Network = "lab" }, providers.Finding{Fatal: true, Attr: "network", Detail: "rouse libvirt network lab"}},
		"network down":      {good(), func(h *fakeHost, _ *Config, _ *Spec) { h.nets["default"] = network{Name: "default"} }, providers.Finding{Fatal: true, Attr: "network", Detail: "virsh net-start default"}},
		"too much memory":   {good(), func(_ *fakeHost, _ *Config, s *Spec) { s.Memory = 1 << 40 }, providers.Finding{Fatal: true, Attr: "memory", Detail: "it needs 1048576"}},
		"more than allowed": {good(), func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Hosts[0].Memory = 64 << 20 }, providers.Finding{Fatal: true, Attr: "memory", Detail: "64 MiB for guests"}},
		"too many vcpus":    {good(), func(_ *fakeHost, cfg *Config, s *Spec) { cfg.Hosts[0].VCPUs, s.VCPUs = 2, 3 }, providers.Finding{Fatal: true, Attr: "vcpus", Detail: "it needs 3"}},
		"limit above host":  {good(), func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Hosts[0].Memory = 1 << 40 }, providers.Finding{Spec: -1, Attr: "memory", Summary: "More memory than the host has"}},
		"vcpus above host":  {good(), func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Hosts[0].VCPUs = 99 }, providers.Finding{Spec: -1, Attr: "vcpus", Summary: "Many more"}},
		"no template": {good(), func(_ *fakeHost, _ *Config, s *Spec) {
			*s = Spec{Domain: "golden", Clone: "overlay", Identity: BySMBIOS}
		}, providers.Finding{Fatal: true, Attr: "domain", Detail: `no domain "golden"`}},
		"XML without its image": {good(), func(h *fakeHost, _ *Config, s *Spec) {
			*s = Spec{XML: predefined, Clone: "overlay"}
			delete(h.pools["default"], "base.qcow2")
		}, providers.Finding{Fatal: true, Attr: "xml", Detail: `no image "base.qcow2"`}},
		"other libvirt": {good(), func(h *fakeHost, _ *Config, s *Spec) { h.node.Libvirt, s.Fast = "99.0.0", true }, providers.Finding{Attr: "fast", Detail: "; the host has 99.0.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, cfg, s := newFakeHost(), config(), c.spec
			c.spoil(h, &cfg, &s)
			p := opened(t, t.TempDir(), cfg, h.dial)
			before := len(h.left())
			found := p.Check(t.Context(), []any{s})
			if !slices.ContainsFunc(found, func(f providers.Finding) bool {
				return f.Fatal == c.want.Fatal && f.Spec == c.want.Spec && f.Attr == c.want.Attr && strings.Contains(f.Summary, c.want.Summary) && strings.Contains(f.Detail, c.want.Detail)
			}) {
				t.Errorf("want %+v, found %+v", c.want, found)
			}
			if len(h.left()) != before || h.called("Start")+h.called("CreateVolume") > 0 {
				t.Error("the preflight has made something")
			}
		})
	}
}

func TestPreflightOfWhatIsWellFindsNothing(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	h.domains["golden"] = &fakeDomain{domain: domain{Name: "golden", Power: powerOff, XML: predefined}, stopped: make(chan struct{})}
	p := opened(t, t.TempDir(), config(), h.dial)
	if found := p.Check(t.Context(), []any{good(), Spec{Domain: "golden", Clone: "overlay"}, Spec{XML: predefined, Clone: "copy"}, Spec{}}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	if found := p.Check(t.Context(), []any{7}); len(found) != 1 || !found[0].Fatal {
		t.Errorf("%+v", found)
	}
}

func TestPreflightSaysThatABaseHasChanged(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	if _, err := p.Create(t.Context(), asked("me-w1-1", good())); err != nil {
		t.Fatal(err)
	}
	v := h.pools["default"]["base.qcow2"]
	v.Changed = "2"
	h.pools["default"]["base.qcow2"] = v
	found := p.Check(t.Context(), []any{good()})
	if len(found) != 1 || found[0].Fatal || found[0].Attr != "base_image" || !strings.Contains(found[0].Detail, "1 instances") {
		t.Errorf("%+v", found)
	}
}

func TestResolveNamesTheContentOfEachHostsBase(t *testing.T) {
	t.Parallel()
	a, b, p := twoHosts(t)
	same, err := p.Resolve(t.Context(), good())
	if err != nil || len(same) != 1 || same[0].Attr != "base_image" || strings.Contains(same[0].Value, " ") {
		t.Errorf("%+v, %v", same, err)
	}
	v := b.pools["default"]["base.qcow2"]
	v.Changed = "2"
	b.pools["default"]["base.qcow2"] = v
	other, err := p.Resolve(t.Context(), good())
	if err != nil || len(strings.Fields(other[0].Value)) != 2 || !strings.Contains(other[0].Detail, "on a") || !strings.Contains(other[0].Detail, "on b") {
		t.Errorf("%+v, %v", other, err)
	}
	delete(a.pools["default"], "base.qcow2")
	if _, err := p.Resolve(t.Context(), good()); providers.ClassOf(err) != providers.BadConfig {
		t.Errorf("no candidate: %v", err)
	}
	if got, err := p.Resolve(t.Context(), Spec{}); err != nil || got != nil {
		t.Errorf("only the worker's name says it: %+v, %v", got, err)
	}
	a.down = &linkError{unreachable, "x"}
	a.cut()
	if _, err := p.Resolve(t.Context(), good()); err == nil {
		t.Error("half of the hosts stand for all")
	}
}

func TestAPreflightMakesNoPool(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{true, false} {
		h := newFakeHost()
		h.dirs = map[string]bool{"/srv/images": true}
		p := opened(t, t.TempDir(), config(), h.dial)
		p.readOnly = readOnly
		spec := good()
		spec.BaseImage = "/srv/images/base.qcow2"
		found := p.Check(t.Context(), []any{spec})
		if len(found) != 1 || found[0].Fatal || found[0].Attr != "base_image" || !strings.Contains(found[0].Detail, "/srv/images") {
			t.Errorf("%+v", found)
		}
		if _, err := p.Resolve(t.Context(), spec); err == nil || providers.ClassOf(err) == providers.BadConfig {
			t.Errorf("%v", err)
		}
		if len(h.pools) != 1 {
			t.Errorf("pools: %v", h.pools)
		}
	}
}

func TestADirectoryThatCannotBeAPoolEndsTheBuildAndALostConnectionDoesNot(t *testing.T) {
	t.Parallel()
	for want, fail := range map[providers.Class]error{providers.BadConfig: nil, providers.Transient: &linkError{unreachable, "no"}, providers.Unknown: context.DeadlineExceeded} {
		h := newFakeHost()
		if fail != nil {
			h.fail["PoolOf"] = fail
		}
		p := opened(t, t.TempDir(), config(), h.dial)
		spec := good()
		spec.BaseImage = "/nowhere/base.qcow2"
		if _, err := p.Create(t.Context(), asked("me-w1-1", spec)); providers.ClassOf(err) != want {
			t.Errorf("%v: %v, want %s", fail, err, want)
		}
	}
}

// TestAHostWithoutANameIsTheHost: a provider without host blocks has one host, and its author has never heard of a host called "host".
func TestAHostWithoutANameIsTheHost(t *testing.T) {
	t.Parallel()
	absent := func(_ *fakeHost, _ *Config, s *Spec) { s.BaseImage = "bse.qcow2" }
	for name, c := range map[string]struct {
		spoil func(h *fakeHost, cfg *Config, s *Spec)
		want  string
	}{
		"no image":      {absent, `the host has no image "bse.qcow2" in pool default`},
		"no pool":       {func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Pool = "fast" }, `the host has no storage pool "fast"`},
		"no template":   {func(_ *fakeHost, _ *Config, s *Spec) { *s = Spec{Domain: "golden", Clone: "overlay"} }, `the host has no domain "golden"`},
		"no connection": {func(h *fakeHost, _ *Config, _ *Spec) { h.down = &linkError{unreachable, "x"} }, "the host: "},
		"no room":       {func(_ *fakeHost, cfg *Config, _ *Spec) { cfg.Hosts[0].Memory = 64 << 20 }, "no host has room (the host: "},
		"a named one": {func(h *fakeHost, cfg *Config, s *Spec) {
			cfg.Hosts[0].Name = "a"
			absent(h, cfg, s)
		}, `host a has no image "bse.qcow2" in pool default`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, cfg, s := newFakeHost(), config(), good()
			c.spoil(h, &cfg, &s)
			p := opened(t, t.TempDir(), cfg, h.dial)
			_, err := p.Create(t.Context(), asked("me-w1-1", s))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			said := []string{err.Error()}
			for _, f := range p.Check(t.Context(), []any{s}) {
				said = append(said, f.Summary, f.Detail)
			}
			for _, text := range said {
				if lower := strings.ToLower(text); strings.Contains(lower, "host host") || strings.Contains(lower, "the the") {
					t.Error(text)
				}
			}
		})
	}
}
