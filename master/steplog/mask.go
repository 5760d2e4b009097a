package steplog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	minSecret  = 4       // bytes; shorter ones would mask everything
	minLine    = 6       // bytes of a line of a secret of several lines, to be masked on its own
	maxPattern = 4 << 10 // longer secrets are masked in pieces
	masked     = "(secret)"
)

// mask replaces secrets in the streams of one log. Whether a secret is cut into several Writes, and what other streams say in between, makes no
// difference to the result: bytes that may be the beginning of a secret wait for those that follow, and Writes of other streams queue up
// behind them, so that the log's order and the agent's position stay true.
//
// When they may not wait longer (decide), a beginning of four bytes or more that is at least half of a secret is masked, although it may be no
// secret; a shorter one is let through, and if the secret's rest does follow, the rest is masked.
type mask struct {
	words
	tails   [proto.Header + 1]tail
	queue   []*item // Writes that are not in the file, in order
	pending int     // bytes that these Writes had
}

// tail is the end of one stream, as far as it matters for what follows.
type tail struct {
	buf   []byte
	shown int     // bytes at the beginning of buf that are decided
	said  bool    // they were replaced by (secret)
	cut   bool    // the process died after (secret): what comes next may be the rest of it
	items []*item // whose bytes the rest is, in order
}

// item is one Write.
type item struct {
	stream proto.Stream
	end    int64
	out    []byte
	size   int // raw bytes
	left   int // of them are not decided
}

// newMask returns nil if there is nothing to mask. The notes say which secrets (by their number, from 1) are ignored.
func newMask(secrets [][]byte) (*mask, []string) {
	patterns, notes := patternsOf(secrets)
	if len(patterns) == 0 {
		return nil, notes
	}
	return &mask{words: newWords(patterns)}, notes
}

// patternsOf are what is looked for: secrets, in pieces if they are long, and the lines of those that have several. They are not copied: there may be as many logs as
// builds.
func patternsOf(secrets [][]byte) (patterns [][]byte, notes []string) {
	for i, s := range secrets {
		whole := bytes.TrimRight(s, "\r\n")
		if len(whole) < minSecret {
			notes = append(notes, fmt.Sprintf("secret %d of %d is not masked: it is shorter than %d bytes", i+1, len(secrets), minSecret))
			continue
		}
		for piece := range slices.Chunk(whole, maxPattern) {
			if len(piece) < minSecret { // too short to be looked for alone
				piece = whole[len(whole)-maxPattern:]
			}
			patterns = append(patterns, piece)
		}
		lines := bytes.Split(whole, []byte("\n"))
		if len(lines) == 1 {
			continue
		}
		for _, line := range lines {
			if line = bytes.TrimSpace(line); len(line) >= minLine && len(line) <= maxPattern {
				patterns = append(patterns, line)
			}
		}
	}
	return patterns, notes
}

// more masks more secrets from here on.
func (m *mask) more(secrets [][]byte) {
	if patterns, _ := patternsOf(secrets); len(patterns) > 0 {
		m.words = newWords(append(patterns, m.patterns...))
	}
}

// idle tells whether nothing earlier matters for a Write to the stream.
func (m *mask) idle(s proto.Stream) bool {
	return len(m.queue) == 0 && len(m.tails[s].buf) == 0 && !m.tails[s].cut
}

// clean tells whether p has no secret and does not end in the beginning of one.
func (m *mask) clean(p []byte) bool {
	if at, _ := m.match(p, 0); at >= 0 {
		return false
	}
	return m.prefix(p) == 0
}

// add takes one Write and decides about as much of its stream as it can.
func (m *mask) add(s proto.Stream, p []byte, end int64) {
	it := &item{stream: s, end: end, size: len(p), left: len(p)}
	m.queue = append(m.queue, it)
	m.pending += len(p)
	if len(p) == 0 {
		return
	}
	t := &m.tails[s]
	if t.cut {
		t.cut = false
		if k, pat := m.rest(p); pat != nil {
			t.buf, t.shown, t.said = append(t.buf[:0], pat[:k]...), k, true
		}
	}
	t.items = append(t.items, it)
	t.buf = append(t.buf, p...)
	m.settle(t, false)
}

// rest finds the pattern that p may go on with, from k on. Less than minSecret of it is not worth a mistake, unless more may follow.
func (m *mask) rest(p []byte) (k int, pat []byte) {
	longestFirst := slices.SortedStableFunc(slices.Values(m.patterns), func(a, b []byte) int { return len(b) - len(a) })
	for _, pat := range longestFirst {
		for k := 1; k < len(pat); k++ {
			if whole := pat[k:]; len(whole) >= minSecret && bytes.HasPrefix(p, whole) || bytes.HasPrefix(whole, p) {
				return k, pat
			}
		}
	}
	return 0, nil
}

// decide settles everything that waits.
func (m *mask) decide() {
	for i := range m.tails {
		if len(m.tails[i].buf) > m.tails[i].shown {
			m.settle(&m.tails[i], true)
		}
	}
}

// span is a range of a tail's buf that is to be masked.
type span struct{ from, to int }

// settle decides about a stream's tail: up to where a secret may begin, or with force all of it.
func (m *mask) settle(t *tail, force bool) {
	open := m.prefix(t.buf)
	stop := len(t.buf) - open // bytes from here on may begin a secret
	keep := stop
	spans := m.find(t.buf)
	if force {
		if open >= minSecret && open*2 >= m.shortest(t.buf[stop:]) {
			for len(spans) > 0 && spans[len(spans)-1].from >= stop {
				spans = spans[:len(spans)-1]
			}
			if n := len(spans); n > 0 && spans[n-1].to > stop {
				spans[n-1].to = len(t.buf)
			} else {
				spans = append(spans, span{stop, len(t.buf)})
			}
		}
		stop = len(t.buf)
	}
	for _, sp := range spans {
		if sp.from < stop && stop < sp.to { // another secret may overlap this one: they are decided together
			stop, keep = sp.from, sp.from
		}
	}
	before, said := t.shown, false
	for _, sp := range spans {
		if sp.from >= stop {
			break
		}
		m.emit(t, sp.from, false)
		repeated := t.said && sp.from < before // its beginning was replaced already
		if sp.to > t.shown && !repeated {
			m.say(t)
		}
		m.emit(t, sp.to, true)
		said = sp.to == len(t.buf)
	}
	m.emit(t, stop, false)
	t.said = said || t.said && t.shown == before
	t.buf = append(t.buf[:0], t.buf[keep:]...)
	t.shown = max(0, t.shown-keep)
	if cap(t.buf) > 4*maxPending && len(t.buf) < maxPending {
		t.buf = bytes.Clone(t.buf)
	}
}

// find returns where secrets are in p, overlapping ones joined.
func (w *words) find(p []byte) (spans []span) {
	for from := 0; ; {
		at, to := w.match(p, from)
		if at < 0 {
			return spans
		}
		if n := len(spans); n > 0 && at < spans[n-1].to {
			spans[n-1].to = max(spans[n-1].to, to)
		} else {
			spans = append(spans, span{at, to})
		}
		from = at + 1
	}
}

// emit decides about the tail's bytes up to to: they are let through, or with hide left out.
func (m *mask) emit(t *tail, to int, hide bool) {
	for t.shown < to {
		it := t.items[0]
		n := min(to-t.shown, it.left)
		if !hide {
			it.out = append(it.out, t.buf[t.shown:t.shown+n]...)
		}
		t.shown += n
		if it.left -= n; it.left == 0 {
			t.items = t.items[1:]
		}
	}
}

// say puts the replacement where the tail's first undecided byte was.
func (m *mask) say(t *tail) { t.items[0].out = append(t.items[0].out, masked...) }

// head is the first Write that is not in the file, if all of it is decided.
func (m *mask) head() *item {
	if len(m.queue) == 0 || m.queue[0].left > 0 {
		return nil
	}
	return m.queue[0]
}

func (m *mask) pop() {
	m.pending -= m.queue[0].size
	m.queue[0] = nil
	if m.queue = m.queue[1:]; len(m.queue) == 0 {
		m.queue = nil
	}
}

// recall reads what the file ends with, so that a secret whose beginning was let through or masked before a crash is recognised.
func (m *mask) recall(f io.ReaderAt, size int64) error {
	longest := max(m.most-1, len(masked))
	c := liveCursor{f: f, off: int64(len(liveMagic))}
	defer c.idle()
	var ends [len(m.tails)][]byte
	for {
		_, r, err := c.next(size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		e := append(ends[r.stream], r.data[max(0, len(r.data)-longest):]...)
		ends[r.stream] = append(e[:0], e[max(0, len(e)-longest):]...)
	}
	for i, e := range ends {
		n := m.prefix(e)
		m.tails[i] = tail{buf: bytes.Clone(e[len(e)-n:]), shown: n, cut: bytes.HasSuffix(e, []byte(masked))}
	}
	return nil
}
