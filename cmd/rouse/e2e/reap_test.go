package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// lose makes an instance that no record knows, as a state from a backup would not: the records are those from before it was made. It returns its key, without
// a live master.
func (w *world) lose() string {
	w.t.Helper()
	w.configure(config{Count: 2, Wait: "10m", Builders: builder("b", talk{Name: "short", Seed: 3, Lines: 2}.step()) + builder("l", long.step())})
	w.up(nil).stop(10 * time.Second)
	db := filepath.Join(w.state, "rouse.db")
	backup, err := os.ReadFile(db)
	if err != nil {
		w.t.Fatal(err)
	}
	m := w.up(nil)
	if r := w.done(w.forceOn("b", "w-2"), 30*time.Second); r.Result != model.Success {
		w.t.Fatalf("got %s: %s", r.Result, r.Text)
	}
	key := string(w.instances()[0].Key)
	m.kill()
	m.awaitDeath(10 * time.Second)
	for _, f := range []string{db + "-wal", db + "-shm"} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(db, backup, 0o600), os.RemoveAll(filepath.Join(w.state, "logs"))); err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *world) forceOn(builder, worker string) model.RequestID {
	w.t.Helper()
	made, err := post[api.Forced](w, "/force", api.Force{Builder: builder, Worker: worker})
	if err != nil {
		w.t.Fatal(err)
	}
	return made.Requests[0]
}

// age makes an instance an hour old.
func (w *world) age(key string) {
	w.t.Helper()
	name := filepath.Join(w.state, "providers", "local", "here", "instances", key, "instance.json")
	var rec map[string]any
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err == nil {
		rec["created"] = time.Now().Add(-time.Hour)
		b, err = json.Marshal(rec)
	}
	if err == nil {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// rouse runs a command and returns what it printed and its exit code.
func (w *world) rouse(stdin *os.File, args ...string) (out string, code int) {
	w.t.Helper()
	c := exec.Command(programs.rouse, append(args, "-state", w.state)...)
	var b strings.Builder
	c.Stdin, c.Stdout, c.Stderr = stdin, &b, &b
	err := c.Run()
	if bad := (*exec.ExitError)(nil); err != nil && !errors.As(err, &bad) {
		w.t.Fatal(err)
	}
	return b.String(), c.ProcessState.ExitCode()
}

// reap runs reap and compares the exit code and what is said.
func (w *world) reap(stdin *os.File, code int, says string, args ...string) {
	w.t.Helper()
	out, got := w.rouse(stdin, append([]string{"reap"}, args...)...)
	if got != code || !strings.Contains(out, says) {
		w.t.Errorf("reap %v: exit code %d, want %d; it should say %q:\n%s", args, got, code, says, out)
	}
}

// typing is a terminal at which somebody types a line.
func typing(t *testing.T, line string) *os.File {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { _ = m.Close() })
	if err := unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	s, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := io.WriteString(m, line+"\n"); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReapBesideAStateThatNoMasterUses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	key := w.lose()
	w.reap(nil, 2, "not sure yet", "-auto-approve") // too young
	w.age(key)
	w.reap(nil, 2, key, "-dry-run")
	w.reap(nil, 2, "nobody can be asked", "here")
	w.reap(typing(t, "y"), 2, "Nothing is destroyed")
	if n := len(w.processes()); n != 1 {
		t.Fatalf("%d processes, want the agent's", n)
	}
	w.reap(nil, 1, `no provider "there"`, "there")
	w.reap(typing(t, "yes"), 2, "is gone after")
	w.reap(nil, 0, "is in its records")
	w.cleanNow()
}

func TestReapSparesWhatTheRecordsOfADeadMasterKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", long.step())})
	m, id := w.running()
	m.kill()
	m.awaitDeath(10 * time.Second)
	entries, err := os.ReadDir(filepath.Join(w.state, "providers", "local", "here", "instances"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	w.age(entries[0].Name())
	w.reap(nil, 0, "is in its records", "-auto-approve")
	w.up(nil)
	w.resumed(id)
	w.clean()
}

func TestReapThroughTheMasterSparesWhatIsMadeMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	key := w.lose()
	w.age(key)
	m := w.up(nil)
	running := w.forceOn("l", "w-1") // a live one is there before the first list
	w.until("the build prints", 20*time.Second, func() bool { return logged(0, 100)(w.t.Context(), w) })
	w.reap(nil, 2, "Instance "+key+" is gone", "-auto-approve")
	if r := w.done(running, 30*time.Second); r.Result != model.Success || r.Attempts != 1 {
		t.Errorf("got %s after %d attempts (%s)", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(1, 0, long)

	// Again and again, while instances are made and ended.
	m.stop(10 * time.Second)
	w.rewrite(`build_wait_timeout = "10m"`, `build_wait_timeout = "0s"`)
	w.up(nil)
	stop := make(chan struct{})
	reaped := make(chan int)
	go func() {
		n := 0
		defer func() { reaped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				w.reap(nil, 0, "is in its records", "-auto-approve")
				n++
			}
		}
	}()
	for i := range 6 {
		if r := w.done(w.forceOn("b", "w-1"), 30*time.Second); r.Result != model.Success || r.Attempts != 1 { // w-2's next key was the lost one's
			t.Errorf("build %d beside reap: got %s after %d attempts (%s)", i, r.Result, r.Attempts, r.Text)
		}
	}
	close(stop)
	if n := <-reaped; n < 3 {
		t.Errorf("reap ran %d times only", n)
	}
	w.clean()
}

func TestReapOfALostStateWantsTheOwnerTyped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	key := w.lose()
	w.age(key)
	owner, _, _ := strings.Cut(key, "-")
	conf := filepath.Join(w.dir, "config")
	w.reap(nil, 1, "is not lost", "-owner", owner, "-config", conf)
	for _, f := range []string{"rouse.db", "rouse.db-wal", "rouse.db-shm"} {
		if err := os.Remove(filepath.Join(w.state, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	w.reap(nil, 1, "there is no state")
	w.reap(typing(t, "another"), 0, "is listed", "-owner", "another", "-config", conf)
	w.reap(typing(t, "yes"), 2, "Nothing is destroyed", "-owner", owner, "-config", conf)
	if n := len(w.processes()); n != 1 {
		t.Fatalf("%d processes, want the agent's", n)
	}
	w.reap(typing(t, owner), 2, "is gone after", "-owner", owner, "-config", conf)
	w.cleanNow()
}
