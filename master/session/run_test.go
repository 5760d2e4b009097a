package session

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestCancelledCommandIsInterruptedAndItsEndAwaited(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	ctx, cancel := context.WithCancelCause(t.Context())
	run := m.start(ctx, "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	cancel(errors.New("somebody cancelled the build"))
	i := a.want(proto.OpInterruptCommand)
	if i.CommandID != "c1" || i.Text("why") != "somebody cancelled the build" {
		t.Errorf("got %+v", i)
	}
	a.reply(i, nil)
	a.output("c1", proto.Header, 0, "killed\n")
	a.complete("c1", 7, proto.Update{Key: "rc", Value: int64(-1)})
	if r := await(t, run); r.err != nil || r.out.RC != -1 {
		t.Errorf("got %+v", r)
	}
}

func TestCommandThatIgnoresTheInterruptIsForgottenWhichKillsIt(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Interrupt: 50 * time.Millisecond})
	a := m.attach("w1", nonceA)
	ctx, cancel := context.WithCancel(t.Context())
	run := m.start(ctx, "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	cancel()
	a.reply(a.want(proto.OpInterruptCommand), nil)
	if r := await(t, run); !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %+v", r)
	}
	if f := a.want(proto.OpForget); f.CommandID != "c1" {
		t.Errorf("got %+v", f)
	}
}

func TestCancelWithoutAConnectionReturnsAtOnceAndKillsTheCommandWhenTheAgentComesBack(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	event[core.Attached](m)
	ctx, cancel := context.WithCancel(t.Context())
	run := m.start(ctx, "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	_ = a.conn.CloseNow()
	event[core.Detached](m)
	cancel()
	if r := await(t, run); !errors.Is(r.err, context.Canceled) {
		t.Errorf("got %+v", r)
	}
	b := m.attach("w1", nonceA, proto.Running{ID: "c1"})
	if f := b.want(proto.OpForget); f.CommandID != "c1" {
		t.Errorf("got %+v", f)
	}
}

func TestLostWorkerEndsItsRuns(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	never := m.start(t.Context(), "w2", Command{ID: "c2", Name: "shell"})
	until(t, "the second run waits", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.peers["w2"] != nil })
	m.Lost("w1")
	m.Lost("w2")
	m.Lost("w3")
	for _, ch := range []<-chan result{run, never} {
		if r := await(t, ch); !errors.Is(r.err, ErrLost) {
			t.Errorf("got %+v", r)
		}
	}
}

func TestPlainWorkersCommandsDieWithTheConnection(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	interview := []proto.Message{{}, {Result: map[string]any{"basedir": "/b"}}, {}}
	a := m.interviewed("w1", interview)
	event[core.Attached](m)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	_ = a.conn.CloseNow()
	if r := await(t, run); !errors.Is(r.err, ErrLost) {
		t.Errorf("got %+v", r)
	}
	event[core.Detached](m)
	if _, err := m.Run(t.Context(), "w1", Command{ID: "c2", Name: "shell"}); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	b := m.interviewed("w1", interview)
	event[core.Attached](m)
	run = m.start(t.Context(), "w1", Command{ID: "c3", Name: "shell"})
	b.reply(b.want(proto.OpStartCommand), nil)
	b.send(proto.Request(proto.OpComplete, b.next(), "c3", map[string]any{"args": "Traceback"}))
	if r := await(t, run); r.err != nil || r.out.RC != -1 || r.out.Text != "Traceback" {
		t.Errorf("got %+v", r)
	}
}

func TestRefusedCommandSaysWhy(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "nonsense"})
	q := a.want(proto.OpStartCommand)
	a.send(proto.Exception(q.Seq, "unknown command nonsense"))
	if r := await(t, run); r.err == nil || r.err.Error() != "the agent refused start_command: unknown command nonsense" {
		t.Errorf("got %+v", r)
	}
	for _, c := range []Command{{Name: "shell"}, {ID: "c"}, {ID: "c", Name: "shell", Args: map[string]any{"x": struct{}{}}}} {
		if _, err := m.Run(t.Context(), "w1", c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestSameCommandCannotRunTwiceAtOnce(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	if _, err := m.Run(t.Context(), "w1", Command{ID: "c1", Name: "shell"}); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("got %v", err)
	}
	a.complete("c1", 0)
	await(t, run)
}

func TestFailingLogEndsTheCommandWithThatError(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	calls := 0
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Output: func(proto.Stream, []byte, int64) error { calls++; return full }})
	a.reply(a.want(proto.OpStartCommand), nil)
	a.output("c1", proto.Stdout, 0, "a")
	a.output("c1", proto.Stdout, 1, "b")
	i := a.want(proto.OpInterruptCommand)
	a.reply(i, nil)
	a.complete("c1", 2, proto.Update{Key: "rc", Value: int64(-1)})
	if r := await(t, run); !errors.Is(r.err, full) || calls != 1 {
		t.Errorf("got %+v after %d calls", r, calls)
	}
	a.want(proto.OpForget)
}

func TestMissingOutputFailsTheCommand(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Interrupt: time.Second})
	a := m.attach("w1", nonceA)
	for id, send := range map[string]func(string){
		"gap": func(id string) { a.output(id, proto.Stdout, 5, "later") },
		"end": func(id string) {
			a.send(proto.Request(proto.OpComplete, a.next(), id, proto.Completion{End: 5}.Fields()))
		},
	} {
		run := m.start(t.Context(), "w1", Command{ID: id, Name: "shell"})
		a.reply(a.want(proto.OpStartCommand), nil)
		send(id)
		if id == "gap" {
			a.want(proto.OpInterruptCommand)
		} else {
			a.want(proto.OpResponse)
		}
		if r := await(t, run); r.err == nil || !strings.Contains(r.err.Error(), "output of command "+id) {
			t.Errorf("%s: got %+v", id, r)
		}
		a.want(proto.OpForget)
	}
}

func TestOutputIsAcknowledgedSoonAndInLargePieces(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	a.output("c1", proto.Stdout, 0, "a")
	if ack := a.want(proto.OpAck); ack.Pos != 1 {
		t.Errorf("got %+v", ack)
	}
	piece := strings.Repeat("x", 64<<10)
	pos := int64(1)
	for range 32 {
		a.output("c1", proto.Stdout, pos, piece)
		pos += int64(len(piece))
	}
	acks := 0
	for last := int64(0); last < pos; acks++ {
		ack := a.want(proto.OpAck)
		if ack.Pos <= last {
			t.Errorf("ack %d after %d", ack.Pos, last)
		}
		last = ack.Pos
	}
	if acks > 20 { // eight full ones, and what the delay adds on a slow machine
		t.Errorf("%d acks for %d bytes", acks, pos)
	}
	a.complete("c1", pos)
	await(t, run)
}

func TestTransfers(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	ask := func(op, id string, fields map[string]any) proto.Message {
		t.Helper()
		a.send(proto.Request(op, a.next(), id, fields))
		return a.want(proto.OpResponse)
	}
	var up bytes.Buffer
	run := m.start(t.Context(), "w1", Command{ID: "u", Name: "upload_file", Upload: &up, MaxUpload: 10})
	a.reply(a.want(proto.OpStartCommand), nil)
	for _, block := range []any{[]byte("01234"), []byte("56789")} {
		if r := ask(proto.OpUploadFileWrite, "u", map[string]any{"args": block}); r.IsException {
			t.Errorf("got %+v", r)
		}
	}
	ask(proto.OpUploadFileClose, "u", nil)
	ask(proto.OpUploadFileUtime, "u", map[string]any{"access_time": 1.5, "modified_time": 2.5})
	a.complete("u", 0, proto.Update{Key: "rc", Value: int64(0)})
	r := await(t, run)
	if d := cmp.Diff(map[string][]any{"utime": {[]any{1.5, 2.5}}}, r.out.Updates); d != "" || r.err != nil || up.String() != "0123456789" {
		t.Errorf("%v %q %s", r.err, up.String(), d)
	}

	run = m.start(t.Context(), "w1", Command{ID: "big", Name: "upload_file", Upload: &up, MaxUpload: 3})
	a.reply(a.want(proto.OpStartCommand), nil)
	a.send(proto.Request(proto.OpUploadFileWrite, a.next(), "big", map[string]any{"args": []byte("0123")}))
	for seen := 0; seen < 2; seen++ { // the response and the interrupt, in either order
		switch q := a.recv(); {
		case q.Op == proto.OpInterruptCommand:
			a.reply(q, nil)
		case !q.IsException || !strings.Contains(q.Result.(string), "limit of 3 bytes"):
			t.Errorf("got %+v", q)
		}
	}
	a.complete("big", 0)
	if r := await(t, run); r.err == nil || up.Len() != 10 {
		t.Errorf("got %+v, %d bytes", r, up.Len())
	}
	a.want(proto.OpForget)

	content := strings.Repeat("0123456789", 50_000)
	run = m.start(t.Context(), "w1", Command{ID: "d", Name: "download_file", Download: strings.NewReader(content)})
	a.reply(a.want(proto.OpStartCommand), nil)
	var got []byte
	for {
		r := ask(proto.OpReadFile, "d", map[string]any{"length": int64(1 << 40)})
		block, ok := r.Result.([]byte)
		if !ok || len(block) > proto.MaxOutput {
			t.Fatalf("got %T of %d bytes", r.Result, len(block))
		}
		if len(block) == 0 {
			break
		}
		got = append(got, block...)
	}
	ask(proto.OpReadFileClose, "d", nil)
	a.complete("d", 0)
	if r := await(t, run); r.err != nil || string(got) != content {
		t.Errorf("%v, %d bytes", r.err, len(got))
	}
}

func TestAbs(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	m.attach("w1", nonceA)
	for _, c := range [][3]string{{"b1", "build", "/base/b1/build"}, {"b1", "/abs/x", "/abs/x"}, {"", "", "/base"}, {"b1", "../x", "/base/x"}, {"/b", "c/", "/b/c"}} {
		if got := m.Abs("w1", c[0], c[1]); got != c[2] {
			t.Errorf("%v: got %s", c, got)
		}
	}
	if m.Info("w9") != nil || m.Abs("w9", "a", "b") != "a/b" {
		t.Error("a worker that never attached")
	}
}

func FuzzUpdate(f *testing.F) {
	for _, args := range []any{nil, []any{[]any{"stdout", []any{"x\n", []any{int64(1)}, []any{1.5}}}}, []any{[]any{"log", []any{"f", []any{"x"}}}, []any{"rc", int64(1)}},
		[]any{[]any{"elapsed", 1e300}, []any{"failure_reason", "timeout"}, []any{"files", []any{"a"}}}} {
		b, err := proto.Encode(proto.Request(proto.OpUpdate, 1, "c", map[string]any{"args": args}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	h := New(Options{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := proto.Decode(b)
		if err != nil {
			return
		}
		s := &session{hub: h, worker: "w"}
		var end int64
		r := &run{c: Command{ID: "c", Output: func(_ proto.Stream, p []byte, e int64) error {
			if end += int64(len(p)); e != end || len(p) == 0 {
				t.Errorf("end %d, want %d", e, end)
			}
			return nil
		}}, sess: s, failed: make(chan struct{}), done: make(chan struct{})}
		_ = r.update(s, &m, len(b))
		_ = r.complete(s, &m, len(b))
		if r.out.Elapsed < 0 {
			t.Error("negative time")
		}
	})
}
