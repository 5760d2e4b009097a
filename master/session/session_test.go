package session

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestAgentAttachesRunsACommandAndIsToldToForgetIt(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	at := event[core.Attached](m)
	if at.Worker != "w1" || !at.Resumable || len(at.Agent) != 64 || at.Instance != "" || at.Session == 0 {
		t.Errorf("got %+v", at)
	}
	if got := m.Info("w1")["basedir"]; got != "/base" {
		t.Errorf("basedir: got %v", got)
	}
	var l log
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Args: map[string]any{"command": "true"}, Output: l.write})
	start := a.want(proto.OpStartCommand)
	if start.CommandID != "c1" || start.Text("command_name") != "shell" || start.Args()["command"] != "true" {
		t.Errorf("got %+v", start)
	}
	a.reply(start, nil)
	a.output("c1", proto.Stdout, 0, "hello ")
	a.output("c1", proto.Stderr, 6, "world")
	if ack := a.want(proto.OpAck); ack.CommandID != "c1" || ack.Pos != 11 && ack.Pos != 6 {
		t.Errorf("got %+v", ack)
	}
	a.complete("c1", 11, proto.Update{Key: "rc", Value: int64(3)}, proto.Update{Key: "elapsed", Value: 0.5},
		proto.Update{Key: "failure_reason", Value: "timeout"}, proto.Update{Key: "files", Value: []any{"a"}})
	got := await(t, run)
	want := Outcome{RC: 3, Elapsed: time.Second / 2, FailureReason: "timeout", Updates: map[string][]any{"files": {[]any{"a"}}}}
	if d := cmp.Diff(want, got.out); d != "" || got.err != nil {
		t.Errorf("err %v, (-want +got)\n%s", got.err, d)
	}
	if l.String() != "hello world" {
		t.Errorf("log: %q", l.String())
	}
	m.Forget("w1", "c1")
	if f := a.want(proto.OpForget); f.CommandID != "c1" {
		t.Errorf("got %+v", f)
	}
}

func TestHandshakeAnswersAreBuildbots(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	token := headers("w1", nonceA)
	token.Set(proto.HeaderInstance, "inst-1")
	token.Set("Authorization", basic("w1", Token([]byte("key"), "inst-1").Reveal()))
	foreign := token.Clone()
	foreign.Set(proto.HeaderInstance, "inst-2")
	stolen := token.Clone()
	stolen.Set("Authorization", basic("w2", Token([]byte("key"), "inst-1").Reveal()))
	passwordForInstance := headers("w1", nonceA)
	passwordForInstance.Set(proto.HeaderInstance, "inst-1")
	badNonce := headers("w1", "short")
	for name, c := range map[string]struct {
		header http.Header
		status int
	}{
		"no credentials":               {http.Header{}, 401},
		"wrong password":               {http.Header{"Authorization": {basic("w1", "x")}}, 401},
		"unknown worker":               {http.Header{"Authorization": {basic("nobody", "pw-nobody")}}, 401},
		"not Basic":                    {http.Header{"Authorization": {"Bearer x"}}, 400},
		"no colon":                     {http.Header{"Authorization": {"Basic bm9jb2xvbg=="}}, 400},
		"not base64":                   {http.Header{"Authorization": {"Basic %%%"}}, 400},
		"bad nonce":                    {badNonce, 400},
		"token of another instance":    {foreign, 401},
		"token of another worker":      {stolen, 401},
		"password instead of a token":  {passwordForInstance, 401},
		"right token":                  {token, 101},
		"right password, plain worker": {headers("w2", ""), 101},
	} {
		_, resp, err := m.dialWith(c.header)
		if resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: got %v (%v), want %d", name, resp, err, c.status)
		}
	}
	resp, err := http.Get(m.url)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("plain GET: %s", resp.Status)
	}
}

func TestSecondAgentIsRefusedAndTheFirstNotDisturbed(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	event[core.Attached](m)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	got := make(chan proto.Message)
	go func() { // reading is what answers the master's probe
		msg, _ := a.tryRecv()
		got <- msg
	}()
	for _, nonce := range []string{nonceB, ""} {
		if ce := m.dial("w1", nonce).closed(); ce.Code != proto.StatusRefused {
			t.Errorf("got %+v", ce)
		}
	}
	until(t, "the probe has ended", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.peers["w1"].probing })
	a.send(proto.Request(proto.OpComplete, a.next(), "c1", proto.Completion{Updates: []proto.Update{{Key: "rc", Value: int64(0)}}}.Fields()))
	if r := await(t, run); r.err != nil || r.out.RC != 0 {
		t.Errorf("got %+v", r)
	}
	<-got
	m.noEvent()
}

func TestSecondPlainWorkerIsRefusedAndTheFirstNotDisturbed(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Probe: 100 * time.Millisecond})
	interview := []proto.Message{{}, {Result: map[string]any{"basedir": "/b"}}, {}}
	a := m.interviewed("w1", interview)
	event[core.Attached](m)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	got := make(chan proto.Message)
	go func() {
		msg, _ := a.tryRecv()
		got <- msg
	}()
	if ce := m.dial("w1", "").closed(); ce.Code != proto.StatusRefused {
		t.Errorf("got %+v", ce)
	}
	until(t, "the probe has ended", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.peers["w1"].probing })
	a.send(proto.Request(proto.OpComplete, a.next(), "c1", map[string]any{"args": nil}))
	if r := await(t, run); r.err != nil {
		t.Error(r.err)
	}
	<-got
	m.noEvent()
}

func TestHalfOpenHolderOfANameGivesWayWithinTheProbe(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Probe: 50 * time.Millisecond})
	m.attach("w1", nonceA) // and never reads again
	first := event[core.Attached](m)
	if ce := m.dial("w1", nonceB).closed(); ce.Code != proto.StatusRefused {
		t.Errorf("got %+v", ce)
	}
	if d := event[core.Detached](m); d.Session != first.Session {
		t.Errorf("got %+v, want %+v", d, first)
	}
	m.attach("w1", nonceB)
	event[core.Attached](m)
}

func TestSameAgentTakesOverItsHalfOpenConnection(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	event[core.Attached](m)
	var l log
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell", Output: l.write})
	a.reply(a.want(proto.OpStartCommand), nil)
	a.output("c1", proto.Stdout, 0, "abc")
	until(t, "output is logged", func() bool { return l.String() == "abc" })

	b := m.attach("w1", nonceA, proto.Running{ID: "c1", From: 0, To: 5})
	if resume := b.want(proto.OpResume); resume.CommandID != "c1" || resume.Pos != 3 {
		t.Errorf("got %+v", resume)
	} else {
		b.reply(resume, nil)
	}
	b.output("c1", proto.Stdout, 2, "cde") // more than asked for: the overlap is dropped
	b.complete("c1", 5, proto.Update{Key: "rc", Value: int64(0)})
	if r := await(t, run); r.err != nil || l.String() != "abcde" {
		t.Errorf("got %+v, log %q", r, l.String())
	}
	var attached, detached int
	for range 2 {
		switch ev := <-m.events; ev.(type) {
		case core.Attached:
			attached++
		case core.Detached:
			detached++
		}
	}
	if attached != 1 || detached != 1 {
		t.Errorf("%d attached, %d detached", attached, detached)
	}
}

func TestCoreHasTheFinalSay(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	m.admit = func(a core.Attached) bool {
		m.Hangup(a.Worker, a.Session, "the instance is about to end", false)
		return false
	}
	a := m.dial("w1", nonceA)
	a.hello()
	if ce := a.closed(); ce.Code != proto.StatusRefused || ce.Reason != "the instance is about to end" {
		t.Errorf("got %+v", ce)
	}
	at := event[core.Attached](m)
	if d := event[core.Detached](m); d.Session != at.Session {
		t.Errorf("got %+v", d)
	}
}

func TestHangupWithEndTellsTheAgentToEnd(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	at := event[core.Attached](m)
	m.Hangup("w1", at.Session, "instance ends", true)
	m.Hangup("w1", at.Session, "instance ends", true)
	if ce := a.closed(); ce.Code != proto.StatusEnd {
		t.Errorf("got %+v", ce)
	}
	event[core.Detached](m)
	m.Hangup("w1", at.Session, "again", true)
	m.noEvent()
}

func TestShutdownLetsGoOfCommandsWithoutInterruptingThem(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{})
	a := m.attach("w1", nonceA)
	run := m.start(t.Context(), "w1", Command{ID: "c1", Name: "shell"})
	waiting := m.start(t.Context(), "w2", Command{ID: "c2", Name: "shell", Resume: true})
	a.reply(a.want(proto.OpStartCommand), nil)
	until(t, "both run", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.peers) == 2 && len(m.peers["w1"].runs)+len(m.peers["w2"].runs) == 2
	})
	go func() { _ = m.Shutdown(true) }()
	if ce := a.closed(); ce.Code != 1001 { // and no interrupt_command before it: closed would fail
		t.Errorf("got %+v", ce)
	}
	for _, ch := range []<-chan result{run, waiting} {
		if r := await(t, ch); !errors.Is(r.err, ErrDetached) {
			t.Errorf("got %+v", r)
		}
	}
}

func TestContextCancelledWithTheDetachCauseLeavesTheCommandAlone(t *testing.T) {
	t.Parallel()
	detach := errors.New("the engine detaches")
	m := newMaster(t, Options{Detach: detach})
	a := m.attach("w1", nonceA)
	ctx, cancel := context.WithCancelCause(t.Context())
	run := m.start(ctx, "w1", Command{ID: "c1", Name: "shell"})
	a.reply(a.want(proto.OpStartCommand), nil)
	cancel(detach)
	if r := await(t, run); !errors.Is(r.err, ErrDetached) {
		t.Errorf("got %+v", r)
	}
	_ = m.start(t.Context(), "w1", Command{ID: "c2", Name: "shell"})
	if next := a.recv(); next.CommandID != "c2" {
		t.Errorf("got %+v", next)
	}
}

func TestTokenIsBoundToKeyAndInstance(t *testing.T) {
	t.Parallel()
	tok := Token([]byte("k"), "i").Reveal()
	if !CheckToken([]byte("k"), "i", tok) || CheckToken([]byte("k"), "j", tok) || CheckToken([]byte("l"), "i", tok) || CheckToken([]byte("k"), "i", "") {
		t.Error("CheckToken")
	}
	if len(tok) != 52 || strings.Contains(tok, "=") {
		t.Errorf("token %q", tok)
	}
}
