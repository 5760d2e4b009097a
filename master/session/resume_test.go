package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

// fragile is a connection that breaks after so many bytes, in either direction.
type fragile struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (c *fragile) take(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left -= n; c.left < 0 {
		_ = c.Close()
		return io.ErrClosedPipe
	}
	return nil
}

func (c *fragile) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if e := c.take(n); e != nil {
		return 0, e
	}
	return n, err
}

func (c *fragile) Write(p []byte) (int, error) {
	if err := c.take(len(p)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// spooler is an agent that does what the extension asks for: it keeps unacknowledged output and goes on after a reconnect.
type spooler struct {
	m      *master
	rng    *rand.Rand
	wg     sync.WaitGroup
	mu     sync.Mutex
	cmds   map[string]*spooled
	starts map[string]int
	faults []string
}

type spooled struct {
	data     []byte
	acked    int64
	sent     int64
	complete bool
}

func (sp *spooler) fault(format string, args ...any) {
	sp.faults = append(sp.faults, fmt.Sprintf(format, args...))
}

// connect serves one connection that breaks after left bytes.
func (sp *spooler) connect(left int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer sp.wg.Wait()
	defer cancel()
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &fragile{Conn: c, left: left}, err
	}, DisableKeepAlives: true}
	c, _, err := websocket.Dial(ctx, sp.m.url, &websocket.DialOptions{HTTPHeader: headers("w1", nonceA), HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(proto.MaxMessage)
	a := &agent{t: sp.m.t, conn: c}
	var running []proto.Running
	sp.mu.Lock()
	for id, cmd := range sp.cmds {
		running = append(running, proto.Running{ID: id, From: cmd.acked, To: cmd.sent, Done: cmd.complete})
	}
	sp.mu.Unlock()
	if a.trySend(proto.Request(proto.OpHello, a.next(), "", proto.Hello{Info: map[string]any{}, Commands: running}.Fields())) != nil {
		return
	}
	for {
		m, err := a.tryRecv()
		if err != nil {
			return
		}
		sp.handle(ctx, a, m)
	}
}

func (sp *spooler) handle(ctx context.Context, a *agent, m proto.Message) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	cmd := sp.cmds[m.CommandID]
	from := int64(-1)
	switch m.Op {
	case proto.OpResponse:
		return
	case proto.OpAck:
		if cmd != nil && (m.Pos < cmd.acked || m.Pos > cmd.sent) {
			sp.fault("ack %d of %s: acknowledged %d, sent %d", m.Pos, m.CommandID, cmd.acked, cmd.sent)
		}
		if cmd != nil {
			cmd.acked = m.Pos
		}
		return
	case proto.OpForget:
		delete(sp.cmds, m.CommandID)
	case proto.OpStartCommand:
		if cmd == nil {
			sp.starts[m.CommandID]++
			cmd = &spooled{data: payload(m.CommandID)}
			sp.cmds[m.CommandID] = cmd
		}
		from = cmd.acked
	case proto.OpResume:
		from = m.Pos
		if cmd == nil || from < cmd.acked || from > cmd.sent {
			sp.fault("resume of %s from %d: %+v", m.CommandID, from, cmd)
			_ = a.trySend(proto.Exception(m.Seq, "cannot"))
			return
		}
	default:
		sp.fault("unexpected %s", m.Op)
	}
	_ = a.trySend(proto.Reply(m.Seq, nil))
	if from >= 0 {
		seed := sp.rng.Uint64()
		sp.wg.Go(func() { sp.stream(ctx, a, m.CommandID, cmd, from, rand.New(rand.NewPCG(seed, 1))) })
	}
}

// stream sends the command's output from a position on, and its completion.
func (sp *spooler) stream(ctx context.Context, a *agent, id string, cmd *spooled, pos int64, rng *rand.Rand) {
	for pos < int64(len(cmd.data)) && ctx.Err() == nil {
		n := min(int64(1+rng.IntN(40_000)), int64(len(cmd.data))-pos)
		sp.mu.Lock()
		cmd.sent = max(cmd.sent, pos+n)
		sp.mu.Unlock()
		if a.trySend(proto.Message{Op: proto.OpOutput, HasSeq: true, CommandID: id, Stream: proto.Stdout, Pos: pos, HasPos: true,
			Data: cmd.data[pos : pos+n]}) != nil {
			return
		}
		pos += n
	}
	sp.mu.Lock()
	cmd.complete = true
	sp.mu.Unlock()
	_ = a.trySend(proto.Request(proto.OpComplete, a.next(), id,
		proto.Completion{End: int64(len(cmd.data)), Updates: []proto.Update{{Key: "rc", Value: int64(len(id))}}}.Fields()))
}

// payload is what a command prints: about a megabyte that depends on its ID.
func payload(id string) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20; i++ {
		_, _ = fmt.Fprintf(&b, "%s: line %d\n", id, i)
	}
	return b.Bytes()
}

func TestOutputIsWholeAndEachByteOnceThoughTheConnectionBreaksAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			m := newMaster(t, Options{})
			sp := &spooler{m: m, rng: rng, cmds: make(map[string]*spooled), starts: make(map[string]int)}
			runs, logs := make(map[string]<-chan result), make(map[string]*log)
			for _, id := range []string{"a", "bb", "ccc"} {
				logs[id] = &log{}
				runs[id] = m.start(t.Context(), "w1", Command{ID: id, Name: "shell", Output: logs[id].write})
			}
			stop := make(chan struct{})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					left := 700 + rng.IntN(300_000)
					if i > 40 {
						left = 1 << 30
					}
					sp.connect(left)
				}
			}()
			for id, ch := range runs {
				r := await(t, ch)
				if r.err != nil || r.out.RC != len(id) {
					t.Errorf("%s: got %+v: %v", id, r.out, r.err)
				}
				if !bytes.Equal(logs[id].buf, payload(id)) {
					t.Errorf("%s: the log has %d bytes, want %d", id, len(logs[id].buf), len(payload(id)))
				}
				m.Forget("w1", id)
			}
			until(t, "all is forgotten", func() bool { sp.mu.Lock(); defer sp.mu.Unlock(); return len(sp.cmds) == 0 })
			until(t, "the master knows it", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.peers["w1"].forget) == 0 })
			close(stop)
			_ = m.Shutdown(true)
			<-ended
			sp.mu.Lock()
			defer sp.mu.Unlock()
			for id, n := range sp.starts {
				if n != 1 {
					t.Errorf("%s ran %d times", id, n)
				}
			}
			for _, f := range sp.faults {
				t.Error(f)
			}
			live := 0
			for len(m.events) > 0 {
				switch (<-m.events).(type) {
				case core.Attached:
					live++
				case core.Detached:
					live--
				}
			}
			if live != 0 {
				t.Errorf("%d Attached without Detached", live)
			}
		})
	}
}

func TestCommandThatTheAgentDoesNotKnowAnyMoreIsLost(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	until(t, "the response was read", func() bool {
		m.mu.Lock()
		s := m.peers["w1"].cur
		m.mu.Unlock()
		s.cmu.Lock()
		defer s.cmu.Unlock()
		return len(s.calls) == 0
	})
	_ = a.conn.CloseNow()
	m.attach("w1", nonceA) // lists nothing
	if r := await(t, run); !errors.Is(r.err, ErrLost) {
		t.Errorf("got %+v", r)
	}
}

func TestResumeByANewMasterAsksFromWhereItsLogEnds(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	l := log{end: 100}
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Resume: true, Pos: 100, Output: l.write})
	unknown := m.start(t.Context(), "w1", Command{ID: "c2", Name: "shell", Resume: true})
	a := m.attach("w1", nonceA, proto.Running{ID: "c1", From: 50, To: 103, Done: true})
	if r := await(t, unknown); !errors.Is(r.err, ErrLost) {
		t.Errorf("got %+v", r)
	}
	resume := a.want(proto.OpResume)
	if resume.Pos != 100 {
		t.Errorf("got %+v", resume)
	}
	a.reply(resume, nil)
	a.output("c1", proto.Stdout, 100, "xyz")
	a.complete("c1", 103)
	if r := await(t, run); r.err != nil || r.out.RC != -1 || l.String() != "xyz" {
		t.Errorf("got %+v, log %q", r, l.String())
	}
}

func TestCommandIsLostWhenItsOutputCannotBeSentAgain(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Resume: true, Pos: 10})
	a := m.attach("w1", nonceA, proto.Running{ID: "c1", From: 50, To: 103})
	resume := a.want(proto.OpResume)
	a.send(proto.Exception(resume.Seq, "these bytes do not exist"))
	if r := await(t, run); !errors.Is(r.err, ErrLost) {
		t.Errorf("got %+v", r)
	}
}

func TestOnlyTheSessionThatACommandIsBoundToCounts(t *testing.T) {
	t.Parallel()
	h := New(Options{})
	old, cur := &session{hub: h, ext: true}, &session{hub: h, ext: true}
	var l log
	r := &run{c: Command{ID: "c", Output: l.write}, sess: cur, done: make(chan struct{}), failed: make(chan struct{})}
	r.output(old, &proto.Message{Stream: proto.Stdout, Data: []byte("stale")})
	if err := r.complete(old, &proto.Message{Fields: proto.Completion{}.Fields()}, 1); err != nil {
		t.Error(err)
	}
	if l.String() != "" || r.over {
		t.Errorf("a replaced session still counts: %q, %v", l.String(), r.over)
	}
	if err := r.complete(cur, &proto.Message{Fields: proto.Completion{}.Fields()}, 1); err != nil || !r.over {
		t.Errorf("the bound session does not count: %v", err)
	}
}

func TestCommandsThatNoBuildAsksForAreDisposedOf(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Claim: 50 * time.Millisecond})
	claimed := m.start(t.Context(), "w1", Command{ID: "mine", Name: "shell", Resume: true})
	until(t, "the run waits", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.peers) == 1 })
	a := m.attach("w1", nonceA, proto.Running{ID: "mine"}, proto.Running{ID: "stale"})
	a.reply(a.want(proto.OpResume), nil)
	f := a.want(proto.OpForget)
	if f.CommandID != "stale" {
		t.Errorf("got %+v", f)
	}
	a.reply(f, nil)
	a.complete("mine", 0)
	if r := await(t, claimed); r.err != nil {
		t.Error(r.err)
	}
}

func TestNothingIsAcknowledgedBeforeItIsInTheLog(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	var l log
	var durable atomic.Int64
	durable.Store(3)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Output: l.write, Durable: durable.Load})
	a := m.attach("w1", nonceA)
	a.reply(a.want(proto.OpStartCommand), nil)
	a.output("c1", proto.Stdout, 0, "abcdef")
	if ack := a.want(proto.OpAck); ack.Pos != 3 {
		t.Errorf("got %+v while the log has 3 bytes", ack)
	}
	durable.Store(5)
	if ack := a.want(proto.OpAck); ack.Pos != 5 { // without further output
		t.Errorf("got %+v while the log has 5 bytes", ack)
	}
	a.output("c1", proto.Stdout, 6, strings.Repeat("x", ackBytes))
	if err := a.trySend(proto.Request(proto.OpComplete, a.next(), "c1", proto.Completion{End: 6 + ackBytes}.Fields())); err != nil {
		t.Fatal(err)
	}
	if r := await(t, run); r.err != nil {
		t.Error(r.err)
	}
	durable.Store(6 + ackBytes)
	m.Forget("w1", "c1")
	for {
		switch m := a.recv(); m.Op {
		case proto.OpAck:
			t.Errorf("got %+v while the log had 5 bytes", m)
		case proto.OpForget:
			return
		}
	}
}

func TestForgetIsRepeatedAfterAReconnect(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	a.complete("c1", 0)
	if r := await(t, run); r.err != nil {
		t.Error(r.err)
	}
	_ = a.conn.CloseNow()
	m.Forget("w1", "c1")
	m.Forget("nobody", "c1")
	b := m.attach("w1", nonceA, proto.Running{ID: "c1", Done: true})
	if f := b.want(proto.OpForget); f.CommandID != "c1" {
		t.Errorf("got %+v", f)
	}
}
