package steplog

import (
	"io"

	"github.com/rouse-ci/rouse/worker/proto"
)

// Masker hides secrets elsewhere by the rules of logs: what is shorter than four bytes is let through, of several lines each is a secret of its own, and where
// secrets overlap nothing of either is seen. Nil hides nothing.
type Masker struct{ words words }

// NewMasker returns nil if there is nothing to hide.
func NewMasker(secrets [][]byte) *Masker {
	patterns, _ := patternsOf(secrets)
	if len(patterns) == 0 {
		return nil
	}
	return &Masker{newWords(patterns)}
}

// Text hides all secrets that are in a text as a whole.
func (m *Masker) Text(s string) string {
	if m == nil {
		return s
	}
	p, out, from := []byte(s), []byte(nil), 0
	for _, sp := range m.words.find(p) {
		out = append(append(out, p[from:sp.from]...), masked...)
		from = sp.to
	}
	if from == 0 {
		return s
	}
	return string(append(out, p[from:]...))
}

// Begins is how many bytes at the end of p may be the beginning of a secret.
func (m *Masker) Begins(p []byte) int {
	if m == nil {
		return 0
	}
	return m.words.prefix(p)
}

// Stream hides secrets in what is written to it, also where they come in pieces: what may begin one is held back until more has come, or until Flush.
func (m *Masker) Stream(w io.Writer) *Stream {
	s := &Stream{w: w}
	if m != nil {
		s.mask = &mask{words: m.words}
	}
	return s
}

// Stream is one text that is masked while it is written. Its methods may not be called concurrently.
type Stream struct {
	w    io.Writer
	mask *mask // nil: nothing is hidden
}

func (s *Stream) Write(p []byte) (int, error) {
	if s.mask == nil {
		return s.w.Write(p)
	}
	s.mask.add(proto.Stdout, p, 0)
	if s.mask.pending > maxPending {
		s.mask.decide()
	}
	return len(p), s.pass()
}

// Hide hides more secrets from here on.
func (s *Stream) Hide(secrets [][]byte) {
	if s.mask == nil {
		s.mask, _ = newMask(secrets)
	} else {
		s.mask.more(secrets)
	}
}

// Flush writes what is held back.
func (s *Stream) Flush() error {
	if s.mask == nil {
		return nil
	}
	s.mask.decide()
	return s.pass()
}

// pass lets through what is decided, also of a Write whose end is not.
func (s *Stream) pass() error {
	for len(s.mask.queue) > 0 {
		it := s.mask.queue[0]
		if len(it.out) > 0 {
			if _, err := s.w.Write(it.out); err != nil {
				return err
			}
			it.out = it.out[:0]
		}
		if it.left > 0 {
			return nil
		}
		s.mask.pop()
	}
	return nil
}
