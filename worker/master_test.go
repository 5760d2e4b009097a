package worker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// master is a fake master: it keeps what every command printed, acknowledges it, and can be made to misbehave.
type master struct {
	t      *testing.T
	server *httptest.Server
	url    string
	plain  bool // speak v7 only

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	conn     *peer
	attached int // hellos or v7 connections so far
	commands map[string]*log
	refuse   func(r *http.Request) int // status instead of 101, 0 to accept
	answer   map[string]func(m proto.Message) (any, string)
	noAck    bool
	hello    proto.Hello
	headers  http.Header
}

// log is what the master has of one command.
type log struct {
	bytes    []byte
	streams  []proto.Stream // of each byte
	done     *proto.Completion
	updates  []proto.Update // v7
	complete bool
}

type peer struct {
	ws  *websocket.Conn
	mu  sync.Mutex
	seq int64
	got map[int64]chan proto.Message

	gone chan struct{} // closed when nothing is read from it any more
}

func newMaster(t *testing.T) *master {
	m := &master{t: t, changed: make(chan struct{}), commands: map[string]*log{}, answer: map[string]func(proto.Message) (any, string){}}
	m.server = httptest.NewServer(http.HandlerFunc(m.serve))
	m.url = "ws" + strings.TrimPrefix(m.server.URL, "http")
	t.Cleanup(func() {
		m.cut()
		m.server.Close()
	})
	return m
}

func (m *master) touch() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// until waits for a condition, which is checked under the lock.
func (m *master) until(what string, ok func() bool) {
	m.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		m.mu.Lock()
		if ok() {
			m.mu.Unlock()
			return
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-limit:
			m.t.Fatalf("waited too long for %s", what)
		}
	}
}

// cut drops the current connection without a word.
func (m *master) cut() {
	m.mu.Lock()
	c := m.conn
	m.conn = nil
	m.mu.Unlock()
	if c != nil {
		_ = c.ws.CloseNow()
	}
}

func (m *master) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.headers = r.Header
	refuse := m.refuse
	m.mu.Unlock()
	if refuse != nil {
		if status := refuse(r); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	if !m.plain {
		w.Header().Set(proto.HeaderProtocol, proto.Extension)
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(proto.MaxMessage)
	p := &peer{ws: ws, got: map[int64]chan proto.Message{}, gone: make(chan struct{})}
	defer close(p.gone)
	if m.plain {
		m.mu.Lock()
		m.conn = p
		m.attached++
		m.touch()
		m.mu.Unlock()
	}
	for {
		_, b, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		msg, err := proto.Decode(b)
		if err != nil {
			m.t.Errorf("the agent sent %x: %v", b[:min(len(b), 100)], err)
			return
		}
		m.handle(p, msg)
	}
}

func (p *peer) send(msg proto.Message) {
	b, err := proto.Encode(msg)
	if err != nil {
		panic(err)
	}
	_ = p.ws.Write(context.Background(), websocket.MessageBinary, b)
}

func (m *master) handle(p *peer, msg proto.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.touch()
	if !m.plain && msg.Op != proto.OpHello && msg.Op != proto.OpResponse && p != m.conn {
		return // what an old connection still had under way counts no more
	}
	l := m.commands[msg.CommandID]
	switch msg.Op {
	case proto.OpResponse:
		p.mu.Lock()
		if c := p.got[msg.Seq]; c != nil {
			c <- msg
		}
		p.mu.Unlock()
		return
	case proto.OpHello:
		h, err := proto.ParseHello(msg.Fields)
		if err != nil {
			m.t.Error(err)
		}
		m.hello = h
		m.conn = p
		m.attached++
		p.send(proto.Reply(msg.Seq, nil))
		for _, c := range h.Commands {
			if l := m.commands[c.ID]; l != nil {
				go m.ask(p, proto.Message{Op: proto.OpResume, CommandID: c.ID, Pos: int64(len(l.bytes)), HasPos: true})
			} else {
				go m.ask(p, proto.Message{Op: proto.OpForget, CommandID: c.ID})
			}
		}
		return
	case proto.OpOutput:
		if l == nil || msg.Pos != int64(len(l.bytes)) {
			m.t.Errorf("output of %q at %d, want %v", msg.CommandID, msg.Pos, l)
			return
		}
		l.bytes = append(l.bytes, msg.Data...)
		for range msg.Data {
			l.streams = append(l.streams, msg.Stream)
		}
		if !m.noAck {
			_ = p.ws.Write(context.Background(), websocket.MessageBinary, proto.AppendAck(nil, msg.CommandID, int64(len(l.bytes))))
		}
		return
	case proto.OpComplete:
		l.complete = true
		if !m.plain {
			c, err := proto.ParseCompletion(msg.Fields)
			if err != nil || c.End != int64(len(l.bytes)) {
				m.t.Errorf("completion %+v, error %v, have %d bytes", c, err, len(l.bytes))
			}
			l.done = &c
		}
	case proto.OpUpdate:
		us, err := proto.ParseUpdates(msg.Fields["args"])
		if err != nil {
			m.t.Error(err)
		}
		l.updates = append(l.updates, us...)
	}
	var result any
	exception := ""
	if f := m.answer[msg.Op]; f != nil {
		result, exception = f(msg)
	}
	if exception != "" {
		p.send(proto.Exception(msg.Seq, exception))
	} else {
		p.send(proto.Reply(msg.Seq, result))
	}
}

// ask sends a request and waits for the response; false if the connection went away.
func (m *master) ask(p *peer, msg proto.Message) (proto.Message, bool) {
	c := make(chan proto.Message, 1)
	p.mu.Lock()
	msg.Seq, msg.HasSeq = p.seq, true
	p.seq++
	p.got[msg.Seq] = c
	p.mu.Unlock()
	p.send(msg)
	select {
	case r := <-c:
		return r, true
	case <-p.gone: // perhaps right after the response
		select {
		case r := <-c:
			return r, true
		default:
			return proto.Message{}, false
		}
	case <-time.After(5 * time.Second):
		return proto.Message{}, false
	}
}

// must asks over the current connection.
func (m *master) must(msg proto.Message) proto.Message {
	m.t.Helper()
	m.mu.Lock()
	p := m.conn
	m.mu.Unlock()
	r, ok := m.ask(p, msg)
	if !ok {
		m.t.Fatalf("no response to %s", msg.Op)
	}
	return r
}

// start starts a command and fails the test if the agent does not accept it.
func (m *master) start(id, name string, args map[string]any) {
	m.t.Helper()
	m.mu.Lock()
	if m.commands[id] == nil {
		m.commands[id] = &log{}
	}
	m.mu.Unlock()
	if args["workdir"] == nil {
		args["workdir"] = "build"
	}
	r := m.must(proto.Request(proto.OpStartCommand, 0, id, map[string]any{"command_name": name, "args": args}))
	if r.IsException {
		m.t.Fatalf("start_command: %v", r.Result)
	}
}

func (m *master) finish(id string) *log {
	m.t.Helper()
	var l log // a copy: the agent may complete again on its next connection
	m.until("the end of "+id, func() bool {
		l = *m.commands[id]
		return l.complete
	})
	return &l
}

func (l *log) text(s proto.Stream) string {
	var b []byte
	for i, c := range l.bytes {
		if l.streams[i] == s {
			b = append(b, c)
		}
	}
	return string(b)
}

func (l *log) value(key string) any {
	us := l.updates
	if l.done != nil {
		us = l.done.Updates
	}
	for _, u := range us {
		if u.Key == key {
			return u.Value
		}
	}
	return nil
}

// agent starts an agent for the master; its Run has returned when the test is over. The channel gives what Run returns.
func (m *master) agent(change func(*Config)) (*Agent, chan error) {
	m.t.Helper()
	cfg := Config{Master: m.url, Name: "w1", Secret: "sekrit", Basedir: m.t.TempDir(), Version: "test",
		backoff: func(int) time.Duration { return 2 * time.Millisecond }}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		done <- a.Run(ctx)
		close(ended)
	}()
	m.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return a, done
}

func (m *master) attach(n int) {
	m.t.Helper()
	m.until("the agent", func() bool { return m.attached >= n && m.conn != nil })
}
