package steplog

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/worker/proto"
)

// maskAll masks pieces, alternating with another stream's if between is set, and returns what both streams show.
func maskAll(t testing.TB, secrets []string, pieces [][]byte, between string) (out, err string) {
	t.Helper()
	d := openDir(t, Options{})
	w := create(t, d, stdio, secrets...)
	end := int64(0)
	for _, p := range pieces {
		end += int64(len(p))
		ok(t, w.Write(proto.Stdout, p, end))
		if between != "" {
			end += int64(len(between))
			ok(t, w.Write(proto.Stderr, []byte(between), end))
		}
		if pos := w.Position(); pos > end {
			t.Fatal("position", pos, "of", end)
		}
	}
	ok(t, w.Close())
	if w.Position() != end {
		t.Fatal("position", w.Position(), "of", end)
	}
	r := reader(t, d, stdio)
	return text(t, r, proto.Stdout), text(t, r, proto.Stderr)
}

func TestSecretsAreMaskedHoweverTheyAreCut(t *testing.T) {
	t.Parallel()
	secrets := []string{"hunter2hunter2", "-----BEGIN KEY-----\nMIIabc\nab\n-----END KEY-----\n", "key2"}
	in := "a hunter2hunter2 b hunter2hunte r hunter2hunter2hunter2\nkeykey2 MIIabc\n-----BEGIN KEY-----\nMIIabc\nab\n-----END KEY-----\n-----END"
	want := "a (secret) b hunter2hunte r (secret)\nkey(secret) (secret)\n(secret)\n-----END"
	for i := range len(in) + 1 {
		for _, between := range []string{"", "x\n"} {
			got, other := maskAll(t, secrets, [][]byte{[]byte(in[:i]), []byte(in[i:])}, between)
			if got != want || other != strings.Repeat(between, 2) {
				t.Fatalf("cut at %d: %q %q", i, got, other)
			}
		}
	}
	var bytewise [][]byte
	for i := range len(in) {
		bytewise = append(bytewise, []byte(in[i:i+1]))
	}
	if got, _ := maskAll(t, secrets, bytewise, "x"); got != want {
		t.Fatalf("%q", got)
	}
}

func TestMaskingDoesNotDependOnTheCuts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("ab\n")), 4, 9, -1)
		secrets := rapid.SliceOfN(word, 1, 4).Draw(rt, "secrets")
		var bs [][]byte
		for _, s := range secrets {
			bs = append(bs, []byte(s))
		}
		in := []byte(rapid.StringOfN(rapid.RuneFrom([]rune("ab\n")), 0, 60, -1).Draw(rt, "in"))
		run := func(cut func() int) (string, bool) {
			m, _ := newMask(bs)
			if m == nil {
				return "", false
			}
			var out []byte
			pump := func() {
				for it := m.head(); it != nil; it = m.head() {
					out = append(out, it.out...)
					m.pop()
				}
			}
			for rest := in; len(rest) > 0; {
				n := min(len(rest), cut())
				m.add(proto.Stdout, rest[:n], 0)
				rest = rest[n:]
				pump()
			}
			m.decide()
			pump()
			if m.pending != 0 || len(m.queue) != 0 {
				rt.Fatal("something was never decided")
			}
			return string(out), true
		}
		whole, any := run(func() int { return len(in) })
		if !any {
			return
		}
		cut, _ := run(func() int { return rapid.IntRange(1, 7).Draw(rt, "n") })
		if whole != cut {
			rt.Fatalf("%q: whole %q, cut %q", in, whole, cut)
		}
		for _, s := range secrets {
			if s = strings.TrimRight(s, "\r\n"); len(s) >= minSecret && strings.Contains(whole, s) {
				rt.Fatalf("%q is in %q", s, whole)
			}
		}
	})
}

func TestWhatMayBeginASecretWaitsASecondAndNoLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := openDir(t, Options{})
		w := create(t, d, stdio, "0123456789")
		ok(t, w.Write(proto.Stdout, []byte("x012"), 4))
		ok(t, w.Write(proto.Stderr, []byte("after"), 9))
		if w.Position() != 0 {
			t.Error("acknowledged what is not in the file:", w.Position())
		}
		time.Sleep(maxHold + time.Millisecond)
		synctest.Wait()
		if w.Position() != 9 {
			t.Error(w.Position())
		}
		r := reader(t, d, stdio)
		if got := text(t, r); got != "x012after" {
			t.Errorf("%q", got)
		}
		ok(t, w.Write(proto.Stdout, []byte("3456789!"), 17)) // the secret after all: what is left of it is masked
		if got := text(t, r, proto.Stdout); got != "x012(secret)!" {
			t.Errorf("%q", got)
		}
		ok(t, w.Write(proto.Stdout, []byte("012345"), 23)) // most of a secret is masked at once
		ok(t, w.Flush())
		ok(t, w.Write(proto.Stdout, []byte("6789."), 28)) // and the rest adds nothing
		if got := text(t, r, proto.Stdout); got != "x012(secret)!(secret)." {
			t.Errorf("%q", got)
		}
		ok(t, w.Close())
	})
}

func TestASecretThatACrashCutIsStillMasked(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{})
	w := create(t, d, stdio, "0123456789")
	ok(t, w.Write(proto.Stdout, []byte("x012"), 4))
	ok(t, w.Flush())
	ok(t, w.Abandon())
	w, err := d.Resume(stdio, [][]byte{[]byte("0123456789")})
	ok(t, err)
	ok(t, w.Write(proto.Stdout, []byte("3456789!"), 12))
	ok(t, w.Close())
	if got := text(t, reader(t, d, stdio)); got != "x012(secret)!" {
		t.Errorf("%q", got)
	}
}

func TestTheQueueOfHeldBytesIsBounded(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{})
	w := create(t, d, stdio, "0123456789")
	ok(t, w.Write(proto.Stdout, []byte("0"), 1))
	p := bytes.Repeat([]byte("y"), 1000)
	end := int64(1)
	for range 200 {
		end += 1000
		ok(t, w.Write(proto.Stderr, p, end))
		if lag := end - w.Position(); lag > maxPending+2000 {
			t.Fatal(lag, "bytes are held")
		}
	}
	ok(t, w.Close())
}

func TestShortSecretsAreIgnoredWithANote(t *testing.T) {
	t.Parallel()
	m, notes := newMask([][]byte{nil, []byte("abc"), []byte("abcd\n"), []byte("\n\n")})
	if len(notes) != 3 || len(m.patterns) != 1 || strings.Contains(strings.Join(notes, ""), "abc") {
		t.Error(notes, len(m.patterns))
	}
	if m, _ := newMask([][]byte{[]byte("abc")}); m != nil {
		t.Error("a mask for nothing")
	}
}

func TestRestOfASecretIsMaskedAfterACrash(t *testing.T) {
	t.Parallel()
	for _, rest := range []string{"en-sesame! x", "en", "en-sesa"} {
		d := openDir(t, Options{})
		w := create(t, d, stdio, "open-sesame")
		ok(t, w.Write(proto.Stdout, []byte("it is op"), 8))
		ok(t, w.Write(proto.Stderr, []byte("o"), 9)) // may begin one as well, so it stays behind
		ok(t, w.Write(proto.Stdout, []byte("en-sesame! x"), 21))
		if w.Position() != 8 {
			t.Fatal("position", w.Position())
		}
		ok(t, w.Abandon())
		w, err := d.Resume(stdio, [][]byte{[]byte("open-sesame")})
		ok(t, err)
		ok(t, w.Write(proto.Stderr, []byte("o"), 9))
		ok(t, w.Write(proto.Stdout, []byte(rest), 9+int64(len(rest))))
		ok(t, w.Write(proto.Stdout, []byte("en-sesame! x")[len(rest):], 21))
		ok(t, w.Close())
		r := reader(t, d, stdio)
		if got := text(t, r, proto.Stdout); got != "it is (secret)! x" {
			t.Errorf("%q: got %q", rest, got)
		}
	}
}
