package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// local serves a world on a local socket and returns a client.
func local(t *testing.T, w *apitest.World, edit func(*api.Options)) *api.Client {
	t.Helper()
	c, _ := serve(t, w, edit)
	return c
}

// serve is local, and stop ends the server before the test's end.
func serve(t *testing.T, w *apitest.World, edit func(*api.Options)) (c *api.Client, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rouse") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, api.SocketName)
	l, err := api.ListenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Server(edit).Serve(ctx, l) }()
	c, err = api.NewClient(path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		c.Close()
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c, stop
}

func TestForceMakesARequestOfTheSchedulersAndTheOrdersProperties(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	c := local(t, w, nil)
	var made api.Forced
	prio := 9
	err := c.Post(t.Context(), "/force", nil, api.Force{Builder: "hello", Branch: "main", Owner: "ann", Properties: map[string]any{"n": 3}, Priority: &prio, Worker: "linux-2"}, &made)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]model.RequestID{4}, made.Requests); diff != "" {
		t.Fatal(diff)
	}
	got, err := w.Request(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	want := model.Request{ID: 4, Builder: "hello", Priority: 9, Scheduler: "force", Owner: "ann", Worker: "linux-2", Source: model.Source{Branch: "main"},
		Properties:  model.Properties{"suite": {Value: "all", Source: "Scheduler"}, "n": {Value: 3.0, Source: "Force Build"}},
		SubmittedAt: apitest.Now, Result: model.NoResult}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestForceRefusesWhatTheConfigurationDoesNotAllow(t *testing.T) {
	t.Parallel()
	c := local(t, apitest.New(), nil)
	deep := any("x")
	for range 40 {
		deep = []any{deep}
	}
	for name, test := range map[string]struct {
		force  api.Force
		status int
		want   string
	}{
		"misspelt builder":      {api.Force{Builder: "helo"}, 404, `There is no builder "helo". Did you mean "hello"?`},
		"unknown builder":       {api.Force{Builder: "zzz"}, 404, `There are: hello, slow, hidden.`},
		"unreachable builder":   {api.Force{Builder: "hidden"}, 422, `No force scheduler reaches builder "hidden".`},
		"not a force scheduler": {api.Force{Builder: "hello", Scheduler: "night"}, 404, `There is no force scheduler "night". There are: force.`},
		"foreign worker":        {api.Force{Builder: "hello", Worker: "mac"}, 422, `Builder "hello" does not use worker "mac"; it uses linux-1, linux-2.`},
		"no builder":            {api.Force{}, 422, "builder: it must not be empty"},
		"deep property":         {api.Force{Builder: "hello", Properties: map[string]any{"p": deep}}, 422, "nested more than 16 deep"},
		"huge body":             {api.Force{Builder: "hello", Properties: map[string]any{"p": strings.Repeat("x", 2<<20)}}, 413, "too large"},
		"long property name":    {api.Force{Builder: "hello", Properties: map[string]any{strings.Repeat("x", 300): 1}}, 422, "1 to 200 bytes"},
	} {
		var made api.Forced
		err := c.Post(t.Context(), "/force", nil, test.force, &made)
		var p *api.Problem
		if !errors.As(err, &p) || p.Status != test.status || !strings.Contains(p.Detail, test.want) {
			t.Errorf("%s: got %+v, want status %d and %q", name, err, test.status, test.want)
		}
	}
}

func TestARefusalDoesNotSayAWholeRequestBack(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(apitest.New().Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("bot", "admin", apitest.Secret)} }
	}).Handler())
	t.Cleanup(s.Close)
	for _, test := range []struct {
		size int
		said bool
	}{{20, true}, {100_000, false}} {
		long := strings.Repeat("x", test.size)
		req, err := http.NewRequest("POST", s.URL+"/api/v1/force", strings.NewReader(`{"builder":["`+long+`"]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+apitest.Secret)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusUnprocessableEntity {
			t.Fatalf("status %d, %v", resp.StatusCode, err)
		}
		if got := strings.Contains(string(b), long); got != test.said || !strings.Contains(string(b), "expected string") {
			t.Errorf("a value of %d bytes is refused with %d bytes: %.300s", test.size, len(b), b)
		}
	}
}

func TestEveryAnswerIsFreeOfSecrets(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	s := httptest.NewServer(w.Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("bot", "admin", apitest.Secret)} }
	}).Handler())
	defer s.Close()
	paths := []string{"/openapi.json"}
	for _, p := range []string{"/requests", "/requests/1", "/requests/2", "/requests/3/explain", "/requests/1/trace", "/requests/1/watch", "/builds", "/builds/1", "/builds/2",
		"/builds/1/steps/0/logs/stdio", "/builds/1/steps/0/logs/stdio/raw", "/builds/1/steps/0/logs/stdio/follow", "/workers", "/instances", "/instances?all=true",
		"/builders", "/schedulers", "/timers", "/status", "/version"} {
		paths = append(paths, api.Prefix+p)
	}
	for _, p := range paths {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+p, nil)
		req.Header.Set("Authorization", "Bearer "+apitest.Secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %s %v: %s", p, resp.Status, err, b)
		}
		if strings.Contains(string(b), apitest.Secret) || strings.Contains(string(b), "czNjcjN0") { // or in base64
			t.Errorf("%s tells the secret: %s", p, b)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestTokensAndRoles(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	s := httptest.NewServer(w.Server(func(o *api.Options) {
		o.Tokens = func() []api.Token {
			return []api.Token{api.NewToken("board", "read", "r-token"), api.NewToken("bot", "admin", "a-token")}
		}
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics") })
	}).Handler())
	defer s.Close()
	client := s.Client()
	for _, test := range []struct {
		method, path, auth string
		status             int
	}{
		{"GET", "/healthz", "", 200}, {"GET", "/readyz", "", 200}, {"GET", "/openapi.json", "", 200},
		{"GET", "/api/v1/workers", "", 401}, {"GET", "/metrics", "", 401}, {"GET", "/nothing", "", 401},
		{"GET", "/api/v1/workers", "Bearer wrong", 401}, {"GET", "/api/v1/workers", "Bearer ", 401}, {"GET", "/api/v1/workers", "Basic r-token", 401},
		{"GET", "/api/v1/workers", "Bearer r-token", 200}, {"GET", "/metrics", "bearer r-token", 200},
		{"POST", "/api/v1/workers/mac/unpause", "Bearer r-token", 403}, {"DELETE", "/api/v1/requests/3", "Bearer r-token", 403},
		{"POST", "/api/v1/workers/mac/unpause", "Bearer a-token", 200}, {"GET", "/nothing", "Bearer a-token", 404},
		{"DELETE", "/api/v1/requests/3", "Bearer a-token", 200}, {"DELETE", "/api/v1/requests/1", "Bearer a-token", 409}, {"DELETE", "/api/v1/requests/77", "Bearer a-token", 404},
		{"POST", "/api/v1/builds/1/cancel", "Bearer a-token", 409}, {"POST", "/api/v1/builds/2/cancel?reason=old", "Bearer a-token", 200},
		{"POST", "/api/v1/workers/linux-1/end", "Bearer a-token", 200}, {"POST", "/api/v1/workers/mac/end", "Bearer a-token", 409},
		{"POST", "/api/v1/workers/linux-3/pause", "Bearer a-token", 404},
		{"GET", "/api/v1/builds?limit=100000", "Bearer r-token", 422}, {"GET", "/api/v1/builds?wrong=1", "Bearer r-token", 422}, {"GET", "/api/v1/builds/x", "Bearer r-token", 422},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), test.method, s.URL+test.path, nil)
		if test.auth != "" {
			req.Header.Set("Authorization", test.auth)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("%s %s %q: %s, want %d: %s", test.method, test.path, test.auth, resp.Status, test.status, b)
		}
		if test.status >= 400 {
			var p struct{ Detail string }
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" || json.Unmarshal(b, &p) != nil || p.Detail == "" {
				t.Errorf("%s %s: no problem: %s %s", test.method, test.path, ct, b)
			}
		}
	}
	want := []core.Event{
		core.PauseAsked{Worker: "mac"},
		core.CancelAsked{Request: 3, Reason: "by bot"},
		core.CancelAsked{Build: 2, Reason: "old (by bot)"},
		core.EndAsked{Worker: "linux-1", Reason: "by bot"},
	}
	if diff := cmp.Diff(want, w.Events); diff != "" {
		t.Error(diff)
	}
}

func TestCrossOriginOrdersAreRefused(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	s := httptest.NewServer(w.Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("bot", "admin", "a-token")} }
	}).Handler())
	defer s.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/api/v1/workers/mac/unpause", nil)
	req.Header.Set("Authorization", "Bearer a-token")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || len(w.Events) != 0 {
		t.Errorf("%s, events %v", resp.Status, w.Events)
	}
}

func TestReadyAndHealthSayWhyNot(t *testing.T) {
	t.Parallel()
	h := apitest.New().Server(func(o *api.Options) {
		o.Ready = func() error { return errors.New("the state cannot be written: disk full") }
		o.Alive = func() error { return errors.New("the loop stands still") }
	}).Handler()
	for path, want := range map[string]string{"/readyz": "disk full", "/healthz": "stands still"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != 503 || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
}

func TestWatchTellsEachPhaseOnce(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	w.Result = model.Failure
	c := local(t, w, nil)
	var made api.Forced
	if err := c.Post(t.Context(), "/force", nil, api.Force{Builder: "hello"}, &made); err != nil {
		t.Fatal(err)
	}
	var phases []string
	err := c.Stream(t.Context(), "/requests/4/watch", nil, func(b json.RawMessage) error {
		var r api.Request
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		phases = append(phases, r.Phase+" "+r.OnWorker+" "+r.Step+" "+r.Result.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"waiting   none", "substantiating linux-2  none", "running linux-2 greet none", "done linux-2  failure"}
	if diff := cmp.Diff(want, phases); diff != "" {
		t.Error(diff)
	}
}

func TestFollowResumesAfterTheLastEvent(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(apitest.New().Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("board", "read", "r")} }
	}).Handler())
	defer s.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/builds/1/steps/0/logs/stdio/follow", nil)
	req.Header.Set("Authorization", "Bearer r")
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", "2")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	want := "id: 3\ndata: {\"n\":3,\"s\":\"stdout\",\"t\":\"done \\u003cb\\u003e\\u0026\"}\n\nid: 4\ndata: {\"n\":4,\"s\":\"header\",\"t\":\"exit code 0\"}\n\nevent: end\ndata: {}\n\n"
	if diff := cmp.Diff(want, string(b)); diff != "" || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%s %s", resp.Header, diff)
	}
}

var update = flag.Bool("update", false, "write the committed OpenAPI description")

func TestCommittedOpenAPIDescriptionIsCurrent(t *testing.T) {
	t.Parallel()
	b, err := json.MarshalIndent(apitest.New().Server(nil).OpenAPI(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	file := filepath.Join("..", "..", "contrib", "openapi.json")
	if *update {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), string(b)); diff != "" {
		t.Errorf("contrib/openapi.json is not what the code says; run: go test ./master/api -run OpenAPI -update\n%s", diff)
	}
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for path, ops := range doc.Paths {
		for method, o := range ops {
			if o.OperationID == "" {
				t.Errorf("%s %s has no name", method, path)
			}
			ids = append(ids, o.OperationID)
		}
	}
	if slices.Sort(ids); len(slices.Compact(slices.Clone(ids))) != len(ids) || len(ids) < 20 {
		t.Errorf("operations: %v", ids)
	}
}

// stuckEngine is an engine whose state cannot be stored.
type stuckEngine struct{ *apitest.World }

var errFull = errors.New("the state cannot be stored: disk full")

func (stuckEngine) Snapshot(context.Context) (*core.Snapshot, error) { return nil, errFull }

func TestStatusOfAMasterThatIsNotReadyHasTheLastNumbersAndWhy(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	ready := errFull
	c := local(t, w, func(o *api.Options) {
		o.Engine, o.Latest, o.Ready = stuckEngine{w}, func() *core.Snapshot { return &w.Live }, func() error { return ready }
	})
	var got api.Status
	if err := c.Get(t.Context(), "/status", nil, &got); err != nil {
		t.Fatal(err)
	}
	if got.Ready || got.NotReady != errFull.Error()+"; the numbers are of 2026-11-21T12:00:00Z" || got.Waiting != 1 || got.Running != 1 || got.Instances["attached"] != 1 {
		t.Errorf("%+v", got)
	}
	if err := c.Get(t.Context(), "/instances", nil, &api.InstanceList{}); err == nil {
		t.Error("what may be looked at closely is not what it was")
	}
	ready = nil // the engine has no excuse
	if err := c.Get(t.Context(), "/status", nil, &got); err == nil {
		t.Errorf("%+v", got)
	}
}
