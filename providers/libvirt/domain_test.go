package libvirt

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// predefined is a domain as somebody has made it by hand, with everything that two guests must not share.
const predefined = `<domain type='qemu' id='7'>
  <name>w1</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <title>Our builder</title>
  <metadata><other:thing xmlns:other="urn:other">kept by nobody</other:thing></metadata>
  <memory unit='MiB'>256</memory>
  <vcpu>3</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF.fd</loader><nvram template='/usr/share/VARS.fd'>/var/lib/libvirt/qemu/nvram/w1.fd</nvram></os>
  <on_poweroff>restart</on_poweroff>
  <devices>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/><source pool='default' volume='base.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/srv/tools.img'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/srv/shared.img'/><target dev='vdc' bus='virtio'/><shareable/></disk>
    <interface type='network'><mac address='52:54:00:aa:aa:aa'/><source network='default'/><target dev='vnet3'/></interface>
    <interface type='bridge'><mac address='52:54:00:bb:bb:bb'/><source bridge='br0'/></interface>
    <serial type='file'><source path='/var/log/w1.log'/></serial>
  </devices>
</domain>`

const token = "the-token"

func guestOf(t *testing.T, key providers.Key, spec Spec) *guest {
	t.Helper()
	agent, err := agentSettings(providers.CreateRequest{Key: key, Agent: providers.Agent{Master: "ws://m", Name: "w1", Token: token}})
	if err != nil {
		t.Fatal(err)
	}
	return &guest{key: key, spec: spec, machine: "qemu", agent: agent, disk: volume{Path: "/pool/rouse-x-" + string(key) + ".qcow2", Format: "qcow2"},
		seed: "/pool/rouse-x-" + string(key) + ".seed.iso", nvram: "/pool/rouse-x-" + string(key) + ".nvram.fd",
		tags: tags{Owner: me, Key: key, Worker: "w1", VCPUs: 1, Memory: 1 << 20}}
}

func defined(t *testing.T, g *guest, template string) (string, *libvirtxml.Domain) {
	t.Helper()
	var from *libvirtxml.Domain
	if template != "" {
		var err error
		if from, err = parseDomain(template, g.spec.Disk); err != nil {
			t.Fatal(err)
		}
	}
	text, err := g.define(from)
	if err != nil {
		t.Fatal(err)
	}
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	return text, d
}

func TestEveryGuestHasEverythingOfItsOwnHoweverItIsDescribed(t *testing.T) {
	t.Parallel()
	plain, xml := good(), good()
	plain.Kernel = ""
	xml.XML = predefined
	for name, c := range map[string]struct {
		spec     Spec
		template string
	}{"predefined": {Spec{Identity: BySMBIOS}, predefined}, "xml": {xml, predefined}, "plain": {plain, ""}} {
		textA, a := defined(t, guestOf(t, "me-w1-1", c.spec), c.template)
		_, b := defined(t, guestOf(t, "me-w1-2", c.spec), c.template)
		if again, _ := defined(t, guestOf(t, "me-w1-1", c.spec), c.template); again != textA {
			t.Errorf("%s: a repeated create would ask for another guest", name)
		}
		if a.Name != "rouse-me-w1-1" || b.Name == a.Name || a.UUID == b.UUID || len(a.UUID) != 36 || a.ID != nil {
			t.Errorf("%s: names %s, %s; UUIDs %s, %s", name, a.Name, b.Name, a.UUID, b.UUID)
		}
		i, err := ownDisk(a, "")
		if err != nil {
			t.Fatal(err)
		}
		da, db := a.Devices.Disks[i], b.Devices.Disks[i]
		if da.Source.File == nil || da.Source.File.File != "/pool/rouse-x-me-w1-1.qcow2" || db.Source.File.File == da.Source.File.File || da.Source.Volume != nil || da.Driver.Type != "qcow2" {
			t.Errorf("%s: the disk is %+v", name, da.Source)
		}
		macs := map[string]bool{"52:54:00:aa:aa:aa": true, "52:54:00:bb:bb:bb": true}
		for _, d := range []*libvirtxml.Domain{a, b} {
			for _, in := range d.Devices.Interfaces {
				if in.MAC == nil || macs[in.MAC.Address] || in.Target != nil {
					t.Errorf("%s: interface %+v %+v", name, in.MAC, in.Target)
				} else {
					macs[in.MAC.Address] = true
				}
			}
		}
		if a.OnPoweroff != "destroy" || a.OnCrash != "destroy" || a.OnReboot != "destroy" {
			t.Errorf("%s: a guest that has ended is not seen to have ended", name)
		}
		if len(a.Devices.Serials) != 1 || a.Devices.Serials[0].Source.Pty == nil || a.Devices.Serials[0].Source.File != nil {
			t.Errorf("%s: its console can not be followed: %+v", name, a.Devices.Serials)
		}
		if got := parseTags(a.Metadata.XML); got == nil || got.Key != "me-w1-1" || got.Owner != me || got.Worker != "w1" {
			t.Errorf("%s: tags %+v in %s", name, got, a.Metadata.XML)
		}
		if strings.Contains(textA, "11111111-2222") || strings.Contains(textA, "nvram/w1.fd") || strings.Contains(textA, "w1.log") || strings.Contains(textA, "Our builder") {
			t.Errorf("%s: something is the template's:\n%s", name, textA)
		}
		if c.template == "" {
			continue
		}
		if a.OS.NVRam == nil || a.OS.NVRam.NVRam != "/pool/rouse-x-me-w1-1.nvram.fd" || a.OS.NVRam.Template != "/usr/share/VARS.fd" {
			t.Errorf("%s: NVRAM %+v", name, a.OS.NVRam)
		}
		if d := a.Devices.Disks; len(d) != 4 || d[0].Device != "cdrom" || d[2].ReadOnly == nil || d[2].Source.File.File != "/srv/tools.img" || d[3].Shareable == nil || d[3].Source.File.File != "/srv/shared.img" {
			t.Errorf("%s: what may be shared was not kept: %+v", name, d)
		}
		if da.Driver.Cache != "none" || a.VCPU.Value != 3 || a.Memory.Value != 256 {
			t.Errorf("%s: what somebody chose was not kept", name)
		}
	}
}

func TestTemplateIsNotChanged(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	h.domains["w1"] = &fakeDomain{domain: domain{Name: "w1", Power: powerOff, Persistent: true, XML: predefined}, stopped: make(chan struct{})}
	p := opened(t, t.TempDir(), config(), h.dial)
	if _, err := p.Create(t.Context(), asked("me-w1-1", Spec{Clone: "overlay", Identity: BySMBIOS})); err != nil {
		t.Fatal(err)
	}
	if d := h.domains["w1"]; d == nil || d.XML != predefined || d.Power != powerOff {
		t.Errorf("%+v", d)
	}
	if v := h.pools["default"]["base.qcow2"]; v.Changed != "1" {
		t.Errorf("the base: %+v", v)
	}
	ended(t, p, "me-w1-1")
	if h.domains["w1"] == nil || h.pools["default"]["base.qcow2"].Path == "" {
		t.Error("the template or the base was ended with its instance")
	}
}

func TestTemplateThatRunsOrIsMissingIsRefused(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	spec := Spec{Clone: "overlay", Identity: BySMBIOS}
	_, err := p.Create(t.Context(), asked("me-w1-1", spec))
	if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), `no domain "w1"`) {
		t.Errorf("missing: %v", err)
	}
	h.domains["w1"] = &fakeDomain{domain: domain{Name: "w1", Power: powerOn, XML: predefined}, stopped: make(chan struct{})}
	_, err = p.Create(t.Context(), asked("me-w1-2", spec))
	if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), "must be shut off") || !h.alive("w1") {
		t.Errorf("running: %v", err)
	}
}

func TestDefinitionsWithoutOneDiskToReplaceAreRefused(t *testing.T) {
	t.Parallel()
	disk := func(dev string) string {
		return `<disk type='file' device='disk'><source file='/x'/><target dev='` + dev + `'/></disk>`
	}
	in := func(devices string) string { return `<domain type='qemu'><name>x</name>` + devices + `</domain>` }
	for text, want := range map[string]string{
		"no XML":         "no domain's definition",
		"<pool></pool>":  "no domain's definition",
		in(""):           "it has no disk",
		in("<devices/>"): "no disk that a guest writes to",
		in("<devices><disk type='file' device='cdrom'/></devices>"):   "no disk that a guest writes to",
		in("<devices>" + disk("vda") + disk("vdb") + "</devices>"):    "2 disks that a guest writes to (vda, vdb)",
		in("<devices><disk type='file'><readonly/></disk></devices>"): "no disk that a guest writes to",
	} {
		if _, err := parseDomain(text, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := parseDomain(in("<devices>"+disk("vda")+"</devices>"), "vdx"); err == nil || !strings.Contains(err.Error(), `no disk "vdx"`) || !strings.Contains(err.Error(), "vda") {
		t.Errorf("%v", err)
	}
	if _, err := parseDomain(in("<devices>"+disk("")+"</devices>"), ""); err != nil {
		t.Errorf("a disk without a target: %v", err)
	}
}

func TestIdentityReachesTheGuestByItsChannelAndNoOther(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString(guestOf(t, "me-w1-1", Spec{}).agent)
	for identity, want := range map[string]string{BySMBIOS: "rouse.agent=" + encoded, ByCredential: "io.systemd.credential.binary:rouse.agent=" + encoded, ByNoCloud: "seed.iso", ByDHCP: WorkerMAC("w1"), ByNothing: ""} {
		for _, template := range []string{"", predefined} {
			spec := good()
			spec.Identity = identity
			if template != "" {
				spec.XML = template
			}
			text, d := defined(t, guestOf(t, "me-w1-1", spec), template)
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", identity, want, text)
			}
			secret := strings.Contains(text, encoded) || strings.Contains(text, token)
			if secret != (identity == BySMBIOS || identity == ByCredential) {
				t.Errorf("%s: the token is in the definition: %v", identity, secret)
			}
			if identity == ByNoCloud {
				seed := d.Devices.Disks[len(d.Devices.Disks)-1]
				if seed.ReadOnly == nil || seed.Target.Dev == "vda" || template != "" && seed.Target.Dev != "vdd" {
					t.Errorf("the seed is %+v", seed.Target)
				}
			}
			if identity == ByDHCP && d.Devices.Interfaces[0].MAC.Address != WorkerMAC("w1") {
				t.Errorf("MAC %s", d.Devices.Interfaces[0].MAC.Address)
			}
		}
	}
}

func TestOwnOEMStringsAreKept(t *testing.T) {
	t.Parallel()
	with := strings.Replace(predefined, "<on_poweroff>", "<sysinfo type='smbios'><bios><entry name='vendor'>Acme</entry></bios><oemStrings><entry>theirs</entry></oemStrings></sysinfo><on_poweroff>", 1)
	text, d := defined(t, guestOf(t, "me-w1-1", Spec{Identity: BySMBIOS, XML: with}), with)
	if len(d.SysInfo) != 1 || len(d.SysInfo[0].SMBIOS.OEMStrings.Entry) != 2 || d.SysInfo[0].SMBIOS.OEMStrings.Entry[0] != "theirs" || !strings.Contains(text, "Acme") {
		t.Errorf("%s", text)
	}
}

func TestTemplateOfMemoryWaitsForAnOrderAndHoldsNoSecret(t *testing.T) {
	t.Parallel()
	g := guestOf(t, "template-x", good())
	g.waits = true
	text, d := defined(t, g, "")
	if strings.Contains(text, token) || strings.Contains(text, base64.StdEncoding.EncodeToString(g.agent)) {
		t.Error("the memory of every guest would hold a token")
	}
	if len(d.Devices.Channels) != 1 || d.Devices.Channels[0].Target.VirtIO.Name != orderPort || !strings.Contains(text, "rouse.wait="+orderPort) {
		t.Errorf("%s", text)
	}
}

func TestBuildbotsElementIsInPredefinedDomainsOnly(t *testing.T) {
	t.Parallel()
	text, _ := defined(t, guestOf(t, "me-w1-1", Spec{Identity: ByNothing}), predefined)
	for _, want := range []string{`xmlns:buildbot="http://buildbot.net/"`, `username="w1"`, `password="the-token"`, `master="ws://m"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	xml := Spec{Identity: ByNothing, XML: predefined}
	for name, c := range map[string]struct {
		spec     Spec
		template string
	}{"xml": {xml, predefined}, "plain": {Spec{Identity: ByNothing, BaseImage: "b", Memory: 1 << 30, VCPUs: 1}, ""}} {
		if text, _ := defined(t, guestOf(t, "me-w1-1", c.spec), c.template); strings.Contains(text, "buildbot") || strings.Contains(text, token) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	hostile := buildbotAuth([]byte(`{"Master":"\"/><evil a=\"","Name":"<&>","Token":"'\""}`))
	if strings.Contains(hostile, "<evil") || buildbotAuth([]byte("no JSON")) != "" {
		t.Errorf("%s", hostile)
	}
}

// TestNoSecretIsInAnythingPersistent: domains are transient, so their XML is not; volumes' names, XML and our records are.
func TestNoSecretIsInAnythingPersistent(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	for _, identity := range []string{BySMBIOS, ByCredential, ByNoCloud, ByDHCP, ByNothing} {
		spec := good()
		spec.Identity = identity
		key := providers.Key("me-" + identity + "-1")
		if _, err := p.Create(t.Context(), asked(key, spec)); err != nil {
			t.Fatal(err)
		}
		rec, _ := p.records.load(key)
		b, err := json.Marshal(rec)
		if err != nil || strings.Contains(string(b), token) {
			t.Errorf("%s: the record is %s, %v", identity, b, err)
		}
		if h.domains[domainName(key)].Persistent {
			t.Errorf("%s: the domain is persistent", identity)
		}
		if in, err := p.Get(t.Context(), key); err != nil || strings.Contains(in.Detail, token) {
			t.Errorf("%+v, %v", in, err)
		}
		ended(t, p, key)
	}
	if len(h.content) > 0 || len(h.left()) > 0 {
		t.Errorf("left: %v", h.left())
	}
}
