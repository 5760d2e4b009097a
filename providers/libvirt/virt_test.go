//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	virt "libvirt.org/go/libvirt"
)

// testNode is a host of libvirt's test driver, which is in the library: no daemon, no root. A file of its own gives each connection state of its own.
const testNode = `<node><cpu><nodes>1</nodes><sockets>1</sockets><cores>4</cores><threads>1</threads><active>4</active><mhz>1000</mhz><model>x</model></cpu><memory>8388608</memory>
<domain type='test'><name>foreign</name><uuid>a1b2c3d4-0000-4000-8000-000000000001</uuid><memory>8192</memory><os><type>hvm</type></os></domain>
<network><name>up</name><bridge name='up0'/></network>
<pool type='dir'><name>images</name><target><path>/images</path></target></pool></node>`

// happened collects events.
type happened struct {
	mu  sync.Mutex
	all []event
}

func (h *happened) event(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, e)
}

func (h *happened) saw(name, what string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.all {
		if e.Name == name && e.What == what {
			return true
		}
	}
	return false
}

func testDriver(t *testing.T) (link, *happened) {
	t.Helper()
	node := filepath.Join(t.TempDir(), "node.xml")
	if err := os.WriteFile(node, []byte(testNode), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &happened{}
	l, err := dial(t.Context(), "test://"+node, h.event, func(error) {})
	if kindOf(err) == noLibrary && err != nil {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, h
}

func TestDriverLivesADomainsLife(t *testing.T) {
	t.Parallel()
	l, events := testDriver(t)
	ctx := t.Context()
	n, err := l.Node(ctx)
	if err != nil || n.CPUs != 4 || n.Memory != 8<<30 || n.Libvirt == "" {
		t.Errorf("node %+v, %v", n, err)
	}
	g := &guest{key: "o-w-1", tags: tags{Owner: "o", Key: "o-w-1", Worker: "w", Pool: "images", Memory: 8 << 20}}
	text := fmt.Sprintf(`<domain type='test'><name>%s</name><uuid>%s</uuid><metadata>%s</metadata><memory>8192</memory><os><type>hvm</type></os></domain>`,
		domainName(g.key), uuidOf(g.key), g.tags.String())
	if err := l.Start(ctx, text); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(ctx, text); err == nil {
		t.Error("a second domain of this name was started")
	}
	d, err := l.Domain(ctx, domainName(g.key))
	if err != nil || d.Power != powerOn || d.Persistent || d.UUID != uuidOf(g.key) || d.Tags == nil || d.Tags.Key != g.key || d.Tags.Pool != "images" || d.XML == "" {
		t.Errorf("domain %+v, tags %+v, %v", d, d.Tags, err)
	}
	all, err := l.Domains(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("domains %+v, %v", all, err)
	}
	for _, d := range all {
		if ours := d.Name != "foreign"; ours != (d.Tags != nil) {
			t.Errorf("%s has the tags %+v", d.Name, d.Tags)
		}
	}
	for range 2 {
		if err := l.Destroy(ctx, domainName(g.key)); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Domain(ctx, domainName(g.key)); kindOf(err) != noDomain {
		t.Errorf("the domain that was destroyed: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); !events.saw(domainName(g.key), "started") || !events.saw(domainName(g.key), "stopped: it was destroyed"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("events %+v", events.all)
		}
	}
}

func TestDriverKeepsVolumes(t *testing.T) {
	t.Parallel()
	l, _ := testDriver(t)
	ctx := t.Context()
	base, err := whole("base.qcow2", "qcow2", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CreateVolume(ctx, "images", base); err != nil {
		t.Fatal(err)
	}
	v, err := l.Volume(ctx, "images", "base.qcow2")
	if err != nil || v.Capacity != 1<<30 || v.Path != "/images/base.qcow2" || v.Pool != "images" {
		t.Errorf("volume %+v, %v", v, err)
	}
	clone, err := overlay("clone.qcow2", v)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CreateVolume(ctx, "images", clone); err != nil {
		t.Fatal(err)
	}
	if err := l.CreateVolume(ctx, "images", clone); err == nil { // the code is another one than the QEMU driver's
		t.Error("it was made twice")
	}
	if some, err := l.VolumesNamed(ctx, "images", []string{"none", "clone.qcow2", "base.qcow2"}); err != nil || len(some) != 2 || some[0].Name != "clone.qcow2" {
		t.Errorf("%+v, %v", some, err)
	}
	if by, err := l.VolumeByPath(ctx, "/images/clone.qcow2"); err != nil || by.Pool != "images" {
		t.Errorf("%+v, %v", by, err)
	}
	for range 2 {
		if err := l.DeleteVolume(ctx, "images", "clone.qcow2"); err != nil {
			t.Error(err)
		}
	}
	if all, err := l.Volumes(ctx, "images"); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if name, err := l.PoolOf(ctx, "/elsewhere/here", false); kindOf(err) != noPool {
		t.Errorf("the pool that is not to be made: %q, %v", name, err)
	}
	if name, err := l.PoolOf(ctx, "/elsewhere/here", true); err != nil || name != "rouse-elsewhere-here" {
		t.Errorf("the pool of another directory: %q, %v", name, err)
	}
}

func TestDriverSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	l, _ := testDriver(t)
	ctx := t.Context()
	if n, err := l.Network(ctx, "up"); err != nil || !n.Active || n.XML == "" {
		t.Errorf("%+v, %v", n, err)
	}
	for name, c := range map[string]struct {
		want errorKind
		call func() error
	}{
		"domain":         {noDomain, func() error { _, err := l.Domain(ctx, "x"); return err }},
		"network":        {noNetwork, func() error { _, err := l.Network(ctx, "x"); return err }},
		"pool":           {noPool, func() error { _, err := l.Pool(ctx, "x"); return err }},
		"pool's volumes": {noPool, func() error { _, err := l.VolumesNamed(ctx, "x", []string{"y"}); return err }},
		"volume":         {noVolume, func() error { _, err := l.Volume(ctx, "images", "x"); return err }},
		"path":           {noVolume, func() error { _, err := l.VolumeByPath(ctx, "/x"); return err }},
		"bad XML":        {invalid, func() error { return l.Start(ctx, "<domain") }},
		"no console":     {unsupported, func() error { return l.Console(ctx, "foreign", &happenedNothing{}) }},
	} {
		if err := c.call(); err == nil || kindOf(err) != c.want {
			t.Errorf("%s: kind %d (%v), want %d", name, kindOf(err), err, c.want)
		}
	}
	l.Close()
	if _, err := l.Domains(ctx); kindOf(err) != unreachable {
		t.Errorf("a closed connection: %v", err)
	}
	if _, err := dial(ctx, "qemu+unix:///system?socket="+t.TempDir()+"/none", func(event) {}, func(error) {}); kindOf(err) != unreachable {
		t.Errorf("nobody's socket: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := dial(over, "test:///default", func(event) {}, func(error) {}); err != nil && kindOf(err) != unreachable && kindOf(err) != noLibrary {
		t.Errorf("no time: %v", err)
	}
}

type happenedNothing struct{}

func (*happenedNothing) Write(b []byte) (int, error) { return len(b), nil }

func TestSSHNeverAsks(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"qemu:///system":                            "qemu:///system",
		"qemu+tls://h/system":                       "qemu+tls://h/system",
		"qemu+ssh://root@h:22/system":               "qemu+ssh://root@h:22/system?no_tty=1",
		"qemu+ssh://h/system?keyfile=/root/.ssh/id": "qemu+ssh://h/system?keyfile=/root/.ssh/id&no_tty=1",
		"qemu+ssh://h/system?no_tty=0":              "qemu+ssh://h/system?no_tty=0",
	} {
		if got := unattended(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	dir := t.TempDir()
	ssh := filepath.Join(dir, "ssh")
	program(t, ssh, "echo \"$@\" >"+dir+"/said\nexit 1\n")
	if _, err := dial(t.Context(), "qemu+ssh://nobody/system?command="+ssh, func(event) {}, func(error) {}); err == nil {
		t.Fatal("connected to nobody")
	} else if kindOf(err) == noLibrary {
		t.Skip(err)
	}
	if said, err := os.ReadFile(dir + "/said"); err != nil || !strings.Contains(string(said), "BatchMode=yes") {
		t.Errorf("ssh is called with %s, %v", said, err)
	}
}

func TestALostAnswerMakesNoDomainSomebodyElses(t *testing.T) {
	t.Parallel()
	mine := tags{Owner: me, Key: "me-w1-1", Worker: "w1"}
	if got, err := tagsIn(mine.String(), nil); err != nil || got == nil || got.Key != mine.Key {
		t.Errorf("%+v, %v", got, err)
	}
	for _, none := range []virt.ErrorNumber{virt.ERR_NO_DOMAIN_METADATA, virt.ERR_NO_SUPPORT} {
		if got, err := tagsIn("", virt.Error{Code: none}); got != nil || err != nil {
			t.Errorf("%d: %+v, %v", none, got, err)
		}
	}
	for _, lost := range []virt.ErrorNumber{virt.ERR_RPC, virt.ERR_INTERNAL_ERROR, virt.ERR_OPERATION_TIMEOUT, virt.ERR_NO_DOMAIN} {
		if _, err := tagsIn("", virt.Error{Code: lost}); err == nil {
			t.Errorf("%d: it is nobody's", lost)
		}
	}
}
