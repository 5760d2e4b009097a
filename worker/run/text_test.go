package run

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func decodeAll(t testing.TB, r io.Reader) []byte {
	var out bytes.Buffer
	d := new(decoder)
	emit := func(p []byte) {
		if !utf8.Valid(p) {
			t.Fatalf("%q is not UTF-8", p)
		}
		out.Write(p)
	}
	for {
		if _, err := d.read(r, emit); err != nil {
			break
		}
	}
	d.flush(emit)
	return out.Bytes()
}

func TestDecoderReplacesWhatIsNotUTF8(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 漢 🎉": "plain é 漢 🎉", "a\xffb": "a\uFFFDb", "cut \xe6\xbc": "cut \uFFFD\uFFFD", "\xf0\x9f\x8e": "\uFFFD\uFFFD\uFFFD", "": "",
		"\x80\x80": "\uFFFD\uFFFD", "real \uFFFD": "real \uFFFD",
	} {
		if got := decodeAll(t, iotest.OneByteReader(bytes.NewReader([]byte(in)))); string(got) != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// FuzzDecoder: however the input is cut, the text is the same.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte("a é 漢 🎉 \xff \xe6\xbc x \xf0\x9f"))
	f.Add([]byte("\xf4\x90\x80\x80\xed\xa0\x80"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := decodeAll(t, bytes.NewReader(in))
		if got := decodeAll(t, iotest.OneByteReader(bytes.NewReader(in))); !bytes.Equal(got, whole) {
			t.Errorf("byte by byte %q, whole %q", got, whole)
		}
		if utf8.Valid(in) && !bytes.Equal(in, whole) {
			t.Errorf("valid %q became %q", in, whole)
		}
	})
}
