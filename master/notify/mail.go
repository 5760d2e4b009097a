package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
)

// Mail is a relay that takes our mails.
type Mail struct {
	Relay    string // host:port
	From     string
	Username string // with Secret; "" = no authentication
	Secret   func(context.Context) ([]byte, error)
	TLS      string      // "none", "required" (STARTTLS with a certificate that is valid), or "opportunistic": STARTTLS with any certificate, if there is any
	Roots    *tls.Config // nil = the system's certificates; for tests
}

// sendMail gives one mail to the relay. Errors say which part of the conversation failed and never hold a credential.
func (n *Notifier) sendMail(ctx context.Context, it item) error {
	t := n.o.Targets()
	if t.Mail == nil {
		return permanent{errors.New("the configuration has no mail block any more")}
	}
	msg, err := message(t, it)
	if err != nil {
		return permanent{err}
	}
	c, err := client(ctx, t.Mail, n.o.Timeout)
	if err != nil {
		return err
	}
	err = c.DialAndSendWithContext(ctx, msg)
	if ctx.Err() != nil {
		return fmt.Errorf("relay %s: %w", t.Mail.Relay, context.Cause(ctx))
	}
	if failed, ok := errors.AsType[*mail.SendError](err); ok && msg.IsDelivered() {
		n.log(it, "mail").Debug("notify: the relay has taken the mail, but did not part in order", "err", failed)
		return nil // a repetition would be a second mail
	} else if ok && !failed.IsTemp() && failed.ErrorCode() >= 500 {
		return permanent{fmt.Errorf("relay %s: %w", t.Mail.Relay, err)}
	}
	if err != nil {
		return fmt.Errorf("relay %s: %w", t.Mail.Relay, err)
	}
	return nil
}

// message writes the mail. What a provider or an agent said is in the body only, where it cannot become a header.
func message(t Targets, it item) (*mail.Msg, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := m.From(t.Mail.From); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if err := m.To(it.to); err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	about := it.Kind
	if it.Worker != "" {
		about = "worker " + it.Worker + ": " + about
	}
	m.Subject(fmt.Sprintf("[%s] %s", t.Name, about))
	m.SetDateWithValue(it.at)
	_, domain, _ := strings.Cut(t.Mail.From, "@")
	m.SetMessageIDWithValue(strings.ToLower(it.id) + "@" + domain)
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday notice answers
	m.SetBodyString(mail.TypeTextPlain, fmt.Sprintf("%s\n\nMaster: %s\nWorker: %s\nTime:   %s\n", it.Text, t.Name, it.Worker, it.at.UTC().Format(time.RFC3339)))
	return m, nil
}

func client(ctx context.Context, m *Mail, timeout time.Duration) (*mail.Client, error) {
	host, p, err := net.SplitHostPort(m.Relay)
	if err != nil {
		return nil, permanent{fmt.Errorf("relay: %w", err)}
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return nil, permanent{fmt.Errorf("relay: %w", err)}
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if m.Roots != nil {
		conf = m.Roots.Clone()
	}
	conf.ServerName = host
	policy := mail.NoTLS
	switch m.TLS {
	case "required":
		policy = mail.TLSMandatory
	case "opportunistic":
		policy = mail.TLSOpportunistic
		// Whoever could forge a certificate could as well hide that the relay offers TLS. It helps against listeners, also with a certificate
		// that a distribution made (RFC 7435); what must be sure is "required".
		conf.InsecureSkipVerify = true
	}
	opts := []mail.Option{mail.WithPort(port), mail.WithTimeout(timeout), mail.WithTLSPolicy(policy), mail.WithTLSConfig(conf), mail.WithDialContextFunc(bound(ctx))}
	if m.Username != "" {
		secret, err := m.Secret(ctx)
		if err != nil {
			return nil, err
		}
		opts = append(opts, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.Username), mail.WithPassword(string(secret)))
	}
	c, err := mail.NewClient(host, opts...)
	if err != nil {
		return nil, permanent{fmt.Errorf("relay: %w", err)}
	}
	return c, nil
}

// bound dials connections that close when ctx ends: the client itself moves their deadlines on, so that a slow relay could hold it for long.
func bound(ctx context.Context) mail.DialContextFunc {
	return func(dial context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(dial, network, addr)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}
}
