package steplog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rouse-ci/rouse/worker/proto"
)

// Reader reads one log, while it grows and after. Its methods may be called concurrently; each reads the file itself, so that nobody waits for
// a slow one. Errors that wrap ErrCorrupt come after everything that is whole.
type Reader struct {
	st     *state
	f      *os.File
	packed *packed // nil for the growing form
	g      *growth // nil for the packed form
}

// Info is what is known of a log without reading it.
type Info struct {
	Bytes    int64 // of output with its records' heads, uncompressed
	Stored   int64 // bytes on disk
	Position int64 // the agent's position; only of packed logs
	Ended    bool  // it was closed and will not change
	Live     bool  // a writer of this process has it
	Packed   bool
}

// Reader opens a log for reading. The error wraps fs.ErrNotExist if there is none.
func (d *Dir) Reader(id ID) (_ *Reader, err error) {
	st, err := d.acquire(id)
	if err != nil {
		return nil, err
	}
	r := &Reader{st: st}
	defer func() {
		if err != nil {
			if r.f != nil {
				_ = r.f.Close()
			}
			d.release(st)
		}
	}()
	st.mu.Lock()
	defer st.mu.Unlock()
	f, isPacked, err := st.openForm()
	if err != nil {
		return nil, err
	}
	r.f = f
	if isPacked {
		fi, err := f.Stat()
		if err == nil {
			r.packed, err = openPacked(f, fi.Size(), d.decoder)
		}
		if err != nil {
			err = fmt.Errorf("steplog: read %s/%s%s: %w", d.path, st.base, extPacked, err)
		}
		return r, err
	}
	if st.g == nil {
		_, err = st.load(f)
	}
	r.g = st.g
	return r, err
}

// Close releases the log. It must come after the other methods have returned.
func (r *Reader) Close() error {
	r.st.dir.release(r.st)
	return r.f.Close()
}

// Info describes the log now.
func (r *Reader) Info() (Info, error) {
	fi, err := r.f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("steplog: %w", err)
	}
	if r.packed != nil {
		return Info{Bytes: r.packed.size, Stored: fi.Size(), Position: r.packed.pos, Ended: true, Packed: true}, nil
	}
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	size, done, _, _ := r.g.view()
	return Info{Bytes: size, Stored: fi.Size(), Ended: done, Live: r.st.writer && r.st.g == r.g}, nil
}

// cursor reads records in order, from any record's offset on.
type cursor interface {
	seek(off int64)
	next(limit int64) (off int64, r record, err error)
	idle()
}

func (r *Reader) cursor() cursor {
	if r.packed != nil {
		return &packedCursor{p: r.packed}
	}
	return &liveCursor{f: r.f}
}

// view is state.view for both forms.
func (r *Reader) view() (int64, bool, error, <-chan struct{}) {
	if r.packed != nil {
		return r.packed.size, true, nil, nil
	}
	return r.g.view()
}

// errStop ends a walk early, without an error.
var errStop = errors.New("stop")

// walk calls fn for each record from off on, and with follow goes on until the log ends.
// ended is true if the log's end was reached and nothing was missing.
func (r *Reader) walk(ctx context.Context, off int64, follow bool, fn func(off int64, rec record) error) (ended bool, err error) {
	c := r.cursor()
	defer c.idle()
	c.seek(off)
	for {
		limit, done, bad, wake := r.view()
		for {
			at, rec, err := c.next(limit)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return false, r.errorf(at, err)
			}
			if err := fn(at, rec); err != nil {
				return false, err
			}
			if err := ctx.Err(); err != nil {
				return false, err
			}
		}
		if done || !follow {
			return done, bad
		}
		c.idle()
		select {
		case <-wake:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (r *Reader) errorf(off int64, err error) error {
	ext := extLive
	if r.packed != nil {
		ext = extPacked
	}
	if errors.Is(err, errTorn) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("steplog: read %s/%s%s at offset %d: %w", r.st.dir.path, r.st.base, ext, off, err)
}

// lines calls fn for each line from number from on.
func (r *Reader) lines(ctx context.Context, from int64, follow bool, fn func(Line) error) error {
	sp := splitter{emit: func(l Line) error {
		if l.Number < from {
			return nil
		}
		return fn(l)
	}}
	var e entry
	var indexed int64
	if r.packed != nil {
		e = findEntry(r.packed.entries, from)
	} else {
		e, indexed = r.g.index.find(from), r.g.index.last()
	}
	ended, err := r.walk(ctx, sp.start(e), follow, func(off int64, rec record) error {
		if r.packed == nil && off >= indexed+indexStep {
			r.g.index.add(sp.entry(off))
			indexed = off
		}
		return sp.feed(off, rec.stream, rec.data)
	})
	if ended || errors.Is(err, ErrCorrupt) {
		if ferr := sp.flush(); ferr != nil {
			err = ferr
		}
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// maxAnswer bounds the text that Lines returns at once.
const maxAnswer = 4 << 20

// Lines returns up to n lines from number from on; a negative from counts from the end. It returns fewer at the end of the log, and after about 4 MiB of
// text: the caller asks again from the last number + 1. Lines that have not ended are not returned before the log has.
func (r *Reader) Lines(from int64, n int) ([]Line, error) {
	if from < 0 {
		count, err := r.Count()
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		from = max(0, count+from)
	}
	var out []Line
	size := 0
	if n <= 0 {
		return nil, nil
	}
	err := r.lines(context.Background(), from, false, func(l Line) error {
		l.Text = append(make([]byte, 0, len(l.Text)), l.Text...)
		out = append(out, l)
		if size += len(l.Text); len(out) == n || size >= maxAnswer {
			return errStop
		}
		return nil
	})
	return out, err
}

// Count returns the number of lines so far. In a growing log it reads what no reader has read before.
func (r *Reader) Count() (int64, error) {
	if r.packed != nil {
		return r.packed.lines, nil
	}
	sp := splitter{}
	e := r.g.index.find(1<<63 - 1)
	indexed := r.g.index.last()
	ended, err := r.walk(context.Background(), sp.start(e), false, func(off int64, rec record) error {
		if off >= indexed+indexStep {
			r.g.index.add(sp.entry(off))
			indexed = off
		}
		return sp.feed(off, rec.stream, rec.data)
	})
	if ended || errors.Is(err, ErrCorrupt) {
		_ = sp.flush() // only counts
	}
	return sp.line, err
}

// Follow calls fn for each line from number from on as soon as it ends, until the log is closed (then it returns nil), fn fails or ctx is done. A log
// that nobody writes and nobody closed (a crash) is waited for: Resume may come. The line's text is valid during the call.
func (r *Reader) Follow(ctx context.Context, from int64, fn func(Line) error) error {
	if from < 0 {
		count, err := r.Count()
		if err != nil {
			return err
		}
		from = max(0, count+from)
	}
	return r.lines(ctx, from, true, fn)
}

// Records calls fn for each piece of output as it came, unfinished lines too; with follow it goes on until the log is closed. p is valid during
// the call.
func (r *Reader) Records(ctx context.Context, follow bool, fn func(s proto.Stream, p []byte) error) error {
	_, err := r.walk(ctx, int64(len(liveMagic)), follow, func(_ int64, rec record) error {
		if len(rec.data) == 0 {
			return nil
		}
		return fn(rec.stream, rec.data)
	})
	return err
}

// WriteText writes what the given streams (none: all) have printed so far, as it came.
func (r *Reader) WriteText(ctx context.Context, w io.Writer, streams ...proto.Stream) error {
	var want [proto.Header + 1]bool
	for _, s := range streams {
		want[s&3] = true
	}
	return r.Records(ctx, false, func(s proto.Stream, p []byte) error {
		if len(streams) > 0 && !want[s] {
			return nil
		}
		_, err := w.Write(p)
		return err
	})
}
