package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/proto"
)

var errLost = errors.New("the connection to the master was lost")

// link is one connection to a master. It lives until its first error.
type link struct {
	ws     *websocket.Conn
	ctx    context.Context // cancelled with the cause of the link's end
	cancel context.CancelCauseFunc
	heard  *atomic.Int64 // UnixNano of the last sign of life

	mu      sync.Mutex
	seq     int64
	pending map[int64]chan proto.Message
}

// fail ends the link. Everything that waits for it gets errLost, read returns err.
func (l *link) fail(err error) { l.cancel(err) }

func (l *link) write(frame []byte) error {
	if err := l.ws.Write(l.ctx, websocket.MessageBinary, frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (l *link) send(m proto.Message) error {
	b, err := proto.Encode(m)
	if err != nil {
		return err
	}
	return l.write(b)
}

// post sends a request whose response nobody needs.
func (l *link) post(op, id string, fields map[string]any) error {
	l.mu.Lock()
	seq := l.seq
	l.seq++
	l.mu.Unlock()
	return l.send(proto.Request(op, seq, id, fields))
}

// call sends a request and waits for its response. An exception becomes an error.
func (l *link) call(ctx context.Context, op, id string, fields map[string]any) (any, error) {
	answer := make(chan proto.Message, 1)
	l.mu.Lock()
	seq := l.seq
	l.seq++
	l.pending[seq] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.pending, seq)
		l.mu.Unlock()
	}()
	if err := l.send(proto.Request(op, seq, id, fields)); err != nil {
		if l.ctx.Err() != nil {
			return nil, errLost
		}
		return nil, err
	}
	select {
	case m := <-answer:
		if m.IsException {
			return nil, fmt.Errorf("master: %v", m.Result)
		}
		return m.Result, nil
	case <-l.ctx.Done():
		return nil, errLost
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// response hands a response to whoever waits for it. Responses to posts are for nobody.
func (l *link) response(m proto.Message) {
	l.mu.Lock()
	answer := l.pending[m.Seq]
	delete(l.pending, m.Seq)
	l.mu.Unlock()
	if answer != nil {
		answer <- m
	}
}

// read reads messages until the link ends and gives each to handle. What handle gets is its own, except for an ack's.
func (l *link) read(handle func(proto.Message) error) error {
	const keep = 64 << 10
	var buf bytes.Buffer
	for {
		kind, r, err := l.ws.Reader(l.ctx)
		if err != nil {
			return l.why(err)
		}
		buf.Reset()
		if buf.Cap() > keep {
			buf = bytes.Buffer{}
		}
		if _, err := io.Copy(&buf, r); err != nil {
			return l.why(err)
		}
		l.alive()
		if kind != websocket.MessageBinary {
			continue // as Buildbot does
		}
		m, err := proto.Decode(buf.Bytes())
		if err == nil && m.Op != proto.OpAck {
			m, err = proto.Decode(bytes.Clone(buf.Bytes()))
		}
		if err == nil {
			err = handle(m)
		}
		if err != nil {
			_ = l.ws.Close(websocket.StatusProtocolError, clip(err.Error()))
			return err
		}
	}
}

// clip shortens a close frame's reason to what fits in one.
func clip(s string) string { return s[:min(len(s), 120)] }

// closedError is what the master said in a close frame, in people's words.
type closedError struct{ frame websocket.CloseError }

func (e *closedError) Error() string {
	if e.frame.Reason == "" {
		return fmt.Sprintf("the master closed the connection (%d)", e.frame.Code)
	}
	return fmt.Sprintf("the master closed the connection: %s (%d)", e.frame.Reason, e.frame.Code)
}

func (e *closedError) Unwrap() error { return e.frame }

// why prefers what the master said in a close frame, then the reason for which this side gave up.
func (l *link) why(err error) error {
	if ce := (websocket.CloseError{}); errors.As(err, &ce) {
		return &closedError{ce}
	}
	if cause := context.Cause(l.ctx); cause != nil {
		return cause
	}
	return err
}

func (l *link) alive() { l.heard.Store(time.Now().UnixNano()) }

// heartbeat pings, and ends the link when the master has been silent for too long.
func (l *link) heartbeat(every, dead time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		left := dead - time.Since(time.Unix(0, l.heard.Load()))
		if left > 0 {
			ctx, cancel := context.WithTimeout(l.ctx, left)
			err := l.ws.Ping(ctx)
			cancel()
			if err == nil {
				l.alive()
				continue
			}
			left = dead - time.Since(time.Unix(0, l.heard.Load()))
		}
		if left <= 0 {
			l.fail(fmt.Errorf("nothing came from the master for %v", dead))
			return
		}
	}
}
