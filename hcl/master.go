package hcl

import (
	"net"
	"net/url"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
)

var masterSchema = &hcl2.BodySchema{
	Attributes: attributes("name", "listen", "url", "api", "tls_cert", "tls_key", "tls_ca", "on_master_stop", "max_attempts", "log_max_age", "log_max_size",
		"record_max_age", "artifacts_dir", "currency"),
	Blocks: []hcl2.BlockHeaderSchema{{Type: "token", LabelNames: []string{"name"}}, {Type: "mail"}, {Type: "webhook"}},
}

// attributes is a schema of optional attributes. What is required is checked where it is used, to say why.
func attributes(names ...string) []hcl2.AttributeSchema {
	schema := make([]hcl2.AttributeSchema, len(names))
	for i, n := range names {
		schema[i].Name = n
	}
	return schema
}

func defaultMaster() Master {
	return Master{Name: "rouse", Listen: "127.0.0.1:9989", OnStop: "keep", MaxAttempts: 5, ArtifactsDir: "artifacts", Currency: "USD"}
}

func (l *loader) master(blocks hcl2.Blocks) {
	if len(blocks) == 0 {
		return
	}
	for _, b := range blocks[1:] {
		first := blocks[0].DefRange
		l.errorf(&b.DefRange, "Duplicate master", "There is a master block already, at %s:%d.", first.Filename, first.Start.Line)
	}
	b := blocks[0]
	content, diags := b.Body.Content(masterSchema)
	l.diags = append(l.diags, diags...)
	a := &attrs{m: content.Attributes, ctx: l.refs, diags: &l.diags}
	m := &l.cfg.Master
	m.Range = b.DefRange
	a.text("name", &m.Name)
	if why := badName("master", m.Name); why != "" {
		a.bad("name", "%q cannot be the name of a master: %s.", m.Name, why)
	}
	a.text("listen", &m.Listen)
	a.str("url", &m.URL)
	a.str("api", &m.API)
	l.address(a, "listen", m.Listen)
	l.address(a, "api", m.API)
	if samePort(m.Listen, m.API) {
		a.bad("api", "%q is the worker port's address already (listen = %q). Give the API a port of its own.", m.API, m.Listen)
	}
	if u, err := url.Parse(m.URL); m.URL != "" && (err != nil || u.Host == "" || (u.Scheme != "ws" && u.Scheme != "wss")) {
		a.bad("url", "%q is not the address of a worker port, such as ws://ci.example.org:9989 or wss://ci.example.org.", m.URL)
	}
	a.text("tls_cert", &m.TLSCert)
	a.text("tls_key", &m.TLSKey)
	if (m.TLSCert == "") != (m.TLSKey == "") {
		l.errorf(&b.DefRange, "Incomplete TLS", "tls_cert and tls_key belong together; only one of them is set.")
	}
	m.TLSCert, m.TLSKey = inside(l.o.Dir, m.TLSCert), inside(l.o.Dir, m.TLSKey)
	l.trust(a, "tls_ca", &m.TLSCa)
	if a.has("tls_ca") && !strings.HasPrefix(m.URL, "wss:") && (m.URL != "" || m.TLSCert == "") {
		l.warnf(a.rng("tls_ca"), "Certificates without TLS", "Agents reach the worker port without TLS, so tls_ca has no effect. Set tls_cert and tls_key, or a url that begins with wss://.")
	}
	if name, host := wayOfAgents(m); m.TLSCert == "" && a.has(name) && !strings.HasPrefix(m.URL, "wss:") && !nearby(host) {
		l.warnf(a.rng(name), "Secrets cross the network in clear", "Agents reach the worker port without TLS, and what they are sent, such as passwords and the secrets in a step's env, can be read on the way. "+
			"Set tls_cert and tls_key, or a url that begins with wss://.")
	}
	a.oneOf("on_master_stop", &m.OnStop, "keep", "drain", "terminate")
	a.integer("max_attempts", &m.MaxAttempts, 1, 1000)
	a.duration("log_max_age", &m.LogMaxAge, false)
	a.size("log_max_size", &m.LogMaxSize)
	a.duration("record_max_age", &m.RecordMaxAge, false)
	if m.RecordMaxAge > 0 && m.RecordMaxAge < time.Hour {
		a.bad("record_max_age", "It is %s; records must be kept for an hour at least.", m.RecordMaxAge)
	}
	a.text("artifacts_dir", &m.ArtifactsDir)
	a.text("currency", &m.Currency)
	inner := content.Blocks.ByType()
	l.tokens(inner["token"])
	l.mail(inner["mail"])
	l.webhook(inner["webhook"])

	if m.API != "" && len(inner["token"]) == 0 {
		a.bad("api", "Whoever reaches this port could order builds. Add who may: token \"ci\" {\n  secret = secret.api\n  role = \"admin\"\n}")
	}
	if m.API != "" && m.TLSCert == "" && !loopback(m.API) {
		l.warnf(a.rng("api"), "Tokens cross the network in clear", "The API is reachable from other machines, and without tls_cert and tls_key its tokens can be read on the way.")
	}
}

func (l *loader) address(a *attrs, name, value string) {
	if value == "" || !a.has(name) {
		return
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port) // a number or a well-known name: no question to the network
	}
	if err != nil {
		a.bad(name, "%q is not an address to listen on, such as \"127.0.0.1:9989\" or \":9989\".", value)
	}
}

func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}

// wayOfAgents returns the attribute that says how agents reach the worker port, and the host there.
func wayOfAgents(m *Master) (attr, host string) {
	if u, err := url.Parse(m.URL); m.URL != "" && err == nil {
		return "url", u.Hostname()
	}
	host, _, _ = net.SplitHostPort(m.Listen)
	return "listen", host
}

// nearby says whether a host is this machine or an address of a private network, which whoever wires it knows better.
func nearby(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast())
}

var tokenSchema = &hcl2.BodySchema{Attributes: attributes("secret", "role")}

func (l *loader) tokens(blocks hcl2.Blocks) {
	for _, b := range blocks {
		if !l.declare("token", b.Labels[0], b, 0) {
			continue
		}
		content, diags := b.Body.Content(tokenSchema)
		l.diags = append(l.diags, diags...)
		a := &attrs{m: content.Attributes, ctx: l.refs, diags: &l.diags}
		t := APIToken{Name: b.Labels[0], Role: "read"}
		a.oneOf("role", &t.Role, "read", "admin")
		if !a.has("secret") {
			l.errorf(&b.DefRange, "Token without a secret", "Say where the token is: secret = secret.%s, and secret %q { file = \"…\" }.", t.Name, t.Name)
			continue
		}
		if s := l.secretRef(a, "secret", "api"); s != nil {
			t.Secret = *s
			l.cfg.Master.Tokens = append(l.cfg.Master.Tokens, t)
		}
	}
}
