package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Token lets its bearer use the API over TCP. Only a digest is kept.
type Token struct {
	Name string
	Role string // "read" or "admin"
	sum  [sha256.Size]byte
}

// NewToken makes a token of its value.
func NewToken(name, role, value string) Token {
	return Token{Name: name, Role: role, sum: sha256.Sum256([]byte(value))}
}

// caller is who sent a request. The local socket's has no name.
type caller struct {
	name string
	role string
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

type localKey struct{}

// open are the paths that need no token: they tell nothing but that a master is here.
var open = map[string]bool{"/healthz": true, "/readyz": true, "/openapi.json": true, "/openapi.yaml": true}

// guard admits requests and bounds them: who asks, how much they send, how long they take to read the answer.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if ctx.Value(localKey{}) == nil && !open[r.URL.Path] {
			c, ok := s.identify(r.Header.Get("Authorization"))
			read := r.Method == http.MethodGet || r.Method == http.MethodHead
			switch {
			case !ok:
				w.Header().Set("WWW-Authenticate", `Bearer realm="rouse"`)
				if r.Header.Get("Authorization") != "" {
					writeProblem(w, http.StatusUnauthorized, "The token that was sent is not one of the configuration's token blocks: look at $ROUSE_TOKEN or -token-file, and at the block's secret.")
					return
				}
				writeProblem(w, http.StatusUnauthorized, "A token is needed here: one of the configuration's token blocks, from $ROUSE_TOKEN or -token-file; or as \"Authorization: Bearer TOKEN\".")
				return
			case !read && c.role != "admin":
				writeProblem(w, http.StatusForbidden, fmt.Sprintf("Token %q has role %q and may only read; this needs role \"admin\".", c.name, c.role))
				return
			}
			ctx = context.WithValue(ctx, callerKey{}, c)
		}
		l := limitsFor(r.Method, strings.TrimPrefix(r.URL.Path, Prefix))
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(l.whole())) // streams set their own
		r.Body = http.MaxBytesReader(w, r.Body, l.size)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// identify compares in constant time with every token, so that the time tells neither which nor how much of it was right.
func (s *Server) identify(header string) (caller, bool) {
	scheme, value, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || value == "" {
		return caller{}, false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(value)))
	var found caller
	ok := false
	for _, t := range s.o.Tokens() {
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			found, ok = caller{name: t.Name, role: t.Role}, true
		}
	}
	return found, ok
}
