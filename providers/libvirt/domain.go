package libvirt

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// guest is everything that one instance's domain is made from.
type guest struct {
	key     providers.Key
	spec    Spec
	tags    tags
	agent   []byte // the agent's settings (JSON), for identities that hand them to the machine
	machine string // "kvm" or "qemu"
	disk    volume // its own
	seed    string // path of its seed image, or ""
	nvram   string // path that its NVRAM shall have, if it has one
	waits   bool   // a template: its agent waits for an order
	kernel  string // paths on the host
	initrd  string
}

// parseDomain reads a definition and finds the one disk that is replaced by each instance's own.
func parseDomain(text, target string) (*libvirtxml.Domain, error) {
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("it is no domain's definition: %w", err)
	}
	if _, err := ownDisk(d, target); err != nil {
		return nil, err
	}
	return d, nil
}

// ownDisk returns the index of the disk that an instance must have for itself. All others must be such that guests cannot get into each
// other's way: read-only, shareable, removable media.
func ownDisk(d *libvirtxml.Domain, target string) (int, error) {
	found, names := -1, []string{}
	if d.Devices == nil {
		return 0, errors.New("it has no disk: there is nothing to boot a clone from")
	}
	for i := range d.Devices.Disks {
		disk := &d.Devices.Disks[i]
		dev := ""
		if disk.Target != nil {
			dev = disk.Target.Dev
		}
		if disk.Device == "cdrom" || disk.Device == "floppy" || disk.ReadOnly != nil || disk.Shareable != nil {
			continue
		}
		names = append(names, dev)
		if disk.Device != "lun" && (target == "" || dev == target) {
			found = i
		}
	}
	switch {
	case len(names) == 0:
		return 0, errors.New("it has no disk that a guest writes to: there is nothing to boot a clone from")
	case found < 0 && target == "":
		return 0, fmt.Errorf("the disk that it writes to (%s) is one of the host's, passed through: no clone can take its place", strings.Join(names, ", "))
	case found < 0:
		return 0, fmt.Errorf("it has no disk %q that a guest writes to; there are %s", target, strings.Join(names, ", "))
	case len(names) > 1:
		return 0, fmt.Errorf("it has %d disks that a guest writes to (%s), and all guests would share the others: leave one, and make the others readonly or shareable",
			len(names), strings.Join(names, ", "))
	}
	return found, nil
}

// hasVariables says whether the guest's firmware (UEFI) keeps variables, for which the hypervisor makes a file.
func hasVariables(d *libvirtxml.Domain) bool {
	if d == nil || d.OS == nil {
		return false
	}
	l := d.OS.Loader
	return d.OS.NVRam != nil || (d.OS.Firmware == "efi" || l != nil && l.Type == "pflash") && (l == nil || l.Stateless != "yes")
}

// diskSource returns what the disk that will be replaced points at: the base image, if the configuration names none.
func diskSource(d *libvirtxml.Domain, target string) (pool, name, file string) {
	i, err := ownDisk(d, target)
	if err != nil {
		return "", "", ""
	}
	switch s := d.Devices.Disks[i].Source; {
	case s == nil:
	case s.File != nil:
		file = s.File.File
	case s.Block != nil:
		file = s.Block.Dev
	case s.Volume != nil:
		pool, name = s.Volume.Pool, s.Volume.Volume
	}
	return pool, name, file
}

// define makes the domain of an instance, of a template or, if that is nil, of its spec alone. The template is not changed.
func (g *guest) define(template *libvirtxml.Domain) (string, error) {
	d := g.plain()
	if template != nil { // a copy: another guest, such as the template whose memory is saved, is made from it at the same time
		text, err := template.Marshal()
		if err != nil {
			return "", err
		}
		d = &libvirtxml.Domain{}
		if err := d.Unmarshal(text); err != nil {
			return "", err
		}
	}
	d.ID, d.Name, d.UUID = nil, domainName(g.key), uuidOf(g.key)
	if d.Type == "" {
		d.Type = g.machine
	}
	d.Title, d.Description = "", "instance of worker "+g.tags.Worker+", made by rouse"
	d.Metadata = &libvirtxml.DomainMetadata{XML: g.tags.String() + g.buildbot(template)}
	d.OnPoweroff, d.OnReboot, d.OnCrash = "destroy", "destroy", "destroy" // a guest that has ended shall be seen to have ended
	if d.Devices == nil {
		d.Devices = &libvirtxml.DomainDeviceList{}
	}
	i, err := ownDisk(d, g.spec.Disk)
	if err != nil {
		return "", err
	}
	disk := &d.Devices.Disks[i]
	disk.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: g.disk.Path}}
	disk.BackingStore, disk.Mirror, disk.Transient = nil, nil, nil
	if disk.Driver == nil {
		disk.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu"}
	}
	disk.Driver.Type = g.disk.Format
	if disk.Driver.Cache == "" {
		disk.Driver.Cache = "unsafe" // it is thrown away: a flush to the host's disk buys nothing
	}
	for n := range d.Devices.Interfaces {
		d.Devices.Interfaces[n].MAC = &libvirtxml.DomainInterfaceMAC{Address: macOf(g.key, n)}
		if n == 0 && g.spec.Identity == ByDHCP {
			d.Devices.Interfaces[n].MAC.Address = WorkerMAC(g.tags.Worker)
		}
		d.Devices.Interfaces[n].Target = nil // libvirt chooses the host's end
	}
	if hasVariables(d) {
		if d.OS.NVRam == nil {
			d.OS.NVRam = &libvirtxml.DomainNVRam{}
		}
		d.OS.NVRam.NVRam, d.OS.NVRam.Source = g.nvram, nil
	}
	g.console(d)
	if err := g.identify(d); err != nil {
		return "", err
	}
	return d.Marshal()
}

// plain is the definition of a guest of which the configuration says only what it boots and how large it is.
func (g *guest) plain() *libvirtxml.Domain {
	s := g.spec
	d := &libvirtxml.Domain{
		Type:     g.machine,
		Memory:   &libvirtxml.DomainMemory{Value: uint(s.Memory >> 10), Unit: "KiB"},
		VCPU:     &libvirtxml.DomainVCPU{Value: uint(s.VCPUs)},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: s.Machine, Type: "hvm"}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Devices: &libvirtxml.DomainDeviceList{
			Disks: []libvirtxml.DomainDisk{{Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu"}, Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"}}},
			Interfaces: []libvirtxml.DomainInterface{{
				Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: s.Network}},
				Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			}},
			RNGs:   []libvirtxml.DomainRNG{{Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}},
			Panics: []libvirtxml.DomainPanic{{Model: "isa"}},
			// What libvirt would add by itself, and nobody uses: each is a device that the guest looks at while it boots.
			Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
			MemBalloon:  &libvirtxml.DomainMemBalloon{Model: "none"},
		},
	}
	if g.machine == "kvm" {
		d.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough"}
	}
	if g.kernel != "" {
		d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline = g.kernel, g.initrd, s.Cmdline
	} else {
		d.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	return d
}

// console gives the guest one serial console that can be followed through the API.
func (g *guest) console(d *libvirtxml.Domain) {
	if len(d.Devices.Serials) == 0 {
		d.Devices.Serials = []libvirtxml.DomainSerial{{}}
	}
	for i := range d.Devices.Serials {
		d.Devices.Serials[i].Source = &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
		d.Devices.Serials[i].Log = nil
	}
	d.Devices.Consoles = nil // libvirt mirrors the first serial port
}

// identify hands the machine what its agent must know.
func (g *guest) identify(d *libvirtxml.Domain) error {
	oem := ""
	switch {
	case g.waits:
		oem = "rouse.wait=" + orderPort
		d.Devices.Channels = append(d.Devices.Channels, libvirtxml.DomainChannel{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: orderPort}}})
	case g.spec.Identity == BySMBIOS:
		oem = "rouse.agent=" + base64.StdEncoding.EncodeToString(g.agent)
	case g.spec.Identity == ByCredential:
		oem = "io.systemd.credential.binary:rouse.agent=" + base64.StdEncoding.EncodeToString(g.agent)
	case g.spec.Identity == ByNoCloud:
		dev := freeTarget(d)
		d.Devices.Disks = append(d.Devices.Disks, libvirtxml.DomainDisk{Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: g.seed}}, Target: &libvirtxml.DomainDiskTarget{Dev: dev, Bus: "virtio"},
			ReadOnly: &libvirtxml.DomainDiskReadOnly{}})
	}
	if oem == "" {
		return nil
	}
	if d.OS == nil {
		return errors.New("the definition has no os element")
	}
	d.OS.SMBios = &libvirtxml.DomainSMBios{Mode: "sysinfo"}
	for i := range d.SysInfo {
		if s := d.SysInfo[i].SMBIOS; s != nil {
			if s.OEMStrings == nil {
				s.OEMStrings = &libvirtxml.DomainSysInfoOEMStrings{}
			}
			s.OEMStrings.Entry = append(s.OEMStrings.Entry, oem)
			return nil
		}
	}
	d.SysInfo = append(d.SysInfo, libvirtxml.DomainSysInfo{SMBIOS: &libvirtxml.DomainSysInfoSMBIOS{OEMStrings: &libvirtxml.DomainSysInfoOEMStrings{Entry: []string{oem}}}})
	return nil
}

// buildbot is what Buildbot writes into a predefined domain's metadata, so that images that were made for it find their credentials. Ours is in a
// transient domain only, and its password is the instance's token.
func (g *guest) buildbot(template *libvirtxml.Domain) string {
	if template == nil || g.spec.XML != "" || len(g.agent) == 0 {
		return ""
	}
	return buildbotAuth(g.agent)
}

func freeTarget(d *libvirtxml.Domain) string {
	var used []string
	for i := range d.Devices.Disks {
		if t := d.Devices.Disks[i].Target; t != nil {
			used = append(used, t.Dev)
		}
	}
	for c := 'b'; c <= 'z'; c++ {
		if dev := "vd" + string(c); !slices.Contains(used, dev) {
			return dev
		}
	}
	return "vdz"
}

// uuidOf and macOf derive what must be an instance's own from its key, so that a repeated create asks for the very same guest.
func uuidOf(k providers.Key) string {
	h := sha256.Sum256([]byte("uuid " + k))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // version 8: our own
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func macOf(k providers.Key, n int) string {
	h := sha256.Sum256(fmt.Appendf(nil, "mac %d %s", n, k))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2]) // QEMU's prefix of locally chosen addresses
}
