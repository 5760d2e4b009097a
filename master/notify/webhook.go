package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// SignatureHeader holds "sha256=" and the hexadecimal HMAC-SHA256 of the request's body.
const SignatureHeader = "Rouse-Signature"

const maxReply = 64 << 10 // bytes that are read of a reply, so that the connection can be used again; the rest is refused

// Webhook is who gets notices as JSON, by POST.
type Webhook struct {
	URL    string                                // may hold a token: it is never logged
	Secret func(context.Context) ([]byte, error) // nil = not signed
}

// payload is the body of a request.
type payload struct {
	ID     string    `json:"id"` // the same when a delivery is repeated
	Time   time.Time `json:"time"`
	Master string    `json:"master"`
	Kind   string    `json:"kind"`
	Worker string    `json:"worker,omitempty"`
	Text   string    `json:"text"`
}

// hookClient follows no redirect: the answer would be to another request, unsigned or to somebody else.
var hookClient = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (n *Notifier) post(ctx context.Context, it item) error {
	t := n.o.Targets()
	if t.Webhook == nil {
		return permanent{errors.New("the configuration has no webhook block any more")}
	}
	body, err := json.Marshal(payload{ID: it.id, Time: it.at.UTC(), Master: t.Name, Kind: it.Kind, Worker: it.Worker, Text: it.Text})
	if err != nil {
		return permanent{err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Webhook.URL, bytes.NewReader(body))
	if err != nil {
		return permanent{errors.New("webhook: its URL cannot be used")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "rouse")
	if t.Webhook.Secret != nil {
		key, err := t.Webhook.Secret(ctx)
		if err != nil {
			return err
		}
		req.Header.Set(SignatureHeader, Sign(key, body))
	}
	resp, err := hookClient.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL
		}
		return fmt.Errorf("webhook at %s: %w", req.URL.Host, err)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxReply) // only for the connection's sake
	_ = resp.Body.Close()
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return nil
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return fmt.Errorf("webhook at %s: %s", req.URL.Host, http.StatusText(code))
	default:
		return permanent{fmt.Errorf("webhook at %s: status %d", req.URL.Host, code)}
	}
}

// Sign is what SignatureHeader holds for a body.
func Sign(key, body []byte) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(body) // never fails
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
