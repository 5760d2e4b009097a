package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/worker/proto"
	"github.com/rouse-ci/rouse/worker/run"
)

// settings are what a v7 master sets: how output is gathered and cut into lines.
type settings struct {
	bufferSize    int
	bufferTimeout time.Duration
	lineLength    int
}

// defaultSettings are Buildbot's, except that output does not wait for 5 s.
var defaultSettings = settings{bufferSize: 64 << 10, bufferTimeout: time.Second, lineLength: 4096}

// parseSettings reads set_worker_settings. newline_re must be there, as with the reference worker, and is taken to be the reference value: others are
// not known to exist, and it cannot be written as a regular expression of Go.
func parseSettings(args map[string]any) (settings, error) {
	var set settings
	size, ok1 := args["buffer_size"].(int64)
	length, ok2 := args["max_line_length"].(int64)
	_, ok3 := args["newline_re"].(string)
	var seconds float64
	ok4 := true
	switch v := args["buffer_timeout"].(type) {
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		ok4 = false
	}
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return set, errors.New("set_worker_settings needs buffer_size, buffer_timeout, newline_re and max_line_length")
	}
	set.bufferSize = int(min(max(size, 1), proto.MaxOutput))
	set.lineLength = int(min(max(length, 16), proto.MaxOutput/4))
	set.bufferTimeout = min(max(time.Duration(seconds*float64(time.Second)), 10*time.Millisecond), time.Minute)
	return set, nil
}

// plain is a command of plain v7: its Sink cuts output into lines, gathers them, and sends updates over the link that started it.
type plain struct {
	id     string
	link   *link
	cancel context.CancelCauseFunc
	set    settings

	mu    sync.Mutex
	lines map[string]*splitter
	items []item
	size  int
	timer *time.Timer // runs while there are items
}

// item is one [key, value] pair of an update: lines of a stream, or a value.
type item struct {
	key   string
	value any // nil for lines
	text  []byte
	runes int64
	ends  []int64   // index of each newline in text, in code points
	times []float64 // when each line began to arrive
}

func (s *session) startPlain(id string, spec run.Command) error {
	s.Agent.mu.Lock()
	set := s.settings
	s.Agent.mu.Unlock()
	s.v7mu.Lock()
	defer s.v7mu.Unlock()
	if s.v7[id] != nil {
		return nil
	}
	if s.v7 == nil {
		s.v7 = map[string]*plain{}
	}
	ctx, cancel := context.WithCancelCause(s.link.ctx) // dies with the link
	p := &plain{id: id, link: s.link, cancel: cancel, set: set, lines: map[string]*splitter{}}
	s.v7[id] = p
	s.running.Go(func() {
		err := run.Run(ctx, spec, p)
		p.finish(err)
		cancel(nil)
		s.v7mu.Lock()
		delete(s.v7, id)
		s.v7mu.Unlock()
	})
	return nil
}

var streamNames = [...]string{proto.Stdout: "stdout", proto.Stderr: "stderr", proto.Header: "header"}

// Output implements run.Sink.
func (p *plain) Output(s proto.Stream, b []byte) {
	now := float64(time.Now().UnixMicro()) / 1e6
	p.mu.Lock()
	defer p.mu.Unlock()
	name := streamNames[s]
	sp := p.lines[name]
	if sp == nil {
		sp = &splitter{longest: p.set.lineLength}
		p.lines[name] = sp
	}
	sp.push(b, now, func(line []byte, at float64) { p.line(name, line, at) })
}

// Update implements run.Sink.
func (p *plain) Update(key string, value any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items = append(p.items, item{key: key, value: value})
	p.grown(20)
}

// line adds one line, without its newline.
func (p *plain) line(name string, line []byte, at float64) {
	var it *item
	if n := len(p.items); n > 0 && p.items[n-1].key == name && p.items[n-1].text != nil {
		it = &p.items[n-1]
	} else {
		p.items = append(p.items, item{key: name})
		it = &p.items[len(p.items)-1]
	}
	it.text = append(append(it.text, line...), '\n')
	it.runes += int64(utf8.RuneCount(line))
	it.ends = append(it.ends, it.runes)
	it.runes++
	it.times = append(it.times, at)
	p.grown(len(line) + 1 + 16)
}

// grown sends what has gathered if it is enough, and sees to it that it does not lie for long.
func (p *plain) grown(n int) {
	p.size += n
	switch {
	case p.size >= p.set.bufferSize:
		p.flush()
	case p.timer == nil:
		p.timer = time.AfterFunc(p.set.bufferTimeout, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.flush()
		})
	}
}

func (p *plain) flush() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if len(p.items) == 0 {
		return
	}
	args := make([]any, len(p.items))
	for i, it := range p.items {
		if it.text == nil {
			args[i] = []any{it.key, it.value}
		} else {
			args[i] = []any{it.key, []any{string(it.text), it.ends, it.times}}
		}
	}
	p.items, p.size = nil, 0
	if err := p.link.post(proto.OpUpdate, p.id, map[string]any{"args": args}); err != nil {
		p.link.fail(err)
	}
}

// finish flushes the last, unfinished lines, in sorted order of the streams' names, and completes.
func (p *plain) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]string, 0, len(p.lines))
	for n := range p.lines {
		names = append(names, n)
	}
	slices.SortFunc(names, cmp.Compare[string])
	for _, n := range names {
		p.lines[n].end(func(line []byte, at float64) { p.line(n, line, at) })
	}
	p.flush()
	var text any
	if err != nil {
		text = fmt.Sprint(err)
	}
	if err := p.link.post(proto.OpComplete, p.id, map[string]any{"args": text}); err != nil {
		p.link.fail(err)
	}
}

// splitter cuts one stream into lines by Buildbot's reference newline_re: LF, CR LF, CR, ESC [ u, ESC [ n ; n H or f, ESC [ 2 J, and a run of
// backspaces each end a line. Longer lines are cut at a rune's end (where the reference worker loses text).
type splitter struct {
	longest int
	line    []byte // of the current line, so far
	tail    []byte // undecided: what follows decides
	at      float64
}

func (s *splitter) push(p []byte, now float64, emit func([]byte, float64)) {
	if len(s.tail) > 0 {
		p = append(s.tail, p...)
		s.tail = nil
	}
	for len(p) > 0 {
		if len(s.line) == 0 {
			s.at = now
		}
		n := bytes.IndexAny(p, "\n\r\x1b\b")
		if n < 0 {
			n = len(p)
		}
		s.add(p[:n], now, emit)
		if p = p[n:]; len(p) == 0 {
			return
		}
		n, newline, decided := control(p)
		if !decided {
			s.tail = bytes.Clone(p)
			return
		}
		if newline {
			s.flush(emit)
		} else {
			s.line = append(s.line, p[:n]...)
		}
		p = p[n:]
	}
}

// add appends text without newlines to the line, cutting it where it gets too long.
func (s *splitter) add(p []byte, now float64, emit func([]byte, float64)) {
	for len(s.line)+len(p) >= s.longest {
		n := max(s.longest-1-len(s.line), 0)
		for n > 0 && !utf8.RuneStart(p[n]) {
			n--
		}
		s.line = append(s.line, p[:n]...)
		p = p[n:]
		s.flush(emit)
		s.at = now
	}
	s.line = append(s.line, p...)
}

func (s *splitter) flush(emit func([]byte, float64)) {
	emit(s.line, s.at)
	s.line = s.line[:0]
}

func (s *splitter) end(emit func([]byte, float64)) {
	switch {
	case len(s.tail) == 1 && s.tail[0] == '\r': // CR at the very end
	default:
		s.line = append(s.line, s.tail...)
	}
	if len(s.line) > 0 || len(s.tail) > 0 {
		s.flush(emit)
	}
	s.tail = nil
}

// control looks at p, which begins with LF, CR, ESC or backspace: the length of what it is, whether that ends a line, and whether p is enough to
// say so.
func control(p []byte) (n int, newline, decided bool) {
	switch p[0] {
	case '\n':
		return 1, true, true
	case '\r':
		if len(p) == 1 {
			return 0, false, false
		}
		if p[1] == '\n' {
			return 2, true, true
		}
		return 1, true, true
	case '\b':
		for n < len(p) && p[n] == '\b' {
			n++
		}
		return n, true, true
	}
	// ESC [ (u | 2J | digits ; digits (H | f))
	const longest = 24
	if len(p) == 1 {
		return 0, false, false
	}
	if p[1] != '[' {
		return 1, false, true
	}
	semicolons, digits := 0, 0
	for i := 2; i < len(p) && i < longest; i++ {
		switch c := p[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == ';' && semicolons == 0 && digits > 0:
			semicolons, digits = 1, 0
		case c == 'u' && i == 2, c == 'J' && i == 3 && p[2] == '2', (c == 'H' || c == 'f') && semicolons == 1 && digits > 0:
			return i + 1, true, true
		default:
			return 1, false, true
		}
	}
	return 1, false, len(p) >= longest
}
