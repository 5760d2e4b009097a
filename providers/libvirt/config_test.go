package libvirt

import (
	"slices"
	"strings"
	"testing"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, src string) hcl2.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

// mistake is one refusal: in which line, and part of what it says.
type mistake struct {
	line int
	text string
}

func holds(t *testing.T, src string, diags hcl2.Diagnostics, want []mistake) {
	t.Helper()
	if len(diags) != len(want) {
		t.Errorf("%s\n%d diagnostics, want %d: %v", src, len(diags), len(want), diags)
		return
	}
	for _, w := range want {
		if !slices.ContainsFunc(diags, func(d *hcl2.Diagnostic) bool {
			return d.Subject != nil && d.Subject.Start.Line == w.line && strings.Contains(d.Summary+" "+d.Detail, w.text)
		}) {
			t.Errorf("%s\nno diagnostic in line %d that says %q: %v", src, w.line, w.text, diags)
		}
	}
}

func TestProviderBlocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		src  string
		want []mistake
	}{
		{"", nil},
		{`uri = "qemu+ssh://root@h/system"`, nil},
		{"host \"a\" {\n  uri = \"qemu:///system\"\n  vcpus = 4\n  memory = \"8GiB\"\n  slots = 2\n}\nhost \"b\" {\n  uri = \"qemu+tls://b/system\"\n}", nil},
		{`uri = "no uri"`, []mistake{{1, "libvirt URI"}}},
		{`uri = "qemu+tcp://u:secret@h/system"`, []mistake{{1, "password does not belong here"}}},
		{`uri = "system:///"`, []mistake{{1, "qemu:///system"}}},
		{"vcpus = 0\nmemory = \"1MiB\"\nslots = -1", []mistake{{1, ""}, {2, "at least"}, {3, ""}}},
		{`poool = "x"`, []mistake{{1, "pool"}}},
		{"host \"a\" {\n  uri = \"qemu:///system\"\n}\nhost \"b\" {\n  uri = \"qemu:///system\"\n}", []mistake{{4, "given away twice"}}},
		{"host \"a b\" {\n  uri = \"qemu:///system\"\n}", []mistake{{1, "must be letters"}}},
		{"host \"a\" {\n  uri = \"qemu:///system\"\n}\nhost \"a\" {\n  uri = \"qemu:///system\"\n}", []mistake{{4, "already"}}},
		{"host \"a\" {\n}", []mistake{{1, "without a URI"}}},
		{"slots = 3\nuri = \"qemu:///system\"\nhost \"a\" {\n  uri = \"qemu:///system\"\n}", []mistake{{1, "in each of them"}, {2, "in each of them"}}},
		{"host \"a\" {\n  uri = \"qemu:///system\"\n  vcpu = 3\n}", []mistake{{3, "vcpus"}}},
	} {
		_, diags := Kind{}.DecodeProvider(parse(t, c.src), nil)
		holds(t, c.src, diags, c.want)
	}
}

func TestProviderDefaults(t *testing.T) {
	t.Parallel()
	got, diags := Kind{}.DecodeProvider(parse(t, "slots = 2\nmemory = \"2GiB\""), nil)
	want := Config{Hosts: []Host{{Name: "host", URI: "qemu:///system", Memory: 2 << 30, Slots: 2}}, Pool: "default", Network: "default"}
	if d := cmp.Diff(want, got); d != "" || len(diags) > 0 {
		t.Errorf("%s%v", d, diags)
	}
	if a, b := (Kind{}).Place(want), (Kind{}).Place(Config{Hosts: []Host{{URI: "qemu:///system", Slots: 9}}, Pool: "default"}); a != b {
		t.Errorf("another limit is another place: %q, %q", a, b)
	}
	if a, b := (Kind{}).Place(want), (Kind{}).Place(Config{Hosts: []Host{{URI: "qemu+ssh://h/system"}}, Pool: "default"}); a == b {
		t.Errorf("another host is the same place: %q", a)
	}
}

func TestInstanceBlocks(t *testing.T) {
	t.Parallel()
	const writes = "definition rouse writes"
	xml := "xml = <<E\n<domain><devices><disk type='file'><source file='/x'/><target dev='vda'/></disk></devices></domain>\nE\n"
	for _, c := range []struct {
		src  string
		want []mistake
	}{
		{"", nil}, // a predefined domain named like the worker
		{`domain = "golden"`, nil},
		{xml, nil},
		{`base_image = "debian.qcow2"`, nil},
		{"hd_image = \"/srv/w1.img\"\nbase_image = \"/srv/base.img\"", nil},
		{xml + `domain = "golden"`, []mistake{{1, "not by both"}}},
		{`xml = "<domain/>"`, []mistake{{1, "no disk"}}},
		{"xml = \"<domain/\"\nbase_image = \"b\"", []mistake{{1, "no domain's definition"}}},
		{xml + `disk = "vdx"`, []mistake{{1, "no disk \"vdx\""}}},
		{"memory = \"2GiB\"\nvcpus = 2\nmachine = \"pc\"\ntype = \"kvm\"\nnetwork = \"n\"\nkernel = \"k\"\nclone = \"copy\"",
			[]mistake{{1, writes}, {2, writes}, {3, writes}, {4, writes}, {5, writes}, {6, writes}, {7, writes}}},
		{"domain = \"golden\"\nmemory = \"2GiB\"\nvcpus = 2\nmachine = \"pc\"\ntype = \"kvm\"\nkernel = \"k\"\ninitrd = \"i\"\ncmdline = \"c\"",
			[]mistake{{2, "definition says it"}, {3, "definition says it"}, {4, "definition says it"}, {5, "definition says it"}, {6, "definition says it"}, {7, "definition says it"}, {8, "definition says it"}}},
		{"base_image = \"b\"\nclone = \"reflink\"", []mistake{{2, "overlay"}}},
		{"base_image = \"b\"\ntype = \"xen\"", []mistake{{2, "kvm"}}},
		{"base_image = \"b\"\nidentity = \"magic\"", []mistake{{2, "smbios"}}},
		{"base_image = \"b\"\nmemory = \"1MiB\"\nvcpus = 0", []mistake{{2, "at least"}, {3, ""}}},
		{"base_image = \"b\"\nmemory = \"lots\"", []mistake{{2, ""}}},
		{"base_image = \"b\"\ngraceful = \"soon\"", []mistake{{2, ""}}},
		{"base_image = \"b\"\ninitrd = \"i\"\ncmdline = \"c\"", []mistake{{2, "needs a kernel"}, {3, "need a kernel"}}},
		{"base_image = \"b\"\nuser_data = \"#cloud-config\"", []mistake{{2, "nocloud"}}},
		{"base_image = \"dir/b\"\nkernel = \"../k\"\ninitrd = \"/boot/../i\"", []mistake{{1, "absolute path"}, {2, "absolute path"}, {3, "absolute path"}}},
		{"hd_image = \"a\\nb\"", []mistake{{1, "name of a volume"}}},
		{"base_image = \"b\"\nfast = true\nidentity = \"nocloud\"", []mistake{{2, "smbios"}}},
		{"base_imag = \"b\"", []mistake{{1, "base_image"}}},
	} {
		_, diags := Kind{}.DecodeInstance(Config{Network: "n"}, parse(t, c.src), nil)
		holds(t, c.src, diags, c.want)
	}
}

func TestInstanceDefaults(t *testing.T) {
	t.Parallel()
	got, diags := Kind{}.DecodeInstance(Config{Network: "lab"}, parse(t, "base_image = \"b\"\ngraceful_shutdown = true"), nil)
	want := Spec{BaseImage: "b", Clone: "overlay", Memory: 1 << 30, VCPUs: 1, Network: "lab", Machine: "q35", Identity: BySMBIOS, Graceful: time.Minute}
	if d := cmp.Diff(want, got); d != "" || len(diags) > 0 {
		t.Errorf("%s%v", d, diags)
	}
}
