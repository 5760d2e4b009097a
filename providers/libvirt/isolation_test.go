package libvirt

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// What must never be shared: between two guests, between a guest and its template, between ours and somebody else's, between one host and another.

const small = `<domain type='qemu'><name>x</name><memory unit='MiB'>128</memory><os><type>hvm</type></os><sysinfo type='smbios'><oemStrings><entry>its own</entry></oemStrings></sysinfo>
<devices><disk type='file' device='disk'><source file='/pool/base.qcow2'/><target dev='vda'/></disk><interface type='network'><source network='default'/></interface></devices></domain>`

// saidIn are the OEM strings and the disk of a definition.
func saidIn(t *testing.T, text string) (oem []string, disk string) {
	t.Helper()
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	for _, s := range d.SysInfo {
		if s.SMBIOS != nil && s.SMBIOS.OEMStrings != nil {
			oem = append(oem, s.SMBIOS.OEMStrings.Entry...)
		}
	}
	return oem, d.Devices.Disks[0].Source.File.File
}

func TestAnInstanceAndTheTemplateThatIsMadeMeanwhileHaveNothingOfEachOther(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]Spec{"xml": {XML: small, Clone: "overlay", Identity: BySMBIOS, Fast: true}, "domain": {Domain: "golden", Clone: "overlay", Identity: BySMBIOS, Fast: true}} {
		h := newFakeHost()
		h.domains["golden"] = &fakeDomain{domain: domain{Name: "golden", Power: powerOff, XML: small}, stopped: make(chan struct{})}
		p := opened(t, t.TempDir(), config(), h.dial)
		if _, err := p.Create(t.Context(), asked("me-w1-1", spec)); err != nil {
			t.Fatal(err)
		}
		d, err := (&fakeLink{h: h}).Domain(t.Context(), "rouse-me-w1-1")
		if err != nil {
			t.Fatal(err)
		}
		if oem, disk := saidIn(t, d.XML); len(oem) != 2 || oem[0] != "its own" || !strings.HasPrefix(oem[1], "rouse.agent=") || disk != "/pool/"+volumeName(me, "me-w1-1", diskSuffix) {
			t.Errorf("%s: the instance has the strings %v and the disk %s", name, oem, disk)
		}
		ended(t, p, "me-w1-1")
		save := ""
		eventually(t, func() bool {
			p.templates.mu.Lock()
			defer p.templates.mu.Unlock()
			for _, m := range p.templates.all {
				save = m.save.Path
			}
			return save != ""
		})
		h.mu.Lock()
		s, err := readSaved(strings.NewReader(string(h.content[save])))
		h.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if oem, disk := saidIn(t, s.xml); len(oem) != 2 || oem[1] != "rouse.wait="+orderPort || !strings.Contains(disk, templateMark) || strings.Contains(s.xml, "me-w1-1") {
			t.Errorf("%s: the template has the strings %v and the disk %s: %s", name, oem, disk, s.xml)
		}
	}
}

func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it does not come to that")
		}
	}
}

func TestAForeignDomainInTheWayOfARestoreIsLeftAlone(t *testing.T) {
	t.Parallel()
	h, p, spec := fastHost(t)
	taken := false
	h.mu.Lock()
	h.hook = func(call string, _ int) (error, bool) { // somebody takes the name a moment before
		if call == "Start" && !taken {
			taken = true
			h.domains["rouse-me-w1-2"] = &fakeDomain{domain: domain{Name: "rouse-me-w1-2", Power: powerOn, Persistent: true}, stopped: make(chan struct{})}
		}
		return nil, false
	}
	h.mu.Unlock()
	if _, err := p.Create(t.Context(), asked("me-w1-2", spec)); err == nil {
		t.Error("made under somebody's name")
	}
	h.mu.Lock()
	h.hook = nil
	h.mu.Unlock()
	ended(t, p, "me-w1-2")
	d, err := (&fakeLink{h: h}).Domain(t.Context(), "rouse-me-w1-2")
	if err != nil || d.Tags != nil {
		t.Errorf("somebody's domain: %+v, %v", d, err)
	}
	if left := h.left(); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestHostsMayHaveBaseImagesOfDifferentAge(t *testing.T) {
	t.Parallel()
	a, b, p := twoHosts(t)
	v := b.pools["default"]["base.qcow2"]
	v.Changed = "2" // the same image, copied there later
	b.pools["default"]["base.qcow2"] = v
	for key, place := range map[providers.Key]string{"me-w1-1": "a", "me-w2-1": "b"} {
		req := asked(key, good())
		req.Place = place
		if _, err := p.Create(t.Context(), req); err != nil {
			t.Errorf("on %s: %v", place, err)
		}
	}
	if a.count() != 1 || b.count() != 1 {
		t.Errorf("%d guests on a, %d on b", a.count(), b.count())
	}
}

// hangs is a dialer of two hosts, one of which does not answer before the dial is given up.
func hangs(up *fakeHost, hung func() error) dialer {
	return func(ctx context.Context, uri string, event func(event), lost func(error)) (link, error) {
		if uri == "fake://dead" {
			if err := hung(); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, &linkError{unreachable, "no connection in time"}
		}
		return up.dial(ctx, uri, event, lost)
	}
}

func TestCreateDoesNotWaitForAHostThatIsNotMeant(t *testing.T) {
	t.Parallel()
	up := newFakeHost()
	cfg := config()
	cfg.Hosts = []Host{{Name: "dead", URI: "fake://dead"}, {Name: "up", URI: "fake://up"}}
	p := opened(t, t.TempDir(), cfg, hangs(up, func() error { return nil }))
	req := asked("me-w1-1", good())
	req.Place = "up"
	ctx, cancel := context.WithTimeout(t.Context(), dialTimeout/3)
	defer cancel()
	if in, err := p.Create(ctx, req); err != nil || in.Place != "up" {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestWatchOfOneHostDoesNotWaitForAnother(t *testing.T) {
	t.Parallel()
	up := newFakeHost()
	cfg := config()
	cfg.Hosts = []Host{{Name: "dead", URI: "fake://dead"}, {Name: "up", URI: "fake://up"}}
	var mu sync.Mutex
	dials := 0
	p := opened(t, t.TempDir(), cfg, hangs(up, func() error {
		mu.Lock()
		defer mu.Unlock()
		if dials++; dials == 1 {
			return &linkError{unreachable, "refused"}
		}
		return nil
	}))
	req := asked("me-w1-1", good())
	req.Place = "up"
	if _, err := p.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := p.hostNamed("dead").link(t.Context()); err == nil { // so it is one that should be there
		t.Fatal("it is there")
	}
	time.Sleep(firstPause) // after which it is dialled again, and hangs
	told := make(chan providers.Key, 64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Watch(ctx, func(k providers.Key) { told <- k }) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return dials == 2 })
	up.cut()
	for limit := time.After(dialTimeout * 2 / 3); ; {
		select {
		case k := <-told:
			if k == "me-w1-1" { // it is connected again
				return
			}
		case <-limit:
			t.Fatal("the connection to the host that is up was not made again")
		}
	}
}

func TestADiskThatIsPassedThroughIsNotShared(t *testing.T) {
	t.Parallel()
	lun := `<disk type='block' device='lun'><source dev='/dev/disk/by-id/x'/><target dev='sda'/></disk>`
	if _, err := parseDomain(strings.Replace(small, "<interface", lun+"<interface", 1), ""); err == nil || !strings.Contains(err.Error(), "sda") {
		t.Errorf("%v", err)
	}
}

func TestOnlyADiskThatIsPassedThrough(t *testing.T) {
	t.Parallel()
	if _, err := parseDomain(strings.Replace(small, "device='disk'", "device='lun'", 1), ""); err == nil || !strings.Contains(err.Error(), "passed through") {
		t.Errorf("%v", err)
	}
}

// TestTheVariablesOfAFirmwareAreAGuestsOwnAndGoWithIt is about UEFI: the hypervisor makes a file for each guest.
func TestTheVariablesOfAFirmwareAreAGuestsOwnAndGoWithIt(t *testing.T) {
	t.Parallel()
	loader := `<loader readonly='yes' type='pflash'>/usr/share/OVMF.fd</loader>`
	for name, text := range map[string]string{
		"named":       strings.Replace(small, "<os><type>hvm</type>", "<os><type>hvm</type>"+loader+"<nvram>/var/lib/libvirt/qemu/nvram/x.fd</nvram>", 1),
		"of the host": strings.Replace(small, "<os><type>hvm</type>", "<os><type>hvm</type>"+loader, 1),
		"chosen":      strings.Replace(small, "<os>", "<os firmware='efi'>", 1),
	} {
		for _, fast := range []bool{false, true} {
			h := newFakeHost()
			p := opened(t, t.TempDir(), config(), h.dial)
			spec := Spec{XML: text, Clone: "overlay", Identity: BySMBIOS, Fast: fast}
			for _, key := range []providers.Key{"me-w1-1", "me-w1-2"} {
				if _, err := p.Create(t.Context(), asked(key, spec)); err != nil {
					t.Fatal(err)
				}
			}
			h.mu.Lock()
			if n := len(h.files); n != 2 || !h.files["/pool/"+volumeName(me, "me-w1-1", nvramSuffix)] {
				t.Errorf("%s, fast %v: the files of two guests are %v", name, fast, h.files)
			}
			h.mu.Unlock()
			ended(t, p, "me-w1-1")
			ended(t, p, "me-w1-2")
			if left := h.left(); len(left) > 0 {
				t.Errorf("%s, fast %v: left: %v", name, fast, left)
			}
		}
	}
}

func TestHostsMayChangeTheirNames(t *testing.T) {
	t.Parallel()
	a, b, dir := newFakeHost(), newFakeHost(), t.TempDir()
	dial := func(ctx context.Context, uri string, event func(event), lost func(error)) (link, error) {
		return map[string]*fakeHost{"fake://a": a, "fake://b": b}[uri].dial(ctx, uri, event, lost)
	}
	cfg := config()
	cfg.Hosts = []Host{{Name: "one", URI: "fake://a"}, {Name: "two", URI: "fake://b"}}
	req := asked("me-w1-1", good())
	req.Place = "one"
	if _, err := opened(t, dir, cfg, dial).Create(t.Context(), req); err != nil || a.count() != 1 {
		t.Fatal(err)
	}
	cfg.Hosts = []Host{{Name: "one", URI: "fake://b"}, {Name: "two", URI: "fake://a"}}
	p := opened(t, dir, cfg, dial)
	if in, err := p.Get(t.Context(), "me-w1-1"); err != nil || in.Place != "two" {
		t.Errorf("%+v, %v", in, err)
	}
	ended(t, p, "me-w1-1")
	if a.count() != 0 {
		t.Error("its end is proven, and it runs")
	}
}
