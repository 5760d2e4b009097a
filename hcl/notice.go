package hcl

import (
	"net"
	"net/url"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
)

var (
	mailSchema    = &hcl2.BodySchema{Attributes: attributes("relay", "from", "username", "secret", "tls")}
	webhookSchema = &hcl2.BodySchema{Attributes: attributes("url", "secret")}
)

// only decodes the one block of a type that the master may have. nil: there is none.
func (l *loader) only(blocks hcl2.Blocks, schema *hcl2.BodySchema) (*hcl2.Block, *attrs, bool) {
	if len(blocks) == 0 {
		return nil, nil, false
	}
	for _, b := range blocks[1:] {
		l.errorf(&b.DefRange, "Duplicate "+b.Type, "There is a %s block already, at line %d.", b.Type, blocks[0].DefRange.Start.Line)
	}
	content, diags := blocks[0].Body.Content(schema)
	l.diags = append(l.diags, diags...)
	return blocks[0], &attrs{m: content.Attributes, ctx: l.refs, diags: &l.diags}, diags.HasErrors()
}

// mail decodes how notices reach people.
func (l *loader) mail(blocks hcl2.Blocks) {
	b, a, misspelt := l.only(blocks, mailSchema)
	if b == nil {
		return
	}
	m := &Mail{TLS: "opportunistic", Range: b.DefRange}
	a.text("username", &m.Username)
	m.Secret = l.secretRef(a, "secret", "mail")
	if a.has("username") {
		m.TLS = "required"
	}
	a.text("relay", &m.Relay)
	if m.Relay != "" && !strings.Contains(m.Relay[strings.LastIndex(m.Relay, "]")+1:], ":") {
		m.Relay = net.JoinHostPort(strings.Trim(m.Relay, "[]"), "25")
	}
	if host, port, err := net.SplitHostPort(m.Relay); m.Relay != "" && (err != nil || host == "" || !portNumber(port)) {
		a.bad("relay", "%q is not the address of a mail relay, such as \"localhost:25\".", m.Relay)
	}
	a.text("from", &m.From)
	if m.From != "" && !mailAddress(m.From) {
		a.bad("from", "%q is not an address such as \"rouse@example.org\".", m.From)
	}
	a.oneOf("tls", &m.TLS, "opportunistic", "required", "none")
	switch {
	case misspelt:
	case !a.has("relay") || !a.has("from"):
		l.errorf(&b.DefRange, "Incomplete mail", "Say who takes the mails and who they are from: relay = \"localhost:25\" and from = \"rouse@example.org\".")
	case a.has("username") != a.has("secret"):
		l.errorf(&b.DefRange, "Incomplete mail", "username and secret belong together; only one of them is set.")
	}
	if m.Username != "" && m.TLS != "required" && a.has("tls") {
		a.bad("tls", "The password could cross the network in clear. With a username, it must be \"required\".")
	}
	l.cfg.Master.Mail = m
}

// webhook decodes which program is told.
func (l *loader) webhook(blocks hcl2.Blocks) {
	b, a, misspelt := l.only(blocks, webhookSchema)
	if b == nil {
		return
	}
	w := &Webhook{Range: b.DefRange, Secret: l.secretRef(a, "secret", "webhook")}
	a.text("url", &w.URL)
	switch u, err := url.Parse(w.URL); {
	case !a.has("url") && !misspelt:
		l.errorf(&b.DefRange, "Webhook without a URL", "Say who is told: url = \"https://example.org/hook\".")
	case w.URL == "":
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		a.bad("url", "It is not an address such as \"https://example.org/hook\".")
	case u.User != nil:
		a.bad("url", "It holds a password, and the text of a configuration is stored and shown. The requests can be signed instead: secret = secret.webhook.")
	}
	l.cfg.Master.Webhook = w
}

// checkNotices warns of addresses that nothing will be sent to.
func (l *loader) checkNotices(workers []*workerBlock) {
	if l.cfg.Master.Mail != nil {
		return
	}
	for _, w := range workers {
		if attr, ok := w.content.Attributes["notify_on_missing"]; ok {
			r := attr.Expr.Range()
			l.warnf(&r, "Nobody is told", "Without a relay no mail is sent. Say where one is: master { mail {\n  relay = \"localhost:25\"\n  from  = \"rouse@example.org\"\n} }")
			return // once is enough
		}
	}
}

func mailAddress(s string) bool {
	at := strings.Index(s, "@")
	return at >= 1 && at < len(s)-1 && !strings.ContainsAny(s, " \t\r\n<>")
}

func portNumber(s string) bool {
	n, err := net.LookupPort("tcp", s)
	return err == nil && n > 0 && strings.Trim(s, "0123456789") == ""
}
