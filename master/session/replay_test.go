package session

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

// capture reads what a real worker sent.
func capture(t *testing.T, name string) []proto.Message {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".c2s.bin")
	if err != nil {
		t.Fatal(err)
	}
	_, b, _ = bytes.Cut(b, []byte("\r\n\r\n"))
	payloads, err := frames(b)
	if err != nil && len(payloads) == 0 {
		t.Fatal(err)
	}
	var out []proto.Message
	for _, p := range payloads {
		m, err := proto.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// interviewed dials as a plain worker and answers the attach sequence with what the captured worker answered.
func (m *master) interviewed(worker string, captured []proto.Message) *agent {
	m.t.Helper()
	a := m.dial(worker, "")
	for i, op := range []string{proto.OpPrint, proto.OpGetWorkerInfo, proto.OpSetWorkerSettings} {
		q := a.want(op)
		if op == proto.OpPrint && q.Text("message") != "attached" {
			m.t.Errorf("print %q", q.Text("message"))
		}
		a.reply(q, captured[i].Result)
	}
	return a
}

func TestCapturedWorkersAreUnderstood(t *testing.T) {
	t.Parallel()
	want := map[string]string{ // command: rc, stdout, stderr, updates, text
		"attach-shell/50": `0 "hello\n" "oops\n"`,
		"misc/276":        `0 "café � ☃\na\nb\nc\npartial\n" ""`,
		"misc/277":        `3 "/a:/b`,
		"misc/282":        `-1 "start\n"`,
		"misc/286":        `0 "" "" [utime] uploaded 0, text "[Failure instance`,
		"misc/288":        `0 "" "" [] uploaded 16`,
		"misc/293":        `0 "" "" [] uploaded 270`,
		"misc/295":        `0 "" "" [stat]`,
		"misc/306":        `5 "started\ngot term\n"`,
	}
	for _, name := range []string{"attach-shell", "misc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := capture(t, name)
			m := newMaster(t, Options{})
			a := m.interviewed("w1", all)
			if at := event[core.Attached](m); at.Resumable || at.Agent != "" {
				t.Errorf("got %+v", at)
			}
			if m.Info("w1")["os_id"] != "debian" {
				t.Errorf("info: %v", m.Info("w1"))
			}
			commands := make(map[string][]proto.Message)
			var ids []string
			for _, msg := range all {
				if msg.CommandID == "" {
					continue
				}
				if commands[msg.CommandID] == nil {
					ids = append(ids, msg.CommandID)
				}
				commands[msg.CommandID] = append(commands[msg.CommandID], msg)
			}
			for _, id := range ids {
				got := playCommand(m, a, id, commands[id])
				t.Logf("%s/%s: %s", name, id, got)
				if w := want[name+"/"+id]; w != "" && !strings.HasPrefix(got, w) {
					t.Errorf("%s: got %s, want %s", id, got, w)
				}
			}
			if len(ids) < 3 {
				t.Errorf("only %d commands", len(ids))
			}
		})
	}
}

func playCommand(m *master, a *agent, id string, messages []proto.Message) string {
	m.t.Helper()
	if messages[len(messages)-1].Op != proto.OpComplete {
		return "has no end" // the worker was told to shut down
	}
	texts := make(map[proto.Stream]string)
	var upload bytes.Buffer
	run := m.start(m.t.Context(), "w1", Command{ID: id, Name: "any", Upload: &upload, Download: strings.NewReader("downloaded"),
		Output: func(s proto.Stream, p []byte, _ int64) error { texts[s] += string(p); return nil }})
	start := a.want(proto.OpStartCommand)
	for _, msg := range messages {
		msg.Seq = a.next()
		a.send(msg)
		if r := a.want(proto.OpResponse); r.Seq != msg.Seq || r.IsException {
			m.t.Errorf("%s %s was answered with %+v", id, msg.Op, r)
		}
	}
	a.reply(start, nil) // commands that end at once are answered after their end (WIRE 6.6)
	r := await(m.t, run)
	if r.err != nil {
		m.t.Errorf("%s: %v", id, r.err)
	}
	var keys []string
	for k := range r.out.Updates {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return fmt.Sprintf("%d %q %q %v uploaded %d, text %.40q", r.out.RC, texts[proto.Stdout], texts[proto.Stderr], keys, upload.Len(), r.out.Text)
}
