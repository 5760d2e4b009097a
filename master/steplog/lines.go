package steplog

import (
	"bytes"
	"sort"
	"sync"

	"github.com/rouse-ci/rouse/worker/proto"
)

// maxLine is after how much output of all streams a line is broken off; see the package comment.
const maxLine = 64 << 10

// Line is one line of one stream.
type Line struct {
	Number int64        `json:"number"` // counts from 0 in the order in which lines end
	Stream proto.Stream `json:"stream"`
	Text   []byte       `json:"text"` // without the newline, otherwise as it came: colours, carriage returns, any bytes
	Part   bool         `json:"part"` // broken off: the stream's next line goes on with it
}

// mark is a place in a log: a record and a byte of its payload. No record is at 0, so the zero mark is none.
type mark struct {
	off  int64
	skip int64
}

// entry is what one has to know to read lines from the record at off on.
type entry struct {
	off   int64
	line  int64                  // number of lines that ended before off
	begun [proto.Header + 1]mark // where the streams' unfinished lines began
}

// splitter cuts records into lines. It holds no more text than the unfinished lines, at most 64 KiB per stream.
type splitter struct {
	emit  func(Line) error // nil: only count
	line  int64
	count int64 // bytes seen
	warm  entry // records before warm.off only fill up the unfinished lines
	open  [proto.Header + 1]struct {
		active bool
		begun  mark
		from   int64 // value of count at its first byte
		text   []byte
	}
}

// start prepares for an entry and returns the record from which to feed.
func (sp *splitter) start(e entry) int64 {
	sp.warm, sp.line = e, e.line
	off := e.off
	for _, m := range e.begun {
		if m.off > 0 {
			off = min(off, m.off)
		}
	}
	return off
}

// entry describes the splitter before the record at off.
func (sp *splitter) entry(off int64) entry {
	e := entry{off: off, line: sp.line}
	for i := range sp.open {
		if sp.open[i].active {
			e.begun[i] = sp.open[i].begun
		}
	}
	return e
}

// feed takes the next record.
func (sp *splitter) feed(off int64, s proto.Stream, p []byte) error {
	cur := &sp.open[s]
	if off < sp.warm.off {
		sp.fill(off, s, p)
		return nil
	}
	var skip int64
	for len(p) > 0 {
		if !cur.active {
			cur.active, cur.begun, cur.from = true, mark{off, skip}, sp.count
		}
		room := cur.from + maxLine - sp.count
		for i := range sp.open {
			if o := &sp.open[i]; o.active {
				room = min(room, o.from+maxLine-sp.count)
			}
		}
		chunk := p[:min(int64(len(p)), room)]
		nl := bytes.IndexByte(chunk, '\n')
		if nl >= 0 {
			chunk = chunk[:nl+1]
		}
		n := int64(len(chunk))
		sp.count += n
		skip += n
		p = p[n:]
		switch {
		case nl >= 0:
			if err := sp.end(s, chunk[:nl], false); err != nil {
				return err
			}
		case sp.emit != nil:
			cur.text = append(cur.text, chunk...)
		}
		if n < room {
			continue
		}
		for i := range sp.open {
			if o := &sp.open[i]; o.active && sp.count-o.from >= maxLine {
				if err := sp.end(proto.Stream(i), nil, true); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fill rebuilds the unfinished lines of the entry from which reading starts.
func (sp *splitter) fill(off int64, s proto.Stream, p []byte) {
	m, cur := sp.warm.begun[s], &sp.open[s]
	if m.off == 0 || off < m.off {
		sp.count += int64(len(p))
		return
	}
	if off == m.off {
		skip := min(m.skip, int64(len(p)))
		sp.count += skip
		p = p[skip:]
		cur.active, cur.begun, cur.from = true, m, sp.count
	}
	sp.count += int64(len(p))
	if sp.emit != nil {
		cur.text = append(cur.text, p...)
	}
}

func (sp *splitter) end(s proto.Stream, last []byte, part bool) error {
	cur := &sp.open[s]
	l := Line{Number: sp.line, Stream: s, Text: last, Part: part}
	sp.line++
	cur.active = false
	if sp.emit == nil {
		return nil
	}
	if len(cur.text) > 0 {
		cur.text = append(cur.text, last...)
		l.Text = cur.text
		cur.text = cur.text[:0]
	}
	return sp.emit(l)
}

// flush ends the unfinished lines when the log has ended.
func (sp *splitter) flush() error {
	for {
		first := -1
		for i := range sp.open {
			if sp.open[i].active && (first < 0 || sp.open[i].from < sp.open[first].from) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if err := sp.end(proto.Stream(first), nil, false); err != nil {
			return err
		}
	}
}

// indexStep is the distance of the index's entries, in bytes of the file.
const indexStep = 64 << 10

// lineIndex is a sparse index of a growing log. Readers add to it as they go, so that it costs the writer nothing.
type lineIndex struct {
	mu      sync.Mutex
	entries []entry
}

// last returns the end of the indexed part.
func (x *lineIndex) last() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.entries) == 0 {
		return int64(len(liveMagic))
	}
	return x.entries[len(x.entries)-1].off
}

// add takes an entry that is far enough from the last one.
func (x *lineIndex) add(e entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.entries); n == 0 || x.entries[n-1].off+indexStep <= e.off {
		x.entries = append(x.entries, e)
	}
}

// find returns the last entry at or before the line.
func (x *lineIndex) find(line int64) entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return findEntry(x.entries, line)
}

// findEntry returns the last entry with no more than line lines before it, or the log's beginning.
func findEntry(entries []entry, line int64) entry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].line > line })
	if i == 0 {
		return entry{off: int64(len(liveMagic))}
	}
	return entries[i-1]
}
