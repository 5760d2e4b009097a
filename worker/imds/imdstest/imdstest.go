// Package imdstest is an instance metadata service for tests: version 2 with its token handshake, and announcements that a test makes and takes
// back. Whatever comes without a token, or by another method than EC2 serves, is refused as EC2 refuses it.
package imdstest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

// Paths of what can be announced.
const (
	Action    = "/latest/meta-data/spot/instance-action"
	Rebalance = "/latest/meta-data/events/recommendations/rebalance"
)

// Service is one metadata service.
type Service struct {
	URL string

	mu       sync.Mutex
	tokens   map[string]bool
	first    string // the first token that was given
	docs     map[string]string
	own      map[string]string // documents that only the holder of the first token sees
	broken   http.HandlerFunc
	requests int
	problems []string
}

// New starts a service that announces nothing. It ends with the test, which fails if a request was not as EC2 wants it.
func New(t testing.TB) *Service {
	s := &Service{tokens: map[string]bool{}, docs: map[string]string{}, own: map[string]string{}}
	srv := httptest.NewServer(s)
	s.URL = srv.URL
	t.Cleanup(func() {
		srv.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.problems {
			t.Error("the metadata service:", p)
		}
	})
	return s
}

// Announce makes a document be there; "" takes it away.
func (s *Service) Announce(path, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs[path] = body
}

// AnnounceToFirst makes a document be there for whoever asked first of all: it is about one machine, and others that share the service are well.
func (s *Service) AnnounceToFirst(path, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[path] = body
}

// Break lets h answer every request; nil mends the service.
func (s *Service) Break(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = h
}

// ForgetTokens makes every token that was given invalid.
func (s *Service) ForgetTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Requests is how many have come.
func (s *Service) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	if h := s.broken; h != nil {
		s.mu.Unlock()
		h(w, r)
		return
	}
	defer s.mu.Unlock()
	if r.URL.Path == "/latest/api/token" {
		ttl, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		if r.Method != http.MethodPut || err != nil || ttl < 1 || ttl > 21600 || r.Header.Get("X-Forwarded-For") != "" {
			s.problems = append(s.problems, fmt.Sprintf("%s %s with a time to live of %q", r.Method, r.URL.Path, r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds")))
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		token := rand.Text()
		s.tokens[token] = true
		if s.first == "" {
			s.first = token
		}
		_, _ = fmt.Fprint(w, token)
		return
	}
	body := s.docs[r.URL.Path]
	if r.Header.Get("X-Aws-Ec2-Metadata-Token") == s.first && body == "" {
		body = s.own[r.URL.Path]
	}
	switch {
	case r.Method != http.MethodGet || r.Header.Get("X-Aws-Ec2-Metadata-Token") == "":
		s.problems = append(s.problems, r.Method+" "+r.URL.Path+" without a token")
		w.WriteHeader(http.StatusUnauthorized)
	case !s.tokens[r.Header.Get("X-Aws-Ec2-Metadata-Token")]:
		w.WriteHeader(http.StatusUnauthorized)
	case body == "":
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = fmt.Fprint(w, body)
	}
}
