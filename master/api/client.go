package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/danielgtaylor/huma/v2"
)

// Client talks to one master.
type Client struct {
	base  string // without Prefix
	where string // for people
	token string
	http  *http.Client
}

// maxAnswer bounds what a client keeps of one answer, and of one line of a stream.
const maxAnswer = 64 << 20

// maxProblem bounds what a client reads of an error: all mistakes of a configuration may be in it.
const maxProblem = 8 << 20

// NewClient makes a client for a local socket (address is a path, or "unix://PATH") or a URL (http or https). A token is sent to
// URLs only, and in clear only to this machine. conf may be nil.
func NewClient(address, token string, conf *tls.Config) (*Client, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && !strings.Contains(address, "/") && port != "" {
		scheme := "https"
		if loopback(host) {
			scheme = "http"
		}
		return nil, fmt.Errorf("address of the master %q: it lacks how it is spoken to: write %s://%s", address, scheme, address)
	}
	if path, ok := strings.CutPrefix(address, "unix://"); ok || !strings.Contains(address, "://") {
		return &Client{base: "http://rouse", where: path, http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
		}}}, nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("address of the master %q: write https://HOST:PORT, http://127.0.0.1:PORT, or the path of its socket", address)
	case u.Scheme == "http" && token != "" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("the token would cross the network in clear to %s: use https", u.Host)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = conf
	return &Client{base: strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/"), where: u.Host, token: token, http: &http.Client{Transport: t}}, nil
}

// Close gives back idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Problem is an error that the master answered.
type Problem struct {
	Status int
	Detail string
	Report json.RawMessage // if a configuration has mistakes: an hcl.Report
}

func (p *Problem) Error() string { return p.Detail }

var (
	// ErrNoMaster says that nobody answers at the address.
	ErrNoMaster = errors.New("no master answers")
	// ErrBroken says that an answer did not come, or not whole, since the connection broke or since the master stops. Reading can be repeated; an
	// order may have been carried out.
	ErrBroken = errors.New("the connection to the master broke")
)

// Get decodes an answer into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// Post sends in, which may be nil, and decodes the answer into out.
func (c *Client) Post(ctx context.Context, path string, query url.Values, in, out any) error {
	return c.call(ctx, http.MethodPost, path, query, in, out)
}

// Delete decodes the answer into out.
func (c *Client) Delete(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodDelete, path, query, nil, out)
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limitsFor(method, path).whole())
	defer cancel()
	resp, err := c.do(ctx, method, path, query, in, "application/json")
	if err != nil {
		return err
	}
	defer closeBody(resp)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of the master at %s: %w", c.where, err)
	}
	return nil
}

// Stream calls fn with each object of a stream, until it ends.
func (c *Client) Stream(ctx context.Context, path string, query url.Values, fn func(json.RawMessage) error) error {
	resp, err := c.do(ctx, http.MethodGet, path, query, nil, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer closeBody(resp)
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		line := sc.Bytes()
		if len(line) == 0 {
			continue
		}
		var broken struct {
			Error string `json:"error"`
			Again bool   `json:"again"`
		}
		if bytes.HasPrefix(line, []byte(`{"error":`)) && json.Unmarshal(line, &broken) == nil && broken.Error != "" {
			if broken.Again {
				return fmt.Errorf("%w: %s", ErrBroken, broken.Error)
			}
			return errors.New(broken.Error)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, c.where, err)
	}
	return nil
}

// Copy writes an answer that is no JSON to w.
func (c *Client) Copy(ctx context.Context, path string, query url.Values, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, path, query, nil, "text/plain")
	if err != nil {
		return err
	}
	defer closeBody(resp)
	_, err = io.Copy(w, resp.Body)
	return err
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, in any, accept string) (*http.Response, error) {
	var send io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(b)
	}
	address := c.base + Prefix + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, send)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept+", application/problem+json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer closeBody(resp)
		return nil, c.problem(resp)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != accept {
		defer closeBody(resp)
		return nil, fmt.Errorf("%s does not answer as a rouse master's API does (%s instead of %s): its worker port is another one; look at master.api", c.where, cmp.Or(kind, "nothing"), accept)
	}
	return resp, nil
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w at %s", ErrNoMaster, c.where)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("the master at %s speaks http, not https: write http://%s", c.where, c.where)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %s: %w", ErrBroken, c.where, err)
	}
	return fmt.Errorf("master at %s: %w", c.where, err)
}

// problem reads what the master says is wrong; details name the field.
func (c *Client) problem(resp *http.Response) error {
	p := &Problem{Status: resp.StatusCode}
	var m huma.ErrorModel
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/problem+json" || json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&m) != nil {
		p.Detail = fmt.Sprintf("%s answered %s: is it the API of a rouse master? Its worker port is another one", c.where, resp.Status)
		if b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)); bytes.Contains(b, []byte("HTTP request to an HTTPS server")) { // Go's words
			p.Detail = fmt.Sprintf("the master at %s speaks https, not http: write https://%s", c.where, c.where)
		}
		return p
	}
	p.Detail = m.Detail
	if p.Detail == "validation failed" { // huma's words
		p.Detail = "the master does not accept that:"
	}
	for _, e := range m.Errors {
		if e != nil && e.Location == reportLocation {
			p.Report, _ = json.Marshal(e.Value) // what was decoded can be encoded
			continue
		}
		p.Detail += fmt.Sprintf("\n  %s: %s", inWords.Replace(e.Location), inWords.Replace(e.Message))
	}
	return p
}

// inWords puts the words of a check that huma has made into people's.
var inWords = strings.NewReplacer("body.", "", "query.", "", "path.", "", "expected number >= ", "it must be at least ", "expected number <= ", "it must be at most ",
	"expected length >= 1", "it must not be empty", "expected length <= ", "it must not be longer than ")

func closeBody(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	_ = resp.Body.Close()
}
