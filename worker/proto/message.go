package proto

import (
	"errors"
	"fmt"
)

// Message is one msgpack map as it travels in one binary WebSocket message. The keys that every message or the hot ones use have a field
// of their own; all others are in Fields.
//
// Values in Fields and Result are nil, bool, int64, float64, string, []byte, []any or map[string]any after Decode. Byte slices (Data, and
// any []byte deeper down) alias the buffer that was decoded.
type Message struct {
	Op     string
	Seq    int64
	HasSeq bool // seq_number was there. A request without one is not valid, except that Encode leaves it to the caller

	CommandID string

	// Stream, Pos and Data belong to the extension's output, ack and resume.
	Stream Stream
	Pos    int64
	HasPos bool
	Data   []byte

	// Result and IsException belong to responses. The key's presence marks an exception; Result is then its text.
	Result      any
	IsException bool

	Fields map[string]any
}

// Request makes a request. Fields may be nil.
func Request(op string, seq int64, commandID string, fields map[string]any) Message {
	return Message{Op: op, Seq: seq, HasSeq: true, CommandID: commandID, Fields: fields}
}

// Reply makes the response to request seq.
func Reply(seq int64, result any) Message {
	return Message{Op: OpResponse, Seq: seq, HasSeq: true, Result: result}
}

// Exception makes the response that says why request seq failed.
func Exception(seq int64, text string) Message {
	return Message{Op: OpResponse, Seq: seq, HasSeq: true, Result: text, IsException: true}
}

// Text returns the string under key in Fields, "" if there is none.
func (m *Message) Text(key string) string {
	switch v := m.Fields[key].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// Args returns the map under "args", nil if there is none.
func (m *Message) Args() map[string]any {
	a, _ := m.Fields["args"].(map[string]any)
	return a
}

// Update is one [key, value] pair of a command's updates (rc, elapsed, files, stat, failure_reason, …).
type Update struct {
	Key   string
	Value any
}

// Completion is what "complete" carries in the extension.
type Completion struct {
	End     int64    // position after the command's last output byte
	Updates []Update // everything that is not output, in order
	Text    string   // "args": why the command could not be carried out, "" if it was
}

// Fields returns the completion as the fields of a "complete" message.
func (c Completion) Fields() map[string]any {
	u := make([]any, len(c.Updates))
	for i, p := range c.Updates {
		u[i] = []any{p.Key, p.Value}
	}
	f := map[string]any{"end": c.End, "updates": u, "args": nil}
	if c.Text != "" {
		f["args"] = c.Text
	}
	return f
}

// ParseCompletion reads the fields of a "complete" message of the extension.
func ParseCompletion(fields map[string]any) (Completion, error) {
	var c Completion
	var ok bool
	if c.End, ok = fields["end"].(int64); !ok || c.End < 0 {
		return c, errors.New("proto: complete: end is missing or not a position")
	}
	switch t := fields["args"].(type) {
	case nil:
	case string:
		c.Text = t
	default:
		return c, fmt.Errorf("proto: complete: args is a %T, want nil or a string", t)
	}
	var err error
	c.Updates, err = ParseUpdates(fields["updates"])
	return c, err
}

// ParseUpdates reads an array of [key, value] pairs, as it is in the extension's complete ("updates") and in v7's update ("args").
func ParseUpdates(v any) ([]Update, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("proto: updates are a %T, want an array", v)
	}
	out := make([]Update, 0, len(list))
	for i, e := range list {
		pair, ok := e.([]any)
		if !ok || len(pair) != 2 {
			return nil, fmt.Errorf("proto: update %d is not a [key, value] pair", i)
		}
		key, ok := pair[0].(string)
		if !ok {
			return nil, fmt.Errorf("proto: update %d: key is a %T, want a string", i, pair[0])
		}
		out = append(out, Update{Key: key, Value: pair[1]})
	}
	return out, nil
}

// Fields returns the hello as the fields of a "hello" message.
func (h Hello) Fields() map[string]any {
	cs := make([]any, len(h.Commands))
	for i, c := range h.Commands {
		cs[i] = map[string]any{"id": c.ID, "from": c.From, "to": c.To, "done": c.Done}
	}
	return map[string]any{"args": map[string]any{"info": h.Info, "commands": cs}}
}

// ParseHello reads the fields of a "hello" message.
func ParseHello(fields map[string]any) (Hello, error) {
	var h Hello
	args, ok := fields["args"].(map[string]any)
	if !ok {
		return h, fmt.Errorf("proto: hello: args is a %T, want a map", fields["args"])
	}
	if h.Info, ok = args["info"].(map[string]any); !ok {
		return h, fmt.Errorf("proto: hello: info is a %T, want a map", args["info"])
	}
	list, ok := args["commands"].([]any)
	if !ok && args["commands"] != nil {
		return h, fmt.Errorf("proto: hello: commands is a %T, want an array", args["commands"])
	}
	for i, e := range list {
		m, _ := e.(map[string]any)
		var r Running
		var okID, okFrom, okTo bool
		r.ID, okID = m["id"].(string)
		r.From, okFrom = m["from"].(int64)
		r.To, okTo = m["to"].(int64)
		r.Done, _ = m["done"].(bool)
		if !okID || r.ID == "" || !okFrom || !okTo || r.From < 0 || r.To < r.From {
			return h, fmt.Errorf("proto: hello: command %d is malformed", i)
		}
		h.Commands = append(h.Commands, r)
	}
	return h, nil
}
