package session

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	nonceA = "AAAAAAAAAAAAAAAAAAAAAAAAAA"
	nonceB = "BBBBBBBBBBBBBBBBBBBBBBBBBB"
)

// master is a Hub behind a loopback server, with a core that admits everybody unless told otherwise.
type master struct {
	*Hub
	t      testing.TB
	url    string
	events chan core.Event
	admit  func(core.Attached) bool // nil: all
}

func newMaster(t testing.TB, o Options) *master {
	t.Helper()
	m := &master{t: t, events: make(chan core.Event, 10000)}
	o.Auth = Accounts{
		Key:      []byte("key"),
		Password: func(w string) (providers.Secret, bool) { return "pw-" + providers.Secret(w), w != "nobody" },
		Worker:   func(k model.InstanceKey) (string, bool) { return "w1", k == "inst-1" },
	}
	o.Deliver = func(ev core.Event) {
		if a, ok := ev.(core.Attached); ok { // before the test hears of it: a build is never started earlier either
			if m.admit == nil || m.admit(a) {
				m.Admit(a.Worker, a.Session)
			}
		}
		m.events <- ev
	}
	m.Hub = New(o)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = m.Server()
	srv.Start()
	m.url = srv.URL
	t.Cleanup(func() {
		if err := m.Shutdown(true); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return m
}

// event returns the next event of type E.
func event[E core.Event](m *master) E {
	m.t.Helper()
	select {
	case ev := <-m.events:
		e, ok := ev.(E)
		if !ok {
			m.t.Fatalf("got event %T %+v, want %T", ev, ev, e)
		}
		return e
	case <-time.After(10 * time.Second):
		m.t.Fatalf("no event came")
	}
	panic("unreachable")
}

func (m *master) noEvent() {
	m.t.Helper()
	select {
	case ev := <-m.events:
		m.t.Fatalf("unexpected event %T %+v", ev, ev)
	default:
	}
}

func headers(worker, nonce string) http.Header {
	h := http.Header{"Authorization": {basic(worker, "pw-"+worker)}}
	if nonce != "" {
		h.Set(proto.HeaderProtocol, proto.Extension)
		h.Set(proto.HeaderAgent, nonce)
	}
	return h
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// agent is the worker's side of one connection, driven by hand.
type agent struct {
	t    testing.TB
	conn *websocket.Conn
	mu   sync.Mutex
	seq  int64

	forget *proto.Message // came early, see want
}

func (m *master) dialWith(h http.Header) (*agent, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, m.url, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		return nil, resp, err
	}
	c.SetReadLimit(proto.MaxMessage)
	a := &agent{t: m.t, conn: c}
	m.t.Cleanup(func() { _ = c.CloseNow() })
	return a, resp, nil
}

func (m *master) dial(worker, nonce string) *agent {
	m.t.Helper()
	a, _, err := m.dialWith(headers(worker, nonce))
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

// attach dials, introduces itself and waits until it is admitted.
func (m *master) attach(worker, nonce string, commands ...proto.Running) *agent {
	m.t.Helper()
	a := m.dial(worker, nonce)
	a.hello(commands...)
	if r := a.recv(); r.Op != proto.OpResponse || r.Seq != 0 || r.IsException {
		m.t.Fatalf("hello was answered with %+v", r)
	}
	return a
}

func (a *agent) hello(commands ...proto.Running) {
	a.t.Helper()
	a.send(proto.Request(proto.OpHello, a.next(), "", proto.Hello{
		Info:     map[string]any{"basedir": "/base", "system": "posix", "numcpus": int64(2), "environ": map[string]any{"PATH": "/bin"}},
		Commands: commands}.Fields()))
}

func (a *agent) next() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	return a.seq - 1
}

func (a *agent) trySend(m proto.Message) error {
	b, err := proto.Encode(m)
	if err != nil {
		return err
	}
	return a.conn.Write(context.Background(), websocket.MessageBinary, b)
}

func (a *agent) send(m proto.Message) {
	a.t.Helper()
	if err := a.trySend(m); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) tryRecv() (proto.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, b, err := a.conn.Read(ctx)
	if err != nil {
		return proto.Message{}, err
	}
	return proto.Decode(b)
}

func (a *agent) recv() proto.Message {
	a.t.Helper()
	m, err := a.tryRecv()
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

// want receives a message with this op.
func (a *agent) want(op string) proto.Message {
	a.t.Helper()
	if m := a.forget; op == proto.OpForget && m != nil {
		a.forget = nil
		return *m
	}
	for {
		m := a.recv()
		if m.Op == proto.OpForget && op == proto.OpResponse { // may overtake the response to complete: they come from two goroutines
			a.forget = &m
			continue
		}
		if m.Op == proto.OpAck && op != proto.OpAck {
			continue // acknowledgements come when they come
		}
		if m.Op != op {
			a.t.Fatalf("got %s %+v, want %s", m.Op, m, op)
		}
		return m
	}
}

// closed returns the status with which the master closes.
func (a *agent) closed() websocket.CloseError {
	a.t.Helper()
	for {
		m, err := a.tryRecv()
		if err == nil && m.Op != proto.OpAck {
			a.t.Fatalf("got %+v, want a close frame", m)
		}
		var ce websocket.CloseError
		if errors.As(err, &ce) {
			return ce
		}
		if err != nil {
			a.t.Fatalf("not closed with a status: %v", err)
		}
	}
}

func (a *agent) reply(m proto.Message, result any) { a.t.Helper(); a.send(proto.Reply(m.Seq, result)) }

func (a *agent) output(id string, s proto.Stream, pos int64, text string) {
	a.t.Helper()
	a.send(proto.Message{Op: proto.OpOutput, HasSeq: true, CommandID: id, Stream: s, Pos: pos, HasPos: true, Data: []byte(text)})
}

// complete sends the completion and waits for its response.
func (a *agent) complete(id string, end int64, updates ...proto.Update) {
	a.t.Helper()
	a.send(proto.Request(proto.OpComplete, a.next(), id, proto.Completion{End: end, Updates: updates}.Fields()))
	a.want(proto.OpResponse)
}

// result is what Run returned.
type result struct {
	out Outcome
	err error
}

// log collects output.
type log struct {
	mu  sync.Mutex
	buf []byte
	end int64
}

func (l *log) write(s proto.Stream, p []byte, end int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end != l.end+int64(len(p)) {
		return fmt.Errorf("output ends at %d after %d and %d bytes", end, l.end, len(p))
	}
	l.buf, l.end = append(l.buf, p...), end
	return nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}

func (m *master) start(ctx context.Context, worker string, c Command) <-chan result {
	ch := make(chan result, 1)
	go func() {
		out, err := m.Run(ctx, worker, c)
		ch <- result{out, err}
	}()
	return ch
}

func await(t testing.TB, ch <-chan result) result {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not return")
	}
	panic("unreachable")
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
