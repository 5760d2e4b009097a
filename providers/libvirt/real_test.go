//go:build cgo && libvirt_dlopen

package libvirt

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/providertest"
)

// These tests run on a libvirtd of their own (.ci/e2e-libvirt, with ROUSE_LIBVIRT=1). Their guests have an empty disk: the firmware finds nothing to
// boot and waits.

const realPool = "/var/lib/libvirt/images"

// prepared makes a pool, a network and an empty base image, once.
var prepared = sync.OnceValue(func() error {
	net := filepath.Join(os.TempDir(), "rouse-net.xml")
	if err := os.WriteFile(net, []byte("<network><name>default</name><bridge name='rouse9' stp='off' delay='0'/></network>"), 0o600); err != nil {
		return err
	}
	defer os.Remove(net)
	for _, args := range [][]string{{"virsh", "net-create", net}, {"virsh", "pool-define-as", "default", "dir", "--target", realPool}, {"virsh", "pool-start", "default"},
		{"qemu-img", "create", "-q", "-f", "qcow2", realPool + "/base.qcow2", "2G"}, {"virsh", "pool-refresh", "default"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI=qemu:///system")
		if out, err := cmd.CombinedOutput(); err != nil {
			return &linkError{failed, strings.Join(args, " ") + ": " + string(out)}
		}
	}
	return nil
})

func real(t testing.TB) {
	t.Helper()
	if os.Getenv("ROUSE_LIBVIRT") == "" || os.Getenv("WORLD") == "" {
		t.Skip("it needs a libvirtd of its own: make e2e-libvirt")
	}
	if err := prepared(); err != nil {
		t.Fatal(err)
	}
}

func realConfig() Config {
	return Config{Pool: "default", Network: "default", Hosts: []Host{{Name: "host", URI: "qemu:///system"}}}
}

func realSpec() Spec {
	s := good()
	s.Memory = 32 << 20
	return s
}

func realProvider(t testing.TB, dir string, owner providers.Owner, log *slog.Logger) *provider {
	t.Helper()
	p, err := open(providers.Env{Name: "lab", Owner: owner, Config: realConfig(), StateDir: filepath.Join(dir, string(owner)), Log: log}, dial)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func virsh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// noneLeft wants no domain and no volume of ours.
func noneLeft(t testing.TB) {
	t.Helper()
	for _, d := range strings.Fields(virsh(t, "list", "--all", "--name")) {
		if strings.HasPrefix(d, prefix) {
			t.Errorf("domain %s is left", d)
			_ = exec.Command("virsh", "-c", "qemu:///system", "destroy", d).Run()
		}
	}
	files, _ := filepath.Glob(realPool + "/" + prefix + "*")
	if len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
}

func TestHostConformance(t *testing.T) {
	real(t)
	providertest.Run(t, func(t *testing.T) providertest.Setup {
		dir := t.TempDir()
		t.Cleanup(func() { noneLeft(t) })
		return providertest.Setup{
			Open: func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
				return realProvider(t, dir, owner, log), limits
			},
			Spec:    func() any { return realSpec() },
			BadSpec: func() any { s := realSpec(); s.BaseImage = "none.qcow2"; return s },
			Alive: func(key providers.Key) (n int) {
				for _, d := range strings.Fields(virsh(t, "list", "--name")) {
					if d == domainName(key) {
						n++
					}
				}
				return n
			},
			Within: 90 * time.Second,
		}
	})
}

// realHost is a connection to the host, and its base image.
func realHost(t *testing.T) (link, volume) {
	t.Helper()
	l, err := dial(t.Context(), "qemu:///system", func(event) {}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	base, err := l.Volume(t.Context(), "default", "base.qcow2")
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	return l, base
}

// TestHostRestoresRelabelledMemory pins what the provider does to save files to the version of libvirt that it was tried on: two guests from one
// file run at once, each under its own name. A version that is not in the list is not used so; if this test passes there, it can be.
func TestHostRestoresRelabelledMemory(t *testing.T) {
	real(t)
	defer noneLeft(t)
	ctx := t.Context()
	l, base := realHost(t)
	defer l.Close()
	make := func(key providers.Key) *guest {
		g := &guest{key: key, spec: realSpec(), machine: "qemu", tags: tags{Owner: "pin", Key: key, Worker: "w"}}
		text, err := overlay(volumeName("pin", key, diskSuffix), base)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.CreateVolume(ctx, "default", text); err != nil {
			t.Fatal(err)
		}
		if g.disk, err = l.Volume(ctx, "default", volumeName("pin", key, diskSuffix)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(g.disk.Path) })
		return g
	}
	first := make("pin-t-0")
	first.waits = true
	text, err := first.define(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(ctx, text); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "save")
	if err := l.Save(ctx, domainName(first.key), file); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []providers.Key{"pin-w-1", "pin-w-2"} {
		g, r := make(key), bytes.NewReader(b)
		s, err := readSaved(r)
		if err != nil {
			t.Fatal(err)
		}
		xml, err := g.relabel(s.xml)
		if err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(r)
		own := filepath.Join(filepath.Dir(file), string(key))
		if err := os.WriteFile(own, append(s.head(xml), rest...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Restore(ctx, own, ""); err != nil {
			t.Fatal(err)
		}
		defer l.Destroy(ctx, domainName(key)) //nolint:errcheck // it is looked for
		d, err := l.Domain(ctx, domainName(key))
		if err != nil || d.Power != powerOn || d.UUID != uuidOf(key) || d.Tags == nil || d.Tags.Key != key || !strings.Contains(d.XML, macOf(key, 0)) || !strings.Contains(d.XML, g.disk.Path) {
			t.Errorf("%s: %+v, %v", key, d, err)
		}
	}
	for _, key := range []providers.Key{"pin-w-1", "pin-w-2"} {
		if err := l.Destroy(ctx, domainName(key)); err != nil {
			t.Error(err)
		}
		_ = os.Remove(filepath.Join(realPool, volumeName("pin", key, diskSuffix)))
	}
	_ = os.Remove(first.disk.Path)
	n, err := l.Node(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !mayRelabel(n.Libvirt) {
		t.Errorf("libvirt %s restores re-labelled memory: it can be added to the list %v", n.Libvirt, relabelled)
	}
}

func request(key providers.Key) providers.CreateRequest {
	return providers.CreateRequest{Key: key, Owner: "bench", Worker: "w", Spec: realSpec(), Agent: providers.Agent{Master: "ws://192.0.2.1:1", Name: "w", Token: "t"}}
}
