package libvirt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"

	"github.com/kdomanski/iso9660"
)

// seedImage is a disk for cloud-init's NoCloud data source: a file system labelled cidata with meta-data and user-data.
// https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
func seedImage(g *guest) ([]byte, error) {
	w, err := iso9660.NewWriter()
	if err != nil {
		return nil, err
	}
	defer w.Cleanup() //nolint:errcheck // a temporary directory
	user, err := userData(g)
	if err != nil {
		return nil, err
	}
	meta := fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", g.key, g.tags.Worker)
	for name, text := range map[string]string{"meta-data": meta, "user-data": user, "vendor-data": ""} {
		if err := w.AddFile(strings.NewReader(text), name); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	if err := w.WriteTo(&b, "cidata"); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unitText starts the agent. Its machine has no other purpose and ends with it: the token is good for one agent only, so another one would not be let in.
const unitText = `[Unit]
Description=rouse worker of this instance
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin rouse-worker run -config /etc/rouse-worker/agent.json -basedir /var/lib/rouse-worker
ExecStopPost=/usr/bin/env systemctl --no-block poweroff
KillMode=mixed
TimeoutStopSec=30
Delegate=yes
OOMPolicy=continue
StandardOutput=journal+console
StandardError=journal+console
`

// script writes the agent's settings and starts it. An image without an agent says so on its console and ends at once: nobody would wait for it in vain.
func script(settings []byte) string {
	file := func(path string, content []byte) string {
		return "base64 -d >" + path + " <<'EOF'\n" + base64.StdEncoding.EncodeToString(content) + "\nEOF\n"
	}
	return `#!/bin/sh
# Starts the rouse worker of this guest.
set -eu
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if ! command -v rouse-worker >/dev/null; then
	echo "rouse: there is no worker in this image: it has no program rouse-worker on its PATH" >/dev/console
	systemctl --no-block poweroff
	exit 1
fi
mkdir -p /etc/rouse-worker /run/systemd/system
` + file("/etc/rouse-worker/agent.json", settings) + file("/run/systemd/system/rouse-instance.service", []byte(unitText)) + `chmod 0644 /run/systemd/system/rouse-instance.service
systemctl daemon-reload
systemctl start --no-block rouse-instance.service
`
}

// userData is the configuration's own, and the script that starts the agent. It is a script, and the last part: of two cloud-configs with the same list
// cloud-init takes one, and scripts run in the order of their parts, so that what the configuration installs is there when the agent starts.
func userData(g *guest) (string, error) {
	h := sha256.Sum256([]byte(g.spec.UserData))
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary("rouse-" + hex.EncodeToString(h[:16])); err != nil { // which the text cannot contain
		return "", err
	}
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=%q\r\n\r\n", w.Boundary())
	part := func(kind, name, text string) error {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {kind}, "Mime-Version": {"1.0"}, "Content-Disposition": {`attachment; filename="` + name + `"`}})
		if err == nil {
			_, err = io.WriteString(p, text)
		}
		return err
	}
	if text := g.spec.UserData; text != "" {
		kind, text, err := kindOfText(text)
		if err != nil {
			return "", err
		}
		if err := part(kind, "user-data", text); err != nil {
			return "", err
		}
	}
	if err := part(`text/x-shellscript; charset="utf-8"`, "rouse-worker.sh", script(g.agent)); err != nil {
		return "", err
	}
	err := w.Close()
	return b.String(), err
}

// kindOfText is the content type of user data as a part. Of plain text cloud-init looks itself what it is, by its first line; a message that has parts
// becomes a part that has them.
func kindOfText(text string) (kind, body string, err error) {
	if m, noMessage := mail.ReadMessage(strings.NewReader(text)); noMessage == nil && strings.HasPrefix(m.Header.Get("Content-Type"), "multipart/") {
		b, err := io.ReadAll(m.Body)
		return m.Header.Get("Content-Type"), string(b), err
	}
	return `text/plain; charset="utf-8"`, text, nil
}
