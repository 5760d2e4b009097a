package steplog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/worker/proto"
)

type piece struct {
	s   proto.Stream
	p   []byte
	end int64
}

// output makes up what a step printed.
func output(rng *rand.Rand, n int) (ps []piece) {
	end := int64(0)
	for range n {
		size := rng.IntN(200)
		switch rng.IntN(20) {
		case 0:
			size = rng.IntN(3 * maxRecord)
		case 1:
			size = 0
		}
		p := make([]byte, size)
		for i := range p {
			p[i] = byte('a' + rng.IntN(26))
			if rng.IntN(40) == 0 {
				p[i] = '\n'
			}
		}
		end += int64(size)
		ps = append(ps, piece{s: proto.Stream(1 + rng.IntN(3)), p: p, end: end})
	}
	return ps
}

// send writes the output from a position on, as an agent does.
func send(t testing.TB, w *Writer, ps []piece, from int64) {
	t.Helper()
	for _, pc := range ps {
		if pc.end <= from {
			continue
		}
		p := pc.p
		if start := pc.end - int64(len(p)); start < from {
			p = p[from-start:]
		}
		ok(t, w.Write(pc.s, p, pc.end))
	}
}

// streams is what each stream printed; order is all of it in order.
func streams(ps []piece) (out [4]string, order string) {
	var b [4]strings.Builder
	var all strings.Builder
	for _, pc := range ps {
		b[pc.s].Write(pc.p)
		all.Write(pc.p)
	}
	for i := range b {
		out[i] = b[i].String()
	}
	return out, all.String()
}

// lines is the definition of lines in the package comment, byte by byte.
func lines(ps []piece) (ls []Line) {
	type open struct {
		from int
		text []byte
	}
	var cur [4]*open
	count := 0
	end := func(s int, part bool) {
		ls = append(ls, Line{Number: int64(len(ls)), Stream: proto.Stream(s), Text: cur[s].text, Part: part})
		cur[s] = nil
	}
	for _, pc := range ps {
		for _, c := range pc.p {
			if cur[pc.s] == nil {
				cur[pc.s] = &open{from: count}
			}
			count++
			if c == '\n' {
				end(int(pc.s), false)
			} else {
				cur[pc.s].text = append(cur[pc.s].text, c)
			}
			for s := range cur {
				if cur[s] != nil && count-cur[s].from >= maxLine {
					end(s, true)
				}
			}
		}
	}
	for {
		first := -1
		for s := range cur {
			if cur[s] != nil && (first < 0 || cur[s].from < cur[first].from) {
				first = s
			}
		}
		if first < 0 {
			return ls
		}
		end(first, false)
	}
}

func sameLines(t testing.TB, what string, want, got []Line) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: %d lines, want %d", what, len(got), len(want))
	}
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		if w.Number != g.Number || w.Stream != g.Stream || w.Part != g.Part || !bytes.Equal(w.Text, g.Text) {
			t.Fatalf("%s: line %d: got %d of stream %d, %d bytes; want %d of stream %d, %d bytes", what, i, g.Number, g.Stream, len(g.Text), w.Number, w.Stream, len(w.Text))
		}
	}
}

func TestLinesAreTheSameFromAnywhereInAnyForm(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ps := output(rng, 300)
		if seed%3 == 0 { // hardly any newlines: lines are broken off
			for i := range ps {
				ps[i].p = bytes.ReplaceAll(ps[i].p, []byte("\n"), []byte("_"))
			}
		}
		want := lines(ps)
		d := openDir(t, Options{PackFrom: 1 << 30})
		w := create(t, d, stdio)
		send(t, w, ps[:150], -1)
		live := reader(t, d, stdio)
		_, err := live.Count() // builds a part of the index
		ok(t, err)
		followed := make(chan []Line)
		go func() {
			var got []Line
			if err := live.Follow(t.Context(), 0, func(l Line) error {
				l.Text = bytes.Clone(l.Text)
				got = append(got, l)
				return nil
			}); err != nil {
				t.Error(err)
			}
			followed <- got
		}()
		send(t, w, ps[150:], ps[149].end)
		ok(t, w.Close())
		sameLines(t, "followed", want, <-followed)
		check := func(what string, r *Reader) {
			t.Helper()
			if n, err := r.Count(); n != int64(len(want)) || err != nil {
				t.Error(what, n, len(want), err)
			}
			for range 30 {
				from := rng.IntN(len(want) + 1)
				n := 1 + rng.IntN(50)
				got, err := r.Lines(int64(from), n)
				ok(t, err)
				exp := want[from:min(len(want), from+n)]
				if len(got) < len(exp) { // the bound of an answer
					t.Fatal(what, len(got), len(exp))
				}
				sameLines(t, fmt.Sprint(what, " from ", from), exp, got)
			}
		}
		check("growing form", live)
		d.pack.add(stdio, 1<<40)
		d.Idle()
		r := reader(t, d, stdio)
		if r.packed == nil {
			t.Fatal("not packed")
		}
		check("packed form", r)
		each, all := streams(ps)
		if text(t, r) != all || text(t, live) != all {
			t.Error("raw text differs")
		}
		for s := proto.Stdout; s <= proto.Header; s++ {
			if text(t, r, s) != each[s] {
				t.Error("stream", s)
			}
		}
	}
}

func TestAfterACrashAtAnyByteNothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 2))
		ps := output(rng, 60)
		path := filepath.Join(t.TempDir(), "logs")
		file := filepath.Join(path, "7", "2-stdio.log")
		var secrets [][]byte
		if seed%2 == 0 {
			secrets = [][]byte{[]byte("aabbccdd")} // not in the output, but its beginning is
		}
		for from, crash := int64(-1), 0; ; crash++ {
			d := openDirAt(t, path, Options{PackFrom: 1})
			w, err := d.Resume(stdio, secrets)
			ok(t, err)
			if crash > 0 {
				from = w.Position()
			}
			if crash == 4 {
				send(t, w, ps, from)
				ok(t, w.Close())
				if w.Position() != ps[len(ps)-1].end {
					t.Error(w.Position())
				}
				d.Idle()
				_, all := streams(ps)
				if got := text(t, reader(t, d, stdio)); got != all {
					t.Fatal(seed, "the text differs", len(got), len(all))
				}
				break
			}
			send(t, w, ps[:rng.IntN(len(ps))], from)
			ok(t, w.Abandon())
			ok(t, d.Close())
			fi, err := os.Stat(file)
			ok(t, err)
			size := rng.Int64N(fi.Size() + 1)
			ok(t, os.Truncate(file, size))
			if rng.IntN(3) == 0 { // a power loss leaves zeros
				ok(t, os.Truncate(file, size+rng.Int64N(5000)))
			}
		}
	}
}

func TestACorruptFileIsReadAsFarAsItIsWhole(t *testing.T) {
	t.Parallel()
	for _, packFrom := range []int64{1, 1 << 30} {
		d := openDir(t, Options{PackFrom: packFrom})
		w := create(t, d, stdio)
		rng := rand.New(rand.NewPCG(1, 3))
		ps := output(rng, 400)
		send(t, w, ps, -1)
		ok(t, w.Close())
		d.Idle()
		name := filepath.Join(d.path, "7", "2-stdio.log")
		if packFrom == 1 {
			name += "z"
		}
		b, err := os.ReadFile(name)
		ok(t, err)
		b[len(b)/2] ^= 0x40
		ok(t, os.WriteFile(name, b, 0o600))
		var got bytes.Buffer
		r := reader(t, d, stdio)
		err = r.WriteText(t.Context(), &got)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "at offset") {
			t.Error(err)
		}
		_, all := streams(ps)
		if got.Len() < len(all)/4 || !strings.HasPrefix(all, got.String()) {
			t.Error("whole part:", got.Len(), "of", len(all))
		}
		ls, err := r.Lines(0, 1000000)
		if !errors.Is(err, ErrCorrupt) || len(ls) == 0 {
			t.Error(len(ls), err)
		}
	}
}

func TestACorruptIndexIsAnError(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{PackFrom: 1})
	w := create(t, d, stdio)
	ok(t, w.Write(proto.Stdout, []byte("hello\n"), 6))
	ok(t, w.Close())
	d.Idle()
	name := filepath.Join(d.path, "7", "2-stdio.logz")
	whole, err := os.ReadFile(name)
	ok(t, err)
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		ok(t, os.WriteFile(name, b, 0o600))
		r, err := d.Reader(stdio)
		if err == nil {
			var got bytes.Buffer
			err = r.WriteText(t.Context(), &got)
			ok(t, r.Close())
			if err == nil && got.String() == "hello\n" {
				continue // a hint to the decompressor that changes nothing
			}
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Error("byte", i, err)
		}
		ok(t, os.WriteFile(name, whole[:i], 0o600))
		if r, err := d.Reader(stdio); err == nil {
			ok(t, r.Close())
			t.Error("cut at", i)
		}
	}
}

func FuzzGrowingForm(f *testing.F) {
	b := appendRecord([]byte(liveMagic), record{stream: 1, end: 5, data: []byte("hello")})
	f.Add(b)
	f.Add(appendRecord(b, record{stream: endStream, end: 5}))
	f.Add(appendRecord(b, record{stream: 2, flags: flagMore, end: 7, data: []byte("x\n")}))
	f.Add(appendRecord(b, record{stream: 3, flags: flagDropped, end: 7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := scan(bytes.NewReader(b), int64(len(b)))
		if err != nil || s.good > int64(len(b)) {
			t.Fatal(s, err)
		}
		again, err := scan(bytes.NewReader(b[:s.good]), s.good)
		if err != nil || again.good != s.good || again.bad != nil {
			t.Fatal("what is whole is not whole:", cmp.Diff(s.good, again.good), err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	p := packed{pos: 9, lines: 3, frames: []frame{{8, 100, 8, 200}, {108, 50, 208, 80}},
		entries: []entry{{off: 8}, {off: 208, line: 1, begun: [4]mark{2: {off: 100, skip: 7}}}}}
	f.Add(p.appendIndex(nil), int64(158))
	f.Add([]byte{}, int64(8))
	f.Fuzz(func(t *testing.T, b []byte, end int64) {
		var p packed
		if p.parseIndex(b, end) != nil {
			return
		}
		var q packed
		if err := q.parseIndex(p.appendIndex(nil), end); err != nil || q.size != p.size || len(q.entries) != len(p.entries) {
			t.Fatal(err)
		}
	})
}

func FuzzPackedForm(f *testing.F) {
	dec, err := newDecoder()
	ok(f, err)
	f.Cleanup(dec.Close)
	f.Add([]byte(packedMagic), []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, frames, index []byte) {
		b := append(append([]byte(packedMagic), frames...), index...)
		at := int64(len(packedMagic) + len(frames))
		b = append(b, appendTrailer(nil, at, index)...)
		p, err := openPacked(bytes.NewReader(b), int64(len(b)), dec)
		if err != nil {
			return
		}
		c := packedCursor{p: p, off: 8}
		sp := splitter{emit: func(Line) error { return nil }}
		for range 10000 {
			off, r, err := c.next(p.size)
			if err != nil {
				return
			}
			ok(t, sp.feed(off, r.stream, r.data))
		}
	})
}
