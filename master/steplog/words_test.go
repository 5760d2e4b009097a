package steplog

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestWordsAreFoundAsByLookingForEach compares with the obvious way.
func TestWordsAreFoundAsByLookingForEach(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(least, most int, what string) []byte {
			return []byte(rapid.StringOfN(rapid.RuneFrom([]rune("abc")), least, most, -1).Draw(rt, what))
		}
		var patterns [][]byte
		for range rapid.IntRange(1, 12).Draw(rt, "words") {
			patterns = append(patterns, draw(2, 9, "word"))
		}
		p := draw(0, 40, "text")
		wantAt, wantTo, wantN, wantWhole := -1, 0, 0, 0
		for at := range p {
			for _, pat := range patterns {
				if bytes.HasPrefix(p[at:], pat) && (wantAt < 0 || wantAt == at && at+len(pat) > wantTo) {
					wantAt, wantTo = at, at+len(pat)
				}
				if n := len(p) - at; n < len(pat) && bytes.HasPrefix(pat, p[at:]) && (n > wantN || n == wantN && len(pat) < wantWhole) {
					wantN, wantWhole = n, len(pat)
				}
			}
		}
		w := newWords(patterns)
		if at, to := w.match(p, 0); at != wantAt || to != wantTo {
			rt.Errorf("%q in %q: from %d to %d, want %d to %d", patterns, p, at, to, wantAt, wantTo)
		}
		if n := w.prefix(p); n != wantN {
			rt.Errorf("%q at the end of %q: %d, want %d", patterns, p, n, wantN)
		} else if whole := w.shortest(p[len(p)-n:]); n > 0 && whole != wantWhole {
			rt.Errorf("%q: the shortest that begins with %q has %d bytes, want %d", patterns, p[len(p)-n:], whole, wantWhole)
		}
	})
}

// BenchmarkWriteManySecrets is BenchmarkWrite with as many secrets as a large configuration declares.
func BenchmarkWriteManySecrets(b *testing.B) {
	for _, n := range []int{3, 300, 3000} {
		var secrets []string
		x := uint32(1)
		for i := range n {
			x = x*1664525 + 1013904223
			secrets = append(secrets, fmt.Sprintf("%08x-%06d-%08x", x, i, x*x)[:6+x>>28])
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchWrite(b, secrets...) })
	}
}

// BenchmarkMaskLines is a step that prints line by line, or hardly anything but what secrets begin with.
func BenchmarkMaskLines(b *testing.B) {
	for _, n := range []int{3, 300, 3000} {
		var secrets [][]byte
		for i := range n {
			secrets = append(secrets, fmt.Appendf(nil, "ghp_%036d", i*7919))
		}
		for what, line := range map[string][]byte{"plain": chunk()[:80], "hostile": bytes.Repeat([]byte("ghp_0000"), 10)} {
			b.Run(fmt.Sprintf("%s/%d", what, n), func(b *testing.B) {
				m, _ := newMask(secrets)
				b.SetBytes(int64(len(line)))
				for b.Loop() {
					m.clean(line)
				}
			})
		}
	}
}
