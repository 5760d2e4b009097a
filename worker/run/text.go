package run

import (
	"io"
	"unicode/utf8"
)

const readSize = 64 << 10 // a pipe's capacity: one read takes all that is there

// decoder makes valid UTF-8 of a stream of bytes that comes in arbitrary pieces: what is not UTF-8 becomes U+FFFD. A rune that a piece
// cuts in two is held back, so that every piece that goes out ends at a rune's end. It reads straight into its buffer and hands out the
// buffer itself as long as everything is valid.
type decoder struct {
	buf  [utf8.UTFMax - 1 + readSize]byte
	held int // bytes of an unfinished rune, kept right before buf[UTFMax-1]
}

const front = utf8.UTFMax - 1

// read does one Read and passes the decoded text on. n is what Read returned.
func (d *decoder) read(r io.Reader, emit func([]byte)) (n int, err error) {
	n, err = r.Read(d.buf[front:])
	if n > 0 {
		p := d.buf[front-d.held : front+n]
		whole := len(p) - unfinished(p)
		if whole > 0 {
			emit(valid(p[:whole]))
		}
		d.held = len(p) - whole
		copy(d.buf[front-d.held:front], p[whole:])
	}
	return n, err
}

// flush passes on what is held back: the stream is over, the rune will not be finished.
func (d *decoder) flush(emit func([]byte)) {
	if d.held > 0 {
		emit(valid(d.buf[front-d.held : front]))
		d.held = 0
	}
}

// unfinished returns the length of the incomplete, so far valid rune at the end of p.
func unfinished(p []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(p); i++ {
		if c := p[len(p)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-i:]) {
				return i
			}
			return 0
		}
	}
	return 0
}

// valid returns p itself if it is UTF-8, otherwise a copy with U+FFFD for each byte that is not.
func valid(p []byte) []byte {
	if utf8.Valid(p) {
		return p
	}
	out := make([]byte, 0, len(p)+len(p)/2+utf8.UTFMax)
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		out = utf8.AppendRune(out, r) // RuneError is U+FFFD
		p = p[size:]
	}
	return out
}
