package proto

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Encode encodes one message. It fails on a value that has no msgpack form here (see appendValue), on nesting deeper than MaxDepth and on a
// result larger than MaxMessage. Map keys are written in sorted order, so that equal messages are equal bytes.
func Encode(m Message) ([]byte, error) { return Append(nil, m) }

// Append is Encode into dst's spare capacity.
func Append(dst []byte, m Message) ([]byte, error) {
	start := len(dst)
	n := 1 + len(m.Fields)
	response := m.Op == OpResponse
	output := m.Op == OpOutput
	for _, there := range [...]bool{m.HasSeq, m.CommandID != "", response, m.IsException, output, m.HasPos || output, output} {
		if there {
			n++
		}
	}
	b := appendMapHead(dst, n)
	b = appendPair(b, "op", m.Op)
	if m.HasSeq {
		b = appendString(b, "seq_number")
		b = appendInt(b, m.Seq)
	}
	if m.CommandID != "" {
		b = appendPair(b, "command_id", m.CommandID)
	}
	if output {
		b = appendString(b, "stream")
		b = appendInt(b, int64(m.Stream))
	}
	if m.HasPos || output {
		b = appendString(b, "pos")
		b = appendInt(b, m.Pos)
	}
	if output {
		b = appendString(b, "data")
		b = appendBin(b, m.Data)
	}
	var err error
	if m.IsException {
		b = append(appendString(b, "is_exception"), codeTrue)
	}
	if response {
		b = appendString(b, "result")
		if b, err = appendValue(b, m.Result, 1); err != nil {
			return dst, fmt.Errorf("proto: encode %s: result: %w", m.Op, err)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.Fields)) {
		b = appendString(b, k)
		if b, err = appendValue(b, m.Fields[k], 1); err != nil {
			return dst, fmt.Errorf("proto: encode %s: %s: %w", m.Op, k, err)
		}
	}
	if len(b)-start > MaxMessage {
		return dst, fmt.Errorf("proto: encode %s: %d bytes, more than the limit of %d", m.Op, len(b)-start, MaxMessage)
	}
	return b, nil
}

// AppendOutput appends an "output" message to dst. It is the hot path of the agent and does not allocate if dst has room for len(data)+128
// bytes and the ID. len(data) must not be more than MaxOutput.
func AppendOutput(dst []byte, commandID string, s Stream, pos int64, data []byte) []byte {
	b := append(dst, outputHead...)
	b = appendString(b, commandID)
	b = appendString(b, "stream")
	b = append(b, byte(s))
	b = appendString(b, "pos")
	b = appendInt(b, pos)
	b = appendString(b, "data")
	return appendBin(b, data)
}

// outputHead is the constant beginning of every output message: {op: output, seq_number: 0, command_id: …
var outputHead = func() []byte {
	b := appendMapHead(nil, 6)
	b = appendPair(b, "op", OpOutput)
	b = appendString(b, "seq_number")
	b = appendInt(b, 0)
	return appendString(b, "command_id")
}()

// AppendAck appends an "ack" message to dst: everything of the command before pos is in the log.
func AppendAck(dst []byte, commandID string, pos int64) []byte {
	b := appendMapHead(dst, 4)
	b = appendPair(b, "op", OpAck)
	b = appendString(b, "seq_number")
	b = appendInt(b, 0)
	b = appendPair(b, "command_id", commandID)
	b = appendString(b, "pos")
	return appendInt(b, pos)
}

func appendPair(b []byte, key, value string) []byte {
	return appendString(appendString(b, key), value)
}

func appendMapHead(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, codeFixMap|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, codeMap16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, codeMap32), uint32(n))
}

func appendArrayHead(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, codeFixArray|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, codeArray16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, codeArray32), uint32(n))
}

func appendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, codeFixStr|byte(n))
	case n <= math.MaxUint8:
		b = append(b, codeStr8, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, codeStr16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, codeStr32), uint32(n))
	}
	return append(b, s...)
}

func appendBin(b, p []byte) []byte {
	switch n := len(p); {
	case n <= math.MaxUint8:
		b = append(b, codeBin8, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, codeBin16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, codeBin32), uint32(n))
	}
	return append(b, p...)
}

func appendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0 && v <= math.MaxInt8, v < 0 && v >= -32:
		return append(b, byte(v))
	case v > 0 && v <= math.MaxUint8:
		return append(b, codeUint8, byte(v))
	case v > 0 && v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, codeUint16), uint16(v))
	case v > 0 && v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, codeUint32), uint32(v))
	case v > 0:
		return binary.BigEndian.AppendUint64(append(b, codeUint64), uint64(v))
	case v >= math.MinInt8:
		return append(b, codeInt8, byte(v))
	case v >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, codeInt16), uint16(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, codeInt32), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, codeInt64), uint64(v))
}

// appendValue appends any value of the types in the switch; depth counts the containers around it.
func appendValue(b []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, codeNil), nil
	case bool:
		if v {
			return append(b, codeTrue), nil
		}
		return append(b, codeFalse), nil
	case int:
		return appendInt(b, int64(v)), nil
	case int64:
		return appendInt(b, v), nil
	case int32:
		return appendInt(b, int64(v)), nil
	case uint32:
		return appendInt(b, int64(v)), nil
	case uint64:
		if v > math.MaxInt64 {
			return b, fmt.Errorf("integer %d is out of range", v)
		}
		return appendInt(b, int64(v)), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(b, codeFloat64), math.Float64bits(v)), nil
	case string:
		return appendString(b, v), nil
	case []byte:
		return appendBin(b, v), nil
	case []any:
		return appendArray(b, v, depth)
	case []string:
		return appendArray(b, v, depth)
	case []int:
		return appendArray(b, v, depth)
	case []int64:
		return appendArray(b, v, depth)
	case []float64:
		return appendArray(b, v, depth)
	case map[string]any:
		return appendMap(b, v, depth)
	case map[string]string:
		return appendMap(b, v, depth)
	}
	return b, fmt.Errorf("a %T has no form in this protocol", v)
}

func checkContainer(n, depth int) error {
	switch {
	case depth >= MaxDepth:
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	case n > MaxItems:
		return fmt.Errorf("%d elements, more than the limit of %d", n, MaxItems)
	}
	return nil
}

func appendArray[T any](b []byte, list []T, depth int) ([]byte, error) {
	if err := checkContainer(len(list), depth); err != nil {
		return b, err
	}
	b = appendArrayHead(b, len(list))
	var err error
	for _, e := range list {
		if b, err = appendValue(b, e, depth+1); err != nil {
			return b, err
		}
	}
	return b, nil
}

func appendMap[T any](b []byte, m map[string]T, depth int) ([]byte, error) {
	if err := checkContainer(len(m), depth); err != nil {
		return b, err
	}
	b = appendMapHead(b, len(m))
	var err error
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = appendString(b, k)
		if b, err = appendValue(b, m[k], depth+1); err != nil {
			return b, fmt.Errorf("%s: %w", k, err)
		}
	}
	return b, nil
}
