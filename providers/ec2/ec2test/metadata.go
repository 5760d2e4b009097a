package ec2test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// notice is that an instance is taken back.
type notice struct {
	action string
	at     time.Time
}

// Metadata serves the instance metadata of one instance, version 2 only, at an address of its own. It ends with the world.
func (w *World) Metadata(id string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("metadata of %s: %w", id, err)
	}
	s := &http.Server{Handler: &metadata{w: w, id: id, tokens: map[string]time.Time{}}, ReadHeaderTimeout: 10 * time.Second}
	w.mu.Lock()
	w.metadata = append(w.metadata, s)
	w.mu.Unlock()
	go func() { _ = s.Serve(l) }()
	return "http://" + l.Addr().String(), nil
}

type metadata struct {
	w  *World
	id string

	mu     sync.Mutex
	tokens map[string]time.Time
}

// ServeHTTP answers as the service does when HttpTokens is required: a token first, by PUT, and nothing without it.
func (m *metadata) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/latest/api/token" {
		m.token(rw, r)
		return
	}
	m.mu.Lock()
	until, ok := m.tokens[r.Header.Get("X-Aws-Ec2-Metadata-Token")]
	m.mu.Unlock()
	if !ok || time.Now().After(until) {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet {
		rw.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/latest/meta-data/instance-id":
		_, _ = fmt.Fprint(rw, m.id)
	case "/latest/dynamic/instance-identity/document":
		_ = json.NewEncoder(rw).Encode(map[string]string{"instanceId": m.id, "accountId": m.w.Account, "region": Region})
	case "/latest/meta-data/spot/instance-action":
		m.w.mu.Lock()
		n, ok := m.w.notices[m.id]
		m.w.mu.Unlock()
		if !ok {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(rw, `{"action": %q, "time": %q}`, n.action, n.at.UTC().Format("2006-01-02T15:04:05Z"))
	default:
		rw.WriteHeader(http.StatusNotFound)
	}
}

func (m *metadata) token(rw http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
	switch {
	case r.Method != http.MethodPut:
		rw.WriteHeader(http.StatusMethodNotAllowed)
	case err != nil || seconds < 1 || seconds > 21600:
		rw.WriteHeader(http.StatusBadRequest)
	case r.Header.Get("X-Forwarded-For") != "":
		rw.WriteHeader(http.StatusForbidden)
	default:
		t := rand.Text()
		m.mu.Lock()
		m.tokens[t] = time.Now().Add(time.Duration(seconds) * time.Second)
		m.mu.Unlock()
		rw.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", strconv.Itoa(seconds))
		_, _ = fmt.Fprint(rw, t)
	}
}
