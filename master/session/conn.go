package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// session is one connection of one authenticated agent.
type session struct {
	hub      *Hub
	id       model.SessionID
	worker   string
	instance model.InstanceKey
	agent    string // digest of the agent's nonce; "" for plain v7
	ext      bool
	conn     *websocket.Conn
	net      *liveConn
	busy     atomic.Bool // a message is being handled: the peer is silent because we do not read
	hungup   atomic.Bool

	done     chan struct{} // closed when the connection has ended
	admitted chan struct{} // closed by Admit
	ready    chan struct{} // closed when commands may be sent
	kept     time.Time     // when the last keepalive was sent; of the wheel
	hello    chan proto.Hello
	met      bool  // hello has come; of the read loop
	said     sayer // of its notices

	// What the introduction said. Written before Attached is delivered.
	known   map[string]proto.Running
	info    []byte
	basedir string

	once     sync.Once
	deliver  sync.Mutex // orders Attached before Detached
	attached bool
	ended    bool

	wmu sync.Mutex // a request's number and its place in the stream
	seq int64

	cmu   sync.Mutex
	calls map[int64]func(proto.Message)
	runs  map[string]*run
}

// errEnded says that the connection ended before the message was sent or the response came.
var errEnded = errors.New("session: the connection has ended")

// serve reads until the connection ends.
func (s *session) serve() {
	err := s.read()
	var bad *protocolError
	if errors.As(err, &bad) {
		s.hub.log.Warn("session: protocol error; closing", "worker", s.worker, "session", s.id, "error", err)
		s.hangup(websocket.StatusProtocolError, clip(bad.text, 80))
		select { // the other side's answer is read by hangup
		case <-s.done:
		case <-time.After(s.hub.opt.Close):
		}
	}
	s.end()
}

// protocolError is the peer's fault and closes the connection with status 1002.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

func protocolErrorf(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

// buffers holds what messages are read into and encoded in. An idle session holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

const keepBuffer = 1 << 20 // larger ones are left to the garbage collector

func (s *session) read() error {
	for {
		typ, r, err := s.conn.Reader(context.Background())
		if err != nil {
			return err
		}
		buf := buffers.Get().(*[]byte)
		*buf, err = readAll(r, (*buf)[:0])
		if err != nil {
			return err
		}
		reuse := true
		if typ == websocket.MessageBinary { // Buildbot's peers ignore text messages
			s.busy.Store(true)
			reuse, err = s.handle(*buf)
			s.net.seen.Store(time.Now().UnixNano())
			s.busy.Store(false)
		}
		if err != nil {
			return err
		}
		if reuse && cap(*buf) <= keepBuffer {
			buffers.Put(buf)
		}
	}
}

// readAll is io.ReadAll into b's spare capacity. The connection's read limit bounds it, and memory is only taken for what has arrived.
func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// handle handles one message. reuse says that nothing refers to raw any more.
func (s *session) handle(raw []byte) (reuse bool, err error) {
	m, err := proto.Decode(raw)
	if err != nil {
		return false, &protocolError{err.Error()}
	}
	switch m.Op {
	case proto.OpResponse:
		s.cmu.Lock()
		f := s.calls[m.Seq]
		delete(s.calls, m.Seq)
		s.cmu.Unlock()
		if f != nil { // nobody waits any more for some
			f(m)
		}
		return false, nil
	case proto.OpOutput:
		r := s.run(m.CommandID)
		if !s.ext || !m.HasPos || m.Stream == 0 {
			return false, protocolErrorf("malformed output of command %q", clip(m.CommandID, 80))
		}
		if r != nil {
			r.output(s, &m)
		}
		return true, nil
	}
	if !m.HasSeq {
		if s.ext {
			return false, protocolErrorf("%s without seq_number", clip(m.Op, 80))
		}
		s.hub.log.Warn("session: a message without seq_number was dropped", "worker", s.worker, "op", clip(m.Op, 80))
		return true, nil
	}
	return s.request(&m, len(raw))
}

// request handles a request, which gets exactly one response.
func (s *session) request(m *proto.Message, size int) (reuse bool, err error) {
	var result any
	if s.ext && (!s.met || m.Op == proto.OpHello) {
		return false, s.takeHello(m)
	}
	switch m.Op {
	case proto.OpNotice:
		select {
		case <-s.admitted:
			if ok, _ := s.said.says(time.Now()); ok { // who says more than that is no agent of ours
				s.hub.opt.Notice(s.worker, clip(m.Text("kind"), 80), clip(m.Text("text"), 4096))
			}
		default: // one that may be refused, such as the agent of an earlier instance, has nothing to say of the live one
			err = errors.New("a notice before the agent is admitted")
		}
	case proto.OpUpdate:
		if r := s.run(m.CommandID); r != nil {
			err = r.update(s, m, size)
		}
	case proto.OpComplete:
		if r := s.run(m.CommandID); r != nil {
			err = r.complete(s, m, size)
		}
	case proto.OpUploadFileWrite, proto.OpUploadDirectoryWrite, proto.OpUploadFileClose, proto.OpUploadDirectoryUnpack, proto.OpUploadFileUtime,
		proto.OpReadFile, proto.OpReadFileClose:
		reuse = true
		var done func()
		if result, done, err = s.transfer(m, size); done != nil {
			defer done()
		}
	default:
		err = fmt.Errorf("Command %s does not exist.", clip(m.Op, 80)) //nolint:staticcheck // Buildbot's wording
	}
	var bad *protocolError
	switch {
	case errors.As(err, &bad):
		return false, err
	case err != nil:
		err = s.send(proto.Exception(m.Seq, err.Error()))
	default:
		err = s.send(proto.Reply(m.Seq, result))
	}
	return reuse, err
}

// send writes one message. It fails with errEnded if the connection does not take it, which ends the connection.
func (s *session) send(m proto.Message) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b, err := proto.Append((*buf)[:0], m)
	if err != nil {
		return err
	}
	if cap(b) <= keepBuffer {
		*buf = b
	}
	return s.write(b)
}

func (s *session) write(b []byte) error {
	if err := s.conn.Write(context.Background(), websocket.MessageBinary, b); err != nil {
		s.abort()
		return errEnded
	}
	return nil
}

// maxCalls bounds the requests that an agent may leave without an answer.
const maxCalls = 10_000

// ask sends a request; done is called by the read loop with the response, and never if the connection ends first.
func (s *session) ask(op, commandID string, fields map[string]any, done func(proto.Message)) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	m := proto.Request(op, s.seq, commandID, fields)
	s.seq++
	s.cmu.Lock()
	if s.calls == nil {
		s.calls = make(map[int64]func(proto.Message))
	}
	s.calls[m.Seq] = done
	mute := len(s.calls) > maxCalls
	s.cmu.Unlock()
	if mute {
		s.hub.log.Warn("session: the agent does not answer requests; closing", "worker", s.worker, "session", s.id)
		s.abort()
		return errEnded
	}
	err := s.send(m)
	if err != nil {
		s.cmu.Lock()
		delete(s.calls, m.Seq)
		s.cmu.Unlock()
	}
	return err
}

// call sends a request and waits for its result. An exception is a *refusal.
func (s *session) call(ctx context.Context, op, commandID string, fields map[string]any) (any, error) {
	ch := make(chan proto.Message, 1)
	if err := s.ask(op, commandID, fields, func(m proto.Message) { ch <- m }); err != nil {
		return nil, err
	}
	select {
	case m := <-ch:
		if m.IsException {
			text, _ := m.Result.(string)
			return nil, &refusal{op, clip(text, 2000)}
		}
		return m.Result, nil
	case <-s.done:
		return nil, errEnded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// refusal is an exception that the agent answered.
type refusal struct{ op, text string }

func (e *refusal) Error() string { return fmt.Sprintf("the agent refused %s: %s", e.op, e.text) }

// hangup closes the connection politely. It does not block; the session's end follows.
func (s *session) hangup(code websocket.StatusCode, reason string) {
	if s.hungup.Swap(true) {
		return
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), 110)], "") // a close frame holds 123 bytes
	s.hub.wg.Go(func() {
		cut := time.AfterFunc(s.hub.opt.Close, s.abort)
		defer cut.Stop()
		_ = s.conn.Close(code, reason)
		s.end()
	})
}

// abort cuts the connection. The read loop notices and ends the session.
func (s *session) abort() { _ = s.net.Close() }

// end ends the session once: it leaves the registry, whoever waits for it is woken, and the core is told if it had been told of its begin.
func (s *session) end() {
	s.once.Do(func() {
		s.abort()
		_ = s.conn.CloseNow()
		h := s.hub
		h.mu.Lock()
		h.unlink(s)
		delete(h.shards[s.id%shards], s)
		h.mu.Unlock()
		close(s.done)
		s.deliver.Lock()
		defer s.deliver.Unlock()
		s.ended = true
		if s.attached {
			h.log.Info("session: detached", "worker", s.worker, "session", s.id)
			h.opt.Deliver(core.Detached{Worker: s.worker, Session: s.id})
		}
	})
}

// run returns the command that is bound to this session, nil if there is none.
func (s *session) run(id string) *run {
	s.cmu.Lock()
	defer s.cmu.Unlock()
	return s.runs[id]
}

func (s *session) bind(r *run) {
	s.cmu.Lock()
	defer s.cmu.Unlock()
	if s.runs == nil {
		s.runs = make(map[string]*run)
	}
	s.runs[r.c.ID] = r
}

func (s *session) unbind(r *run) {
	s.cmu.Lock()
	defer s.cmu.Unlock()
	if s.runs[r.c.ID] == r {
		delete(s.runs, r.c.ID)
	}
}
