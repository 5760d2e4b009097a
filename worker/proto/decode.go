package proto

import (
	"errors"
	"fmt"
	"math"
)

// Format codes of msgpack.
const (
	codeFixMap, codeFixArray, codeFixStr                   = 0x80, 0x90, 0xa0
	codeNil, codeFalse, codeTrue                           = 0xc0, 0xc2, 0xc3
	codeBin8, codeBin16, codeBin32                         = 0xc4, 0xc5, 0xc6
	codeFloat32, codeFloat64                               = 0xca, 0xcb
	codeUint8, codeUint16, codeUint32, codeUint64          = 0xcc, 0xcd, 0xce, 0xcf
	codeInt8, codeInt16, codeInt32, codeInt64              = 0xd0, 0xd1, 0xd2, 0xd3
	codeStr8, codeStr16, codeStr32                         = 0xd9, 0xda, 0xdb
	codeArray16, codeArray32, codeMap16, codeMap32, negFix = 0xdc, 0xdd, 0xde, 0xdf, 0xe0
)

// maxTotal bounds the elements of all containers of one message together: an element can be one byte on the wire, but is 16 bytes and more
// in memory.
const maxTotal = 4 * MaxItems

var errShort = errors.New("message ends in the middle of a value")

// Decode decodes one message. It refuses whatever breaks the limits, lies about its length, has bytes after the map, has a key that is not
// text, or uses an extension type. Memory is never taken for more than what is really in b.
func Decode(b []byte) (Message, error) {
	m, err := decode(b)
	if err != nil {
		return Message{}, fmt.Errorf("proto: bad message: %w", err)
	}
	return m, nil
}

func decode(b []byte) (Message, error) {
	var m Message
	if len(b) > MaxMessage {
		return m, fmt.Errorf("%d bytes, more than the limit of %d", len(b), MaxMessage)
	}
	d := decoder{b: b, left: maxTotal}
	n, err := d.mapHead()
	if err != nil {
		return m, err
	}
	for range n {
		key, err := d.text()
		if err != nil {
			return m, fmt.Errorf("key: %w", err)
		}
		if err := d.field(&m, key); err != nil {
			return m, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	if len(d.b) > 0 {
		return m, fmt.Errorf("%d bytes after the end", len(d.b))
	}
	if m.Op == "" {
		return m, errors.New("no op")
	}
	return m, nil
}

// field decodes the value of one key of the outermost map.
func (d *decoder) field(m *Message, key []byte) (err error) {
	switch string(key) { // does not allocate
	case "op":
		var op []byte
		op, err = d.text()
		m.Op = opName(op)
	case "seq_number":
		m.Seq, err = d.int()
		m.HasSeq = true
	case "command_id":
		var id []byte
		id, err = d.text()
		m.CommandID = string(id)
	case "pos":
		m.Pos, err = d.int()
		m.HasPos = true
		if err == nil && m.Pos < 0 {
			err = fmt.Errorf("negative position %d", m.Pos)
		}
	case "stream":
		var s int64
		s, err = d.int()
		if err == nil && (s < int64(Stdout) || s > int64(Header)) {
			err = fmt.Errorf("unknown stream %d", s)
		}
		m.Stream = Stream(s)
	case "data":
		m.Data, err = d.text()
	case "result":
		m.Result, err = d.value(1)
	case "is_exception":
		_, err = d.value(1)
		m.IsException = true // the key's presence is the test, not its value
	default:
		var v any
		if v, err = d.value(1); err != nil {
			return err
		}
		if m.Fields == nil {
			m.Fields = make(map[string]any)
		}
		m.Fields[string(key)] = v
	}
	return err
}

// opName is string(b) without an allocation for the hot ops.
func opName(b []byte) string {
	switch string(b) {
	case OpOutput:
		return OpOutput
	case OpAck:
		return OpAck
	case OpResponse:
		return OpResponse
	case OpUpdate:
		return OpUpdate
	}
	return string(b)
}

func clip(b []byte) string {
	if len(b) > 40 {
		b = b[:40]
	}
	return fmt.Sprintf("%q", b)
}

// decoder reads msgpack from b, which shrinks as it goes on.
type decoder struct {
	b    []byte
	left int // elements that containers may still declare
}

func (d *decoder) byte() (byte, error) {
	if len(d.b) == 0 {
		return 0, errShort
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c, nil
}

// uint reads a big-endian number of width bytes.
func (d *decoder) uint(width int) (uint64, error) {
	if len(d.b) < width {
		return 0, errShort
	}
	var v uint64
	for _, c := range d.b[:width] {
		v = v<<8 | uint64(c)
	}
	d.b = d.b[width:]
	return v, nil
}

func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.b)) {
		return nil, fmt.Errorf("declares %d bytes, %d are there", n, len(d.b))
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p, nil
}

// rawHead gives the length of a str or bin whose first byte is c.
func (d *decoder) rawHead(c byte) (n uint64, bin, ok bool, err error) {
	switch c {
	case codeBin8, codeBin16, codeBin32:
		n, err = d.uint(1 << (c - codeBin8))
		return n, true, true, err
	case codeStr8, codeStr16, codeStr32:
		n, err = d.uint(1 << (c - codeStr8))
		return n, false, true, err
	}
	if c&0xe0 == codeFixStr {
		return uint64(c & 0x1f), false, true, nil
	}
	return 0, false, false, nil
}

// text reads a str or a bin: peers written in Python treat them alike in most places.
func (d *decoder) text() ([]byte, error) {
	c, err := d.byte()
	if err != nil {
		return nil, err
	}
	n, _, ok, err := d.rawHead(c)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("want text, got code 0x%02x", c)
	}
	return d.take(n)
}

func (d *decoder) int() (int64, error) {
	c, err := d.byte()
	if err != nil {
		return 0, err
	}
	switch {
	case c < codeFixMap, c >= negFix:
		return int64(int8(c)), nil
	case c >= codeUint8 && c <= codeInt64:
		return d.wideInt(c)
	}
	return 0, fmt.Errorf("want an integer, got code 0x%02x", c)
}

// wideInt reads the integer whose first byte is c, a code from codeUint8 to codeInt64.
func (d *decoder) wideInt(c byte) (int64, error) {
	if c <= codeUint64 {
		v, err := d.uint(1 << (c - codeUint8))
		if v > math.MaxInt64 {
			return 0, fmt.Errorf("integer %d is out of range", v)
		}
		return int64(v), err
	}
	width := 1 << (c - codeInt8)
	v, err := d.uint(width)
	shift := 64 - 8*width
	return int64(v<<shift) >> shift, err
}

// count checks the declared number of elements of a container, each of which takes at least size bytes.
func (d *decoder) count(n uint64, size int) (int, error) {
	switch {
	case n > MaxItems:
		return 0, fmt.Errorf("%d elements, more than the limit of %d", n, MaxItems)
	case int(n)*size > len(d.b):
		return 0, fmt.Errorf("declares %d elements, %d bytes are there", n, len(d.b))
	case int(n) > d.left:
		return 0, fmt.Errorf("more than %d elements in one message", maxTotal)
	}
	d.left -= int(n)
	return int(n), nil
}

func (d *decoder) mapHead() (int, error) {
	c, err := d.byte()
	if err != nil {
		return 0, err
	}
	n := uint64(c & 0x0f)
	switch {
	case c&0xf0 == codeFixMap:
	case c == codeMap16 || c == codeMap32:
		if n, err = d.uint(2 << (c - codeMap16)); err != nil {
			return 0, err
		}
	default:
		return 0, fmt.Errorf("want a map, got code 0x%02x", c)
	}
	return d.count(n, 2)
}

// value reads any value; depth counts the containers around it.
func (d *decoder) value(depth int) (any, error) {
	c, err := d.byte()
	if err != nil {
		return nil, err
	}
	switch {
	case c < codeFixMap:
		return int64(c), nil
	case c >= negFix:
		return int64(int8(c)), nil
	case c < codeFixArray:
		return d.mapValue(uint64(c&0x0f), depth)
	case c < codeFixStr:
		return d.array(uint64(c&0x0f), depth)
	}
	if n, bin, ok, err := d.rawHead(c); ok {
		if err != nil {
			return nil, err
		}
		p, err := d.take(n)
		if err != nil {
			return nil, err
		}
		if bin {
			return p, nil
		}
		return string(p), nil
	}
	switch c {
	case codeNil:
		return nil, nil
	case codeFalse, codeTrue:
		return c == codeTrue, nil
	case codeFloat32:
		v, err := d.uint(4)
		return float64(math.Float32frombits(uint32(v))), err
	case codeFloat64:
		v, err := d.uint(8)
		return math.Float64frombits(v), err
	case codeUint8, codeUint16, codeUint32, codeUint64, codeInt8, codeInt16, codeInt32, codeInt64:
		return d.wideInt(c)
	case codeArray16, codeArray32:
		n, err := d.uint(2 << (c - codeArray16))
		if err != nil {
			return nil, err
		}
		return d.array(n, depth)
	case codeMap16, codeMap32:
		n, err := d.uint(2 << (c - codeMap16))
		if err != nil {
			return nil, err
		}
		return d.mapValue(n, depth)
	}
	return nil, fmt.Errorf("code 0x%02x is not used in this protocol", c)
}

func (d *decoder) array(declared uint64, depth int) (any, error) {
	if depth >= MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	n, err := d.count(declared, 1)
	if err != nil {
		return nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = d.value(depth + 1); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return list, nil
}

func (d *decoder) mapValue(declared uint64, depth int) (any, error) {
	if depth >= MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	n, err := d.count(declared, 2)
	if err != nil {
		return nil, err
	}
	m := make(map[string]any, n)
	for range n {
		key, err := d.text()
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		if m[string(key)], err = d.value(depth + 1); err != nil {
			return nil, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	return m, nil
}
