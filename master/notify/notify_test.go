package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "correct horse"

// relay is an SMTP server whose answers a test chooses.
type relay struct {
	mu    sync.Mutex
	mails []string
	users []string
	tries int
	rcpt  func(try int, to string) error
}

type session struct {
	r    *relay
	from string
	to   string
}

func (r *relay) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{r: r}, nil }
func (s *session) Reset()                                    {}
func (s *session) Logout() error                             { return nil }
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.tries++
	if s.r.rcpt != nil {
		return s.r.rcpt(s.r.tries, to)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.mails = append(s.r.mails, s.from+" to "+s.to+"\n"+string(b))
	return err
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, word string) error {
		if word != secret {
			return errors.New("wrong")
		}
		s.r.mu.Lock()
		defer s.r.mu.Unlock()
		s.r.users = append(s.r.users, user)
		return nil
	}), nil
}

func (r *relay) serve(t *testing.T, cert *httptest.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(r)
	s.Domain, s.ErrorLog = "relay.example.org", quiet{}
	if cert != nil {
		s.TLSConfig = cert.TLS
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-ended })
	return l.Addr().String()
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// log is a buffer that many goroutines may write to.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *log) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func start(t *testing.T, targets notify.Targets, timeout time.Duration) (*notify.Notifier, *log) {
	t.Helper()
	l := &log{}
	targets.Name = "ci"
	n := notify.New(notify.Options{Targets: func() notify.Targets { return targets }, Backoff: time.Millisecond, Timeout: timeout,
		Log: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return n, l
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

func missing(to ...string) notify.Notice {
	return notify.Notice{Kind: "missing", Worker: "linux-1", Text: "away for 1h0m0s\r\nBcc: all@example.org", To: to}
}

func (r *relay) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.mails...)
}

func TestEachAddressGetsOneMail(t *testing.T) {
	t.Parallel()
	r := &relay{}
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: r.serve(t, nil), From: "rouse@example.org", TLS: "none"}}, 0)
	for range 3 {
		n.Send(t.Context(), missing("a@example.org", "b@example.org", "a@example.org"))
	}
	until(t, "two deliveries", func() bool { return strings.Count(l.String(), "delivered") == 2 })
	mails := r.got()
	if len(mails) != 2 {
		t.Fatalf("%d mails instead of two: %q", len(mails), mails)
	}
	head, body, _ := strings.Cut(mails[0], "\r\n\r\n")
	for _, want := range []string{"rouse@example.org to a@example.org\n", "Subject: [ci] worker linux-1: missing", "Auto-Submitted: auto-generated", "To: <a@example.org>"} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in %s", want, head)
		}
	}
	if strings.Contains(head, "Bcc") || !strings.Contains(body, "away for 1h0m0s") {
		t.Errorf("the text is not where it belongs: %s", mails[0])
	}
}

func TestRefusedForNowIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := &relay{rcpt: func(try int, _ string) error {
		if try < 3 {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "greylisted"}
		}
		return nil
	}}
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: r.serve(t, nil), From: "rouse@example.org", TLS: "opportunistic"}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "the third attempt", func() bool { return len(r.got()) == 1 })
	if got := strings.Count(l.String(), "greylisted"); got != 2 {
		t.Errorf("%d failures are logged instead of two:\n%s", got, l)
	}
}

func TestRefusedForGoodIsNotTriedAgainAndSpoilsNoOther(t *testing.T) {
	t.Parallel()
	r := &relay{rcpt: func(_ int, to string) error {
		if to == "a@example.org" {
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		}
		return nil
	}}
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: r.serve(t, nil), From: "rouse@example.org", TLS: "none"}}, 0)
	n.Send(t.Context(), missing("a@example.org", "b@example.org"))
	until(t, "the other's mail", func() bool { return len(r.got()) == 1 })
	if got := strings.Count(l.String(), "no such user"); got != 1 {
		t.Errorf("%d refusals instead of one:\n%s", got, l)
	}
}

func TestHangingRelayIsLeftAndHoldsUpNoWebhook(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	h := newHook(t, func(int) int { return 200 })
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: silent.Addr().String(), From: "rouse@example.org", TLS: "none"}, Webhook: h.target(nil)}, 100*time.Millisecond)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "the end of all attempts", func() bool { return strings.Contains(l.String(), "attempt=4") })
	if h.count() != 1 || strings.Count(l.String(), "trying again") != 3 {
		t.Errorf("%d calls of the webhook, and\n%s", h.count(), l)
	}
}

func TestNobodyListensIsLogged(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: gone.Addr().String(), From: "rouse@example.org", TLS: "none"}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "giving up", func() bool { return strings.Contains(l.String(), "is not delivered") })
}

func TestPasswordCrossesOnlyTLS(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	roots := web.Client().Transport.(*http.Transport).TLSClientConfig
	word := func(context.Context) ([]byte, error) { return []byte(secret), nil }

	r := &relay{}
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: r.serve(t, web), From: "rouse@example.org", TLS: "required", Roots: roots, Username: "rouse", Secret: word}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "a mail over TLS", func() bool { return len(r.got()) == 1 })

	plain := &relay{}
	n, l2 := start(t, notify.Targets{Mail: &notify.Mail{Relay: plain.serve(t, nil), From: "rouse@example.org", TLS: "required", Roots: roots, Username: "rouse", Secret: word}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "giving up", func() bool { return strings.Contains(l2.String(), "is not delivered") })

	stranger := &relay{}
	n, l3 := start(t, notify.Targets{Mail: &notify.Mail{Relay: stranger.serve(t, web), From: "rouse@example.org", TLS: "required", Username: "rouse", Secret: word}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "giving up", func() bool { return strings.Contains(l3.String(), "is not delivered") })

	if len(r.users) != 1 || len(plain.users)+len(stranger.users)+len(plain.got())+len(stranger.got()) != 0 {
		t.Errorf("who got the password: %q, in clear %q, with a strange certificate %q", r.users, plain.users, stranger.users)
	}
	if strings.Contains(l.String()+l2.String()+l3.String()+r.got()[0], secret) {
		t.Error("the password is in a log or a mail")
	}
}

// hook is a webhook.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	signs  []string
}

func newHook(t *testing.T, answer func(try int) int) *hook {
	t.Helper()
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		h.bodies, h.signs = append(h.bodies, string(b)), append(h.signs, r.Header.Get(notify.SignatureHeader))
		try := len(h.bodies)
		h.mu.Unlock()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(answer(try))
	}))
	t.Cleanup(func() { h.Close(); http.DefaultTransport.(*http.Transport).CloseIdleConnections() })
	return h
}

func (h *hook) count() int { h.mu.Lock(); defer h.mu.Unlock(); return len(h.bodies) }

func (h *hook) target(key func(context.Context) ([]byte, error)) *notify.Webhook {
	return &notify.Webhook{URL: h.URL + "/path-token", Secret: key}
}

func TestWebhookIsSignedAndRepeatedAsItWas(t *testing.T) {
	t.Parallel()
	h := newHook(t, func(try int) int { return map[int]int{1: 503, 2: 429}[try] + map[bool]int{true: 200}[try > 2] })
	n, l := start(t, notify.Targets{Webhook: h.target(func(context.Context) ([]byte, error) { return []byte(secret), nil })}, 0)
	n.Send(t.Context(), notify.Notice{Kind: "orphan", Text: "found \xff"})
	until(t, "the third attempt", func() bool { return strings.Contains(l.String(), "delivered") })
	if h.count() != 3 || h.bodies[0] != h.bodies[2] {
		t.Fatalf("bodies: %q", h.bodies)
	}
	if want := notify.Sign([]byte(secret), []byte(h.bodies[0])); h.signs[0] != want {
		t.Errorf("signature %q instead of %q", h.signs[0], want)
	}
	var got struct{ ID, Master, Kind, Worker, Text string }
	if err := json.Unmarshal([]byte(h.bodies[0]), &got); err != nil || got.ID == "" || got.Master != "ci" || got.Kind != "orphan" || got.Text != "found \uFFFD" {
		t.Errorf("%+v, %v", got, err)
	}
	if strings.Contains(l.String(), "path-token") || strings.Contains(l.String(), secret) {
		t.Errorf("a secret is in the log:\n%s", l)
	}
}

func TestWebhookThatRefusesOrRedirectsIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 404} {
		h := newHook(t, func(int) int { return code })
		n, l := start(t, notify.Targets{Webhook: h.target(nil)}, 0)
		n.Send(t.Context(), missing())
		until(t, "giving up", func() bool { return strings.Contains(l.String(), "is not delivered") })
		if h.count() != 1 {
			t.Errorf("status %d: %d attempts", code, h.count())
		}
	}
}

func TestSendNeverBlocks(t *testing.T) {
	t.Parallel()
	l := &log{}
	n := notify.New(notify.Options{Log: slog.New(slog.NewTextHandler(l, nil)), Targets: func() notify.Targets {
		return notify.Targets{Webhook: &notify.Webhook{URL: "http://127.0.0.1:1"}}
	}})
	for i := range 300 { // nothing delivers them
		n.Send(t.Context(), notify.Notice{Kind: "missing", Text: strings.Repeat("x", i)})
	}
	if got := strings.Count(l.String(), "dropped"); got != 300-256 {
		t.Errorf("%d are dropped", got)
	}
}

func TestRequiredTLSMeansNoMailInClear(t *testing.T) {
	t.Parallel()
	r := &relay{}
	n, l := start(t, notify.Targets{Mail: &notify.Mail{Relay: r.serve(t, nil), From: "rouse@example.org", TLS: "required"}}, 0)
	n.Send(t.Context(), missing("a@example.org"))
	until(t, "an end", func() bool { return strings.Contains(l.String(), "delivered") })
	if len(r.got()) != 0 {
		t.Error("the mail went in clear")
	}
}

func TestWebhookURLIsInNoLog(t *testing.T) {
	t.Parallel()
	n, l := start(t, notify.Targets{Webhook: &notify.Webhook{URL: "http://127.0.0.1:1/path-token"}}, 0)
	n.Send(t.Context(), missing())
	until(t, "giving up", func() bool { return strings.Contains(l.String(), "is not delivered") })
	if strings.Contains(l.String(), "path-token") {
		t.Errorf("the URL is in the log:\n%s", l)
	}
}
