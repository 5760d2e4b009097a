package steplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	liveMagic = "rouselg1"
	headLen   = 16
	maxRecord = 64 << 10 // payload bytes

	flagMore    = 1
	flagDropped = 2

	endStream proto.Stream = 0
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one piece of output, or with stream 0 the end of the log.
type record struct {
	stream proto.Stream
	flags  uint8
	end    int64
	data   []byte
}

func appendHead(b []byte, r record) []byte {
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.stream)|uint32(r.flags)<<4|uint32(len(r.data))<<8)
	return binary.LittleEndian.AppendUint64(b, uint64(r.end))
}

// appendRecord appends the record with its checksum.
func appendRecord(b []byte, r record) []byte {
	at := len(b)
	b = append(appendHead(b, r), r.data...)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
	return b
}

// parseHead reads a head; n is the length of the payload.
func parseHead(b []byte) (r record, n int, err error) {
	what := binary.LittleEndian.Uint32(b[4:])
	r = record{
		stream: proto.Stream(what & 15),
		flags:  uint8(what >> 4 & 15),
		end:    int64(binary.LittleEndian.Uint64(b[8:])),
	}
	n = int(what >> 8)
	switch {
	case r.stream > proto.Header:
		err = fmt.Errorf("%w: stream %d", ErrCorrupt, r.stream)
	case n > maxRecord:
		err = fmt.Errorf("%w: record of %d bytes", ErrCorrupt, n)
	case n > 0 && (r.stream == endStream || r.flags&flagDropped != 0):
		err = fmt.Errorf("%w: payload where none may be", ErrCorrupt)
	case r.end < 0:
		err = fmt.Errorf("%w: position %d", ErrCorrupt, r.end)
	}
	return r, n, err
}

// errTorn says that the file ends inside a record.
var errTorn = errors.New("the file ends inside a record")

const readAhead = 128 << 10

var readBuffers = sync.Pool{New: func() any { return new([readAhead]byte) }}

// liveCursor reads records of the growing form one after the other.
type liveCursor struct {
	f   io.ReaderAt
	off int64 // of the next record
	buf *[readAhead]byte
	at  int64 // offset of buf[0] in the file
	n   int   // bytes in buf
}

func (c *liveCursor) seek(off int64) { c.off = off }

// idle gives the buffer back until the next read: many followers wait most of the time.
func (c *liveCursor) idle() {
	if c.buf != nil {
		readBuffers.Put(c.buf)
		c.buf, c.n = nil, 0
	}
}

// window returns n bytes at the offset, of a file that is read up to limit.
func (c *liveCursor) window(off int64, n int, limit int64) ([]byte, error) {
	if off+int64(n) > limit {
		return nil, errTorn
	}
	if off < c.at || off+int64(n) > c.at+int64(c.n) || c.buf == nil {
		if c.buf == nil {
			c.buf = readBuffers.Get().(*[readAhead]byte)
		}
		c.at, c.n = off, 0
		want := min(int64(len(c.buf)), limit-off)
		got, err := c.f.ReadAt(c.buf[:want], off)
		c.n = got
		if got < n {
			if err == io.EOF {
				err = errTorn
			}
			return nil, err
		}
	}
	return c.buf[off-c.at:][:n], nil
}

// next returns the record at the cursor and moves behind it. Its data is valid until the next call. At limit it returns io.EOF, and errTorn if
// limit lies inside the record.
func (c *liveCursor) next(limit int64) (off int64, r record, err error) {
	off = c.off
	if off >= limit {
		return off, r, io.EOF
	}
	head, err := c.window(off, headLen, limit)
	if err != nil {
		return off, r, err
	}
	r, n, err := parseHead(head)
	if err != nil {
		return off, r, err
	}
	b, err := c.window(off, headLen+n, limit)
	if err != nil {
		return off, r, err
	}
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return off, r, fmt.Errorf("%w: checksum", ErrCorrupt)
	}
	r.data = b[headLen:]
	c.off = off + int64(len(b))
	return off, r, nil
}

// scanned is what a pass over a file of the growing form found.
type scanned struct {
	good    int64 // end of the last whole Write, without an end mark
	pos     int64 // the agent's position there
	ended   bool  // the end mark follows
	dropped bool  // the log was full; a record that says so follows at good
	bad     error // why the rest is not whole, if it is more than a torn tail
}

// scanFile finds the whole part of a file. err is about reading it, not about what is in it.
func scanFile(f *os.File) (scanned, error) {
	info, err := f.Stat()
	if err != nil {
		return scanned{}, err
	}
	return scan(f, info.Size())
}

func scan(f io.ReaderAt, size int64) (s scanned, err error) {
	c := liveCursor{f: f}
	defer c.idle()
	magic, err := c.window(0, len(liveMagic), size)
	if errors.Is(err, errTorn) {
		return s, nil // not even begun
	}
	if err != nil {
		return s, err
	}
	if string(magic) != liveMagic {
		s.bad = fmt.Errorf("%w at offset 0: it does not begin with %q", ErrCorrupt, liveMagic)
		return s, nil
	}
	s.good = int64(len(liveMagic))
	c.seek(s.good)
	for {
		off, r, err := c.next(size)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTorn):
			return s, nil
		case errors.Is(err, ErrCorrupt):
			s.bad = fmt.Errorf("at offset %d of %d: %w", off, size, err)
			return s, nil
		case err != nil:
			return s, err
		case r.stream == endStream:
			s.pos, s.ended = r.end, true
			return s, nil
		case r.flags&flagDropped != 0:
			s.pos, s.dropped = r.end, true
		case s.dropped:
			s.bad = fmt.Errorf("at offset %d of %d: %w: output after the log was full", off, size, ErrCorrupt)
			return s, nil
		case r.flags&flagMore == 0:
			s.good, s.pos = c.off, r.end
		}
	}
}
