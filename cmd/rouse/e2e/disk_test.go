package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// probe asks the master whether it is ready.
func (w *world) probe(path string) (int, string) {
	w.t.Helper()
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.state, api.SocketName))
		}}}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://rouse"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Error(err)
	}
	return resp.StatusCode, string(b)
}

// fill fills the file system of a directory to the last byte.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	return f.Name()
}

// smallDisk is a world whose state is on a small file system of its own.
func smallDisk(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, false)
	if err := os.Mkdir(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", w.state, "tmpfs", 0, "size=24m,mode=700"); err != nil {
		t.Skipf("a small file system is needed, and mounting one is not permitted here: %v", err)
	}
	t.Cleanup(func() {
		for _, m := range w.all() {
			m.kill()
			<-m.dead
		}
		if err := unix.Unmount(w.state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	w := smallDisk(t)
	w.configure(config{Count: 2, Builders: builder("b", long.step(), talk{Name: "more", Seed: 4, Lines: 20, Artifact: 1 << 20}.step(), `
  step "upload" "artifact" {
    from = "artifact.bin"
  }
`)})
	m, id := w.running()
	c := w.client()
	defer c.Close()
	var st api.Status
	if err := c.Get(t.Context(), "/status", nil, &st); err != nil || !st.Ready {
		t.Fatalf("%v, %+v", err, st)
	}
	filler := fill(t, w.state)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var made api.Forced
	submitted := make(chan error, 1)
	go func() { submitted <- c.Post(ctx, "/force", nil, api.Force{Builder: "b"}, &made) }()
	w.until("the master says that it is not ready", 20*time.Second, func() bool {
		code, text := w.probe("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "cannot be stored") && strings.Contains(text, "space")
	})
	if code, text := w.probe("/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d %s", code, text)
	}
	st = api.Status{}
	if err := c.Get(ctx, "/status", nil, &st); err != nil || st.Ready || !strings.Contains(st.NotReady, "cannot be stored") || !strings.Contains(st.NotReady, "the numbers are of ") || st.Running != 1 || st.Instances["attached"] != 1 {
		t.Errorf("the status on a full disk: %v, %+v; want the last numbers and why it is not ready", err, st)
	}
	w.until("the log says what is wrong", 20*time.Second, func() bool { return strings.Contains(w.said(), "the state cannot be stored") })
	var refused api.Forced
	var p *api.Problem
	if err := c.Post(ctx, "/force", nil, api.Force{Builder: "b"}, &refused); !errors.As(err, &p) || p.Status != http.StatusInsufficientStorage {
		t.Errorf("a request on a full disk: got %v, want a refusal with status 507", err)
	}
	w.until("the program has ended", 20*time.Second, w.now(told("end long")))
	if m.isDead() {
		t.Fatal("the master has ended")
	}
	w.until("the build waits", 20*time.Second, func() bool { return strings.Contains(w.said(), "a build waits: there is no space for its log") })
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.until("the master is ready again", 20*time.Second, func() bool {
		code, _ := w.probe("/readyz")
		return code == http.StatusOK
	})
	if err := <-submitted; err != nil {
		t.Errorf("the request that waited: %v", err)
	}
	for _, id := range append(made.Requests, id) {
		r := w.done(id, 30*time.Second)
		if r.Result != model.Success || r.Attempts != 1 {
			t.Errorf("request %d: got %s after %d attempts (%s), want success at once", id, r.Result, r.Attempts, r.Text)
		}
		w.checkTalk(r.Build, 0, long)
	}
	w.clean()
}

// TestMasterIsKilledOnAFullDisk starts the next one while there is no space yet.
func TestMasterIsKilledOnAFullDisk(t *testing.T) {
	t.Parallel()
	w := smallDisk(t)
	w.configure(config{Builders: builder("b", long.step())})
	m, id := w.running()
	fill(t, w.state)
	w.until("the build waits", 20*time.Second, func() bool { return strings.Contains(w.said(), "a build waits: there is no space for its log") })
	m.kill()
	<-m.dead
	before := len(w.said())
	filler := fill(t, w.state) // what the first one has left free
	m = w.start(nil)
	w.until("the next master says that there is no space, or finds room for its records in what its database has already", 20*time.Second, func() bool {
		if strings.Contains(w.said()[before:], "no space left for the state") {
			return true
		}
		r, err := try[api.Request](w, fmt.Sprintf("/requests/%d", id))
		return err == nil && r.State == model.RequestDone
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.ready:
	case <-m.dead:
		t.Fatalf("the next master ended: %v", m.cmd.ProcessState)
	case <-time.After(30 * time.Second):
		t.Fatal("the master does not come up")
	}
	w.until("the next master is ready", 30*time.Second, func() bool { // it may have met the full disk once more since it came up
		code, _ := w.probe("/readyz")
		return code == http.StatusOK
	})
	w.resumed(id)
	w.clean()
}

func TestDamagedStateIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"no SQLite file": func(b []byte) []byte { copy(b, "This is not what it was."); return b },
		"cut off":        func(b []byte) []byte { return b[:50] },
		"emptied":        func([]byte) []byte { return nil },
		"cut in half":    func(b []byte) []byte { return b[:len(b)/2] },
		"broken pages": func(b []byte) []byte {
			for i := 4096; i < len(b); i++ {
				b[i] ^= 0x5a
			}
			return b
		},
		"another program's": func(b []byte) []byte { copy(b[68:72], "abcd"); return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.configure(config{Builders: builder("b", talk{Name: "t", Lines: 3}.step())})
			m := w.up(nil)
			if r := w.done(w.force("b"), 20*time.Second); r.Result != model.Success {
				t.Fatal(r.Text)
			}
			w.until("all instances are gone", 20*time.Second, func() bool { return len(get[api.InstanceList](w, "/instances").Instances) == 0 })
			m.stop(10 * time.Second)
			file := filepath.Join(w.state, "rouse.db")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b = damage(b)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			before := len(w.said())
			m = w.start(nil)
			m.awaitDeath(20 * time.Second)
			if code := m.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("the master ended with %d, want 1", code)
			}
			if text := w.said()[before:]; !strings.Contains(text, file) || strings.Contains(text, "goroutine") {
				t.Errorf("the master said: %s", text)
			} else {
				t.Log(text)
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != string(b) {
				t.Errorf("the file is not what it was: %d bytes, %v", len(now), err)
			}
		})
	}
}

func TestAStateThatWasPutBackFromACopyNumbersItsBuildsOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(config{Builders: builder("b", talk{Name: "t", Lines: 3}.step())})
	file := filepath.Join(w.state, "rouse.db")
	last := model.BuildID(0)
	build := func() {
		t.Helper()
		m := w.up(nil)
		r := w.done(w.force("b"), 40*time.Second) // a copy may not know an instance that has ended: then the next one is waited for
		if r.Result != model.Success || r.Build <= last {
			t.Errorf("build %d: %s: %s; want a later one than %d", r.Build, r.Result, r.Text, last)
		}
		last = r.Build
		w.until("all instances are gone", 20*time.Second, func() bool { return len(get[api.InstanceList](w, "/instances").Instances) == 0 })
		m.stop(10 * time.Second)
	}
	build()
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	build()
	log := filepath.Join(w.state, "logs", fmt.Sprint(last), "0-stdio.log")
	kept, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	build()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	build()
	if now, err := os.ReadFile(log); err != nil || string(now) != string(kept) {
		t.Errorf("the log of a build that the copy does not know is not what it was: %d bytes of %d; %v", len(now), len(kept), err)
	}
}
