package steplog

import (
	"bytes"
	"slices"
	"sort"
)

// words finds any of many words in a text. What it costs for each byte of the text hardly depends on how many words there are: most bytes are skipped
// (Wu and Manber, 1994), and where a word may begin, its neighbours in alphabetical order are looked for by halving.
type words struct {
	patterns [][]byte // sorted, each once, of at least two bytes
	shorter  []int32  // for each, the longest other one that it begins with; -1 if there is none
	least    int      // length of the shortest
	most     int      // length of the longest
	skip     [pairs]uint8
	begin    [pairs / 64]uint64 // pairs of bytes that words begin with
	first    [256]bool          // bytes that words begin with
}

const pairs = 1 << 12

func pair(a, b byte) uint16 { return (uint16(a)<<5 ^ uint16(b)) & (pairs - 1) }

// newWords takes the patterns, of which there must be one.
func newWords(patterns [][]byte) words {
	slices.SortFunc(patterns, bytes.Compare)
	w := words{patterns: slices.CompactFunc(patterns, bytes.Equal)}
	w.least = len(w.patterns[0])
	w.shorter = make([]int32, len(w.patterns))
	for i, pat := range w.patterns {
		w.least, w.most = min(w.least, len(pat)), max(w.most, len(pat))
		h := pair(pat[0], pat[1])
		w.begin[h/64] |= 1 << (h % 64)
		w.first[pat[0]] = true
		w.shorter[i] = -1
		if i > 0 { // all that begin with the same word follow it
			j := int32(i - 1)
			for j >= 0 && !bytes.HasPrefix(pat, w.patterns[j]) {
				j = w.shorter[j]
			}
			w.shorter[i] = j
		}
	}
	for i := range w.skip {
		w.skip[i] = uint8(min(w.least-1, 255))
	}
	for _, pat := range w.patterns {
		for i := 1; i < w.least; i++ { // how far the pair's last byte is from the end of the first least bytes of any word
			h := pair(pat[i-1], pat[i])
			w.skip[h] = min(w.skip[h], uint8(min(w.least-1-i, 255)))
		}
	}
	return w
}

// begins says whether a word may begin with these two bytes.
func (w *words) begins(a, b byte) bool {
	h := pair(a, b)
	return w.begin[h/64]&(1<<(h%64)) != 0
}

// match returns the first place at or after from where a word is in p, and the end of the longest one there; -1 if there is none.
func (w *words) match(p []byte, from int) (at, to int) {
	for i := from + w.least - 1; i < len(p); {
		if skip := w.skip[pair(p[i-1], p[i])]; skip > 0 {
			i += int(skip)
			continue
		}
		at = i - w.least + 1
		if w.begins(p[at], p[at+1]) {
			if n := w.longest(p[at:]); n > 0 {
				return at, at + n
			}
		}
		i++
	}
	return -1, 0
}

// longest returns the length of the longest word that p begins with; 0 if it begins with none. That word is the last one in alphabetical order that is not
// behind p, or one that this one begins with.
func (w *words) longest(p []byte) int {
	if len(p) > w.most {
		p = p[:w.most]
	}
	for i := int32(w.after(p) - 1); i >= 0; i = w.shorter[i] {
		if bytes.HasPrefix(p, w.patterns[i]) {
			return len(w.patterns[i])
		}
	}
	return 0
}

// after returns the index of the first word behind p.
func (w *words) after(p []byte) int {
	return sort.Search(len(w.patterns), func(i int) bool { return bytes.Compare(w.patterns[i], p) > 0 })
}

// prefix returns the length of the longest end of p that is the beginning, but not the whole, of a word.
func (w *words) prefix(p []byte) int {
	for at := max(0, len(p)-w.most+1); at < len(p)-1; at++ {
		if !w.begins(p[at], p[at+1]) {
			continue
		}
		if i := w.after(p[at:]); i < len(w.patterns) && bytes.HasPrefix(w.patterns[i], p[at:]) {
			return len(p) - at
		}
	}
	if len(p) > 0 && w.first[p[len(p)-1]] {
		return 1
	}
	return 0
}

// shortest returns the length of the shortest word that has this beginning and is longer; 0 if none is.
func (w *words) shortest(beginning []byte) (n int) {
	for i := w.after(beginning); i < len(w.patterns) && bytes.HasPrefix(w.patterns[i], beginning); i++ {
		if n == 0 || len(w.patterns[i]) < n {
			n = len(w.patterns[i])
		}
	}
	return n
}
