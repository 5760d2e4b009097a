//go:build linux

package local

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/providers"
)

// TestMain also plays the agent: the provider starts this test binary as `BINARY run -config FILE`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") { // also without the tag, which some take away
		agent(os.Args[1])
		return
	}
	goleak.VerifyTestMain(m)
}

// agent is a stand-in for rouse-worker; STANDIN says how it behaves.
func agent(command string) {
	switch command {
	case "run":
		data, err := os.ReadFile(os.Args[3])
		var c agentConfig
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		if err != nil || c.Token == "" || os.Remove(os.Args[3]) != nil {
			fmt.Println("no configuration:", err)
			os.Exit(7)
		}
		work, _ := os.Create(filepath.Join(c.BaseDir, "attached"))
		_, _ = fmt.Fprintln(work, c.Master, c.Name, c.Instance, c.OrphanSeconds)
		_ = work.Close()
	case "sleeper":
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		time.Sleep(time.Hour)
		return
	}
	spawn := func(setsid bool, env []string) {
		cmd := exec.Command(os.Args[0], "sleeper")
		cmd.SysProcAttr, cmd.Env = &syscall.SysProcAttr{Setsid: setsid}, env
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("agent is up")
	switch os.Getenv("STANDIN") {
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
	case "daemon": // a child of its own session whose parent ends at once
		if command == "run" {
			cmd := exec.Command(os.Args[0], "daemon-parent")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			_ = cmd.Run()
			break
		}
		spawn(true, nil)
		return
	case "bare": // children without the tags, in the agent's session
		spawn(false, []string{tagInstance + "="})
	case "escape", "escape-ignore": // a grandchild without tags, session and parent; the agent adopts it, and does nothing about it at its end
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		_ = exec.Command("/bin/sh", "-c", `(env -i setsid /bin/sh -c 'echo $$ >work/part; mv work/part work/escaped; exec sleep 120' &)`).Run()
		for range 1000 {
			if _, err := os.Stat("work/escaped"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if os.Getenv("STANDIN") == "escape-ignore" {
			signal.Ignore(syscall.SIGTERM)
		}
	case "storm":
		for range 200 {
			spawn(false, nil)
		}
	case "exit":
		spawn(true, nil)
		fmt.Println("the disk\x1b[31m is on fire")
		os.Exit(3)
	case "spam":
		line := bytes.Repeat([]byte("spam "), 1<<12)
		for range 100 {
			_, _ = os.Stdout.Write(append(line, '\n'))
		}
		fmt.Println("the last line")
	case "readonly":
		deep := filepath.Join("work", "mod", "cache")
		_ = os.MkdirAll(deep, 0o700)
		_ = os.WriteFile(filepath.Join(deep, "f"), nil, 0o400)
		_ = os.Chmod(deep, 0o500)
		_ = os.Chmod(filepath.Dir(deep), 0o500)
	case "environ":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	}
	f, _ := os.Create("work/ready")
	_ = f.Close()
	time.Sleep(time.Hour)
}

// rig is a state directory with one owner.
type rig struct {
	testing.TB
	state string
	cfg   string
	log   *slog.Logger
}

var serial atomic.Int64

func newRig(t testing.TB, cfg string) *rig {
	r := &rig{TB: t, state: t.TempDir(), cfg: cfg, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	return r
}

func config(t testing.TB, src string) any {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, diags := Kind{}.DecodeProvider(body(t, fmt.Sprintf("worker_binary = %q\n%s", self, src)), nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return c
}

func body(t testing.TB, src string) hcl2.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

func spec(t testing.TB, src string) Spec {
	t.Helper()
	s, diags := Kind{}.DecodeInstance(nil, body(t, src), nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s.(Spec)
}

// open opens a handle and, at the end of the test, destroys all and checks that nothing is left.
func (r *rig) open() *provider {
	r.Helper()
	p, _, err := Kind{}.Open(context.Background(), providers.Env{Name: "local", Owner: "o", Config: config(r, r.cfg), StateDir: r.state, Log: r.log})
	if err != nil {
		r.Fatal(err)
	}
	lp := p.(*provider)
	r.Cleanup(func() {
		if lp.ctx.Err() == nil {
			list, err := p.List(context.Background(), "o")
			if err != nil {
				r.Error(err)
			}
			for _, in := range list {
				r.destroy(lp, in.Key)
			}
		}
		_ = p.Close()
	})
	return lp
}

func (r *rig) create(p *provider, src string) providers.Key {
	r.Helper()
	key := providers.Key(fmt.Sprintf("o-w-%d-%d", os.Getpid(), serial.Add(1))) // not found by a test that runs beside this one
	if _, err := p.Create(context.Background(), r.request(key, src)); err != nil {
		r.Fatal(err)
	}
	return key
}

func (r *rig) request(key providers.Key, src string) providers.CreateRequest {
	return providers.CreateRequest{
		Key: key, Owner: "o", Worker: "w", Spec: spec(r, src),
		Agent: providers.Agent{Master: "ws://127.0.0.1:9", Name: "w", Token: "t0ken", Orphan: time.Minute},
	}
}

// standin is the instance block for a behaviour.
func standin(how string) string { return fmt.Sprintf("env = { STANDIN = %q }", how) }

func (r *rig) until(what string, f func() bool) {
	r.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not in time: %s", what)
		}
	}
}

func (r *rig) ready(p *provider, key providers.Key) {
	r.Helper()
	r.until("agent is ready", func() bool {
		_, err := os.Stat(filepath.Join(p.dir(key), dirWork, "ready"))
		return err == nil
	})
}

func (r *rig) destroy(p *provider, key providers.Key) {
	r.Helper()
	r.until("Destroy says NotFound", func() bool {
		err := p.Destroy(context.Background(), key)
		if err != nil && providers.ClassOf(err) != providers.NotFound {
			r.Fatal(err)
		}
		return err != nil
	})
	if left := bearing(key); len(left) > 0 {
		r.Errorf("%d processes of %s are left", len(left), key)
	}
	for _, pattern := range []string{"instances/%s", "tmp/%s.*", "trash/%s.*"} { // what is in trash when NotFound is said goes at once
		r.until("nothing is left of "+pattern, func() bool {
			m, _ := filepath.Glob(filepath.Join(r.state, fmt.Sprintf(pattern, key)))
			return len(m) == 0
		})
	}
}

// bearing finds the live processes that carry a key, by a way of its own.
func bearing(key providers.Key) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, n := range names {
		env, _ := os.ReadFile(n)
		if bytes.Contains(env, []byte(tagInstance+"="+string(key)+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (r *rig) stateOf(p *provider, key providers.Key) string {
	in, err := p.Get(context.Background(), key)
	if err != nil {
		return providers.ClassOf(err).String()
	}
	return in.State.String()
}
