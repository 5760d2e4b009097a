package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
)

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rouse")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, api.SocketName)
}

func TestStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()

	l, err := api.ListenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if _, err := api.ListenLocal(path); err == nil || !strings.Contains(err.Error(), "another master answers") {
		t.Errorf("second master: %v", err)
	}
	_ = l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestClosingLeavesTheNextMastersSocket(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	l, err := api.ListenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := api.ListenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the first master removed the second one's socket: %v", err)
	}
	_ = next.Close()
}

func TestOnlySocketsAreReplaced(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.ListenLocal(path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("%v", err)
	}
	if _, err := api.ListenLocal(filepath.Join(t.TempDir(), strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("%v", err)
	}
}

func TestClearTCPIsForLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.org:0"} {
		if l, err := api.ListenTCP(addr, nil); err == nil || !strings.Contains(err.Error(), "in clear") {
			t.Errorf("%s: %v %v", addr, l, err)
		}
	}
	if _, err := api.NewClient("http://192.0.2.1:1", "token", nil); err == nil {
		t.Error("a client would send its token in clear")
	}
	l, err := api.ListenTCP("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestServesOverTLSWithATokenAndEndsStreams(t *testing.T) {
	t.Parallel()
	pair := httptest.NewUnstartedServer(nil) // only for its certificate
	pair.StartTLS()
	cert, roots := pair.TLS.Certificates[0], x509.NewCertPool()
	roots.AddCert(pair.Certificate())
	pair.Close()

	l, err := api.ListenTCP("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	w := apitest.New()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.Server(func(o *api.Options) {
			o.Tokens = func() []api.Token { return []api.Token{api.NewToken("bot", "admin", "a-token")} }
		}).Serve(ctx, l)
	}()
	conf := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	c, err := api.NewClient("https://"+l.Addr().String(), "a-token", conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var forced api.Forced
	if err := c.Post(t.Context(), "/force", nil, api.Force{Builder: "hello", Owner: "mallory"}, &forced); err != nil {
		t.Fatal(err)
	}
	if r, _ := w.Request(t.Context(), forced.Requests[0]); r.Owner != "bot" {
		t.Errorf("owner %q: a token's name is no matter of choice", r.Owner)
	}
	err = c.Stream(t.Context(), "/requests/3/watch", nil, func(json.RawMessage) error { cancel(); return nil })
	if err == nil || !strings.Contains(err.Error(), "the master is stopping") {
		t.Errorf("stream ended with %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
