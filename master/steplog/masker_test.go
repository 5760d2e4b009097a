package steplog

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestWhereSecretsOverlapNothingOfEitherIsSeen(t *testing.T) {
	t.Parallel()
	m := NewMasker([][]byte{[]byte("https://ci:hunter2@host"), []byte("hunter2@host/path\n"), []byte("abc"), []byte("BEGIN KEY\n  MIIabcdef\r\nEND KEY")})
	for in, want := range map[string]string{
		"to https://ci:hunter2@host/path now": "to (secret) now",
		"abc":                                 "abc", // it would mask everything
		"> MIIabcdef\r\n":                     "> (secret)\r\n",
		"":                                    "",
		"hunter2@host/path":                   "(secret)",
	} {
		if got := m.Text(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if none := NewMasker([][]byte{[]byte("abc")}); none != nil || none.Text("abc") != "abc" || none.Begins([]byte("ab")) != 0 {
		t.Error("something is hidden although nothing is long enough")
	}
	if n := m.Begins([]byte("x hunter2@h")); n != len("hunter2@h") {
		t.Error(n)
	}
}

// TestAStreamIsMaskedHoweverItIsCut compares with the whole text, and lets nothing wait that cannot begin a secret.
func TestAStreamIsMaskedHoweverItIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := []string{"aabaab", "baabaabb", "other-secret"}
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(append(slices.Clone(values), "abc", "other-", "aab", "\n", "b")), 0, 12).Draw(t, "text"), "") + "."
		var hide [][]byte
		for _, v := range rapid.Permutation(values).Draw(t, "order") {
			hide = append(hide, []byte(v))
		}
		m := NewMasker(hide)
		var buf bytes.Buffer
		out := m.Stream(&buf)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if _, err := out.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got, want := buf.String(), m.Text(text); got != want { // the last byte begins nothing
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
		if err := out.Flush(); err != nil || buf.String() != m.Text(text) {
			t.Fatal(buf.String(), err)
		}
	})
}

func TestWhatAStreamHoldsBackIsWrittenInTheEnd(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	out := NewMasker([][]byte{[]byte("0123456789")}).Stream(&buf)
	if _, err := out.Write([]byte("x012")); err != nil || buf.String() != "x" {
		t.Errorf("%q, %v", buf.String(), err)
	}
	if err := out.Flush(); err != nil || buf.String() != "x012" {
		t.Errorf("%q, %v", buf.String(), err)
	}
	buf.Reset()
	out = NewMasker(nil).Stream(&buf)
	for _, p := range []string{"late", "-secret ", "late-sec", "ret"} {
		if _, err := out.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
		if p == "-secret " {
			out.Hide([][]byte{[]byte("late-secret")})
		}
	}
	if err := out.Flush(); err != nil || buf.String() != "late-secret (secret)" {
		t.Errorf("%q, %v", buf.String(), err)
	}
}

// TestASecretThatIsLearnedLateIsMaskedFromThenOn: whatever is held back or was let through by then.
func TestASecretThatIsLearnedLateIsMaskedFromThenOn(t *testing.T) {
	t.Parallel()
	for _, first := range [][]string{nil, {"abcdef"}} {
		d := openDir(t, Options{})
		w := create(t, d, stdio, first...)
		end := int64(0)
		write := func(p string) {
			end += int64(len(p))
			ok(t, w.Write(proto.Stdout, []byte(p), end))
		}
		write("hunter2 abcd") // "abcd" may be held back
		w.Hide([][]byte{[]byte("hunter2"), []byte("xyz")})
		write("ef hunter2 xyz hun")
		w.Hide([][]byte{[]byte("late-secret")})
		write("ter2 late-secret")
		ok(t, w.Close())
		want := "hunter2 (secret) (secret) xyz (secret) (secret)"
		if first == nil {
			want = "hunter2 abcdef (secret) xyz (secret) (secret)"
		}
		if got := text(t, reader(t, d, stdio), proto.Stdout); got != want || w.Position() != end {
			t.Errorf("%q, want %q; position %d of %d", got, want, w.Position(), end)
		}
	}
}

// A long secret is looked for in pieces, of which the last one may be too short to be looked for alone.
func TestNoByteOfALongSecretIsSeen(t *testing.T) {
	t.Parallel()
	for n := maxPattern - 1; n <= 2*maxPattern+minSecret; n++ {
		if n == maxPattern+minSecret+1 {
			n = 2*maxPattern - 1
		}
		var secret strings.Builder
		for i := 0; secret.Len() < n; i++ {
			secret.WriteString(string(rune('A'+i%26)) + strings.Repeat("x", i%7))
		}
		whole := secret.String()[:n]
		if got := NewMasker([][]byte{[]byte(whole)}).Text("<" + whole + ">"); strings.Trim(got, "<>") != strings.Repeat(masked, strings.Count(got, masked)) {
			t.Errorf("%d bytes: %q", n, got)
		}
	}
}

// TestWhatIsLearnedLateIsMaskedHoweverItIsCut: also while the beginning of another secret, or of the new one, is held back.
func TestWhatIsLearnedLateIsMaskedHoweverItIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(least, most int, what string) string {
			return rapid.StringOfN(rapid.RuneFrom([]rune("ab\n")), least, most, -1).Draw(rt, what)
		}
		old, late := []byte(draw(4, 9, "old")), []byte(draw(4, 9, "late"))
		before, after := draw(0, 30, "before"), draw(0, 30, "after")
		m, _ := newMask([][]byte{old})
		if m == nil {
			return
		}
		var out []byte
		write := func(text string) {
			for rest := []byte(text); len(rest) > 0; {
				n := min(len(rest), rapid.IntRange(1, 7).Draw(rt, "n"))
				m.add(proto.Stdout, rest[:n], 0)
				rest = rest[n:]
				for it := m.head(); it != nil; it = m.head() {
					out = append(out, it.out...)
					m.pop()
				}
			}
		}
		write(before)
		m.more([][]byte{late})
		write("#" + after + "#")
		got := strings.Split(string(out), "#")
		if len(got) != 3 {
			rt.Fatalf("%q", out)
		}
		if want := NewMasker([][]byte{old, late}).Text(after); got[1] != want {
			rt.Errorf("%q became %q, want %q", after, got[1], want)
		}
		if secret := strings.TrimRight(string(old), "\r\n"); len(secret) >= minSecret && strings.Contains(got[0], secret) {
			rt.Errorf("%q is in %q", secret, got[0])
		}
	})
}

// TestAStreamHoldsBackNoMoreThanItMust: who follows a console sees the line at which a machine hangs, whatever its last letter is.
func TestAStreamHoldsBackNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	s := NewMasker([][]byte{[]byte("hunter2")}).Stream(&buf)
	for _, c := range []struct{ write, seen string }{
		{"boots\nPW=hunter2 and what follows h", "boots\nPW=(secret) and what follows "},
		{"un", "boots\nPW=(secret) and what follows "},
		{"g", "boots\nPW=(secret) and what follows hung"},
		{" hunter", "boots\nPW=(secret) and what follows hung "},
		{"2", "boots\nPW=(secret) and what follows hung (secret)"},
	} {
		if _, err := s.Write([]byte(c.write)); err != nil {
			t.Fatal(err)
		}
		if buf.String() != c.seen {
			t.Errorf("after %q: %q, want %q", c.write, buf.String(), c.seen)
		}
	}
}
