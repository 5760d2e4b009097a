package e2elibvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// inPool puts the Debian image (images/debian) into the pool.
var inPool = sync.OnceValue(func() error {
	_, err := command("cp", os.Getenv("ROUSE_DEBIAN_IMAGE"), filepath.Join(images, "debian.qcow2"))
	return err
})

// debian is the instance block of a Debian guest.
func debian(t *testing.T, identity, more string) string {
	t.Helper()
	if os.Getenv("ROUSE_DEBIAN_IMAGE") == "" {
		t.Skip("ROUSE_DEBIAN_IMAGE is not given")
	}
	if err := inPool(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
  instance {
    base_image = "debian.qcow2"
    memory     = "512MiB"
    identity   = %q
    %s
  }`, identity, more)
}

// debianWorld has a worker of the Debian image, which needs ten times the minimal one's processor time until its agent attaches.
func debianWorld(t *testing.T, name, instance, run string) *world {
	t.Helper()
	w := newWorld(t, name)
	w.slow = 2 * patient
	w.configure("", strings.Replace(worker(name, "", instance, run), `missing_timeout    = "3m"`, `missing_timeout    = "6m"`, 1))
	w.up()
	return w
}

// TestACloudImageIsToldByItsSeed boots cloud-init with the configuration's user data and ours: neither hides the other's files.
func TestACloudImageIsToldByItsSeed(t *testing.T) {
	t.Parallel()
	block := debian(t, "nocloud", `graceful = "30s"
    user_data = "#cloud-config\nwrite_files:\n- path: /etc/mark\n  content: from the configuration\n"`)
	w := debianWorld(t, "cloud", block, "cat /etc/mark; echo; hostname; gcc --version | head -1")
	id := w.force("cloud")
	in := w.attached("cloud")
	if xml := w.virsh("dumpxml", domainOf(in)); strings.Contains(xml, "rouse.agent") {
		t.Error("its credential is in its XML")
	}
	w.succeeds(id)
	if out := strings.Split(w.stdout(id), "\n"); len(out) < 3 || out[0] != "from the configuration" || out[1] != "cloud" || !strings.HasPrefix(out[2], "gcc ") {
		t.Errorf("it says %q", out)
	}
	t.Logf("attached %s after the request", took(in.AskedAt, in.AttachedAt))
}

// TestAnImageWithoutAWorkerSaysSo takes the agent out of the image: the guest ends as soon as that is seen, and says why.
func TestAnImageWithoutAWorkerSaysSo(t *testing.T) {
	t.Parallel()
	block := debian(t, "nocloud", `user_data = "#cloud-config\nbootcmd:\n- [rm, /usr/local/bin/rouse-worker]\n"`)
	w := debianWorld(t, "empty", block, "true")
	id := w.force("empty")
	console, text := w.preparation(id)
	w.cancel(id)
	if !strings.Contains(console, "rouse: there is no worker in this image") {
		t.Errorf("its console:\n%s", console)
	}
	if !strings.Contains(text, "powered off") && !strings.Contains(text, "shutting down") { // as soon as it is seen
		t.Errorf("the reason: %q", text)
	}
}

// TestACredentialReachesSystemd boots without a seed: systemd takes the settings from the firmware and hands them to the agent's unit.
func TestACredentialReachesSystemd(t *testing.T) {
	t.Parallel()
	block := debian(t, "credential", "")
	w := debianWorld(t, "credited", block, "echo I am $ROUSE_WORKER; systemctl is-active rouse-credential.service; systemctl is-active rouse-smbios.service cloud-init.service")
	id := w.force("credited")
	in := w.attached("credited")
	w.until("the build is over", func() bool { return !w.request(id).FinishedAt.IsZero() })
	if out := w.stdout(id); out != "I am credited\nactive\ninactive\ninactive\n" {
		t.Errorf("it says %q", out)
	}
	t.Logf("attached %s after the request", took(in.AskedAt, in.AttachedAt))
}

// TestTheDebianImageIsRestoredFromMemory boots the first instance, and restores the next one, which is somebody of its own.
func TestTheDebianImageIsRestoredFromMemory(t *testing.T) {
	block := debian(t, "smbios", "fast = true")
	w := debianWorld(t, "large", block, "hostname; cat /etc/machine-id /sys/class/net/eth0/address; git --version")
	said := [2][]string{}
	for n := range said {
		id := w.force("large")
		in := w.machine(w.succeeds(id))
		if w.restored(in) != (n == 1) {
			t.Errorf("%s was restored: %v", in.Key, w.restored(in))
		}
		said[n] = strings.Split(w.stdout(id), "\n")
		if len(said[n]) != 5 || said[n][0] != "large" || !strings.HasPrefix(said[n][3], "git version") {
			t.Fatalf("%s says %q", in.Key, said[n])
		}
		t.Logf("attached %s after the request", took(in.AskedAt, in.AttachedAt))
		w.until("the template is saved", func() bool { return w.has("template saved") })
	}
	if said[0][1] == said[1][1] || said[0][2] == said[1][2] {
		t.Errorf("two guests with one identifier or address: %q", said)
	}
	w.until("they have ended", func() bool { return len(w.instances()) == 0 })
	w.forgetTemplates()
}
