package hcl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// maxTrust bounds what every instance is given. EC2, for one, takes 16 KiB of user data in all, but that is for its provider to say.
const maxTrust = 64 << 10

// Trust is certificates that are trusted instead of the system's. It is part of the configuration's text: an older generation has its own.
type Trust struct {
	File string // as it was written; "" = none
	PEM  []byte // blocks "CERTIFICATE" and nothing else
}

// MarshalText names the file and its content in few words.
func (t Trust) MarshalText() ([]byte, error) {
	if t.File == "" {
		return nil, nil
	}
	sum := sha256.Sum256(t.PEM)
	return []byte(t.File + " (sha256 " + hex.EncodeToString(sum[:6]) + "…)"), nil
}

// trust reads the certificates that the agents of instances shall trust.
func (l *loader) trust(a *attrs, name string, v *Trust) {
	var file string
	a.text(name, &file)
	if file == "" {
		return
	}
	data, err := l.files.read(file)
	if err != nil {
		a.bad(name, "The certificates cannot be read: %s.", err)
		return
	}
	certs, err := certificates(data)
	if err != nil {
		a.bad(name, "%s %s.", file, err)
		return
	}
	*v = Trust{File: file, PEM: certs}
}

// certificates returns the PEM blocks of certificates without the text between them, which openssl likes to add.
func certificates(data []byte) ([]byte, error) {
	var out bytes.Buffer
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch {
		case strings.Contains(b.Type, "PRIVATE KEY"):
			return nil, errors.New("holds a private key, and every instance would be given it; name a file with nothing but certificates")
		case b.Type != "CERTIFICATE":
			return nil, fmt.Errorf("holds a block %q; only CERTIFICATE is wanted", b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		_ = pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes}) // a buffer takes everything
	}
	switch {
	case out.Len() == 0:
		return nil, errors.New("holds no certificate: PEM blocks that begin with -----BEGIN CERTIFICATE----- are wanted")
	case out.Len() > maxTrust:
		return nil, fmt.Errorf("holds %d bytes of certificates; every instance is given them, and %d are the limit", out.Len(), maxTrust)
	}
	return out.Bytes(), nil
}
