package steplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// The index of the packed form is a sequence of unsigned varints:
//
//	position of the agent, number of lines, number of frames, and for each frame
//	compressed length, length of its records, lines that end in it, and for each stream
//	distance from the frame's first record back to the one in which the stream's unfinished line begins (0: there is none), and if
//	there is one, how many bytes of its payload come before
//
// Offsets of records count as if the frames were one file of the growing form: the first record is at 8.
const (
	packedMagic  = "rouselz1"
	trailerMagic = "rouselix"
	trailerLen   = 24

	frameSize = 128 << 10 // a frame ends with the record that reaches this
	maxFrame  = frameSize + headLen + maxRecord
	maxIndex  = 64 << 20 // bytes
)

// frame is one zstd frame in the file.
type frame struct {
	at, stored int64 // in the file
	off, size  int64 // of its records
}

// packed is an opened packed log.
type packed struct {
	f       io.ReaderAt
	dec     *zstd.Decoder
	pos     int64
	lines   int64
	size    int64 // offset after the last record
	frames  []frame
	entries []entry // one per frame
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxFrame))
}

// appendIndex encodes what openIndex reads.
func (p *packed) appendIndex(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.pos))
	b = binary.AppendUvarint(b, uint64(p.lines))
	b = binary.AppendUvarint(b, uint64(len(p.frames)))
	for i, fr := range p.frames {
		e := p.entries[i]
		ends := p.lines
		if i+1 < len(p.entries) {
			ends = p.entries[i+1].line
		}
		b = binary.AppendUvarint(b, uint64(fr.stored))
		b = binary.AppendUvarint(b, uint64(fr.size))
		b = binary.AppendUvarint(b, uint64(ends-e.line))
		for _, m := range e.begun[1:] {
			if m.off == 0 {
				b = append(b, 0)
				continue
			}
			b = binary.AppendUvarint(b, uint64(e.off-m.off))
			b = binary.AppendUvarint(b, uint64(m.skip))
		}
	}
	return b
}

func appendTrailer(b []byte, at int64, index []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(index)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(index, castagnoli))
	return append(b, trailerMagic...)
}

// openPacked reads the index of a file of the given size.
func openPacked(f io.ReaderAt, size int64, dec *zstd.Decoder) (*packed, error) {
	corrupt := func(off int64, what string) error { return fmt.Errorf("%w at offset %d: %s", ErrCorrupt, off, what) }
	if size < int64(len(packedMagic))+trailerLen {
		return nil, corrupt(size, "it is too short")
	}
	var head [len(packedMagic)]byte
	var tail [trailerLen]byte
	if err := errors.Join(readFull(f, head[:], 0), readFull(f, tail[:], size-trailerLen)); err != nil {
		return nil, err
	}
	if string(head[:]) != packedMagic || string(tail[16:]) != trailerMagic {
		return nil, corrupt(size-trailerLen, "no head or trailer of a packed log")
	}
	at, n := binary.LittleEndian.Uint64(tail[:]), binary.LittleEndian.Uint32(tail[8:])
	if n > maxIndex || at < uint64(len(packedMagic)) || at > uint64(size) || int64(at)+int64(n)+trailerLen != size {
		return nil, corrupt(size-trailerLen, "the trailer does not fit the file")
	}
	index := make([]byte, n)
	if err := readFull(f, index, int64(at)); err != nil {
		return nil, err
	}
	if crc32.Checksum(index, castagnoli) != binary.LittleEndian.Uint32(tail[12:]) {
		return nil, corrupt(int64(at), "checksum of the index")
	}
	p := &packed{f: f, dec: dec}
	if err := p.parseIndex(index, int64(at)); err != nil {
		return nil, corrupt(int64(at), err.Error())
	}
	return p, nil
}

// parseIndex decodes an index; the frames end at end.
func (p *packed) parseIndex(b []byte, end int64) error {
	bad := false
	get := func(limit int64) int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > uint64(limit) {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return int64(v)
	}
	const most = 1<<63 - 1
	p.pos, p.lines = get(most), get(most)
	count := get(int64(len(b)) / 6) // each takes at least six bytes
	p.frames, p.entries = make([]frame, 0, count), make([]entry, 0, count)
	at, off, line := int64(len(packedMagic)), int64(len(liveMagic)), int64(0)
	for range count {
		fr := frame{at: at, off: off, stored: get(end - at), size: get(maxFrame)}
		e := entry{off: off, line: line}
		line += get(p.lines - line)
		for i := range e.begun[1:] {
			if back := get(off - int64(len(liveMagic))); back > 0 {
				e.begun[i+1] = mark{off: off - back, skip: get(maxRecord)}
			}
		}
		if bad || fr.size == 0 {
			return errors.New("the index is malformed")
		}
		p.frames, p.entries = append(p.frames, fr), append(p.entries, e)
		at, off = at+fr.stored, off+fr.size
	}
	if bad || len(b) > 0 || at != end {
		return errors.New("the index does not fit the frames")
	}
	p.size = off
	return nil
}

func readFull(f io.ReaderAt, b []byte, off int64) error {
	if n, err := f.ReadAt(b, off); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("at offset %d: %w", off, err)
	}
	return nil
}

// packedCursor reads records of the packed form one after the other.
type packedCursor struct {
	p      *packed
	off    int64 // of the next record
	frame  int   // that is in text, +1
	stored []byte
	text   []byte
}

func (c *packedCursor) seek(off int64) { c.off = off }
func (c *packedCursor) idle()          {}

func (c *packedCursor) next(int64) (off int64, r record, err error) {
	off = c.off
	if off >= c.p.size {
		return off, r, io.EOF
	}
	if c.frame == 0 || off < c.p.frames[c.frame-1].off || off >= c.p.frames[c.frame-1].off+c.p.frames[c.frame-1].size {
		if err := c.load(off); err != nil {
			return off, r, err
		}
	}
	b := c.text[off-c.p.frames[c.frame-1].off:]
	if len(b) < headLen {
		return off, r, errTorn
	}
	r, n, err := parseHead(b)
	if err != nil {
		return off, r, err
	}
	if len(b) < headLen+n {
		return off, r, errTorn
	}
	r.data = b[headLen : headLen+n]
	c.off += int64(headLen + n)
	return off, r, nil
}

// load unpacks the frame that has the offset.
func (c *packedCursor) load(off int64) (err error) {
	c.frame = 0
	i := sort.Search(len(c.p.frames), func(i int) bool { return c.p.frames[i].off > off }) - 1
	fr := c.p.frames[i]
	if fr.stored > 2*maxFrame {
		return fmt.Errorf("%w: frame of %d bytes", ErrCorrupt, fr.stored)
	}
	if int64(cap(c.stored)) < fr.stored {
		c.stored = make([]byte, max(fr.stored, 32<<10))
	}
	c.stored = c.stored[:fr.stored]
	if err := readFull(c.p.f, c.stored, fr.at); err != nil {
		return err
	}
	c.text, err = c.p.dec.DecodeAll(c.stored, c.text[:0])
	if err != nil {
		return fmt.Errorf("%w: frame at %d: %w", ErrCorrupt, fr.at, err)
	}
	if int64(len(c.text)) != fr.size {
		return fmt.Errorf("%w: frame at %d has %d bytes and should have %d", ErrCorrupt, fr.at, len(c.text), fr.size)
	}
	c.frame = i + 1
	return nil
}
