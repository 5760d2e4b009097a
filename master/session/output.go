package session

import (
	"fmt"
	"math"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	ackBytes   = 256 << 10             // this much output is acknowledged at once
	ackDelay   = 50 * time.Millisecond // less waits for so long
	maxUpdates = 8 << 20               // bytes of messages with updates that are kept for one command
)

// fail records the master's own failure. What still comes of the command is dropped, but acknowledged, so that the agent can finish it.
// run.mu is held.
func (r *run) fail(err error) {
	if r.err == nil {
		r.err = err
		close(r.failed)
	}
}

// counts says whether messages of the session still count. run.mu is held.
func (r *run) counts(s *session) bool { return !r.over && r.sess == s }

// output handles an output message of the extension.
func (r *run) output(s *session, m *proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.counts(s) {
		return
	}
	data := m.Data
	switch {
	case m.Pos > r.pos:
		r.fail(fmt.Errorf("output of command %s from %d to %d was lost by the agent", r.c.ID, r.pos, m.Pos))
		return
	case int64(len(data)) <= r.pos-m.Pos:
		return // known already, or empty
	}
	r.write(m.Stream, data[r.pos-m.Pos:])
	if r.pos-r.acked >= ackBytes {
		r.ack()
	} else {
		r.armAck()
	}
}

// armAck sees to it that there is an acknowledgement soon. run.mu is held.
func (r *run) armAck() {
	switch {
	case r.ackArmed:
		return
	case r.ackTimer == nil:
		r.ackTimer = time.AfterFunc(ackDelay, r.ackLate)
	default:
		r.ackTimer.Reset(ackDelay)
	}
	r.ackArmed = true
}

// write gives output to the log. run.mu is held.
func (r *run) write(stream proto.Stream, p []byte) {
	end := r.pos + int64(len(p))
	if r.err == nil && r.c.Output != nil {
		if err := r.c.Output(stream, p, end); err != nil {
			r.fail(err)
		}
	}
	r.pos = end
}

func (r *run) ackLate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ackArmed = false
	if !r.over {
		r.ack()
	}
}

// ack acknowledges everything that is in the log, and comes back for the rest. run.mu is held.
func (r *run) ack() {
	if !r.sess.ext || r.pos == r.acked {
		return
	}
	pos := r.pos
	if r.c.Durable != nil && r.err == nil {
		pos = min(pos, r.c.Durable())
	}
	if pos < r.pos {
		r.armAck()
	}
	if pos <= r.acked {
		return
	}
	r.acked = pos
	buf := buffers.Get().(*[]byte)
	*buf = proto.AppendAck((*buf)[:0], r.c.ID, pos)
	_ = r.sess.write(*buf) // it is repeated by resume on the next session
	buffers.Put(buf)
}

// update handles v7's update message: output and everything else, as pairs.
func (r *run) update(s *session, m *proto.Message, size int) error {
	if s.ext {
		return protocolErrorf("update in the extension")
	}
	pairs, err := proto.ParseUpdates(m.Fields["args"])
	if err != nil {
		return &protocolError{err.Error()}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.counts(s) {
		return nil
	}
	for _, u := range pairs {
		stream, value := proto.Stdout, u.Value
		switch u.Key {
		case "stdout":
		case "stderr":
			stream = proto.Stderr
		case "header":
			stream = proto.Header
		case "log": // of a file that the command watches: [name, triple]
			named, ok := value.([]any)
			if !ok || len(named) != 2 {
				return protocolErrorf("malformed log update of command %q", clip(r.c.ID, 80))
			}
			value = named[1]
		default:
			r.keep(u.Key, value, size)
			size = 0 // once for the whole message
			continue
		}
		text, err := v7text(value)
		if err != nil {
			return err
		}
		if len(text) > 0 {
			r.write(stream, []byte(text))
		}
	}
	return nil
}

// v7text takes the text out of [text, newline positions, times]. The other two are redundant, and not always consistent (WIRE 7.3).
func v7text(v any) (string, error) {
	if triple, ok := v.([]any); ok && len(triple) > 0 {
		v = triple[0]
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	}
	return "", protocolErrorf("output is a %T, want a text", v)
}

// keep files one update that is not output. size is what it takes in its message. run.mu is held.
func (r *run) keep(key string, value any, size int) {
	if r.kept += size; r.kept > maxUpdates {
		r.fail(fmt.Errorf("command %s reported more than %d bytes besides its output", r.c.ID, maxUpdates))
		return
	}
	number, isNumber := asFloat(value)
	text, isText := value.(string)
	switch {
	case key == "rc" && isNumber:
		r.out.RC = int(min(max(number, math.MinInt32), math.MaxInt32))
	case key == "elapsed" && isNumber:
		r.out.Elapsed = time.Duration(min(max(number, 0), 1e9) * float64(time.Second))
	case key == "failure_reason" && isText:
		r.out.FailureReason = text
	default:
		if r.out.Updates == nil {
			r.out.Updates = make(map[string][]any)
		}
		r.out.Updates[key] = append(r.out.Updates[key], value)
	}
}

func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, v == v // not NaN
	}
	return 0, false
}

// complete handles the command's end.
func (r *run) complete(s *session, m *proto.Message, size int) error {
	var c proto.Completion
	if s.ext {
		var err error
		if c, err = proto.ParseCompletion(m.Fields); err != nil {
			return &protocolError{err.Error()}
		}
	} else {
		switch v := m.Fields["args"].(type) {
		case nil:
		case string:
			c.Text = v
		default:
			c.Text = fmt.Sprint(v)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.counts(s) {
		return nil
	}
	if s.ext && c.End != r.pos {
		r.fail(fmt.Errorf("output of command %s ends at %d, but came up to %d", r.c.ID, c.End, r.pos))
	}
	for _, u := range c.Updates {
		r.keep(u.Key, u.Value, size)
		size = 0
	}
	r.out.Text = clip(c.Text, 16<<10)
	r.ack()
	r.over = true
	close(r.done)
	return nil
}
