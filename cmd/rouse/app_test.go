package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

func TestSingleDashLongFlagsAreTakenAsTerraformDoes(t *testing.T) {
	t.Parallel()
	a := &app{kinds: kinds(), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	for in, want := range map[string]string{
		"builds -limit=5 -json":          "builds --limit=5 --json",
		"builds -limit 5 -builder -json": "builds --limit 5 --builder -json", // the value of -builder
		"logs 3 -f -from -5":             "logs 3 -f --from -5",
		"logs 3 -from=-5 --json":         "logs 3 --from=-5 --json",
		"force x -property -a=b -wait":   "force x --property -a=b --wait",
		"force x -- -wait":               "force x -- -wait",
		"-no-color builds":               "--no-color builds",
		"-help":                          "--help",
		"-h":                             "-h",
		"builds -nothing-like-it":        "builds --nothing-like-it",
		"logs -5":                        "logs -5",
		"fmt -check -":                   "fmt --check -",
	} {
		out, _ := normalise(a.root(), strings.Fields(in))
		if got := strings.Join(out, " "); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestCertificateThatNobodyKnowsIsAnsweredWithTheOption(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that is broken off
	srv.StartTLS()
	t.Cleanup(srv.Close)
	var stderr bytes.Buffer
	a := &app{kinds: kinds(), stdout: io.Discard, stderr: &stderr}
	if code := a.run([]string{"builds", "-master", srv.URL}); code != 1 || !strings.Contains(stderr.String(), "-ca FILE") {
		t.Errorf("code %d: %s", code, stderr.String())
	}
}

func TestHuman(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[float64]string{0: "0ms", 0.0374: "37ms", 2.54: "2.5s", 12.9: "12s", 61: "1m01s", 7500: "2h05m", 277_200: "3d05h"} {
		if got := human(seconds); got != want {
			t.Errorf("%v: %s, want %s", seconds, got, want)
		}
	}
}

func TestTablesCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	tab := newTable(&app{stdout: &out})
	tab.row("a\x1b[2Jb", "c\u202ed", "e\tf\ng")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("a?[2Jb  c?d  e?f?g\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"builds", "build", "force", "fmt"}
	for word, want := range map[string]string{"bulds": "builds", "forse": "force", "fm": "fmt", "xyz": "", "workers": ""} {
		if got := hcl.Nearest(word, words); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

// against makes a session with a client of the handler.
func against(t *testing.T, h http.Handler) (*session, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rouse")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, api.SocketName)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	c, err := api.NewClient(path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close(); _ = os.RemoveAll(dir) })
	var out, errs bytes.Buffer
	return &session{app: &app{stdout: &out, stderr: &errs}, Client: c}, &out, &errs
}

// allowed lets every request in, as the local socket does.
func allowed(w *apitest.World) http.Handler {
	h := w.Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("test", "admin", "x")} }
	}).Handler()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer x")
		h.ServeHTTP(rw, r)
	})
}

func TestWaitingOutlastsARestartOfTheMaster(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	ids, err := w.Submit(t.Context(), []model.Request{{Builder: "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	real := allowed(w)
	var breaks atomic.Int32
	s, _, errs := against(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if breaks.Add(1) <= 2 { // the first two answers break off
			rw.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = rw.Write([]byte("\n"))
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}
		real.ServeHTTP(rw, r)
	}))
	last, err := s.await(t.Context(), ids[0], false)
	if err != nil || last.Result != model.Success || breaks.Load() != 3 {
		t.Errorf("%v, %v, %d", last.Result, err, breaks.Load())
	}
	if got := strings.Count(errs.String(), "The master is away"); got != 1 {
		t.Errorf("said %d times that it is away: %s", got, errs)
	}
}

func TestAnOrderWithoutAnAnswerMayHaveBeenCarriedOut(t *testing.T) {
	t.Parallel()
	for _, interrupted := range []bool{false, true} {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		s, _, errs := against(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the order has come
			if interrupted {
				interrupt()
				<-r.Context().Done()
			}
			panic(http.ErrAbortHandler)
		}))
		_, reconfig := s.reconfig(ctx, "")
		apply := s.agree(ctx, &proposal{plan: &plan.Plan{Base: 7, SourceChanged: true}, path: "/apply", ask: func(*api.Expect, api.Order) any { return nil }}, &applyFlags{})
		if err := s.force(ctx, &forceOptions{}); err == nil || !strings.HasPrefix(errs.String(), "It is not known whether the request was stored") {
			t.Errorf("force, interrupted %v: %v, %q", interrupted, err, errs)
		}
		code := 1
		if interrupted {
			code = 130
		}
		for name, err := range map[string]error{"reconfig": reconfig, "apply": apply} {
			e, ok := errors.AsType[*exitError](err)
			if !ok || e.code != code || !strings.Contains(e.msg, "It is not known whether the configuration was applied") || strings.Contains(e.msg, "generation 7") != (name == "apply") {
				t.Errorf("%s, interrupted %v: %v", name, interrupted, err)
			}
		}
	}
}

func TestAQuestionEndsWithAnInterrupt(t *testing.T) {
	t.Parallel()
	silent, quiet := io.Pipe() // somebody who never answers
	defer quiet.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	a := &app{stdin: silent, stderr: io.Discard}
	ended := make(chan error, 1)
	go func() {
		agreed, err := a.agree(ctx, "Destroy 1 instance? ", "yes")
		if agreed {
			err = errors.New("nobody has agreed")
		}
		ended <- err
	}()
	interrupt()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOnlyTheAnswerAgrees(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]bool{"yes\n": true, " yes \n": true, "yes": true, "y\n": false, "YES\n": false, "\n": false, "": false, "yes please\n": false} {
		a := &app{stdin: strings.NewReader(typed), stderr: io.Discard}
		if agreed, err := a.agree(t.Context(), "? ", "yes"); err != nil || agreed != want {
			t.Errorf("%q: %v, %v", typed, agreed, err)
		}
	}
}

func TestAConsoleWithNothingOnItIsNoError(t *testing.T) {
	t.Parallel()
	real := allowed(apitest.New())
	s, out, errs := against(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/console") {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			return
		}
		real.ServeHTTP(rw, r)
	}))
	if err := s.console(t.Context(), "linux-1", false); err != nil || out.Len() > 0 || !strings.HasPrefix(errs.String(), "Instance abc-linux-1-2 has printed nothing so far") {
		t.Errorf("%v, %q, %q", err, out, errs)
	}
}

func TestALogDrivesNoTerminal(t *testing.T) {
	t.Parallel()
	const line = "\x1b]0;title\x07\x1b[1;31mred\x1b[0m\x1b[2J\x1b]52;c;cHduZWQ=\x07\x1b]0;\x1b[31mnot a title\tend\u009b2J\x1b[0m"
	const bare = "rednot a title\tend"
	for styles, want := range map[bool]string{true: "\x1b[1;31mred\x1b[0m\x1b[31mnot a title\tend\x1b[0m", false: bare} {
		if got := visible(line, styles); got != want {
			t.Errorf("styles %v: %q", styles, got)
		}
	}
	for terminal, want := range map[bool]string{true: bare + "\n", false: line + "\n"} { // a file has what was printed
		var out bytes.Buffer
		p := &logPrinter{s: &session{app: &app{stdout: &out, noColor: true}}, w: bufio.NewWriter(&out), terminal: terminal}
		if err := p.line(logLine{Line: api.Line{Stream: "stdout", Text: line}}); err != nil {
			t.Fatal(err)
		}
		if err := p.w.Flush(); err != nil || out.String() != want {
			t.Errorf("terminal %v: %v, %q", terminal, err, out.String())
		}
	}
}

func TestFollowingALogGoesOnWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	real := allowed(apitest.New())
	var calls atomic.Int32
	s, out, _ := against(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/follow") && calls.Add(1) == 1 {
			rw.Header().Set("Content-Type", "application/x-ndjson")
			for n, text := range []string{"one", "two"} {
				_ = json.NewEncoder(rw).Encode(api.Line{N: int64(n), Stream: "stdout", Text: text})
			}
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}
		real.ServeHTTP(rw, r)
	}))
	p := &logPrinter{s: s, w: bufio.NewWriter(out), build: 1}
	if err := p.read(t.Context(), 0, "stdio", &logOptions{follow: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("one\ntwo\na warning\ndone <b>&\nexit code 0\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestCtrlCWhileWaitingSaysThatTheRequestGoesOn(t *testing.T) {
	t.Parallel()
	real := allowed(apitest.New())
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	s, _, errs := against(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/watch") { // the request is stored, and waited for
			interrupt()
			<-r.Context().Done()
			return
		}
		real.ServeHTTP(rw, r)
	}))
	err := s.force(ctx, &forceOptions{Force: api.Force{Builder: "hello"}, wait: true})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if want := "Request 4 goes on without this program. To cancel it: rouse cancel request 4\n"; errs.String() != want {
		t.Error(errs)
	}
}
