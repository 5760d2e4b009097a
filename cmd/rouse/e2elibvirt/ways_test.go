package e2elibvirt

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// domainXML is a definition such as virt-install leaves: one disk, one network card, a console.
func domainXML(name string) string {
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>%[2]s/vmlinux</kernel><initrd>%[2]s/initrd.img</initrd><cmdline>%[3]s</cmdline></os>
<features><acpi/><apic/></features>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s/minimal.qcow2'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><source network='ci'/><model type='virtio'/></interface><serial type='pty'/><console type='pty'/></devices></domain>`, name, images, cmdline)
}

// TestAGuestIsDescribedInEachOfTheDocumentsWays runs a build on a predefined domain, on XML, and on nothing but an image, there with an overlay in the
// pool and with a whole copy elsewhere.
func TestAGuestIsDescribedInEachOfTheDocumentsWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "predefined", "byxml", "plain", "copied")
	file := filepath.Join(w.dir, "domain.xml")
	if err := os.WriteFile(file, []byte(domainXML("predefined")), 0o600); err != nil {
		t.Fatal(err)
	}
	w.virsh("define", file)
	t.Cleanup(func() { _, _ = command("virsh", "-q", "-c", "qemu:///system", "undefine", "predefined") })
	elsewhere := filepath.Join(images, "elsewhere")
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	before, hash := w.virsh("dumpxml", "--inactive", "predefined"), sum(t, images+"/minimal.qcow2")

	run := "echo I am $ROUSE_WORKER on $(hostname); sleep 2"
	w.configure("", worker("predefined", "", "instance {}", run),
		worker("byxml", "", fmt.Sprintf("instance { xml = %q }", domainXML("whatever")), run),
		worker("plain", "", guest(""), run),
		worker("copied", "", guest(fmt.Sprintf("hd_image = %q\n clone = \"copy\"", elsewhere+"/copied.qcow2")), run))
	w.up()
	for _, name := range w.mine { // one after the other: a guest is all that one processor can do
		id := w.force(name)
		in := w.running(id, name)
		xml := w.virsh("dumpxml", domainOf(in))
		at := images
		if name == "copied" {
			at = elsewhere
		}
		if !strings.Contains(xml, "<source file='"+at+"/rouse-") {
			t.Errorf("%s does not boot from a clone of its own in %s:\n%s", name, at, xml)
		}
		if backed := strings.Contains(xml, "<source file='"+images+"/minimal.qcow2'"); backed == (name == "copied") {
			t.Errorf("%s: does its disk depend on the image? %v:\n%s", name, backed, xml)
		}
		if buildbot := strings.Contains(xml, "http://buildbot.net/"); buildbot != (name == "predefined") {
			t.Errorf("%s: is Buildbot's element there? %v", name, buildbot)
		}
		if inactive := strings.Fields(w.virsh("list", "--all", "--persistent", "--name")); len(w.only(inactive)) > 0 {
			t.Errorf("a guest's definition, with its credential, is kept: %v", inactive)
		}
		w.succeeds(id)
		if out := w.stdout(id); out != "I am "+name+" on "+name+"\n" {
			t.Errorf("%s says %q", name, out)
		}
		t.Logf("%s: attached %s after the request", name, took(in.AskedAt, in.AttachedAt))
	}
	if after := w.virsh("dumpxml", "--inactive", "predefined"); after != before {
		t.Errorf("the predefined domain has changed:\n%s\n%s", before, after)
	}
	if after := sum(t, images+"/minimal.qcow2"); after != hash {
		t.Error("the base image has changed")
	}
	if secrets, err := command("grep", "-rls", "rouse.agent=", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu"); err == nil {
		t.Errorf("a credential is kept in %s", secrets)
	}
}

// only filters a list of domains for this world's guests.
func (w *world) only(names []string) (out []string) {
	for _, n := range names {
		if strings.HasPrefix(n, "rouse-") && w.isMine(n) {
			out = append(out, n)
		}
	}
	return out
}

func took(from, to time.Time) time.Duration { return to.Sub(from).Round(10 * time.Millisecond) }

func sum(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestTwoGuestsOfOneBaseWriteEachTheirOwn runs two at once: each sees what it wrote itself, and the base stays as it was.
func TestTwoGuestsOfOneBaseWriteEachTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pair-1", "pair-2")
	hash := sum(t, images+"/minimal.qcow2")
	w.configure("", worker("pair", "count = 2", guest(""),
		"set -e; test ! -e /mine; echo $ROUSE_WORKER > /mine; dd if=/dev/zero of=/fill bs=64k count=64 2>/dev/null; sync; sleep 8; sync; echo 3 > /proc/sys/vm/drop_caches; echo it says $(cat /mine)"))
	w.up()
	ids := []model.RequestID{w.force("pair"), w.force("pair")}
	w.until("both run at once", func() bool {
		return w.request(ids[0]).Step == "run" && w.request(ids[1]).Step == "run"
	})
	said := map[string]bool{}
	for _, id := range ids {
		w.succeeds(id)
		said[strings.TrimSpace(w.stdout(id))] = true
	}
	if !said["it says pair-1"] || !said["it says pair-2"] {
		t.Errorf("they read %v", said)
	}
	if sum(t, images+"/minimal.qcow2") != hash {
		t.Error("the base image has changed")
	}
}

// TestTheMasterNeedsNothingOfItsHostsDisk hides libvirt's directories from the master, as if the host were another machine: everything that a guest needs is
// made, and deleted, by libvirt.
func TestTheMasterNeedsNothingOfItsHostsDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "remote", "remotecopy")
	w.under = []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec",
		"for d in /var/lib/libvirt /var/log/libvirt /run/libvirt/qemu; do mount -t tmpfs none $d; done; exec \"$@\"", "sh"}
	far := filepath.Join(images, "far")
	if err := os.MkdirAll(far, 0o755); err != nil {
		t.Fatal(err)
	}
	run := "echo I am $ROUSE_WORKER"
	w.configure("", worker("remote", "", guest(""), run),
		worker("remotecopy", "", strings.Replace(guest(fmt.Sprintf("hd_image = %q\n clone = \"copy\"", far+"/disk.qcow2")), `"minimal.qcow2"`, `"`+images+`/minimal.qcow2"`, 1), run))
	w.up()
	for _, name := range w.mine {
		id := w.force(name)
		w.succeeds(id)
		if out := w.stdout(id); out != "I am "+name+"\n" {
			t.Errorf("%s says %q", name, out)
		}
	}
	if left, err := command("nsenter", "--mount", "--target", fmt.Sprint(w.cmd.Process.Pid), "find", "/var/lib/libvirt", "/var/log/libvirt", "/run/libvirt/qemu", "-mindepth", "1"); err != nil || left != "" {
		t.Errorf("the master has made, on its own disk: %q, %v", left, err)
	}
}

// TestTheNetworkTellsAGuestItsName boots a guest that is told nothing else: its console shows what DHCP said, and why it ended.
func TestTheNetworkTellsAGuestItsName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "named-1")
	w.configure("", worker("named-1", "", guest(`identity = "dhcp"`), "true"))
	w.up()
	id := w.force("named-1")
	console, text := w.preparation(id)
	w.cancel(id)
	if !strings.Contains(console, "rouse: address 10.99.0.2, name named-1") {
		t.Errorf("its console:\n%s", console)
	}
	if !strings.Contains(text, "powered off") && !strings.Contains(text, "shutting down") { // as soon as it is seen
		t.Errorf("the reason: %q", text)
	}
}

// preparation waits for a build that ended before its worker attached, and returns its console and the reason.
func (w *world) preparation(id model.RequestID) (console, text string) {
	w.Helper()
	w.until("a build has ended with its worker's console", func() bool {
		for _, b := range w.builds(id) {
			if b.Phase != model.BuildDone {
				continue
			}
			d := w.detail(b)
			for _, s := range d.Steps {
				if s.Name == "worker_preparation" && len(s.Logs) > 0 {
					console, text = w.output(b, s, s.Logs[0]), s.Text
					return true
				}
			}
		}
		return false
	})
	return console, text
}
