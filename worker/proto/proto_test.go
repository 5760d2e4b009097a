package proto

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncodeThenDecodeGivesTheSameMessage(t *testing.T) {
	t.Parallel()
	deep := any("x")
	for range MaxDepth - 1 {
		deep = []any{deep}
	}
	for _, m := range []Message{
		{Op: OpKeepalive},
		Request(OpStartCommand, 300, "b1.s0.0", map[string]any{"command_name": "shell", "args": map[string]any{
			"env": map[string]any{}, "timeout": int64(1200), "maxTime": nil, "usePTY": false, "logEnviron": true, "f": 1.5,
			"command": []any{"sh", "-c", strings.Repeat("é", 40000)}, "bin": []byte{0, 255}, "deep": nil}}),
		Request("x", math.MaxInt64, "", map[string]any{"a": int64(math.MinInt64), "b": int64(-1), "c": int64(-33), "d": int64(-200),
			"e": int64(-40000), "f": int64(127), "g": int64(128), "h": int64(256), "i": int64(65536), "j": int64(1 << 33), "k": int64(-1 << 31)}),
		Request("deep", 1, "", map[string]any{"v": deep}),
		Reply(4, nil),
		Reply(5, []byte("data")),
		Exception(7, "no"),
		{Op: OpOutput, HasSeq: true, CommandID: "c", Stream: Stderr, Pos: 1 << 40, HasPos: true, Data: bytes.Repeat([]byte("y"), 70000)},
		{Op: OpAck, HasSeq: true, CommandID: "c", Pos: 0, HasPos: true},
	} {
		b, err := Encode(m)
		if err != nil {
			t.Fatalf("%s: %v", m.Op, err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", m.Op, err)
		}
		if !reflect.DeepEqual(m, got) { // cmp.Diff takes exponential time in the depth of nested []any
			t.Errorf("%s: want\n%v\ngot\n%v", m.Op, m, got)
		}
	}
}

func TestHandMadeHotMessagesEqualEncode(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("z"), 300)
	id := strings.Repeat("i", 33)
	out, err := Encode(Message{Op: OpOutput, HasSeq: true, CommandID: id, Stream: Stdout, Pos: 70000, HasPos: true, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendOutput(nil, id, Stdout, 70000, data); !bytes.Equal(got, out) {
		t.Errorf("AppendOutput\n%x\nEncode\n%x", got, out)
	}
	ack, err := Encode(Message{Op: OpAck, HasSeq: true, CommandID: id, Pos: 9, HasPos: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendAck(nil, id, 9); !bytes.Equal(got, ack) {
		t.Errorf("AppendAck\n%x\nEncode\n%x", got, ack)
	}
}

func TestDecodeRefusesHostileMessages(t *testing.T) {
	t.Parallel()
	op := "\x81\xa2op"
	for name, c := range map[string]struct{ in, want string }{
		"empty":             {"", "ends in the middle"},
		"not a map":         {"\x90", "want a map"},
		"no op":             {"\x80", "no op"},
		"key is a number":   {"\x81\x01\x01", "want text"},
		"trailing bytes":    {op + "\xa1x\xc0", "1 bytes after the end"},
		"string lies":       {op + "\xdb\xff\xff\xff\xffab", "declares 4294967295 bytes, 2 are there"},
		"bin lies":          {"\x81\xa4data\xc6\x7f\xff\xff\xffab", "declares 2147483647 bytes"},
		"array lies":        {"\x81\xa1x\xdd\x00\x01\x00\x00ab", "declares 65536 elements, 2 bytes are there"},
		"huge array":        {"\x81\xa1x\xdd\xff\xff\xff\xff", "more than the limit"},
		"map lies":          {"\xde\xff\xff\xa2op\xa1x", "declares 65535 elements"},
		"half a length":     {"\x81\xa1x\xdb\xff", "ends in the middle"},
		"extension type":    {"\x81\xa1x\xd4\x01\x02", "not used"},
		"never used code":   {"\x81\xa1x\xc1", "not used"},
		"integer too large": {"\x81\xa1x\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "out of range"},
		"seq is text":       {"\x81\xaaseq_number\xa1x", "want an integer"},
		"unknown stream":    {"\x81\xa6stream\x09", "unknown stream"},
		"negative position": {"\x81\xa3pos\xff", "negative"},
		"too deep":          {"\x81\xa1x" + strings.Repeat("\x91", MaxDepth+1) + "\xc0", "nested deeper"},
		"too large":         {strings.Repeat("\x80", MaxMessage+1), "more than the limit"},
	} {
		_, err := Decode([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestDecodeBoundsTheElementsOfAllContainersTogether(t *testing.T) {
	t.Parallel()
	inner := appendArrayHead(nil, MaxItems)
	inner = append(inner, bytes.Repeat([]byte{codeNil}, MaxItems)...)
	b := appendMapHead(nil, 1)
	b = appendString(b, "x")
	b = appendArrayHead(b, 5)
	b = append(b, bytes.Repeat(inner, 5)...)
	if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), "in one message") {
		t.Errorf("got %v", err)
	}
}

func TestEncodeRefusesWhatDecodeWouldRefuse(t *testing.T) {
	t.Parallel()
	deep := any("x")
	for range MaxDepth {
		deep = []any{deep}
	}
	for name, v := range map[string]any{"channel": make(chan int), "deep": deep, "large": make([]byte, MaxMessage),
		"many": make([]any, MaxItems+1), "unsigned": uint64(math.MaxUint64)} {
		if _, err := Encode(Request("x", 0, "", map[string]any{"v": v})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHelloAndCompletionSurviveTheWire(t *testing.T) {
	t.Parallel()
	h := Hello{Info: map[string]any{"basedir": "/b"}, Commands: []Running{{ID: "a", From: 3, To: 9, Done: true}, {ID: "b"}}}
	got, err := ParseHello(throughWire(t, Request(OpHello, 0, "", h.Fields())).Fields)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, got); d != "" {
		t.Error(d)
	}
	c := Completion{End: 12, Updates: []Update{{"rc", int64(-1)}, {"elapsed", 0.5}}, Text: "why"}
	gotC, err := ParseCompletion(throughWire(t, Request(OpComplete, 0, "a", c.Fields())).Fields)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, gotC); d != "" {
		t.Error(d)
	}
	for _, f := range []map[string]any{nil, {"args": int64(1)}, {"args": map[string]any{"info": nil}},
		{"args": map[string]any{"info": map[string]any{}, "commands": []any{nil}}}} {
		if _, err := ParseHello(f); err == nil {
			t.Errorf("ParseHello accepts %v", f)
		}
	}
	for _, f := range []map[string]any{nil, {"end": "x"}, {"end": int64(1), "args": int64(1)}, {"end": int64(1), "updates": []any{[]any{"rc"}}}} {
		if _, err := ParseCompletion(f); err == nil {
			t.Errorf("ParseCompletion accepts %v", f)
		}
	}
}

func throughWire(t *testing.T, m Message) Message {
	t.Helper()
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	data := make([]byte, 64<<10)
	buf := make([]byte, 0, len(data)+256)
	if n := testing.AllocsPerRun(100, func() { buf = AppendOutput(buf[:0], "b1.s0.0", Stdout, 1<<33, data) }); n != 0 {
		t.Errorf("AppendOutput: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = Decode(buf) }); n > 1 { // the command's ID
		t.Errorf("Decode: %v allocations", n)
	}
}

func BenchmarkDecodeOutput(b *testing.B) {
	frame := AppendOutput(nil, "b1.s0.0", Stdout, 1<<33, make([]byte, 64<<10))
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendOutput(b *testing.B) {
	data := make([]byte, 64<<10)
	buf := make([]byte, 0, len(data)+256)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendOutput(buf[:0], "b1.s0.0", Stdout, 1<<33, data)
	}
}
