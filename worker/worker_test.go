package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestACommandRunsAndReportsItsEnd(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	a, _ := m.agent(func(c *Config) { c.Instance = "m-w-1" })
	m.attach(1)
	m.start("b1.s0.0", "shell", map[string]any{"command": "echo hello; echo oops >&2; echo $ROUSE_INSTANCE $ROUSE_WORKER; exit 3"})
	l := m.finish("b1.s0.0")
	if l.text(proto.Stdout) != "hello\nm-w-1 w1\n" || l.text(proto.Stderr) != "oops\n" || l.value("rc") != int64(3) {
		t.Errorf("stdout %q stderr %q updates %v", l.text(proto.Stdout), l.text(proto.Stderr), l.done)
	}
	if r := m.must(proto.Message{Op: proto.OpForget, CommandID: "b1.s0.0"}); r.IsException {
		t.Error(r.Result)
	}
	if c := a.command("b1.s0.0"); c != nil {
		t.Error("a forgotten command is kept")
	}
	if got := m.headers.Get(proto.HeaderInstance); got != "m-w-1" {
		t.Errorf("%s: %q", proto.HeaderInstance, got)
	}
	if user, pass, _ := (&http.Request{Header: m.headers}).BasicAuth(); user != "w1" || pass != "sekrit" {
		t.Errorf("login %q %q", user, pass)
	}
	if m.hello.Info["basedir"] != a.cfg.Basedir || m.hello.Info["worker_commands"].(map[string]any)["uploadFile"] != "3.3" {
		t.Errorf("info %v", m.hello.Info)
	}
}

// TestOutputSurvivesCuts is the property that the extension is for: whatever the moments at which the connection breaks, the master ends up
// with exactly the bytes that the program wrote.
func TestOutputSurvivesCuts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			m := newMaster(t)
			m.agent(func(c *Config) { c.SpoolMemory = 64 << 10 << rng.IntN(4) })
			m.attach(1)
			m.start("c", "shell", map[string]any{"command": "i=0; while [ $i -lt 60 ]; do seq $i $((i+3000)); echo é$i >&2; i=$((i+1)); done"})
			cuts := 0
			for cuts < 8 {
				want := 0
				m.mu.Lock()
				want = len(m.commands["c"].bytes) + rng.IntN(200_000)
				n := m.attached
				m.mu.Unlock()
				m.until("output", func() bool { l := m.commands["c"]; return len(l.bytes) >= want || l.complete })
				m.cut()
				cuts++
				m.attach(n + 1)
			}
			l := m.finish("c")
			var want bytes.Buffer
			for i := range 60 {
				for j := i; j <= i+3000; j++ {
					fmt.Fprintln(&want, j)
				}
			}
			if sha256.Sum256([]byte(l.text(proto.Stdout))) != sha256.Sum256(want.Bytes()) {
				t.Errorf("stdout differs: %d bytes, want %d", len(l.text(proto.Stdout)), want.Len())
			}
			if n := strings.Count(l.text(proto.Stderr), "é"); n != 60 {
				t.Errorf("%d lines on stderr", n)
			}
			if l.value("rc") != int64(0) {
				t.Errorf("%v", l.done)
			}
		})
	}
}

func TestACompletionIsRepeatedUntilItIsForgotten(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.agent(nil)
	m.attach(1)
	m.start("c", "shell", map[string]any{"command": "echo hi"})
	m.finish("c")
	m.mu.Lock()
	m.commands["c"].complete = false
	m.mu.Unlock()
	m.cut()
	m.attach(2)
	m.finish("c")
	if h := m.hello.Commands; len(h) != 1 || !h[0].Done {
		t.Errorf("hello %+v", h)
	}
}

func TestARepeatedStartDoesNotRunTwice(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	a, _ := m.agent(nil)
	m.attach(1)
	m.mu.Lock()
	m.noAck = true
	m.mu.Unlock()
	args := map[string]any{"command": "echo ran >> count; sleep 0.2"}
	m.start("c", "shell", args)
	m.finish("c")
	m.mu.Lock()
	m.commands["c"] = &log{}
	m.mu.Unlock()
	m.start("c", "shell", args)
	if l := m.finish("c"); len(l.bytes) == 0 {
		t.Error("the output was not sent again")
	}
	b, err := os.ReadFile(filepath.Join(a.cfg.Basedir, "build/count"))
	if err != nil || string(b) != "ran\n" {
		t.Errorf("%q %v", b, err)
	}
}

func TestACommandThatTheMasterDoesNotKnowIsKilled(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	a, _ := m.agent(nil)
	m.attach(1)
	m.start("c", "shell", map[string]any{"command": "sleep 60"})
	m.mu.Lock()
	delete(m.commands, "c")
	m.mu.Unlock()
	m.cut()
	m.attach(2)
	a.running.Wait()
}

func TestSpoolOverflowsToADiskAndThenHoldsTheProgram(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	a, _ := m.agent(func(c *Config) {
		c.SpoolMemory, c.SpoolFile = 256<<10, 256<<10
		c.backoff = func(int) time.Duration { return 200 * time.Millisecond }
	})
	m.attach(1)
	m.mu.Lock()
	m.refuse = func(*http.Request) int { return 503 }
	m.mu.Unlock()
	m.start("c", "shell", map[string]any{"command": "sleep 0.1; head -c 2000000 /dev/zero | tr '\\0' x; echo; touch over"})
	m.cut()
	full := func() bool {
		s := a.command("c").state()
		return s.To-s.From > 320<<10
	}
	for end := time.Now().Add(10 * time.Second); !full(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the spool does not fill")
		}
	}
	if s := a.command("c").state(); s.To > 512<<10+extentSize {
		t.Errorf("the spool holds %d bytes", s.To)
	}
	if _, err := os.Stat(filepath.Join(a.cfg.Basedir, "build/over")); err == nil {
		t.Error("the program was not held")
	}
	m.mu.Lock()
	m.refuse = nil
	m.mu.Unlock()
	l := m.finish("c")
	if n := len(l.text(proto.Stdout)); n != 2000001 {
		t.Errorf("%d bytes", n)
	}
}

func TestAnOrphanEndsItself(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	dir := t.TempDir()
	a, done := m.agent(func(c *Config) { c.Orphan, c.OnEnd = 300*time.Millisecond, "echo $$ > "+filepath.Join(dir, "end") })
	m.attach(1)
	m.start("c", "shell", map[string]any{"command": "echo $$ > pid; exec sleep 60"})
	m.mu.Lock()
	m.refuse = func(*http.Request) int { return 401 }
	m.mu.Unlock()
	m.cut()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "end")); err != nil {
		t.Error("on_end did not run")
	}
	if _, err := os.Stat(a.spool); err == nil {
		t.Error("the spool is still there")
	}
}

func TestTheMasterCanEndAnInstance(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	_, done := m.agent(nil)
	m.attach(1)
	m.start("c", "shell", map[string]any{"command": "sleep 60"})
	_ = m.conn.ws.Close(proto.StatusEnd, "destroyed")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownIsAnsweredAndThenDone(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	_, done := m.agent(nil)
	m.attach(1)
	m.must(proto.Message{Op: proto.OpShutdown})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestARefusedAgentTriesAgain(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	n := 0
	m.refuse = func(*http.Request) int {
		if n++; n < 4 {
			return 401
		}
		return 0
	}
	m.agent(nil)
	m.attach(1)
	_ = m.conn.ws.Close(proto.StatusRefused, "second session")
	m.attach(2)
}

func TestASilentMasterIsDead(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.agent(func(c *Config) { c.Heartbeat, c.DeadAfter = 20*time.Millisecond, 100*time.Millisecond })
	m.attach(1)
	silence := make(chan struct{})
	m.mu.Lock()
	m.answer["update_read_file"] = nil
	m.answer[proto.OpUploadFileWrite] = func(proto.Message) (any, string) {
		m.mu.Unlock() // the reader of this connection stands still, and with it its pongs; others go on
		<-silence
		m.mu.Lock()
		return nil, ""
	}
	m.mu.Unlock()
	m.start("c", "upload_file", map[string]any{"path": "/etc/os-release"})
	m.attach(2)
	close(silence)
	if l := m.finish("c"); l.value("rc") != int64(1) || !strings.Contains(l.text(proto.Stderr), "connection to the master was lost") {
		t.Errorf("a transfer over a lost connection: %v, stderr %q", l.done, l.text(proto.Stderr))
	}
}

func TestInterruptEndsACommand(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.agent(nil)
	m.attach(1)
	m.start("c", "shell", map[string]any{"command": "sleep 60"})
	m.must(proto.Request(proto.OpInterruptCommand, 0, "c", map[string]any{"why": "stop"}))
	if l := m.finish("c"); l.value("rc") != int64(-1) {
		t.Errorf("%v", l.done)
	}
	if r := m.must(proto.Request(proto.OpInterruptCommand, 0, "unknown", map[string]any{"why": "stop"})); r.IsException {
		t.Error(r.Result)
	}
}

func TestRequestsThatMakeNoSenseAreExceptions(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.agent(nil)
	m.attach(1)
	for _, msg := range []proto.Message{
		{Op: "nonsense"},
		{Op: proto.OpStartCommand},
		{Op: proto.OpStartCommand, CommandID: "x"},
		{Op: proto.OpStartCommand, CommandID: "x", Fields: map[string]any{"command_name": "shell"}},
		{Op: proto.OpStartCommand, CommandID: "x", Fields: map[string]any{"command_name": "nonsense", "args": map[string]any{}}},
		{Op: proto.OpResume, CommandID: "unknown", HasPos: true},
		{Op: proto.OpSetWorkerSettings, Fields: map[string]any{"args": map[string]any{}}},
	} {
		if r := m.must(msg); !r.IsException {
			t.Errorf("%+v: %v", msg, r.Result)
		}
	}
	if r := m.must(proto.Message{Op: proto.OpKeepalive}); r.IsException {
		t.Error(r.Result)
	}
}

func TestAHostileFrameEndsTheConnectionAndNothingElse(t *testing.T) {
	t.Parallel()
	for i, frame := range []string{"", "\xc1", "\x81\xa2op\xdb\xff\xff\xff\xff", "\x81\xa4data\xc0",
		string(proto.AppendAck(nil, "c", 1<<40)), strings.Repeat("\x80", proto.MaxMessage+1)} {
		m := newMaster(t)
		m.agent(nil)
		m.attach(1)
		m.start("c", "shell", map[string]any{"command": "echo begin; sleep 0.3; echo end"})
		_ = m.conn.ws.Write(context.Background(), websocket.MessageBinary, []byte(frame))
		m.attach(2)
		if l := m.finish("c"); l.text(proto.Stdout) != "begin\nend\n" {
			t.Errorf("frame %d: %q", i, l.text(proto.Stdout))
		}
	}
}

func TestASecondAgentInOneBasedirIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := New(Config{Master: "ws://x", Name: "w", Basedir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Master: "ws://x", Name: "w", Basedir: dir}); err == nil || !strings.Contains(err.Error(), "another rouse-worker") {
		t.Errorf("got %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
