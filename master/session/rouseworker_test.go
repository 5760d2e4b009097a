package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker"
	"github.com/rouse-ci/rouse/worker/imds/imdstest"
	"github.com/rouse-ci/rouse/worker/proto"
)

// startAgent runs rouse's own agent against m.
func startAgent(t *testing.T, m *master, url string) {
	t.Helper()
	runAgent(t, worker.Config{Master: strings.Replace(url, "http", "ws", 1), Name: "w1", Secret: "pw-w1"})
}

func runAgent(t *testing.T, cfg worker.Config) {
	t.Helper()
	cfg.Basedir = t.TempDir()
	a, err := worker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// shell is a command that prints so many numbered lines, slowly enough to be disturbed.
func (m *master) shell(id string, lines int, l *log) Command {
	until(m.t, "the agent has attached", func() bool { return m.Info("w1") != nil })
	return Command{ID: id, Name: "shell", Output: func(s proto.Stream, p []byte, end int64) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if s == proto.Stdout {
			l.buf = append(l.buf, p...)
		}
		l.end = end
		return nil
	}, Args: map[string]any{"workdir": m.Abs("w1", "b", "build"), "logEnviron": false,
		"command": fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); case $i in *000) sleep 0.02;; esac; done; exit 7", lines)}}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

func TestOurAgentsCommandGoesOnWhileItsConnectionIsCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	startAgent(t, m, m.url)
	const lines = 60_000
	var l log
	run := m.start(t.Context(), "w1", m.shell("c1", lines, &l))
	cuts := 0
	deadline := time.After(90 * time.Second)
	for last := 0; ; {
		select {
		case r := <-run:
			if r.err != nil || r.out.RC != 7 || l.String() != numbered(lines) {
				t.Errorf("got %+v %v, %d bytes of output, want %d", r.out, r.err, len(l.String()), len(numbered(lines)))
			}
			if cuts == 0 {
				t.Error("the connection was never cut")
			}
			t.Logf("%d cuts", cuts)
			return
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("no end after %d cuts and %d bytes of output\n%s", cuts, len(l.String()), stacks[:runtime.Stack(stacks, true)])
		case <-time.After(time.Millisecond):
		}
		if now := len(l.String()); now > last+50_000 {
			last = now
			m.mu.Lock()
			if s := m.peers["w1"].cur; s != nil {
				s.abort()
				cuts++
			}
			m.mu.Unlock()
		}
	}
}

func TestANewMasterTakesOverOurAgentsCommand(t *testing.T) {
	t.Parallel()
	first, second := newMaster(t, Options{}), newMaster(t, Options{})
	var port atomic.Pointer[Hub] // the port stays open between the two: a free one would soon be somebody else's
	port.Store(first.Hub)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { port.Load().ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	startAgent(t, first, srv.URL)

	const lines = 20_000
	var l log
	run := first.start(t.Context(), "w1", first.shell("c1", lines, &l))
	until(t, "some output is logged", func() bool { return len(l.String()) > 20_000 })
	if err := first.Shutdown(true); err != nil {
		t.Error(err)
	}
	if r := await(t, run); !errors.Is(r.err, ErrDetached) {
		t.Fatalf("got %+v", r)
	}

	port.Store(second.Hub)
	c := second.shell("c1", lines, &l)
	c.Resume, c.Pos = true, l.end
	if r := await(t, second.start(t.Context(), "w1", c)); r.err != nil || r.out.RC != 7 || l.String() != numbered(lines) {
		t.Errorf("got %+v, %d bytes of output", r, len(l.String()))
	}
	second.Forget("w1", "c1")
}

func TestOurAgentTransfersAndIsInterrupted(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	startAgent(t, m, m.url)
	until(t, "the agent has attached", func() bool { return m.Info("w1") != nil })
	content := bytes.Repeat([]byte("0123456789abcde\n"), 50_000)
	file := m.Abs("w1", "b", "file")
	var up bytes.Buffer
	for _, c := range []Command{
		{ID: "d", Name: "download_file", Download: bytes.NewReader(content), Args: map[string]any{"path": file, "blocksize": 64 << 10, "mode": 0o600}},
		{ID: "u", Name: "upload_file", Upload: &up, Args: map[string]any{"path": file, "blocksize": 64 << 10}},
	} {
		if out, err := m.Run(t.Context(), "w1", c); err != nil || out.RC != 0 {
			t.Fatalf("%s: %+v %v", c.Name, out, err)
		}
		m.Forget("w1", c.ID)
	}
	if !bytes.Equal(up.Bytes(), content) {
		t.Errorf("%d bytes came back", up.Len())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var l log
	c := m.shell("i", 1, &l)
	c.Args["command"] = "echo begun; sleep 600"
	run := m.start(ctx, "w1", c)
	until(t, "it has begun", func() bool { return l.String() == "begun\n" })
	cancel()
	if r := await(t, run); r.err != nil || r.out.RC != -1 {
		t.Errorf("got %+v", r)
	}
}

// What the metadata service announces is said once over each connection while it holds.
func TestOurAgentSaysOnceOverEachConnectionThatItsMachineIsTakenBack(t *testing.T) {
	t.Parallel()
	said := make(chan string, 100)
	m := newMaster(t, Options{Notice: func(w, k, text string) { said <- w + ": " + k + ": " + text }})
	service := imdstest.New(t)
	runAgent(t, worker.Config{Master: strings.Replace(m.url, "http", "ws", 1), Name: "w1", Secret: "pw-w1", Watch: worker.WatchEC2, Metadata: service.URL,
		WatchEvery: time.Millisecond})
	want := func(text string) {
		t.Helper()
		select {
		case got := <-said:
			if got != text {
				t.Errorf("the agent says %q, want %q", got, text)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the agent does not say %q", text)
		}
	}
	nothing := func() {
		t.Helper()
		before := service.Requests()
		until(t, "the service is asked some more", func() bool { return service.Requests() > before+10 })
		if len(said) > 0 {
			t.Errorf("the agent says %q", <-said)
		}
	}
	cut := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.peers["w1"].cur.abort()
	}
	event[core.Attached](m)
	nothing()
	service.Announce(imdstest.Rebalance, `{"noticeTime": "2026-10-27T08:22:00Z"}`)
	want("w1: rebalance: an interruption has become likely, said at 2026-10-27T08:22:00Z")
	service.Announce(imdstest.Action, `{"action": "terminate", "time": "2026-10-27T08:25:00Z"}`)
	want("w1: spot-interruption: terminate at 2026-10-27T08:25:00Z")
	nothing()

	cut()
	want("w1: spot-interruption: terminate at 2026-10-27T08:25:00Z")
	want("w1: rebalance: an interruption has become likely, said at 2026-10-27T08:22:00Z")
	nothing()

	service.Announce(imdstest.Action, "")
	nothing()
	cut()
	want("w1: rebalance: an interruption has become likely, said at 2026-10-27T08:22:00Z")
	nothing()
}

func TestOurAgentAsksNobodyUnlessToldTo(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	service := imdstest.New(t)
	runAgent(t, worker.Config{Master: strings.Replace(m.url, "http", "ws", 1), Name: "w1", Secret: "pw-w1", Metadata: service.URL, WatchEvery: time.Millisecond})
	until(t, "the agent has attached", func() bool { return m.Info("w1") != nil })
	var l log
	if r := await(t, m.start(t.Context(), "w1", m.shell("c1", 2000, &l))); r.err != nil {
		t.Error(r.err)
	}
	m.Forget("w1", "c1")
	if n := service.Requests(); n > 0 {
		t.Errorf("%d requests", n)
	}
}
