package e2elibvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAForeignDomainIsLeftAlone defines somebody else's domain under the very name of the next guest.
func TestAForeignDomainIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "taken")
	w.configure("", worker("taken", "", guest(""), "true"))
	w.up()
	id := w.force("taken")
	in := w.attached("taken")
	w.succeeds(id)
	first, number, ok := strings.Cut(domainOf(in), "-taken-")
	if !ok || number != "1" {
		t.Fatalf("the first guest is %s", domainOf(in))
	}
	name := first + "-taken-2"
	file := filepath.Join(w.dir, "foreign.xml")
	if err := os.WriteFile(file, []byte(domainXML(name)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.virsh("define", file)
	before := w.virsh("dumpxml", name)
	id = w.force("taken")
	w.until("it is refused", func() bool {
		return strings.Contains(w.everything(id, "taken"), name+" that is not ours; it is left alone")
	})
	w.cancel(id)
	w.until("nobody waits", func() bool { return len(w.instances()) == 0 })
	if after := w.virsh("dumpxml", name); after != before {
		t.Errorf("it was changed:\n%s\n%s", before, after)
	}
	w.virsh("undefine", name)
}

// everything is all that a person is told of a request and a worker.
func (w *world) everything(id any, worker string) string {
	text := w.workerSays(worker)
	for _, args := range [][]string{{"trace", fmt.Sprint(id)}, {"explain", fmt.Sprint(id)}, {"status"}} {
		out, err := command(programs+"/rouse", append(args, "-state", w.dir+"/state")...)
		text += fmt.Sprintln(out, err)
	}
	return text
}

// TestABaseThatChangesUnderAGuestIsRefused touches the image while a guest depends on it. When none does, guests are made again.
func TestABaseThatChangesUnderAGuestIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "moved-1", "moved-2")
	base := images + "/moved.qcow2"
	if _, err := command("cp", images+"/minimal.qcow2", base); err != nil {
		t.Fatal(err)
	}
	w.configure("", strings.Replace(worker("moved", "count = 2", guest(""), "sleep 6"), "minimal.qcow2", "moved.qcow2", 1))
	w.up()
	first := w.force("moved")
	w.until("the first runs", func() bool { return w.request(first).Step == "run" })
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(base, later, later); err != nil {
		t.Fatal(err)
	}
	second := w.force("moved")
	w.until("the second is refused", func() bool {
		return strings.Contains(w.everything(second, "moved-1")+w.workerSays("moved-2"), "has changed under 1 instances whose disks depend on it")
	})
	w.until("it has ended", func() bool { return !w.request(second).FinishedAt.IsZero() })
	w.succeeds(first)
	w.until("the first guest has ended", func() bool { return len(w.instances()) == 0 })
	w.succeeds(w.force("moved"))
}

// TestAFullPoolIsSaid fills a small pool; when there is room again, the build that waited is done.
func TestAFullPoolIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "full")
	dir := images + "/tiny"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := command("mount", "-t", "tmpfs", "-o", "size=512k", "tiny", dir); err != nil {
		t.Fatal(err)
	}
	w.virsh("pool-define-as", "tiny", "dir", "--target", dir)
	w.virsh("pool-start", "tiny")
	if err := os.WriteFile(dir+"/fill", make([]byte, 400<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	block := worker("full", "", guest(`fast = false`), "true")
	for _, name := range []string{"minimal.qcow2", "vmlinux", "initrd.img"} {
		block = strings.Replace(block, `"`+name+`"`, `"`+images+"/"+name+`"`, 1)
	}
	w.configure(`pool = "tiny"`, block)
	w.up()
	id := w.force("full")
	w.until("it is refused", func() bool { return strings.Contains(w.everything(id, "full"), "No space left on device") })
	if left := w.left(); len(left) > 0 {
		t.Errorf("what could not be made is left: %v", left)
	}
	w.cancel(id)
}

// TestWhatCannotWorkIsSaidBeforehand holds what plan and validate say of a host and a configuration.
func TestWhatCannotWorkIsSaidBeforehand(t *testing.T) {
	t.Parallel()
	two := strings.Replace(domainXML("x"), "</disk>", "</disk><disk type='file' device='disk'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>", 1)
	none := domainXML("x")
	none = none[:strings.Index(none, "<disk ")] + none[strings.Index(none, "<interface "):]
	w := newWorld(t)
	w.virsh("net-define", func() string {
		file := filepath.Join(w.dir, "idle.xml")
		if err := os.WriteFile(file, []byte("<network><name>idle</name><bridge name='idle0'/></network>"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}())
	if err := os.WriteFile(images+"/other.vmdk", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := command("qemu-img", "create", "-q", "-f", "vmdk", images+"/other.vmdk", "1M"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		provider, instance string
		want               []string
	}{
		"no libvirtd":         {`uri = "qemu+unix:///system?socket=/run/nobody"`, guest(""), []string{"/run/nobody", "Is libvirtd running there"}},
		"no such pool":        {`pool = "nowhere"`, guest(""), []string{"No such storage pool", "virsh pool-define-as nowhere"}},
		"no such network":     {``, guest(`network = "none"`), []string{"No such network", "rouse libvirt network"}},
		"an inactive network": {``, guest(`network = "idle"`), []string{"The network is not active", "virsh net-start idle"}},
		"no such image":       {``, `instance { base_image = "minimel.qcow2" }`, []string{`no image "minimel.qcow2" in pool default`, "minimal.qcow2"}},
		"a strange format":    {``, `instance { base_image = "other.vmdk" }`, []string{"of format vmdk", "qcow2 or raw"}},
		"XML without a disk":  {``, fmt.Sprintf("instance { xml = %q }", none), []string{"no disk that a guest writes to"}},
		"XML with two disks":  {``, fmt.Sprintf("instance { xml = %q }", two), []string{"2 disks that a guest writes to (vda, vdb)"}},
		"too large a guest":   {`memory = "100MiB"`, guest(""), []string{"The guest does not fit", "100 MiB"}},
	} {
		w.configure(c.provider, worker("x", "", c.instance, "true"))
		out, err := command(programs+"/rouse", "plan", w.dir+"/config", "-state", w.dir+"/none")
		if err == nil {
			t.Errorf("%s: the plan says nothing:\n%s", name, out)
		}
		out = strings.Join(strings.Fields(fmt.Sprint(out, err)), " ") // however the lines are broken
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the plan does not say %q:\n%s", name, want, out)
			}
		}
	}
}

// TestWhoMayNotUseTheSocketIsToldHowToGetThere plans as a user who may not enter the directory of libvirtd's socket.
func TestWhoMayNotUseTheSocketIsToldHowToGetThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed := filepath.Join(w.dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(closed, "libvirt-sock")
	if err := os.Symlink("/run/libvirt/libvirt-sock", socket); err != nil {
		t.Fatal(err)
	}
	w.configure(fmt.Sprintf("uri = %q", "qemu+unix:///system?socket="+socket), worker("x", "", guest(""), "true"))
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := command("chown", "-R", "65534:65534", w.dir+"/config"); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(w.dir, "rouse") // whose own directory is root's
	if _, err := command("install", "-m755", programs+"/rouse", program); err != nil {
		t.Fatal(err)
	}
	out, err := command("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "HOME="+w.dir, program, "plan", w.dir+"/config", "-state", w.dir+"/none")
	if err == nil {
		t.Errorf("the plan says nothing:\n%s", out)
	}
	out = strings.Join(strings.Fields(fmt.Sprint(out, err)), " ")
	for _, want := range []string{"No connection to libvirt", "adduser USER libvirt"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan does not say %q:\n%s", want, out)
		}
	}
}

// TestAHostThatIsDownAtStartIsAHostThatIsDown starts a master without libvirtd: it serves, and says what its build waits for. When libvirtd is there, the
// build is done.
func TestAHostThatIsDownAtStartIsAHostThatIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "down")
	socket := filepath.Join(w.dir, "libvirt-sock")
	w.configure(fmt.Sprintf("uri = %q", "qemu+unix:///system?socket="+socket), worker("down", "", guest(""), "true"))
	w.up()
	id := w.force("down")
	w.until("it is said", func() bool {
		said := w.everything(id, "down")
		return strings.Contains(said, "the host: cannot be reached") && strings.Contains(said, socket)
	})
	if err := os.Symlink("/run/libvirt/libvirt-sock", socket); err != nil {
		t.Fatal(err)
	}
	if r := w.succeeds(id); r.Attempts != 1 {
		t.Errorf("%d attempts", r.Attempts)
	}
}
