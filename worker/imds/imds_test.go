package imds

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/worker/imds/imdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	terminate = `{"action": "terminate", "time": "2026-09-18T08:22:00Z"}`
	hibernate = `{"action": "hibernate", "time": "2026-09-18T08:23:00Z"}`
	rebalance = `{"noticeTime": "2026-09-18T08:20:00Z"}`
)

var (
	terminated = Notice{Interruption, "terminate at 2026-09-18T08:22:00Z"}
	rebalanced = Notice{Rebalance, "an interruption has become likely, said at 2026-09-18T08:20:00Z"}
)

// watching is a watcher that polls quickly, and what it has said.
type watching struct {
	t    *testing.T
	news chan []Notice
	mu   sync.Mutex
	log  bytes.Buffer
}

func (w *watching) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *watching) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func watch(t *testing.T, s *imdstest.Service) *watching {
	t.Helper()
	w := &watching{t: t, news: make(chan []Notice, 100)}
	watcher, err := New(s.URL+"/", time.Millisecond, slog.New(slog.NewTextHandler(w, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watcher.Run(ctx, func(list []Notice) { w.news <- list })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *watching) want(list ...Notice) {
	w.t.Helper()
	select {
	case got := <-w.news:
		if diff := cmp.Diff(list, got); diff != "" {
			w.t.Errorf("what is announced (-want +got):\n%s", diff)
		}
	case <-time.After(10 * time.Second):
		w.t.Fatalf("nothing was said; the log: %s", w.logged())
	}
}

// polls waits until the service has been asked n more times.
func (w *watching) polls(s *imdstest.Service, n int) {
	w.t.Helper()
	began, deadline := s.Requests(), time.Now().Add(10*time.Second)
	for s.Requests() < began+n {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d requests, want %d", s.Requests()-began, n)
		}
		time.Sleep(time.Millisecond)
	}
}

// complains waits until something is logged: a poll may take several requests.
func (w *watching) complains() {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for w.logged() == "" {
		if time.Now().After(deadline) {
			w.t.Fatal("nothing is logged")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnAnnouncementIsSaidOnceAndItsWithdrawalToo(t *testing.T) {
	t.Parallel()
	s := imdstest.New(t)
	w := watch(t, s)
	w.polls(s, 5)
	s.Announce(imdstest.Action, terminate)
	w.want(terminated)
	w.polls(s, 10)
	s.Announce(imdstest.Rebalance, rebalance)
	w.want(terminated, rebalanced)
	s.Announce(imdstest.Action, hibernate)
	w.want(Notice{Interruption, "hibernate at 2026-09-18T08:23:00Z"}, rebalanced)
	s.Announce(imdstest.Action, "")
	w.want(rebalanced)
	w.polls(s, 10)
	if len(w.news) > 0 || w.logged() != "" {
		t.Errorf("more was said: %v; log: %s", <-w.news, w.logged())
	}
}

func TestATokenThatIsForgottenIsReplacedWithoutAWord(t *testing.T) {
	t.Parallel()
	s := imdstest.New(t)
	w := watch(t, s)
	w.polls(s, 5)
	s.ForgetTokens()
	s.Announce(imdstest.Action, terminate)
	w.want(terminated)
	if w.logged() != "" {
		t.Error(w.logged())
	}
}

func TestAServiceThatFailsIsComplainedOfOnceAndTakesNothingBack(t *testing.T) {
	t.Parallel()
	s := imdstest.New(t)
	w := watch(t, s)
	s.Announce(imdstest.Action, terminate)
	w.want(terminated)
	s.Break(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	w.complains()
	w.polls(s, 6)
	if n := strings.Count(w.logged(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, w.logged())
	}
	s.Announce(imdstest.Rebalance, rebalance)
	s.Break(nil)
	w.want(terminated, rebalanced)
}

// What is not as EC2 documents it is no announcement, costs no memory, and leads nowhere.
func TestHostileAnswersAnnounceNothing(t *testing.T) {
	t.Parallel()
	elsewhere := imdstest.New(t)
	say := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				_, _ = fmt.Fprint(w, "token")
				return
			}
			_, _ = fmt.Fprint(w, body)
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		},
		"endless token": func(w http.ResponseWriter, _ *http.Request) { endless(t, w) },
		"endless document": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				_, _ = fmt.Fprint(w, "token")
				return
			}
			endless(t, w)
		},
		"endless header": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
		"token with a newline": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, "a\r\nHost: elsewhere")
		},
		"always 401": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				_, _ = fmt.Fprint(w, "token")
				return
			}
			w.WriteHeader(http.StatusUnauthorized)
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"page":     say("<html>Welcome to the hotel"),
		"list":     say("[]"),
		"no time":  say(`{"action": "terminate"}`),
		"unknown":  say(`{"action": "dance", "time": "2026-09-18T08:22:00Z"}`),
		"types":    say(`{"action": 7, "time": {}, "noticeTime": -1}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := imdstest.New(t)
			s.Break(h)
			w := watch(t, s)
			w.complains()
			w.polls(s, 4)
			if len(w.news) > 0 {
				t.Errorf("announced: %v", <-w.news)
			}
			if n := strings.Count(w.logged(), "\n"); n != 1 || len(w.logged()) > 2000 {
				t.Errorf("%d lines: %.3000s", n, w.logged())
			}
			s.Break(nil) // and it goes on
			s.Announce(imdstest.Action, terminate)
			w.want(terminated)
		})
	}
	t.Cleanup(func() {
		if n := elsewhere.Requests(); n > 0 {
			t.Errorf("%d redirects were followed", n)
		}
	})
}

func endless(t *testing.T, w http.ResponseWriter) {
	b := bytes.Repeat([]byte("x"), 64<<10)
	for range 16 << 10 { // 1 GiB
		if _, err := w.Write(b); err != nil {
			return
		}
	}
	t.Error("all of a gibibyte was read")
}

func TestParsersNeverPanicAndSayLittle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, maxBody), rapid.Custom(func(t *rapid.T) []byte {
			return fmt.Appendf(nil, `{"action": %s, "time": %q, "noticeTime": %q}`, rapid.SampledFrom([]string{`"stop"`, `null`, `""`, `[]`}).Draw(t, "action"),
				rapid.StringN(0, 40, 60).Draw(t, "time"), rapid.StringN(0, 40, 60).Draw(t, "noticeTime"))
		})).Draw(t, "body")
		for _, src := range sources {
			text, err := src.parse(body)
			if (text == "") == (err == nil) || len(text) > 100 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q is read as %q, %v", body, text, err)
			}
		}
	})
}

// Nobody is there: attempts get rarer, to one in a minute, and one line says so.
func TestNoServiceIsToldOnceAndAskedSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w, err := New("", 0, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		attempts := 0
		w.client.Transport = transport(func(*http.Request) (*http.Response, error) {
			attempts++
			return nil, fmt.Errorf("no route to host")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		w.Run(ctx, func(l []Notice) { t.Errorf("announced: %v", l) })
		if attempts < 55 || attempts > 70 {
			t.Errorf("%d attempts in an hour", attempts)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "no route to host") {
			t.Errorf("%d lines: %s", n, log.String())
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestABadEndpointIsRefused(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"169.254.169.254", "ftp://host", "http://", "http://[::1", "://"} {
		if w, err := New(u, 0, nil); err == nil {
			t.Errorf("%q: %v", u, w.endpoint)
		}
	}
}
