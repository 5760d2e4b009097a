package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/worker/proto"
)

// The tests in this file run the agent as a process of its own (this test binary again) against the master's real end of the protocol.

func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_AGENT") != "" {
		os.Exit(start(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

type everybody struct{}

func (everybody) Authenticate(name, secret string, inst model.InstanceKey) (session.Identity, error) {
	if secret != "geheim" {
		return session.Identity{}, session.ErrCredentials
	}
	return session.Identity{Worker: name, Instance: inst}, nil
}

// port is a worker port: a Hub that admits everybody, and whose connections can be cut.
type port struct {
	hub      *session.Hub
	url      string
	attached chan struct{}

	mu    sync.Mutex
	conns []net.Conn
}

func newPort(t testing.TB) *port {
	p := &port{attached: make(chan struct{}, 100)}
	p.hub = session.New(session.Options{Auth: everybody{}, Deliver: func(e core.Event) {
		if a, ok := e.(core.Attached); ok {
			p.hub.Admit(a.Worker, a.Session)
			p.attached <- struct{}{}
		}
	}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := p.hub.Server()
	state := srv.ConnState
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		state(c, s)
		if s == http.StateNew {
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
		}
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		_ = p.hub.Shutdown(false)
		_ = srv.Close()
	})
	p.url = "ws://" + l.Addr().String()
	return p
}

func (p *port) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// agent starts the agent as a process, which has ended when the test is over.
func (p *port) agent(t testing.TB, base string) *exec.Cmd {
	cmd, stop := p.launch(t, base)
	t.Cleanup(stop)
	return cmd
}

func (p *port) launch(t testing.TB, base string, args ...string) (cmd *exec.Cmd, stop func()) {
	cmd = exec.Command(os.Args[0], append([]string{"run", "-master", p.url, "-name", "w1", "-basedir", base}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_AS_AGENT=1", "ROUSE_WORKER_TOKEN=geheim")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v\n%s", err, log.String())
		}
	}
	select {
	case <-p.attached:
	case <-time.After(20 * time.Second):
		stop()
		t.Fatal("the agent does not attach")
	}
	return cmd, stop
}

func TestTheMasterKeepsEveryByteAcrossCuts(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	base := t.TempDir()
	p.agent(t, base)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got bytes.Buffer
	cuts, next := 0, 50_000
	out, err := p.hub.Run(ctx, "w1", session.Command{ID: "b1.s0.0", Name: "shell",
		Args: map[string]any{"workdir": filepath.Join(base, "b"), "command": "seq 1 300000; env", "logEnviron": false},
		Output: func(s proto.Stream, b []byte, end int64) error {
			if s == proto.Stdout {
				got.Write(b)
			}
			if cuts < 5 && got.Len() > next {
				cuts++
				next = got.Len() + 300_000
				p.cut()
			}
			return nil
		}})
	if err != nil || out.RC != 0 || out.Text != "" {
		t.Fatalf("%+v %v", out, err)
	}
	p.hub.Forget("w1", "b1.s0.0")
	var want bytes.Buffer
	for i := range 300_000 {
		want.WriteString(strconv.Itoa(i+1) + "\n")
	}
	if !bytes.HasPrefix(got.Bytes(), want.Bytes()) {
		t.Errorf("output differs: %d bytes, want %d and the environment", got.Len(), want.Len())
	}
	if strings.Contains(got.String(), "geheim") || !strings.Contains(got.String(), "ROUSE_WORKER=w1") {
		t.Error("the child's environment holds the token, or not the worker's name")
	}
	if cuts < 5 || len(p.attached) < 1 {
		t.Errorf("%d cuts, %d attachments", cuts, len(p.attached))
	}
}

func TestTransfersAndFailuresThroughTheMaster(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	base := t.TempDir()
	p.agent(t, base)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	n := 0
	do := func(c session.Command) session.Outcome {
		t.Helper()
		n++
		c.ID = fmt.Sprint("c", n)
		out, err := p.hub.Run(ctx, "w1", c)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		p.hub.Forget("w1", c.ID)
		return out
	}
	file := filepath.Join(base, "f")
	if out := do(session.Command{Name: "download_file", Args: map[string]any{"path": file, "mode": 0o600}, Download: bytes.NewReader(data)}); out.RC != 0 {
		t.Errorf("%+v", out)
	}
	var back bytes.Buffer
	if out := do(session.Command{Name: "upload_file", Args: map[string]any{"path": file}, Upload: &back}); out.RC != 0 || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("%+v, %d bytes", out, back.Len())
	}
	if out := do(session.Command{Name: "stat", Args: map[string]any{"path": file + "x"}}); out.RC != int(syscall.ENOENT) {
		t.Errorf("%+v", out)
	}
	if out := do(session.Command{Name: "shell", Args: map[string]any{"workdir": base, "command": "sleep 60", "timeout": 0.2}}); out.RC != -1 || out.FailureReason != "timeout_without_output" {
		t.Errorf("%+v", out)
	}
	stop, interrupt := context.WithCancelCause(ctx)
	time.AfterFunc(100*time.Millisecond, func() { interrupt(errors.New("cancelled")) })
	if out, err := p.hub.Run(stop, "w1", session.Command{ID: "long", Name: "shell", Args: map[string]any{"workdir": base, "command": "sleep 60"}}); err != nil || out.RC != -1 {
		t.Errorf("%+v %v", out, err)
	}
}

// cpu is the processor time that a process itself has used, without its children.
func cpu(t testing.TB, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func resident(t testing.TB, pid int, key string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), key+":")
	kb, _ := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kb) / 1024
}

// BenchmarkOutput measures what a command that prints 100 MB of 80-character lines costs the agent's process.
func BenchmarkOutput(b *testing.B) {
	p := newPort(b)
	base := b.TempDir()
	agent := p.agent(b, base)
	idle := resident(b, agent.Process.Pid, "VmRSS")
	const size = 100 << 20
	before := cpu(b, agent.Process.Pid)
	n := 0
	for b.Loop() {
		n++
		var got int64
		out, err := p.hub.Run(b.Context(), "w1", session.Command{ID: fmt.Sprint(n), Name: "shell",
			Args: map[string]any{"workdir": base, "logEnviron": false, "command": fmt.Sprintf("yes %s | head -c %d", strings.Repeat("x", 79), size)},
			Output: func(_ proto.Stream, p []byte, _ int64) error {
				got += int64(len(p))
				return nil
			}})
		if err != nil || out.RC != 0 || got < size {
			b.Fatal(out, err, got)
		}
		p.hub.Forget("w1", fmt.Sprint(n))
	}
	used := cpu(b, agent.Process.Pid) - before
	b.SetBytes(size)
	b.ReportMetric(float64(n)*size/1e6/used.Seconds(), "MB/CPU-s")
	b.ReportMetric(idle, "idle-MiB")
	b.ReportMetric(resident(b, agent.Process.Pid, "VmHWM"), "peak-MiB")
}

// BenchmarkAttach measures from the start of the agent's process to its admission.
func BenchmarkAttach(b *testing.B) {
	p := newPort(b)
	base := b.TempDir()
	for b.Loop() {
		_, stop := p.launch(b, base)
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}

// BenchmarkTrue measures one command that does nothing, there and back.
func BenchmarkTrue(b *testing.B) {
	p := newPort(b)
	base := b.TempDir()
	agent := p.agent(b, base)
	before := cpu(b, agent.Process.Pid)
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprint(n)
		if out, err := p.hub.Run(b.Context(), "w1", session.Command{ID: id, Name: "shell", Args: map[string]any{"workdir": base, "logEnviron": false,
			"command": []any{"/bin/true"}}}); err != nil || out.RC != 0 {
			b.Fatal(out, err)
		}
		p.hub.Forget("w1", id)
	}
	b.ReportMetric(float64((cpu(b, agent.Process.Pid)-before).Microseconds())/float64(n), "agent-CPU-us/op")
}
