package proto

import (
	"bytes"
	"encoding/binary"
	"os"
	"reflect"
	"testing"
)

// recorded takes the messages of one direction of a recorded connection: an HTTP head, then WebSocket frames, masked or not.
func recorded(t testing.TB, path string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, b, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok {
		t.Fatalf("%s: no HTTP head", path)
	}
	var out [][]byte
	for len(b) >= 2 {
		op, masked, n := b[0]&0x0f, b[1]&0x80 != 0, uint64(b[1]&0x7f)
		b = b[2:]
		switch n {
		case 126:
			n = uint64(binary.BigEndian.Uint16(b))
			b = b[2:]
		case 127:
			n = binary.BigEndian.Uint64(b)
			b = b[8:]
		}
		var mask [4]byte
		if masked {
			b = b[copy(mask[:], b):]
		}
		if n > uint64(len(b)) {
			t.Fatalf("%s: frame of %d bytes, %d are there", path, n, len(b))
		}
		payload := bytes.Clone(b[:n])
		b = b[n:]
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
		if op == 2 {
			out = append(out, payload)
		}
	}
	return out
}

var captures = []string{"attach-shell.c2s", "attach-shell.s2c", "misc-files-abort-shutdown.c2s", "misc-files-abort-shutdown.s2c"}

// TestRecordedMessagesOfBuildbotSurvive decodes what real Buildbot masters and workers said, encodes it and decodes it again.
func TestRecordedMessagesOfBuildbotSurvive(t *testing.T) {
	t.Parallel()
	for _, name := range captures {
		ops := map[string]int{}
		for i, b := range recorded(t, "testdata/msgpack-"+name+".bin") {
			m, err := Decode(b)
			if err != nil {
				t.Fatalf("%s, message %d: %v", name, i, err)
			}
			ops[m.Op]++
			again, err := Encode(m)
			if err != nil {
				t.Fatalf("%s, message %d: %v", name, i, err)
			}
			m2, err := Decode(again)
			if err != nil || !reflect.DeepEqual(m, m2) {
				t.Errorf("%s, message %d: %v\n%v\nbecame\n%v", name, i, err, m, m2)
			}
			if !m.HasSeq || (m.Op == OpUpdate && len(m.Fields) != 1) {
				t.Errorf("%s, message %d: %v", name, i, m)
			}
		}
		for _, want := range map[string][]string{"c2s": {OpResponse, OpUpdate, OpComplete}, "s2c": {OpPrint, OpGetWorkerInfo, OpStartCommand}}[name[len(name)-3:]] {
			if ops[want] == 0 {
				t.Errorf("%s: no %s among %v", name, want, ops)
			}
		}
	}
}

// FuzzDecode: no input makes Decode panic or take memory out of proportion, and what it accepts, Encode can write and Decode reads the same.
func FuzzDecode(f *testing.F) {
	for _, name := range captures {
		for i, b := range recorded(f, "testdata/msgpack-"+name+".bin") {
			if len(b) < 2000 && i < 40 {
				f.Add(b)
			}
		}
	}
	f.Add(AppendOutput(nil, "b1.s0.0", Stderr, 70000, []byte("data")))
	f.Add(AppendAck(nil, "b1.s0.0", 1<<40))
	f.Add([]byte("\x81\xa1x\xdd\x00\x01\x00\x00ab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatalf("Encode refuses what Decode accepts: %v", err)
		}
		m2, err := Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		third, err := Encode(m2)
		if err != nil || !bytes.Equal(again, third) { // bytes, since NaN is not equal to itself
			t.Errorf("%v\nbecame\n%v (%v)", m, m2, err)
		}
		_, _ = ParseHello(m.Fields)
		_, _ = ParseCompletion(m.Fields)
	})
}
