package session

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestHostileFramesCloseOnlyTheirOwnConnection(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Close: 50 * time.Millisecond})
	good := m.attach("good", nonceA)
	event[core.Attached](m)
	hello, err := proto.Encode(proto.Request(proto.OpHello, 0, "", proto.Hello{Info: map[string]any{}}.Fields()))
	if err != nil {
		t.Fatal(err)
	}
	encode := func(msg proto.Message) []byte {
		b, err := proto.Encode(msg)
		if err != nil {
			t.Fatal(err)
		}
		return append(head(2, true, uint64(len(b))), b...)
	}
	for name, b := range map[string][]byte{
		"frame beyond the limit":      append(head(2, true, proto.MaxMessage+1), make([]byte, proto.MaxMessage+2)...),
		"lies about its length":       head(2, true, 1<<62),
		"negative length":             head(2, true, 1<<63),
		"endless continuation":        append(head(2, false, 5), bytes.Repeat(append(head(0, false, 1<<16), make([]byte, 1<<16)...), 70)...),
		"unmasked frame":              {0x82, 0x01, 0x80},
		"unknown opcode":              head(7, true, 0),
		"large ping":                  append(head(9, true, 200), make([]byte, 200)...),
		"not msgpack":                 append(head(2, true, 3), "\xc1ab"...),
		"second hello":                append(head(2, true, uint64(len(hello))), hello...),
		"output without a position":   append(head(2, true, 12), "\x81\xa2op\xa6output\x00"[:11]+"\x00"...),
		"empty":                       {},
		"request without seq_number":  encode(proto.Message{Op: "notice"}),
		"malformed completion's args": encode(proto.Request(proto.OpComplete, 1, "c1", map[string]any{"end": "x"})),
		"truncated":                   append(head(2, true, 100), "abc"...),
	} {
		t.Run(name, func(t *testing.T) {
			worker := strings.ReplaceAll(name, " ", "-")
			a, err := dialRaw(m.url, headers(worker, nonceA))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.Close() }()
			if err := a.write(hello); err != nil {
				t.Fatal(err)
			}
			at := event[core.Attached](m)
			ctx, cancel := context.WithCancel(t.Context())
			run := m.start(ctx, worker, Command{ID: "c1", Name: "shell"})
			until(t, "start_command was sent", func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				s := m.peers[worker].cur
				return s != nil && s.run("c1") != nil
			})
			_, _ = a.Write(b)
			if len(b) == 0 || name == "truncated" || name == "lies about its length" {
				_ = a.Close()
			}
			if d := event[core.Detached](m); d.Session != at.Session {
				t.Errorf("got %+v", d)
			}
			cancel()
			if r := await(t, run); !errors.Is(r.err, context.Canceled) {
				t.Errorf("got %+v", r)
			}
		})
	}
	run := m.start(t.Context(), "good", Command{ID: "c1", Name: "shell"})
	good.reply(good.want(proto.OpStartCommand), nil)
	good.complete("c1", 0)
	if r := await(t, run); r.err != nil {
		t.Error(r.err)
	}
}

func TestRequestsGetOneResponseEach(t *testing.T) {
	t.Parallel()
	var notice atomic.Value
	m := newMaster(t, Options{Notice: func(w, k, text string) { notice.Store(w + " " + k + " " + text) }})
	a := m.attach("w1", nonceA)
	for _, c := range []struct{ op, want string }{
		{"dance", "Command dance does not exist."},
		{proto.OpUploadFileWrite, `no command "ghost" is running`},
		{proto.OpReadFile, `no command "ghost" is running`},
		{proto.OpUpdate, ""},
		{proto.OpComplete, ""},
		{proto.OpNotice, ""},
	} {
		q := proto.Request(c.op, a.next(), "ghost", map[string]any{"kind": "spot-interruption", "text": "in 2 min"})
		a.send(q)
		if r := a.want(proto.OpResponse); r.Seq != q.Seq || r.IsException != (c.want != "") || r.IsException && r.Result != c.want {
			t.Errorf("%s: got %+v", c.op, r)
		}
	}
	if got := notice.Load(); got != "w1 spot-interruption in 2 min" {
		t.Errorf("notice: %v", got)
	}
	a.reply(proto.Message{Seq: 99}, nil) // a response that nobody waits for
	if err := a.conn.Write(t.Context(), websocket.MessageText, []byte("text is ignored")); err != nil {
		t.Error(err)
	}
	a.send(proto.Request(proto.OpUpdate, a.next(), "ghost", nil))
	a.want(proto.OpResponse)
}

// The agent of an instance that has been replaced still has a token; it must not end the live instance before it is refused.
func TestNobodyHearsANoticeOfAnAgentThatIsNotAdmitted(t *testing.T) {
	t.Parallel()
	var heard atomic.Int32
	m := newMaster(t, Options{Notice: func(string, string, string) { heard.Add(1) }})
	m.admit = func(core.Attached) bool { return false }
	a := m.dial("w1", nonceA)
	a.hello()
	event[core.Attached](m)
	a.send(proto.Request(proto.OpNotice, a.next(), "", map[string]any{"kind": proto.NoticeSpot, "text": "now"}))
	if r := a.want(proto.OpResponse); !r.IsException || heard.Load() != 0 {
		t.Errorf("got %+v; heard %d times", r, heard.Load())
	}
}

// A build runs as its agent, and can make it say what it likes as often as it likes; each notice is logged, and goes through the loop.
func TestAFloodOfNoticesIsNotHeard(t *testing.T) {
	t.Parallel()
	var heard atomic.Int32
	m := newMaster(t, Options{Notice: func(string, string, string) { heard.Add(1) }})
	a := m.attach("w1", nonceA)
	const many = 500
	began := time.Now()
	for range many {
		a.send(proto.Request(proto.OpNotice, a.next(), "", map[string]any{"kind": "weather", "text": "rain"}))
		if r := a.want(proto.OpResponse); r.IsException {
			t.Fatalf("%+v", r)
		}
	}
	if n, most := int(heard.Load()), turnedBurst+1+int(time.Since(began)/turnedRefill); n < turnedBurst || n > most {
		t.Errorf("%d of %d were heard, want %d to %d", n, many, turnedBurst, most)
	}
}

func TestFloodOfUpdatesFailsTheCommandInBoundedMemory(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 3<<20)
	for op, fields := range map[string]map[string]any{
		proto.OpUpdate:          {"args": []any{[]any{"files", big}}},
		proto.OpUploadFileUtime: {"access_time": big, "modified_time": int64(1)},
	} {
		t.Run(op, func(t *testing.T) { flood(t, op, fields) })
	}
}

func flood(t *testing.T, op string, fields map[string]any) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.interviewed("w1", []proto.Message{{}, {Result: map[string]any{"basedir": "/b"}}, {}})
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	for range 3 {
		a.send(proto.Request(op, a.next(), "c1", fields))
	}
	interrupted := false
	for responses := 0; responses < 3 || !interrupted; {
		switch q := a.recv(); q.Op {
		case proto.OpInterruptCommand:
			interrupted = true
			a.reply(q, nil)
		case proto.OpResponse:
			responses++
		}
	}
	a.send(proto.Request(proto.OpComplete, a.next(), "c1", map[string]any{"args": nil}))
	if r := await(t, run); r.err == nil || !strings.Contains(r.err.Error(), "besides its output") {
		t.Errorf("got %+v", r.err)
	}
}

func TestAgentThatDoesNotIntroduceItselfIsClosed(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Handshake: 50 * time.Millisecond})
	for _, nonce := range []string{nonceA, ""} {
		a := m.dial("w1", nonce)
		if nonce == "" {
			a.want(proto.OpPrint)
		}
		if ce := a.closed(); ce.Code != websocket.StatusPolicyViolation {
			t.Errorf("got %+v", ce)
		}
		until(t, "the name is free", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.peers["w1"].pending == nil })
	}
	m.noEvent()
}

func TestSilentPeerIsDeadAndABusyOneIsNot(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Heartbeat: 50 * time.Millisecond, DeadAfter: 200 * time.Millisecond})
	m.attach("mute", nonceA) // never reads, so it answers no ping
	mute := event[core.Attached](m)
	alive := m.attach("alive", nonceA)
	event[core.Attached](m)
	slow := make(chan struct{})
	run := m.start(t.Context(), "alive", Command{ID: "c1", Name: "shell", Output: func(proto.Stream, []byte, int64) error { <-slow; return nil }})
	alive.reply(alive.want(proto.OpStartCommand), nil)
	alive.output("c1", proto.Stdout, 0, "a")
	if d := event[core.Detached](m); d.Session != mute.Session {
		t.Errorf("got %+v, want %+v", d, mute)
	}
	time.Sleep(300 * time.Millisecond) // longer than DeadAfter, so that the wheel has had its chance: the log is slow, and nothing is read
	m.noEvent()
	close(slow)
	alive.complete("c1", 1)
	if r := await(t, run); r.err != nil {
		t.Error(r.err)
	}
}

func TestFailedAuthenticationsAreLimitedPerAddress(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	bad := http.Header{"Authorization": {basic("w1", "wrong")}}
	for i := range failBurst {
		if _, resp, _ := m.dialWith(bad); resp == nil || resp.StatusCode != 401 {
			t.Fatalf("%d: got %v", i, resp)
		}
	}
	if _, resp, _ := m.dialWith(bad); resp == nil || resp.StatusCode != 429 {
		t.Errorf("got %v", resp)
	}
}

func TestLimiterRefillsSlowlyAndKnowsAddressesAndNamesApart(t *testing.T) {
	t.Parallel()
	l, now := newLimiter(), time.Now()
	for range failBurst {
		if !l.allowed("192.0.2.1:1", "w", now) {
			t.Fatal("refused too early")
		}
		l.failed("192.0.2.1:2", "w", now)
	}
	if l.allowed("192.0.2.1:3", "w", now) {
		t.Error("not limited")
	}
	for _, other := range [][2]string{{"192.0.2.2:1", "w"}, {"192.0.2.1:1", "x"}} {
		if l.bucket("192.0.2.1:1", "w") != l.bucket(other[0], other[1]) && !l.allowed(other[0], other[1], now) {
			t.Errorf("%v is limited", other)
		}
	}
	if !l.allowed("192.0.2.1:1", "w", now.Add(failRefill)) {
		t.Error("not refilled")
	}
}

func TestConnectionsBeforeAuthenticationAreBounded(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{MaxUnauth: 2})
	var idle []*rawAgent
	for range 2 {
		a, err := dialRaw(m.url, headers("w1", nonceA)) // an upgraded connection does not count any more
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, a)
	}
	for range 3 {
		if c, err := dialTCP(m.url); err == nil {
			idle = append(idle, &rawAgent{c})
		}
	}
	last := idle[len(idle)-1]
	_ = last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the third silent connection stays open: %v", err)
	}
	for _, c := range idle {
		_ = c.Close()
	}
}
