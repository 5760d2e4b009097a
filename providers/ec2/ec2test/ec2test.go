// Package ec2test is the world that the EC2 provider is tested in: a real EC2 API server (moto, one process for a test's program), and before it a
// proxy in this process that adds what EC2 documents and moto lacks (client tokens, request limits, capacity, late listings, instance metadata,
// prices) and breaks it on demand, by a plan with a seed. Each World is an account of its own, so tests run beside each other.
//
// It speaks the query protocol with the standard library alone: it must not share a mistake with the client that is tested, and it must not know
// the provider.
package ec2test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Region is where all worlds are, as far as signatures say.
const Region = "us-east-1"

// Tags that the provider is known by from outside.
const (
	TagKey    = "rouse:key"
	TagWorker = "rouse:worker"
	TagOwner  = "rouse:owner"
)

// World is an account with nothing in it but what moto puts into every account, behind a proxy of its own.
type World struct {
	URL     string // of the proxy, for AWS_ENDPOINT_URL
	Account string // 12 digits

	direct *Client // to moto, round the proxy
	server *httptest.Server

	mu        sync.Mutex
	plan      plan
	denied    map[string]bool
	shortages []Shortage
	boot      time.Duration
	strict    bool
	buckets   *buckets
	handlers  map[string]Handler
	calls     map[string]int
	errors    map[string]int // by "Action Code"
	faulted   map[Kind]int
	tokens    map[string]*token
	overlays  map[string]*overlay
	ledger    map[string]*record
	zones     map[string]string // of subnets
	consoles  map[string]func() []byte
	notices   map[string]notice
	metadata  []*http.Server
	prices    map[string]float64
	quotas    map[string]float64 // by code
	hung      chan struct{}      // closed at the end
}

// Handler answers a call in moto's place. ok is false to leave it to moto.
type Handler func(form url.Values) (status int, body string, ok bool)

var accounts atomic.Int64

// Start returns a new world. It starts moto if this is the first one of the process, and skips the test if moto is not installed and ROUSE_PEERS does
// not demand it.
func Start(t testing.TB) *World {
	t.Helper()
	m, err := server()
	if err != nil {
		missing(t, err)
	}
	account := fmt.Sprintf("%012d", 200000000000+accounts.Add(1))
	w := &World{Account: account, direct: &Client{URL: m.url, Account: account},
		denied: map[string]bool{}, handlers: map[string]Handler{}, calls: map[string]int{}, errors: map[string]int{}, faulted: map[Kind]int{},
		tokens: map[string]*token{}, overlays: map[string]*overlay{}, ledger: map[string]*record{}, zones: map[string]string{},
		consoles: map[string]func() []byte{}, notices: map[string]notice{}, prices: map[string]float64{}, quotas: map[string]float64{}, hung: make(chan struct{})}
	w.server = httptest.NewServer(w)
	w.URL = w.server.URL
	t.Cleanup(w.close)
	return w
}

func (w *World) close() {
	close(w.hung)
	w.server.CloseClientConnections()
	w.server.Close()
	w.mu.Lock()
	servers := w.metadata
	w.mu.Unlock()
	for _, s := range servers {
		_ = s.Close()
	}
}

// Env are the variables by which a program's AWS client comes to this world. The credentials are good for nothing else.
func (w *World) Env() []string {
	return []string{"AWS_ENDPOINT_URL=" + w.URL, "AWS_REGION=" + Region, "AWS_ACCESS_KEY_ID=AKIAEC2TESTEC2TEST00", "AWS_SECRET_ACCESS_KEY=not-a-secret",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}

// Direct is a client that goes round the proxy: what it sees is true, and nothing that it does is recorded or broken.
func (w *World) Direct() *Client { return w.direct }

// Client is one that goes through the proxy.
func (w *World) Client() *Client { return &Client{URL: w.URL, Account: w.Account} }

// Handle puts h before moto for one action. nil takes it away.
func (w *World) Handle(action string, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[action] = h
}

// Deny answers UnauthorizedOperation to these actions, and to those only.
func (w *World) Deny(actions ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied = map[string]bool{}
	for _, a := range actions {
		w.denied[a] = true
	}
}

// Shortage is what EC2 has no capacity for. Empty fields match everything; Market is "spot" or "on-demand".
type Shortage struct{ Type, Zone, Market string }

// Short answers InsufficientInstanceCapacity to launches of these, and to those only.
func (w *World) Short(s ...Shortage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shortages = s
}

// Boot is how long instances that are launched or started from now on say that they are pending.
func (w *World) Boot(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boot = d
}

// StrictTokens binds a client token to its parameters even if the launch was refused, as the most cautious reading of EC2's manual has it. Otherwise
// only a launch that was made binds it.
func (w *World) StrictTokens() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.strict = true
}

// Limit turns EC2's request limits on. factor is by how much they are raised for this account: 1 is EC2's default.
func (w *World) Limit(factor float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buckets = newBuckets(factor)
}

// Calls is how often each action was called through the proxy, whatever became of it.
func (w *World) Calls() map[string]int { return copied(w, &w.calls) }

// Errors is how often each error was answered, as "Action Code".
func (w *World) Errors() map[string]int { return copied(w, &w.errors) }

// Faulted is how often each kind of fault really happened.
func (w *World) Faulted() map[Kind]int { return copied(w, &w.faulted) }

func copied[K comparable](w *World, m *map[K]int) map[K]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(map[K]int, len(*m))
	for k, v := range *m {
		c[k] = v
	}
	return c
}

// Print sets what GetConsoleOutput says of an instance.
func (w *World) Print(id string, console func() []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.consoles[id] = console
}

// must is for calls of the test itself that cannot fail.
func must[T any](t testing.TB, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

// background is for the world's own calls to moto: they must end even if the test's context has.
func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}
