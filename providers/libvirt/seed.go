package libvirt

import (
	"bytes"
	"encoding/base64"
	"fmt"
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
	meta := fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", g.key, g.tags.Worker)
	for name, text := range map[string]string{"meta-data": meta, "user-data": userData(g), "vendor-data": ""} {
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

const boundary = "=====rouse-user-data====="

// userData is the configuration's own, and a part that writes the agent's settings and starts it.
func userData(g *guest) string {
	var b strings.Builder
	part := func(kind, text string) {
		fmt.Fprintf(&b, "--%s\r\nContent-Type: %s; charset=\"utf-8\"\r\n\r\n%s\r\n", boundary, kind, text)
	}
	fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=\"%s\"\r\nMIME-Version: 1.0\r\n\r\n", boundary)
	part("text/cloud-config", "#cloud-config\nwrite_files:\n- path: /etc/rouse-worker/agent.json\n  permissions: '0600'\n  encoding: b64\n  content: "+
		base64.StdEncoding.EncodeToString(g.agent)+"\nruncmd:\n- [systemctl, enable, --now, --no-block, rouse-worker.service]\n")
	if text := g.spec.UserData; text != "" {
		kind := "text/cloud-config"
		if strings.HasPrefix(text, "#!") {
			kind = "text/x-shellscript"
		}
		part(kind, text)
	}
	fmt.Fprintf(&b, "--%s--\r\n", boundary)
	return b.String()
}
