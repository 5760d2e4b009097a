package e2elibvirt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLibvirtdIsKilled kills libvirtd under a guest that builds: neither notices. A new libvirtd finds the guest, and it ends as any other.
// Not parallel: it is everybody's libvirtd.
func TestLibvirtdIsKilled(t *testing.T) {
	w := newWorld(t, "orphaned")
	w.configure("", worker("orphaned", "", guest(""), "sleep 8; echo it went on"))
	w.up()
	id := w.force("orphaned")
	in := w.running(id, "orphaned")
	file := "/run/libvirt/libvirtd.pid"
	if err := syscall.Kill(w.pid(file), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the master has met a host without libvirtd", func() bool { return w.has("the connection is lost") })
	out, err := os.Create(filepath.Join(os.Getenv("WORLD"), "libvirtd.again"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	again := exec.Command("libvirtd", "-p", file)
	again.Stdout, again.Stderr = out, out
	again.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	go again.Wait() //nolint:errcheck // it ends with the world
	w.until("the new libvirtd answers", func() bool {
		_, err := command("virsh", "-q", "-c", "qemu:///system", "version")
		return err == nil
	})
	if got := w.domains(); len(got) != 1 || got[0] != domainOf(in) {
		t.Errorf("the new libvirtd has %v, want %s", got, domainOf(in))
	}
	if r := w.succeeds(id); r.Attempts != 1 || !strings.Contains(w.stdout(id), "it went on") {
		t.Errorf("%d attempts: %s", r.Attempts, w.stdout(id))
	}
	w.until("the guest has ended", func() bool { return len(w.instances()) == 0 })
	w.succeeds(w.force("orphaned")) // over a connection of its own
	if n := w.hasBeen("orphaned"); n != 2 {
		t.Errorf("%d guests were started for two builds", n)
	}
}

// TestTheMasterIsKilledUnderABuild goes on with the build and its guest.
func TestTheMasterIsKilledUnderABuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "kept")
	w.configure("", worker("kept", "", guest(""), "sleep 6; echo it went on"))
	w.up()
	id := w.force("kept")
	in := w.running(id, "kept")
	w.kill()
	w.up()
	if r := w.succeeds(id); r.Attempts != 1 || !strings.Contains(w.stdout(id), "it went on") {
		t.Errorf("%d attempts: %s", r.Attempts, w.stdout(id))
	}
	if n := w.hasBeen("kept"); n != 1 {
		t.Errorf("%d guests were started for one build; the first was %s", n, in.Key)
	}
}

// TestTheMasterIsKilledBeforeItKnowsOfItsGuest kills it while libvirt starts the guest: the next one adopts it.
func TestTheMasterIsKilledBeforeItKnowsOfItsGuest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "adopted")
	w.configure("", worker("adopted", "", guest(""), "echo here"))
	w.up()
	id := w.force("adopted")
	w.killWhileItStarts("adopted")
	w.up()
	if r := w.succeeds(id); r.Attempts != 1 {
		t.Errorf("%d attempts", r.Attempts)
	}
	if n := w.hasBeen("adopted"); n != 1 {
		t.Errorf("%d guests were started for one build", n)
	}
}

// killWhileItStarts kills the master while libvirt starts or restores the worker's guest, and returns when the guest runs.
func (w *world) killWhileItStarts(worker string) {
	w.Helper()
	for limit := time.Now().Add(patient); ; time.Sleep(time.Millisecond) { // more often than until looks: it is a matter of milliseconds
		if status, _ := filepath.Glob(pids + "/rouse-*-" + worker + "-*.xml"); len(status) > 0 { // libvirt has begun
			break
		}
		if time.Now().After(limit) {
			w.Fatal("no guest is started")
		}
	}
	w.kill()
	w.until("its guest runs", func() bool {
		return len(w.only(strings.Fields(w.virsh("list", "--state-running", "--name")))) == 1
	})
}

// TestAGuestIsKilled kills QEMU's process: the build is repeated on another guest, and the first one says why.
func TestAGuestIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "killed")
	w.configure("", worker("killed", "", guest(""), "sleep 5"))
	w.up()
	id := w.force("killed")
	in := w.running(id, "killed")
	began := time.Now()
	if err := syscall.Kill(w.pid(fmt.Sprintf("%s/%s.pid", pids, domainOf(in))), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("it is noticed", func() bool { b := w.builds(id); return !b[0].FinishedAt.IsZero() })
	t.Logf("noticed after %s", time.Since(began).Round(10*time.Millisecond))
	if r := w.succeeds(id); r.Attempts != 2 {
		t.Errorf("%d attempts", r.Attempts)
	}
	if b := w.builds(id); !strings.Contains(b[0].Text, "the hypervisor's process ended") {
		t.Errorf("the first build says %q", b[0].Text)
	}
}

// TestAGuestPowersOff presses the power button under a build: the guest obeys, and the build is repeated.
func TestAGuestPowersOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pressed")
	w.configure("", worker("pressed", "", guest(""), "sleep 5"))
	w.up()
	id := w.force("pressed")
	w.virsh("shutdown", domainOf(w.running(id, "pressed")))
	began := time.Now()
	w.until("it is noticed", func() bool { return !w.builds(id)[0].FinishedAt.IsZero() })
	t.Logf("noticed after %s", time.Since(began).Round(10*time.Millisecond))
	if r := w.succeeds(id); r.Attempts != 2 {
		t.Errorf("%d attempts", r.Attempts)
	}
	if b := w.builds(id); !strings.Contains(b[0].Text, "powered off") {
		t.Errorf("the first build says %q", b[0].Text)
	}
}

// TestAGuestStaysSilent boots something without a worker: the build ends with the reason and the console's last lines.
func TestAGuestStaysSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "silent")
	w.configure("", strings.Replace(strings.Replace(worker("silent", "", guest(""), "true"), cmdline, cmdline+" rdinit=/bin/sh", 1), `"3m"`, `"15s"`, 1))
	w.up()
	id := w.force("silent")
	console, text := w.preparation(id)
	w.cancel(id)
	if !strings.Contains(console, "/ #") {
		t.Errorf("its console:\n%s", console)
	}
	if !strings.Contains(text, "15s") && !strings.Contains(text, "15 s") {
		t.Errorf("the reason: %q", text)
	}
}
