package libvirt

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// saveFile makes a file as virDomainSave does.
func saveFile(xml, cookie, rest string) []byte {
	s := &saved{cookie: cookie}
	copy(s.header[:], saveMagic)
	s.set(0, 2)
	s.set(2, 1)
	return append(s.head(xml), rest...)
}

func TestSaveFileKeepsAllButItsXML(t *testing.T) {
	t.Parallel()
	for _, cookie := range []string{"", "<cookie/>"} {
		r := bytes.NewReader(saveFile("<domain>old</domain>", cookie, "QEMU's part"))
		s, err := readSaved(r)
		if err != nil {
			t.Fatal(err)
		}
		if s.xml != "<domain>old</domain>" || s.cookie != cookie {
			t.Errorf("got %q and %q", s.xml, s.cookie)
		}
		rest, _ := io.ReadAll(r)
		if string(rest) != "QEMU's part" {
			t.Errorf("the rest is %q", rest)
		}
		longer := "<domain>" + strings.Repeat("new", 40_000) + "</domain>"
		again := append(s.head(longer), rest...)
		if n := bytes.Index(again, rest); n%saveAlign != 0 {
			t.Errorf("QEMU's part begins at %d, which is not aligned", n)
		}
		got, err := readSaved(bytes.NewReader(again))
		if err != nil || got.xml != longer || got.cookie != cookie || got.number(2) != 1 {
			t.Errorf("got %d bytes of XML, cookie %q, ran %d, %v", len(got.xml), got.cookie, got.number(2), err)
		}
	}
}

func TestDamagedSaveFilesAreRefused(t *testing.T) {
	t.Parallel()
	good := saveFile("<domain/>", "", "")
	number := func(i int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.NativeEndian.PutUint32(b[len(saveMagic)+4*i:], v)
		return b
	}
	for name, b := range map[string][]byte{"empty": nil, "short": good[:40], "no XML": good[:saveHeader], "another magic": append([]byte("LibvirtQemudPart"), good[16:]...),
		"another version": number(0, 3), "huge": number(1, 1<<31), "none": number(1, 0), "compressed": number(3, 2), "cookie outside": number(4, 1<<20)} {
		if s, err := readSaved(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}

func FuzzSaveFile(f *testing.F) {
	f.Add(saveFile("<domain/>", "<cookie/>", "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readSaved(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readSaved(bytes.NewReader(s.head(s.xml)))
		if err != nil || again.xml != s.xml || again.cookie != s.cookie {
			t.Errorf("%q, %q: %+v, %v", s.xml, s.cookie, again, err)
		}
	})
}
