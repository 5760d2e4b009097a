package steplog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// Writer appends to one log. Its methods may be called concurrently.
type Writer struct {
	st    *state
	g     *growth
	f     *os.File
	notes []string

	mu      sync.Mutex
	off     int64 // end of the last whole Write in the file
	pos     int64 // the agent's position there
	dropped bool  // the log is full
	closed  bool
	mask    *mask // nil if there are no secrets
	timer   *time.Timer
	err     error // of a flush in the background, for the next call
}

var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, headLen+maxRecord); return &b }}

// Create begins a new log. It fails with fs.ErrExist if there is one. The secrets' values are masked, and
// must not change; see Writer.Notes.
func (d *Dir) Create(id ID, secrets [][]byte) (*Writer, error) { return d.open(id, secrets, true) }

// Resume goes on with a log that an earlier process left, or that was closed: a torn tail is cut off, a packed log unpacked. The
// agent's output is wanted from Position on. If there is no log yet, Resume creates it.
func (d *Dir) Resume(id ID, secrets [][]byte) (*Writer, error) { return d.open(id, secrets, false) }

func (d *Dir) open(id ID, secrets [][]byte, create bool) (w *Writer, err error) {
	st, err := d.acquire(id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.release(st)
		}
	}()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.writer {
		return nil, fmt.Errorf("steplog: %s/%s: %w", d.path, st.base, ErrBusy)
	}
	w = &Writer{st: st}
	w.mask, w.notes = newMask(secrets)
	if create {
		err = w.create()
	} else {
		err = w.resume()
	}
	if err != nil {
		if w.f != nil {
			_ = w.f.Close()
		}
		return nil, err
	}
	if st.g == nil {
		st.g = &growth{}
	}
	w.g, st.writer = st.g, true
	st.reopens++
	w.g.publish(w.off, false)
	return w, nil
}

func (w *Writer) create() (err error) {
	root := w.st.dir.root
	for range 3 { // Prune may remove the empty directory in between
		err = root.Mkdir(path.Dir(w.st.base), 0o700)
		if errors.Is(err, fs.ErrExist) {
			if _, err = root.Stat(w.st.base + extPacked); err == nil {
				return fmt.Errorf("steplog: %s/%s%s: %w", w.st.dir.path, w.st.base, extPacked, fs.ErrExist)
			}
		} else if err != nil {
			return fmt.Errorf("steplog: %w", err)
		}
		w.f, err = root.OpenFile(w.st.base+extLive, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	if _, err := w.f.WriteAt([]byte(liveMagic), 0); err != nil {
		return w.st.errorf("write", err)
	}
	w.off = int64(len(liveMagic))
	return nil
}

func (w *Writer) resume() (err error) {
	root := w.st.dir.root
	if err := w.st.unpack(); err != nil {
		return err
	}
	w.f, err = root.OpenFile(w.st.base+extLive, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return w.create()
	}
	if err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	s, err := w.st.load(w.f)
	if err != nil {
		return err
	}
	if s.bad != nil {
		w.notes = append(w.notes, fmt.Sprintf("the rest of the log was cut off: %v", s.bad))
		w.st.dir.log.Warn("log repaired", "log", w.st.base, "cut_at", s.good, "error", s.bad)
	}
	w.off, w.pos, w.dropped = s.good, s.pos, s.dropped
	if w.off == 0 { // the process died before even the magic was written
		w.off = int64(len(liveMagic))
		if _, err := w.f.WriteAt([]byte(liveMagic), 0); err != nil {
			return w.st.errorf("write", err)
		}
	}
	if !w.dropped {
		err = w.f.Truncate(w.off)
	}
	if err == nil && w.mask != nil {
		err = w.mask.recall(w.f, w.off)
	}
	if err != nil {
		return w.st.errorf("repair", err)
	}
	return nil
}

// Notes returns what the caller may want to tell: secrets that cannot be masked, damage that was cut off. Never a secret.
func (w *Writer) Notes() []string { return w.notes }

// Hide masks more secrets in what is written from here on.
func (w *Writer) Hide(secrets [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mask == nil {
		w.mask, _ = newMask(secrets)
	} else {
		w.mask.more(secrets)
	}
}

// Position is the agent's position up to which everything is in the file, in its masked form. Only this may be acknowledged.
func (w *Writer) Position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pos
}

// Write appends output. end is the agent's position after p; what the master itself says repeats the last end. Without secrets the
// bytes are in the file when Write returns. With secrets the end of p may be held back, for at most a second, until it is clear that it is not the
// beginning of a secret: Position says how far the file is.
//
// After an error (a full disk, say) the log is whole, p was not taken, and the same Write may be tried again.
func (w *Writer) Write(s proto.Stream, p []byte, end int64) error {
	if s < proto.Stdout || s > proto.Header {
		return fmt.Errorf("steplog: write %s: there is no stream %d", w.st.base, s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("steplog: write %s: %w", w.st.base, ErrClosed)
	}
	if w.mask == nil {
		return w.append(s, p, end)
	}
	// What was taken earlier goes first: if that fails p is not taken, so a caller may try again.
	if err := w.drain(false); err != nil {
		return err
	}
	if w.mask.idle(s) && w.mask.clean(p) {
		return w.append(s, p, end)
	}
	w.mask.add(s, p, end)
	if err := w.drain(w.mask.pending > maxPending); err != nil {
		w.err = err // p was taken: Position stays behind, the next call writes it or says why not
	}
	if len(w.mask.queue) > 0 && w.timer == nil {
		w.timer = time.AfterFunc(maxHold, w.flushLate)
	}
	return nil
}

const (
	maxPending = 64 << 10    // bytes that may be held back because they may begin a secret
	maxHold    = time.Second // and for how long
)

// flushLate is the timer's.
func (w *Writer) flushLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = nil
	if w.closed {
		return
	}
	if err := w.drain(true); err != nil {
		w.err = err
		w.st.dir.log.Warn("output could not be written to its log, it is kept and tried again", "error", err)
		w.timer = time.AfterFunc(maxHold, w.flushLate)
	}
}

// Flush decides about what is held back and writes it.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("steplog: flush %s: %w", w.st.base, ErrClosed)
	}
	return w.drain(true)
}

// drain writes what the mask has decided about, in order; with force it has to decide about everything.
func (w *Writer) drain(force bool) error {
	if w.mask == nil {
		return nil
	}
	if force {
		w.mask.decide()
	}
	for {
		it := w.mask.head()
		if it == nil {
			w.err = nil
			return nil
		}
		if err := w.append(it.stream, it.out, it.end); err != nil {
			return err
		}
		w.mask.pop()
	}
}

// append puts one Write's masked bytes into the file, as a whole or not at all, and shows them to readers.
func (w *Writer) append(s proto.Stream, p []byte, end int64) error {
	end = max(end, w.pos)
	if limit := w.st.dir.opt.MaxSize; limit > 0 && !w.dropped && w.off+int64(len(p)) > limit {
		note := fmt.Appendf(nil, "\nthe log is full (limit %d bytes): what follows is not kept\n", limit)
		if err := w.put(record{stream: proto.Header, end: w.pos, data: note}); err != nil {
			return err
		}
		w.dropped = true
	}
	if w.dropped {
		return w.drop(end)
	}
	return w.put(record{stream: s, end: end, data: p})
}

// drop keeps only the position of a full log.
func (w *Writer) drop(end int64) error {
	if _, err := w.f.WriteAt(appendRecord(nil, record{stream: proto.Header, flags: flagDropped, end: end}), w.off); err != nil {
		return w.st.errorf("write", err)
	}
	w.pos = end
	return nil
}

func (w *Writer) put(r record) error {
	if len(r.data) == 0 && r.end == w.pos {
		return nil
	}
	buf := writeBuffers.Get().(*[]byte)
	defer writeBuffers.Put(buf)
	off := w.off
	for rest := r.data; ; {
		r.data, r.flags = rest, 0
		if len(rest) > maxRecord {
			r.data, r.flags = rest[:maxRecord], flagMore
		}
		rest = rest[len(r.data):]
		b := appendRecord((*buf)[:0], r)
		if _, err := w.f.WriteAt(b, off); err != nil {
			if terr := w.f.Truncate(w.off); terr != nil {
				// The next Write goes to the same place, and Resume cuts off what does not fit: still whole.
				err = fmt.Errorf("%w (and cutting off the half-written record: %w)", err, terr)
			}
			return w.st.errorf("write", err)
		}
		off += int64(len(b))
		if len(rest) == 0 {
			break
		}
	}
	w.off, w.pos = off, r.end
	w.g.publish(off, false)
	return nil
}

// Close ends the log: what is held back is written, the end is marked, the file synced. Compression follows in the background. After an
// error the writer is still open and Close may be tried again, or Abandon be called.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	if err := w.drain(true); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(appendRecord(nil, record{stream: endStream, end: w.pos}), w.off); err != nil {
		if !w.dropped {
			_ = w.f.Truncate(w.off)
		}
		return w.st.errorf("end", err)
	}
	if err := w.f.Sync(); err != nil {
		return w.st.errorf("sync", err)
	}
	w.g.publish(w.off, true)
	size := w.off
	err := w.let()
	w.st.dir.pack.add(w.st.id, size)
	return err
}

// Abandon lets go of the log without ending it, so that Resume, here or in another process, goes on. What is held back is lost from the
// file, but Position has not covered it.
func (w *Writer) Abandon() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	return w.let()
}

func (w *Writer) let() error {
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.st.mu.Lock()
	w.st.writer = false
	w.st.mu.Unlock()
	err := w.f.Close()
	w.st.dir.release(w.st)
	return err
}
