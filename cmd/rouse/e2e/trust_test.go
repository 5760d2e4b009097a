package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// certify puts a certificate that has signed itself, and its key, into the world's directory.
func (w *world) certify() (cert, key string) {
	w.t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, key = filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem")
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return cert, key
}

// consoles are what the agents of all live instances have printed.
func (w *world) consoles() string {
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(w.state, "providers", "local", "here", "instances", "*", "console.log"))
	for _, n := range names {
		b, _ := os.ReadFile(n)
		all.Write(b)
	}
	return all.String()
}

// TestAgentsTrustThePrivateAuthorityThatTheConfigurationNames has a worker port with a certificate that no system knows.
func TestAgentsTrustThePrivateAuthorityThatTheConfigurationNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	cert, key := w.certify()
	w.configure(config{Builders: builder("b", talk{Name: "short", Seed: 3, Lines: 2}.step())})
	direct := fmt.Sprintf("tls_cert = %q\n  tls_key = %q", cert, key)
	w.rewrite(fmt.Sprintf("url            = %q", w.proxy.url()), direct)
	m := w.up(nil)
	id := w.force("b")
	w.until("the agent refuses the certificate", 20*time.Second, func() bool { return strings.Contains(w.consoles(), "certificate signed by unknown authority") })
	if r := w.request(id); r.State == model.RequestDone {
		t.Fatalf("the build has ended with %s", r.Result)
	}
	m.stop(10 * time.Second)

	// The next master has it. The instance that was made without is ended first: an agent gets its certificates when its instance is made.
	w.rewrite(direct, direct+fmt.Sprintf("\n  tls_ca = %q", cert), `missing_timeout    = "1m"`, `missing_timeout    = "2s"`)
	w.up(nil)
	if r := w.done(id, 40*time.Second); r.Result != model.Success {
		t.Errorf("got %s: %s", r.Result, r.Text)
	}
	if !strings.Contains(w.said(), `"url":"wss://127.0.0.1:`) {
		t.Error("the worker port has no TLS")
	}
	w.clean()
}
