package e2elibvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// TestInstancesAreRestoredFromMemory follows a template's life: the first instance boots, the next ones are restored and are each somebody of their
// own, a restarted master goes on with the template, and a new image makes a new one in place of the old.
func TestInstancesAreRestoredFromMemory(t *testing.T) {
	w := newWorld(t, "quick-1", "quick-2", "quick-3")
	base := images + "/quick.qcow2"
	if _, err := command("cp", images+"/minimal.qcow2", base); err != nil {
		t.Fatal(err)
	}
	hash := sum(t, base)
	n, _ := strconv.Atoi(os.Getenv("ROUSE_FAST"))
	n = max(n, 2)
	w.configure("", strings.Replace(worker("quick", fmt.Sprintf("count = %d", max(n, 3)), guest("fast = true"),
		"i=0; until grep -q eth0 /proc/net/if_inet6 || [ $i = 50 ]; do i=$((i + 1)); sleep 0.2; done; "+ // IPv6 comes a second later
			"echo $ROUSE_WORKER $(hostname) $(cat /sys/class/net/eth0/address) $(dd if=/dev/urandom bs=16 count=1 2>/dev/null | md5sum | cut -c1-32) "+
			"$(grep eth0 /proc/net/if_inet6 | cut -c1-32) $(date +%s); test ! -e /mine; echo x > /mine"),
		"minimal.qcow2", "quick.qcow2", 1))
	w.up()
	w.succeeds(w.force("quick"))
	w.until("the template is saved", func() bool { return w.has("template saved") })

	var ids []model.RequestID
	for range n {
		ids = append(ids, w.force("quick"))
	}
	seen := map[string]bool{}
	for _, id := range ids {
		r := w.succeeds(id)
		in := w.machine(r)
		if in.AttachedAt.IsZero() || !w.restored(in) {
			t.Errorf("%s was not restored", in.Key)
		}
		out := strings.Fields(w.stdout(id))
		if len(out) != 6 || out[0] != out[1] || !strings.HasPrefix(out[2], "52:54:00:") {
			t.Errorf("it says %q", out)
			continue
		}
		for _, s := range out[1:5] {
			if seen[s] {
				t.Errorf("two guests have the same %s", s)
			}
			seen[s] = true
		}
		if s, err := strconv.ParseInt(out[5], 10, 64); err != nil || time.Since(time.Unix(s, 0)).Abs() > time.Minute {
			t.Errorf("its clock says %s", out[5])
		}
		t.Logf("%s restored: attached %s after the request", in.Worker, took(in.AskedAt, in.AttachedAt))
	}
	if got := w.templates(); len(got) != 2 {
		t.Errorf("templates: %v", got)
	}

	w.until("they have ended", func() bool { return len(w.instances()) == 0 })
	w.kill()
	w.up()
	if in := w.machine(w.succeeds(w.force("quick"))); !w.restored(in) {
		t.Errorf("%s: the new master does not know the template", in.Key)
	}

	w.until("it has ended", func() bool { return len(w.instances()) == 0 })
	if sum(t, base) != hash {
		t.Error("the base image has changed")
	}
	before := w.templates()
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(base, later, later); err != nil { // another image, as far as the host tells
		t.Fatal(err)
	}
	if in := w.machine(w.succeeds(w.force("quick"))); w.restored(in) {
		t.Errorf("%s was restored from the old image", in.Key)
	}
	w.until("the old template has made place for a new one", func() bool {
		now := w.templates()
		return len(now) == 2 && now[0] != before[0]
	})
	w.forgetTemplates()
}

// TestARestoredGuestIsToldWhoItIsByTheNextMaster kills the master between the restore and the order.
func TestARestoredGuestIsToldWhoItIsByTheNextMaster(t *testing.T) {
	w := newWorld(t, "told")
	w.configure("", worker("told", "", guest("fast = true"), "echo $ROUSE_WORKER $(hostname)"))
	w.up()
	w.succeeds(w.force("told"))
	w.until("the template is saved", func() bool { return w.has("template saved") })
	w.until("the first guest has ended", func() bool { return len(w.domains()) == 0 })
	id := w.force("told")
	w.killWhileItStarts("told")
	w.up()
	if r := w.succeeds(id); r.Attempts != 1 || w.stdout(id) != "told told\n" {
		t.Errorf("%d attempts: %q", r.Attempts, w.stdout(id))
	}
	if n := w.hasBeen("told"); n != 2 {
		t.Errorf("%d guests were started for two builds", n)
	}
	w.until("it has ended", func() bool { return len(w.instances()) == 0 })
	w.forgetTemplates()
}

// TestGuestsOfADefinitionAreRestoredFromMemory makes a template of XML: it knows nothing of the instance for which it was made, and nobody but its owner can
// read what is in the pool.
func TestGuestsOfADefinitionAreRestoredFromMemory(t *testing.T) {
	w := newWorld(t, "drawn")
	w.configure("", worker("drawn", "", fmt.Sprintf("instance {\n fast = true\n xml = %q\n}", domainXML("whatever")), "echo $ROUSE_WORKER $(hostname); sleep 1"))
	w.up()
	w.succeeds(w.force("drawn"))
	w.until("the template is saved", func() bool { return w.has("template saved") })
	w.until("the first guest has ended", func() bool { return len(w.domains()) == 0 })
	id := w.force("drawn")
	in := w.running(id, "drawn")
	files, _ := filepath.Glob(images + "/rouse-*")
	for _, name := range files {
		st, err := os.Stat(name)
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
		if !strings.HasSuffix(name, ".save") {
			continue
		}
		head := make([]byte, 32<<10) // what libvirt wrote of the domain
		f, err := os.Open(name)
		if err == nil {
			_, err = f.Read(head)
			_ = f.Close()
		}
		if err != nil || !strings.Contains(string(head), "rouse.wait=") || strings.Contains(string(head), "rouse.agent=") || strings.Contains(string(head), " agent=") {
			t.Errorf("%s: %v; of the domain it says\n%s", name, err, strings.ReplaceAll(string(head), "\x00", ""))
		}
	}
	if len(files) < 3 {
		t.Errorf("there are %v", files)
	}
	w.succeeds(id)
	if out := w.stdout(id); !w.restored(in) || out != "drawn drawn\n" {
		t.Errorf("restored: %v; it says %q", w.restored(in), out)
	}
	w.until("it has ended", func() bool { return len(w.instances()) == 0 })
	w.forgetTemplates()
}

// has says whether a master of this world has said something.
func (w *world) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.log.String(), text)
}

// machine is the instance of a request's last build.
func (w *world) machine(r api.Request) api.Instance {
	w.Helper()
	list := w.builds(r.ID)
	d := w.detail(list[len(list)-1])
	if d.Machine == nil {
		w.Fatalf("build %d has no machine", d.ID)
	}
	return *d.Machine
}

// restored says whether QEMU was started with a memory image.
func (w *world) restored(in api.Instance) bool {
	b, _ := os.ReadFile(logs + "/" + domainOf(in) + ".log")
	return strings.Contains(string(b), "-incoming")
}

// templates are the files of saved guests. Tests that make some are not parallel.
func (w *world) templates() []string {
	names, _ := filepath.Glob(images + "/rouse-template-*")
	return names
}

// forgetTemplates deletes them, as somebody does who takes a master down for good.
func (w *world) forgetTemplates() {
	w.Helper()
	for _, f := range w.templates() {
		w.virsh("vol-delete", "--pool", "default", filepath.Base(f))
	}
}
