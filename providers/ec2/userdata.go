package ec2

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// User data, as an instance gets it, is what cloud-init reads: a MIME message, gzipped if it would be larger than EC2 takes.
//
//	Content-Type: multipart/mixed; boundary="…"
//
//	part 1, only if there is a user_data: its text as it is, with the type that its beginning says (cloud-init's rule): #!, #cloud-config,
//	  #cloud-boothook, #include, …; a user_data that is a MIME message itself becomes a part that has parts, which cloud-init walks
//	last part, Content-Type text/x-shellscript, name rouse-worker.sh: writes
//	  /etc/rouse-worker/agent.json, mode 0600: the file for `rouse-worker run -config`
//	  /etc/systemd/system/rouse-instance.service, which starts the agent now and at every boot, so that a machine that was stopped and started works
//	  each as base64 between "base64 -d >FILE <<'EOF'" and "EOF"
//
// It is a script since of two cloud-configs with the same list cloud-init takes the later one's list only. Scripts run in order, so what user_data
// installs is there when the agent starts. Without an agent, user data is user_data alone. The boundary is fixed: a repeated launch must have the
// same parameters.
const (
	boundary   = "rouse-user-data-7d1f0c"
	agentPart  = "rouse-worker.sh"
	agentFile  = "/etc/rouse-worker/agent.json"
	agentUnit  = "/etc/systemd/system/rouse-instance.service"
	agentDir   = "/var/lib/rouse-worker"
	maxRaw     = 16 << 10 // EC2's limit, before base64
	maxInflate = 1 << 20
)

const unitText = `[Unit]
Description=rouse worker of this instance
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin rouse-worker run -config ` + agentFile + ` -basedir ` + agentDir + `
Restart=on-failure
RestartSec=2
StandardOutput=journal+console
StandardError=journal+console
KillMode=mixed
Delegate=yes
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
`

// agentJSON is the file that the agent reads (cmd/rouse-worker). The key is in it, so that the agent can say which instance it is.
type agentJSON struct {
	Master        string `json:"master"`
	Name          string `json:"name"`
	Token         string `json:"token"`
	Instance      string `json:"instance"`
	OrphanSeconds int64  `json:"orphan_seconds,omitempty"`
	OnEnd         string `json:"on_end"`
	CAPEM         string `json:"ca_pem,omitempty"`
	Watch         string `json:"watch"` // whom the agent asks whether the machine is taken back
}

// script is the part that starts the agent.
func script(conf []byte) string {
	file := func(path string, content []byte) string {
		return "base64 -d >" + path + " <<'EOF'\n" + base64.StdEncoding.EncodeToString(content) + "\nEOF\n"
	}
	return "#!/bin/sh\n# Starts the rouse worker of this instance.\nset -eu\numask 077\nmkdir -p /etc/rouse-worker " + agentDir + "\n" +
		file(agentFile, conf) + file(agentUnit, []byte(unitText)) + "chmod 0644 " + agentUnit + "\n" +
		"systemctl daemon-reload\nsystemctl enable --now --no-block rouse-instance.service\n"
}

// userData is what an instance is given, not yet in base64. It holds the agent's token: it goes to EC2 and nowhere else.
func userData(s Spec, key providers.Key, agent providers.Agent) ([]byte, error) {
	text := s.UserData + s.SecretUserData.Reveal()
	raw := []byte(text)
	if s.Agent {
		var err error
		if raw, err = withAgent(text, key, agent); err != nil {
			return nil, err
		}
	}
	if len(raw) <= maxRaw {
		return raw, nil
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxRaw {
		return nil, fmt.Errorf("user data has %d bytes, %d when compressed; EC2 takes %d", len(raw), b.Len(), maxRaw)
	}
	return b.Bytes(), nil
}

func withAgent(text string, key providers.Key, a providers.Agent) ([]byte, error) {
	conf, err := json.Marshal(agentJSON{
		Master: a.Master, Name: a.Name, Token: a.Token.Reveal(), Instance: string(key), OrphanSeconds: int64((a.Orphan + time.Second - 1) / time.Second),
		OnEnd: "poweroff", CAPEM: string(a.TLSRoot), Watch: "ec2",
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(boundary); err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=%q\r\n\r\n", boundary)
	add := func(typ, name, body string) error {
		h := textproto.MIMEHeader{"Content-Type": {typ}, "Mime-Version": {"1.0"}}
		if name != "" {
			h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
		}
		p, err := w.CreatePart(h)
		if err == nil {
			_, err = io.WriteString(p, body)
		}
		return err
	}
	if text != "" {
		if typ, body := kindOfText(text); body != "" {
			if strings.Contains(text, "--"+boundary) {
				return nil, errors.New("user_data holds the boundary of the message it goes into")
			}
			if err := add(typ, "", body); err != nil {
				return nil, err
			}
		}
	}
	if err := add("text/x-shellscript; charset=\"utf-8\"", agentPart, script(conf)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// kindOfText is the content type of user_data by its beginning, as cloud-init takes it.
func kindOfText(text string) (typ, body string) {
	if m, err := mail.ReadMessage(strings.NewReader(text)); err == nil {
		if t := m.Header.Get("Content-Type"); strings.HasPrefix(t, "multipart/") {
			if rest, err := io.ReadAll(m.Body); err == nil {
				return t, string(rest) // a part that has parts: cloud-init walks them all
			}
		}
	}
	for _, k := range []struct{ prefix, typ string }{
		{"#cloud-config-archive", "text/cloud-config-archive"}, {"#cloud-config", "text/cloud-config"}, {"#cloud-boothook", "text/cloud-boothook"},
		{"#include-once", "text/x-include-once-url"}, {"#include", "text/x-include-url"}, {"#part-handler", "text/part-handler"}, {"## template: jinja", "text/jinja2"},
		{"#!", "text/x-shellscript"},
	} {
		if strings.HasPrefix(text, k.prefix) {
			return k.typ, text
		}
	}
	return "text/plain", text
}

// AgentConfig finds the agent's configuration file in user data that this provider has made, whether compressed or not. It is what the script
// writes to /etc/rouse-worker/agent.json.
func AgentConfig(userData []byte) ([]byte, error) {
	if bytes.HasPrefix(userData, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(userData))
		if err != nil {
			return nil, fmt.Errorf("read user data: %w", err)
		}
		if userData, err = io.ReadAll(io.LimitReader(z, maxInflate)); err != nil {
			return nil, fmt.Errorf("read user data: %w", err)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(userData))
	if err != nil {
		return nil, errors.New("the user data has no part for an agent")
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || params["boundary"] != boundary {
		return nil, errors.New("the user data has no part for an agent")
	}
	for r := multipart.NewReader(m.Body, boundary); ; {
		part, err := r.NextPart()
		if err != nil {
			return nil, fmt.Errorf("find %s in user data: %w", agentPart, err)
		}
		if part.FileName() != agentPart {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(part, maxInflate))
		if err != nil {
			return nil, fmt.Errorf("read %s in user data: %w", agentPart, err)
		}
		_, rest, found := bytes.Cut(data, []byte("base64 -d >"+agentFile+" <<'EOF'\n"))
		text, _, ended := bytes.Cut(rest, []byte("\nEOF\n"))
		if !found || !ended {
			return nil, fmt.Errorf("%s in user data has no %s", agentPart, agentFile)
		}
		return base64.StdEncoding.DecodeString(string(text))
	}
}
