package worker

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/worker/proto"
)

func split(longest int, pieces ...string) []string {
	s := &splitter{longest: longest}
	var out []string
	emit := func(line []byte, _ float64) { out = append(out, string(line)) }
	for _, p := range pieces {
		s.push([]byte(p), 0, emit)
	}
	s.end(emit)
	return out
}

func TestSplitterFollowsBuildbotsNewlines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   []string
		want []string
	}{
		{[]string{"a\nb\n"}, []string{"a", "b"}},
		{[]string{"a\r\nb\rc\n"}, []string{"a", "b", "c"}},
		{[]string{"a\r", "\nb"}, []string{"a", "b"}},
		{[]string{"a\r"}, []string{"a"}},
		{[]string{"a\r", "b"}, []string{"a", "b"}},
		{[]string{"par", "tial"}, []string{"partial"}},
		{[]string{"1%\b\b2%\n"}, []string{"1%", "2%"}},
		{[]string{"x\x1b[uy\x1b[3;14Hz\x1b[1;2fq\x1b[2Jend\n"}, []string{"x", "y", "z", "q", "end"}},
		{[]string{"x\x1b[3", ";1", "4Hz\n"}, []string{"x", "z"}},
		{[]string{"\x1b[31mred\x1b[0m\n"}, []string{"\x1b[31mred\x1b[0m"}},
		{[]string{"cut \x1b["}, []string{"cut \x1b["}},
		{[]string{"\n\n"}, []string{"", ""}},
		{nil, nil},
	} {
		if d := cmp.Diff(c.want, split(4096, c.in...)); d != "" {
			t.Errorf("%q: %s", c.in, d)
		}
	}
}

func TestSplitterCutsLongLinesWithoutLoss(t *testing.T) {
	t.Parallel()
	in := strings.Repeat("é漢x", 3000)
	lines := split(4096, in[:5000], in[5000:]+"\n")
	if strings.Join(lines, "") != in {
		t.Error("text was lost")
	}
	for _, l := range lines {
		if len(l) >= 4096 || !utf8.ValidString(l) {
			t.Errorf("a line of %d bytes, valid %v", len(l), utf8.ValidString(l))
		}
	}
}

// FuzzSplitter: however the input is cut, nothing but control sequences is lost. (Only runs of backspaces may become more newlines.)
func FuzzSplitter(f *testing.F) {
	f.Add("a\r\nb\x1b[3;14Hc\n", uint8(3))
	f.Add("\x1b[2J\r\r\n\x1b", uint8(1))
	f.Add(strings.Repeat("é", 40), uint8(7))
	f.Fuzz(func(t *testing.T, in string, n uint8) {
		in = strings.ReplaceAll(strings.ToValidUTF8(in, "?"), "\b", "")
		runes := []rune(in)
		at := min(int(n), len(runes))
		whole := split(20, in)
		if d := cmp.Diff(whole, split(20, string(runes[:at]), string(runes[at:]))); d != "" {
			t.Errorf("%q cut at %d: %s", in, at, d)
		}
	})
}

func TestPlainV7SpeaksAsTheReferenceWorker(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.plain = true
	a, _ := m.agent(nil)
	m.attach(1)
	if r := m.must(proto.Request(proto.OpPrint, 0, "", map[string]any{"message": "attached"})); r.IsException || r.Result != nil {
		t.Errorf("%+v", r)
	}
	info, _ := m.must(proto.Message{Op: proto.OpGetWorkerInfo}).Result.(map[string]any)
	if info["basedir"] != a.cfg.Basedir || info["system"] != "posix" || info["delete_leftover_dirs"] != false || info["numcpus"] == nil {
		t.Errorf("info %v", info)
	}
	if r := m.must(proto.Request(proto.OpSetWorkerSettings, 0, "", map[string]any{"args": map[string]any{"buffer_size": int64(65536),
		"buffer_timeout": int64(5), "newline_re": "x", "max_line_length": int64(4096)}})); r.IsException {
		t.Errorf("%+v", r)
	}
	m.start("51", "shell", map[string]any{"command": []any{"sh", "-c", "printf 'é\\nhello\\npartial'; echo oops >&2; exit 0"}, "logEnviron": false})
	l := m.finish("51")
	var order []string
	var out string
	for _, u := range l.updates {
		order = append(order, u.Key)
		if u.Key == "stdout" {
			triple := u.Value.([]any)
			text := triple[0].(string)
			out += text
			runes := []rune(text)
			ends, times := triple[1].([]any), triple[2].([]any)
			if len(ends) != len(times) || len(ends) != strings.Count(text, "\n") {
				t.Errorf("%q: %v %v", text, ends, times)
			}
			for _, e := range ends {
				if runes[e.(int64)] != '\n' {
					t.Errorf("%q: no newline at %d", text, e)
				}
			}
		}
	}
	if out != "é\nhello\npartial\n" || l.value("rc") != int64(0) {
		t.Errorf("stdout %q, %v", out, l.updates)
	}
	if got := order[len(order)-1]; got != "stdout" { // the last partial line comes after rc and elapsed, as with the reference
		t.Errorf("order %v", order)
	}
	m.start("52", "listdir", map[string]any{"path": a.cfg.Basedir})
	if got := fmt.Sprint(m.finish("52").value("files")); !strings.Contains(got, "build") {
		t.Errorf("files %s", got)
	}
}

func TestPlainV7CommandsDieWithTheConnection(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.plain = true
	a, _ := m.agent(nil)
	m.attach(1)
	m.start("1", "shell", map[string]any{"command": "sleep 60"})
	m.cut()
	m.attach(2)
	a.running.Wait()
}

func TestPlainV7InterruptAndShutdown(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	m.plain = true
	_, done := m.agent(nil)
	m.attach(1)
	m.start("1", "shell", map[string]any{"command": "sleep 60"})
	m.must(proto.Request(proto.OpInterruptCommand, 0, "1", map[string]any{"why": "stop"}))
	if l := m.finish("1"); l.value("rc") != int64(-1) {
		t.Errorf("%v", l.updates)
	}
	m.must(proto.Message{Op: proto.OpShutdown})
	if err := <-done; err != nil {
		t.Error(err)
	}
}
