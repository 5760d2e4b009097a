package libvirt

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers/decode"
)

// Config is a decoded provider block.
type Config struct {
	Hosts   []Host
	Pool    string // storage pool of the clones, on each host; default "default"
	Network string // of guests whose definition rouse writes; default "default"
}

// Host is one machine with libvirt. Zero limits are the host's own size.
type Host struct {
	Name   string
	URI    string
	VCPUs  int   // virtual processors that its guests may have together
	Memory int64 // bytes, likewise
	Slots  int   // guests at once; 0 = no limit of its own
}

// Ways in which a guest learns who it is.
const (
	BySMBIOS     = "smbios"     // OEM string "rouse.agent=…", for images whose agent runs with -config smbios:
	ByCredential = "credential" // systemd's credential rouse.agent, for images with systemd 252 or newer
	ByNoCloud    = "nocloud"    // a disk labelled cidata, for unmodified cloud-init images
	ByDHCP       = "dhcp"       // the network's DHCP server tells the guest its name by its MAC address; the image holds the rest
	ByNothing    = "none"       // the image knows by itself
)

// Spec is a decoded instance block. Of Domain, XML and BaseImage alone at least one says what the guest is.
type Spec struct {
	Domain    string // a predefined domain, used as a template and never changed; the worker's name if nothing else is said
	XML       string // a domain's definition, used as a template
	BaseImage string // volume of the pool, or path on the host: what each instance's own disk is a clone of
	HDImage   string // Buildbot's: where the clone was made; its directory says the pool. Without base_image: the image itself
	Clone     string // "overlay" (default) or "copy"
	Disk      string // the target ("vda") of the disk to replace, when a definition has several
	Memory    int64  // bytes; default 1 GiB
	VCPUs     int    // default 1
	Network   string
	Machine   string // default "q35"
	Type      string // "kvm" or "qemu"; default what the host can
	Kernel    string // direct boot: volumes of the pool or paths on the host
	Initrd    string
	Cmdline   string
	Identity  string
	UserData  string        // more cloud-init user data, for identity = "nocloud"
	Graceful  time.Duration // how long an ACPI shutdown may take before the plug is pulled; 0 = at once
	Fast      bool          // from a template's memory
}

var hostName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// Kind is the kind "libvirt".
type Kind struct{}

// Name implements providers.Kind.
func (Kind) Name() string { return "libvirt" }

// DecodeProvider implements providers.Kind.
func (Kind) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	c := Config{Pool: "default", Network: "default"}
	hostAttrs := []string{"uri", "vcpus", "memory", "slots"}
	a := decode.BodyBlocks(body, ctx, append([]string{"pool", "network"}, hostAttrs...), []string{"host NAME"})
	var single Host
	decodeHost(a, &single)
	a.String("pool", &c.Pool)
	a.String("network", &c.Network)
	for _, b := range a.Blocks("host") {
		h := Host{Name: b.Labels[0]}
		a.In(b, func(in *decode.Attrs) { decodeHost(in, &h) }, hostAttrs...)
		switch {
		case !hostName.MatchString(h.Name):
			a.BadAt(b.LabelRanges[0], "Unsuitable name of a host", "%q must be letters, digits, dots, hyphens and underscores.", h.Name)
		case slices.ContainsFunc(c.Hosts, func(o Host) bool { return o.Name == h.Name }):
			a.BadAt(b.LabelRanges[0], "Duplicate host", "There is a host %q already.", h.Name)
		case slices.ContainsFunc(c.Hosts, func(o Host) bool { return o.URI != "" && o.URI == h.URI }):
			a.BadAt(b.DefRange, "The same host twice", "Another block has the URI %s, too: its room would be given away twice.", h.URI)
		case h.URI == "":
			a.BadAt(b.DefRange, "Host without a URI", "Say how to reach it, such as uri = \"qemu+ssh://root@%s/system\".", h.Name)
		}
		c.Hosts = append(c.Hosts, h)
	}
	switch {
	case len(c.Hosts) == 0:
		single.Name = onlyHost
		if single.URI == "" {
			single.URI = "qemu:///system"
		}
		c.Hosts = []Host{single}
	default:
		for _, name := range hostAttrs {
			a.Bad(name, "There are host blocks: say it in each of them.")
		}
	}
	return c, a.Diags
}

// decodeHost reads what a host block and a provider block without any have in common.
func decodeHost(a *decode.Attrs, h *Host) {
	var vcpus, slots int64
	a.String("uri", &h.URI)
	a.Int("vcpus", &vcpus, 1, 100_000)
	a.Bytes("memory", &h.Memory, 16<<20)
	a.Int("slots", &slots, 1, 100_000)
	h.VCPUs, h.Slots = int(vcpus), int(slots)
	if h.URI == "" {
		return
	}
	if u, err := url.Parse(h.URI); err != nil || u.Scheme == "" {
		a.Bad("uri", "It must be a libvirt URI, such as qemu:///system or qemu+ssh://root@host/system.")
	} else if u.User != nil {
		if _, has := u.User.Password(); has {
			a.Bad("uri", "A password does not belong here: use a key (qemu+ssh) or certificates (qemu+tls).")
		}
	}
	if h.URI == "system:///" {
		a.Bad("uri", "Buildbot's default is no URI that a hypervisor answers to: say qemu:///system.")
	}
}

// DecodeInstance implements providers.Kind.
func (Kind) DecodeInstance(config any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	s := Spec{Clone: "overlay", Memory: 1 << 30, VCPUs: 1, Machine: "q35", Identity: BySMBIOS}
	if c, ok := config.(Config); ok {
		s.Network = c.Network
	}
	a := decode.Body(body, ctx, "domain", "xml", "base_image", "hd_image", "clone", "disk", "memory", "vcpus", "network", "machine", "type", "kernel", "initrd",
		"cmdline", "identity", "user_data", "graceful", "graceful_shutdown", "fast")
	vcpus := int64(s.VCPUs)
	a.String("domain", &s.Domain)
	a.String("xml", &s.XML)
	a.String("base_image", &s.BaseImage)
	a.String("hd_image", &s.HDImage)
	a.OneOf("clone", &s.Clone, "overlay", "copy")
	a.String("disk", &s.Disk)
	a.Bytes("memory", &s.Memory, 16<<20)
	a.Int("vcpus", &vcpus, 1, 1024)
	s.VCPUs = int(vcpus)
	a.String("network", &s.Network)
	a.String("machine", &s.Machine)
	a.OneOf("type", &s.Type, "kvm", "qemu")
	a.String("kernel", &s.Kernel)
	a.String("initrd", &s.Initrd)
	a.String("cmdline", &s.Cmdline)
	a.OneOf("identity", &s.Identity, BySMBIOS, ByCredential, ByNoCloud, ByDHCP, ByNothing)
	a.String("user_data", &s.UserData)
	a.Duration("graceful", &s.Graceful)
	a.Bool("fast", &s.Fast)
	var graceful bool
	a.Bool("graceful_shutdown", &graceful)
	if graceful && s.Graceful == 0 {
		s.Graceful = time.Minute // Buildbot's attribute waits for ever
	}
	s.check(a)
	return s, a.Diags
}

// check finds what can be seen without a host.
func (s *Spec) check(a *decode.Attrs) {
	if a.Has("domain") && a.Has("xml") {
		a.Bad("xml", "The guest is described by a predefined domain (domain) or by XML, not by both.")
	}
	if s.XML != "" {
		if _, err := parseDomain(s.XML, s.Disk); err != nil {
			a.Bad("xml", "%s.", err)
		}
	}
	whole := a.Has("domain") || a.Has("xml")
	if !whole && s.BaseImage == "" && s.HDImage == "" {
		for _, name := range []string{"memory", "vcpus", "machine", "type", "network", "kernel", "clone"} {
			a.Bad(name, "It belongs to a guest whose definition rouse writes, and that needs a base_image. Without one, a predefined domain named like the worker is the template.")
		}
	}
	if whole {
		for _, name := range []string{"memory", "vcpus", "machine", "type", "kernel", "initrd", "cmdline"} {
			a.Bad(name, "The domain's definition says it.")
		}
	}
	if (s.Initrd != "" || s.Cmdline != "") && s.Kernel == "" {
		a.Bad("initrd", "An initial RAM disk needs a kernel that is booted directly.")
		a.Bad("cmdline", "Arguments need a kernel that is booted directly.")
	}
	if s.UserData != "" && s.Identity != ByNoCloud {
		a.Bad("user_data", "Only cloud-init reads it: say identity = %q.", ByNoCloud)
	}
	for name, v := range map[string]string{"base_image": s.BaseImage, "hd_image": s.HDImage, "kernel": s.Kernel, "initrd": s.Initrd} {
		if v != "" && (strings.ContainsAny(v, "\x00\n") || strings.Contains(v, "/") && (!path.IsAbs(v) || path.Clean(v) != v)) {
			a.Bad(name, "%q must be the name of a volume of the pool, or an absolute path on the host.", v)
		}
	}
	if s.Fast && s.Identity != BySMBIOS {
		a.Bad("fast", "The agent in the image must wait for its identity: that is what identity = %q (the default) does.", BySMBIOS)
	}
}

// Place implements providers.PlaceKind: instances live where the hosts are.
func (Kind) Place(config any) string {
	c, ok := config.(Config)
	if !ok {
		return ""
	}
	uris := make([]string, 0, len(c.Hosts))
	for _, h := range c.Hosts {
		uris = append(uris, h.URI)
	}
	slices.Sort(uris)
	return fmt.Sprintf("%s pool %s", strings.Join(uris, " "), c.Pool)
}
