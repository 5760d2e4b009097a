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

// Stream hides secrets in what is written to it, also where they come in pieces: what may begin one is held back until more has come, or until flush.
func (m *Masker) Stream(w io.Writer) (out io.Writer, flush func() error) {
	if m == nil {
		return w, func() error { return nil }
	}
	s := &stream{w: w, mask: mask{words: m.words}}
	return s, func() error {
		s.mask.decide()
		return s.pass()
	}
}

type stream struct {
	w    io.Writer
	mask mask
}

func (s *stream) Write(p []byte) (int, error) {
	s.mask.add(proto.Stdout, p, 0)
	if s.mask.pending > maxPending {
		s.mask.decide()
	}
	return len(p), s.pass()
}

// pass lets through what is decided.
func (s *stream) pass() error {
	for it := s.mask.head(); it != nil; it = s.mask.head() {
		if len(it.out) > 0 {
			if _, err := s.w.Write(it.out); err != nil {
				return err
			}
		}
		s.mask.pop()
	}
	return nil
}
