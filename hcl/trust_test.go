package hcl

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned makes a certificate and its key, both as PEM.
func selfSigned(t testing.TB) (cert, key []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ci.example.org"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

const trusting = `
master {
  url    = "wss://ci.example.org"
  tls_ca = "ca.pem"
}
provider "test" "main" {}
worker "w" { provider = provider.test.main }
builder "b" {
  workers = [worker.w]
  step "shell" "x" { command = "true" }
}
scheduler "force" "f" { builders = [builder.b] }
`

func TestTrustIsReadWithTheConfigurationAndStaysWithIt(t *testing.T) {
	t.Parallel()
	cert, _ := selfSigned(t)
	other, _ := selfSigned(t)
	dir := t.TempDir()
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("rouse.hcl", []byte(trusting))
	put("ca.pem", bytes.Join([][]byte{[]byte("Subject: CN = example\n"), cert, []byte("and another one\n"), other}, nil))
	want := append(bytes.Clone(cert), other...)
	first, diags := Load(dir, testOptions())
	if len(diags) > 0 || !bytes.Equal(first.Master.TLSCa.PEM, want) {
		t.Fatalf("got %q, want %q; %v", first.Master.TLSCa.PEM, want, diags)
	}
	put("ca.pem", other)
	old, diags := LoadFiles(first.Files, testOptions())
	if len(diags) > 0 || !bytes.Equal(old.Master.TLSCa.PEM, want) {
		t.Errorf("the older generation trusts %q; %v", old.Master.TLSCa.PEM, diags)
	}
	second, diags := Load(dir, testOptions())
	if len(diags) > 0 || !bytes.Equal(second.Master.TLSCa.PEM, other) {
		t.Errorf("got %q, want %q; %v", second.Master.TLSCa.PEM, other, diags)
	}
	a, _ := first.Master.TLSCa.MarshalText()
	b, _ := second.Master.TLSCa.MarshalText()
	if string(a) == string(b) || !strings.HasPrefix(string(a), "ca.pem (sha256 ") || strings.Contains(string(a), "\n") {
		t.Errorf("for people it is %q, and then %q", a, b)
	}
}

func TestTrustThatCannotBeTrustedIsRefused(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	for name, tc := range map[string]struct {
		data []byte
		text string
		want string
	}{
		"key":     {append(bytes.Clone(cert), key...), trusting, "private key"},
		"garbage": {[]byte("hello"), trusting, "no certificate"},
		"other":   {pem.EncodeToMemory(&pem.Block{Type: "X509 CRL"}), trusting, `block "X509 CRL"`},
		"broken":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), trusting, "cannot be read"},
		"many":    {bytes.Repeat(cert, 200), trusting, "are the limit"},
		"missing": {nil, strings.Replace(trusting, "ca.pem", "cb.pem", 1), "cb.pem"},
		"in vain": {cert, strings.Replace(trusting, "wss:", "ws:", 1), "has no effect"},
		"no url":  {cert, strings.Replace(trusting, `url    = "wss://ci.example.org"`, "", 1), "has no effect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, diags := LoadFiles(map[string][]byte{"rouse.hcl": []byte(tc.text), "ca.pem": tc.data}, testOptions())
			var out bytes.Buffer
			if err := c.WriteDiagnostics(&out, diags, 0, false); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("it is said: %s", out.String())
			}
			if strings.Contains(out.String(), "BEGIN") && name == "key" {
				t.Errorf("the key is shown: %s", out.String())
			}
		})
	}
}
