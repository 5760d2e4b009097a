package main

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestConsoleLeavesOutWhatDrivesATerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"booting\r\nready\t1\n":                           "booting\nready\t1\n",
		"\x1b[1;31mred\x1b[0m \x1b[?25lno cursor":         "red no cursor",
		"\x1b]0;title\x07a\x1b]2;title\x1b\\b":            "ab",
		"\x1b(Bcharset\x1b7saved\x1bc":                    "charsetsaved",
		"\u009b31mred\u0085 \x9b31m":                      "red 31m", // the last one is no character of UTF-8
		"\x07\x08\x7f\x00bell":                            "bell",
		"\x1bPq a picture that does not end\nnext":        "\nnext",
		"größer, 日本, \u202edrawn the other way":           "größer, 日本, drawn the other way",
		"half a character at the end: \xc3":               "half a character at the end: ",
		"\x1b[31\nthe line's end ends the sequence":       "\nthe line's end ends the sequence",
		"\x1b\x1b[0mtwice, \x1b[0\x1b[0m and interrupted": "twice,  and interrupted",
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestConsoleIsTheSameHoweverItArrives: what is left out does not depend on where a machine's output is cut.
func TestConsoleIsTheSameHoweverItArrives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{"\x1b", "[", "]", "0m", "\x07", "ö", "\u009b", "\n", "text", "\xc3", "\\", "(", "P"})).Draw(t, "pieces")
		whole := strings.Join(pieces, "")
		var b strings.Builder
		p := &plainText{w: &b}
		for i := range len(whole) {
			if _, err := p.Write([]byte{whole[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := b.String(), plain(whole); got != want {
			t.Fatalf("%q byte by byte is %q, at once %q", whole, got, want)
		}
		if strings.ContainsAny(b.String(), "\x1b\x07\u009b") {
			t.Fatalf("%q: %q drives a terminal", whole, b.String())
		}
	})
}
