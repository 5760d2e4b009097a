package worker

import (
	"context"

	"fmt"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	gather      = 20 * time.Millisecond // small output goes out this often at most
	fullSend    = 64 << 10              // what is worth a message at once
	keepBuffers = time.Second
	patience    = 100 * time.Millisecond // how long a command waits for a connected master before it spools to the disk
)

// command is one command of the extension, from start_command to forget. Its Sink side fills the spool, its pump empties it.
//
// Invariant: spool.from <= acknowledged <= sent <= spool.to, and sent counts only while link is not nil: link is the connection on which
// the master knows from where the output comes.
type command struct {
	id     string
	cancel context.CancelCauseFunc
	wake   chan struct{} // for the pump; capacity 1

	mu        sync.Mutex
	spool     spool
	room      chan struct{} // closed and replaced when the spool has been trimmed
	link      *link
	sent      int64
	updates   []proto.Update
	text      string
	done      bool // has ended; nothing is added any more
	completed bool // complete has been sent over link
	dropped   bool // forgotten: output is discarded
}

func (c *command) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Output implements run.Sink. It blocks while the spool is full: the program's pipe fills, and the program waits.
func (c *command) Output(s proto.Stream, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	memory := c.link != nil
	for !c.dropped {
		err := c.spool.put(s, p, memory)
		if err == nil {
			c.poke()
			return
		}
		room := c.room
		c.mu.Unlock()
		if memory {
			select {
			case <-room:
			case <-time.After(patience):
				memory = false
			}
		} else {
			select {
			case <-room:
			case <-time.After(time.Second): // a full disk may have room again
			}
		}
		c.mu.Lock()
	}
}

// Update implements run.Sink.
func (c *command) Update(key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.updates = append(c.updates, proto.Update{Key: key, Value: value})
}

// finish tells how the command ended.
func (c *command) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.text = err.Error()
	}
	c.done = true
	c.poke()
}

func (c *command) state() proto.Running {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.Running{ID: c.id, From: c.spool.from, To: c.spool.to, Done: c.done}
}

// resume sends from pos on over l; pos < 0 is everything that is kept.
func (c *command) resume(l *link, pos int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pos < 0 {
		pos = c.spool.from
	}
	if pos < c.spool.from || pos > c.spool.to {
		return fmt.Errorf("command %s has output from %d to %d, not from %d", c.id, c.spool.from, c.spool.to, pos)
	}
	c.trim(pos)
	c.link, c.sent, c.completed = l, pos, false
	c.poke()
	return nil
}

// ack trims what the master has.
func (c *command) ack(l *link, pos int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return nil
	}
	if pos > c.sent {
		return fmt.Errorf("command %s: master acknowledges %d, only %d has been sent", c.id, pos, c.sent)
	}
	c.trim(pos)
	c.poke()
	return nil
}

func (c *command) trim(pos int64) {
	c.spool.trim(pos)
	close(c.room)
	c.room = make(chan struct{})
}

// detach forgets the connection; the command goes on into the spool.
func (c *command) detach(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
	}
}

// drop discards everything and interrupts the command if it runs.
func (c *command) drop(why error) {
	c.cancel(why)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped {
		return
	}
	c.dropped = true
	c.spool.close()
	close(c.room)
	c.room = make(chan struct{})
	c.poke()
}

// buffers are what one pump reuses.
type buffers struct {
	frame, file []byte
}

// next says what the pump does: send frame over l, or the completion if frame is nil, or wait (l is nil) for a wake or a time.
func (c *command) next(b *buffers, last time.Time) (l *link, frame []byte, wait time.Duration, err error) {
	const long = time.Hour
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil || c.dropped {
		return nil, nil, long, nil
	}
	there := c.spool.to - c.sent
	if there == 0 {
		if c.done && !c.completed {
			c.completed = true
			return c.link, nil, 0, nil
		}
		return nil, nil, long, nil
	}
	window := c.spool.from + proto.MaxWindow - c.sent
	if window < min(there, fullSend) {
		return nil, nil, long, nil // an ack wakes
	}
	if there < fullSend && !c.done {
		if idle := time.Since(last); idle < gather {
			return nil, nil, gather - idle, nil
		}
	}
	stream, data, err := c.spool.get(&b.file, c.sent, min(there, window, proto.MaxOutput))
	if err != nil {
		return c.link, nil, 0, err
	}
	b.frame = proto.AppendOutput(b.frame[:0], c.id, stream, c.sent, data)
	c.sent += int64(len(data))
	return c.link, b.frame, 0, nil
}

// pump sends the command's output and completion until the command is forgotten.
func (c *command) pump() {
	var b buffers
	var last time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l, frame, wait, err := c.next(&b, last)
		switch {
		case l == nil:
			if b.frame != nil {
				wait = min(wait, keepBuffers)
			}
			timer.Reset(wait)
			select {
			case <-c.wake:
				if c.isDropped() {
					return
				}
			case <-timer.C:
				if wait >= keepBuffers {
					b = buffers{} // a command that is quiet keeps nothing
				}
			}
			continue
		case err != nil:
		case frame != nil:
			last = time.Now()
			err = l.write(frame)
		default:
			err = l.post(proto.OpComplete, c.id, c.completion().Fields())
		}
		if err != nil {
			c.detach(l)
			l.fail(err)
		}
	}
}

func (c *command) isDropped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func (c *command) completion() proto.Completion {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.Completion{End: c.spool.to, Updates: c.updates, Text: c.text}
}
