package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A file that virDomainSave wrote begins with a header, then the domain's XML (and an optional cookie, XML too), then what QEMU wrote. libvirt
// restores it as the domain that the XML names, and refuses to change name, UUID and MAC address on the way. So each instance gets a copy of the
// file with XML of its own.
//
// The header (src/qemu/qemu_saveimage.h; the same from 0.9 to 9.0, but promised nowhere): the magic, then numbers of 32 bits in the host's byte order:
// version (2), length of all that follows until QEMU's part, whether the domain ran, compression, offset of the cookie in what follows, 14
// unused ones.
const (
	saveMagic   = "LibvirtQemudSave"
	saveHeader  = len(saveMagic) + 4*(5+14)
	maxSaveText = 1 << 20
	saveAlign   = 64 << 10 // as libvirt pads it
)

// relabelled are the versions of libvirt for which a test has shown that a re-labelled file restores. Elsewhere instances boot.
var relabelled = []string{"9.0."}

// saved is the part of a save file before QEMU's.
type saved struct {
	header [saveHeader]byte
	xml    string
	cookie string
}

// readSaved reads the head of a save file. What r gives afterwards is QEMU's part.
func readSaved(r io.Reader) (*saved, error) {
	s := &saved{}
	if _, err := io.ReadFull(r, s.header[:]); err != nil {
		return nil, fmt.Errorf("read the header of the save file: %w", err)
	}
	if string(s.header[:len(saveMagic)]) != saveMagic {
		return nil, errors.New("it is no save file of libvirt's QEMU driver, or not a whole one")
	}
	if v := s.number(0); v != 2 {
		return nil, fmt.Errorf("the save file has version %d; only 2 is known", v)
	}
	if c := s.number(3); c != 0 {
		return nil, fmt.Errorf("the save file is compressed (%d): set save_image_format = \"raw\" in the host's qemu.conf", c)
	}
	length, cookie := s.number(1), s.number(4)
	if length == 0 || length > maxSaveText || cookie >= length {
		return nil, fmt.Errorf("the save file's header is damaged: length %d, cookie at %d", length, cookie)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read the XML of the save file: %w", err)
	}
	if cookie > 0 {
		s.cookie = text(data[cookie:])
		data = data[:cookie]
	}
	s.xml = text(data)
	return s, nil
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func (s *saved) number(i int) uint32 {
	return binary.NativeEndian.Uint32(s.header[len(saveMagic)+4*i:])
}
func (s *saved) set(i int, v uint32) {
	binary.NativeEndian.PutUint32(s.header[len(saveMagic)+4*i:], v)
}

// head is the part of a save file before QEMU's, with other XML.
func (s *saved) head(xml string) []byte {
	data := append([]byte(xml), 0)
	cookie := 0
	if s.cookie != "" {
		cookie = len(data)
		data = append(append(data, s.cookie...), 0)
	}
	data = append(data, make([]byte, (saveAlign-(len(data)+saveHeader)%saveAlign)%saveAlign)...)
	out := *s
	out.set(1, uint32(len(data)))
	out.set(4, uint32(cookie))
	return append(out.header[:], data...)
}
