package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	extentSize = 64 << 10 // bytes in one extent in memory, more only if one piece is larger
	maxExtents = 1 << 15  // bounds the bookkeeping of a program that changes streams with every byte
)

var errFull = errors.New("spool is full")

// spool keeps the part of one command's output that the master has not acknowledged: a list of extents, the first ones in memory, what
// does not fit there in a file. An extent holds bytes of one stream, and ends at a rune's end. It is not safe for concurrent use.
type spool struct {
	path    string // of the file, which is made when it is needed
	maxMem  int64
	maxFile int64

	extents  []extent
	from, to int64 // positions in the command's output: first byte that is kept, after the last one
	mem      int64
	file     *os.File
	fileEnd  int64
	onFile   int // extents in the file
}

type extent struct {
	stream proto.Stream
	pos    int64
	n      int64
	buf    []byte // the bytes, or nil: they are in the file at off
	off    int64
}

// whole extents are recycled: a program that prints much would keep the garbage collector busy. What the pool holds goes with the next two
// collections.
var buffers64 = sync.Pool{New: func() any { return new([extentSize]byte) }}

func newBuffer(size int) []byte {
	if size == extentSize {
		return buffers64.Get().(*[extentSize]byte)[:0]
	}
	return make([]byte, 0, size)
}

func recycle(b []byte) {
	if cap(b) == extentSize {
		buffers64.Put((*[extentSize]byte)(b[:extentSize]))
	}
}

// put takes all of p or, with errFull, nothing. memory says that the file must not be used.
func (s *spool) put(stream proto.Stream, p []byte, memory bool) error {
	if len(p) == 0 {
		return nil
	}
	var last *extent
	if n := len(s.extents); n > 0 {
		last = &s.extents[n-1]
	}
	n := int64(len(p))
	same := last != nil && last.stream == stream
	switch {
	case same && last.buf != nil && cap(last.buf)-len(last.buf) >= len(p):
		last.buf = append(last.buf, p...)
		last.n += n
	case len(s.extents) >= maxExtents && !(same && last.buf == nil):
		return errFull
	case s.mem+n <= s.maxMem:
		size := 512
		if same && last.buf != nil {
			size = min(2*cap(last.buf), extentSize)
		}
		if size = max(size, len(p)); size < extentSize { // whole extents are recycled and may go a little over the limit
			size = int(min(int64(size), s.maxMem-s.mem))
		}
		buf := newBuffer(size)
		s.extents = append(s.extents, extent{stream: stream, pos: s.to, n: n, buf: append(buf, p...)})
		s.mem += int64(cap(buf))
	case memory || s.fileEnd+n > s.maxFile:
		return errFull
	default:
		if err := s.write(p); err != nil {
			return err
		}
		if same && last.buf == nil {
			last.n += n
		} else {
			s.extents = append(s.extents, extent{stream: stream, pos: s.to, n: n, off: s.fileEnd})
			s.onFile++
		}
		s.fileEnd += n
	}
	s.to += n
	return nil
}

// write puts p at the file's end. A disk without room is a full spool: it goes on when the master has taken what is in memory.
func (s *spool) write(p []byte) error {
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("%w: %w", errFull, err)
		}
		s.file = f
	}
	if _, err := s.file.WriteAt(p, s.fileEnd); err != nil {
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return nil
}

// get gives up to most bytes from position pos: of one stream, ending at a rune's end. pos must be in [from, to). The bytes are the spool's own, valid
// until the next call of anything, or in *scratch.
func (s *spool) get(scratch *[]byte, pos, most int64) (proto.Stream, []byte, error) {
	e := s.extents[s.find(pos)]
	skip := pos - e.pos
	n := min(e.n-skip, most)
	var p []byte
	if e.buf != nil {
		p = e.buf[skip : skip+n]
	} else {
		if int64(cap(*scratch)) < n {
			*scratch = make([]byte, n)
		}
		p = (*scratch)[:n]
		if _, err := s.file.ReadAt(p, e.off+skip); err != nil {
			return 0, nil, fmt.Errorf("spool: %w", err)
		}
	}
	if n < e.n-skip {
		p = p[:whole(p)]
	}
	return e.stream, p, nil
}

// whole is the length of p without an unfinished rune at its end, or len(p) if there is nothing else.
func whole(p []byte) int {
	for i := 1; i <= min(len(p), utf8.UTFMax); i++ {
		if utf8.RuneStart(p[len(p)-i]) {
			if !utf8.FullRune(p[len(p)-i:]) && i < len(p) {
				return len(p) - i
			}
			break
		}
	}
	return len(p)
}

// find gives the extent that holds pos. Readers are near the front most of the time.
func (s *spool) find(pos int64) int {
	low, high := 0, len(s.extents)-1
	for low < high {
		mid := (low + high + 1) / 2
		if s.extents[mid].pos <= pos {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// trim forgets everything before pos.
func (s *spool) trim(pos int64) {
	if pos <= s.from || pos > s.to {
		return
	}
	s.from = pos
	n := 0
	for n < len(s.extents) && s.extents[n].pos+s.extents[n].n <= pos {
		if e := &s.extents[n]; e.buf != nil {
			s.mem -= int64(cap(e.buf))
			recycle(e.buf)
			e.buf = nil
		} else {
			s.onFile--
		}
		n++
	}
	s.extents = s.extents[n:]
	if len(s.extents) == 0 {
		s.extents = nil
	}
	if s.onFile == 0 && s.fileEnd > 0 {
		s.fileEnd = 0
		_ = s.file.Truncate(0) // what stays on the disk is overwritten
	}
}

// close forgets everything and removes the file.
func (s *spool) close() {
	for _, e := range s.extents {
		recycle(e.buf)
	}
	s.extents, s.mem, s.onFile, s.fileEnd = nil, 0, 0, 0
	s.from = s.to
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.path)
		s.file = nil
	}
}

// lockSpool makes the directory, empties it of what an agent that was killed left, and keeps a second agent out for as long as the file is open.
func lockSpool(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another rouse-worker uses this base directory; give each its own with -basedir", filepath.Dir(dir))
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		err = errors.Join(err, os.Remove(filepath.Join(dir, n)))
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("clean %s: %w", dir, err)
	}
	return f, nil
}
