// Package imds reads from EC2's instance metadata service whether this machine is about to be taken back. It needs no SDK: the agent that
// uses it is copied into every instance and stays small.
//
// It speaks version 2 only (a token by PUT, then GETs that carry it). What it reads is believed only in the form that EC2 documents; everything
// else counts as an answer that was not given. Nothing that it meets ends it, and it says so at most once for each time that the service is away.
package imds

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Endpoint is where EC2 serves metadata to every instance.
const Endpoint = "http://169.254.169.254"

// Every is how often EC2's documentation recommends to ask for spot notices, which come two minutes ahead.
const Every = 5 * time.Second

const (
	longest    = time.Minute     // between two attempts while the service does not answer
	timeout    = 2 * time.Second // of one request: the service is on the machine's own host
	tokenLife  = 6 * time.Hour   // the longest that EC2 grants
	tokenSpare = 5 * time.Minute // a token is renewed so long before its end
	maxBody    = 4 << 10         // bytes of an answer that are read; real ones have about 60
	maxToken   = 1 << 10         // real ones have 56
)

// Kind is what an announcement is about.
type Kind string

const (
	// Interruption: EC2 takes the instance back at a stated time, in about two minutes.
	Interruption Kind = "spot-interruption"
	// Rebalance: the instance is more likely than others to be interrupted soon.
	Rebalance Kind = "rebalance"
)

// Notice is one announcement. Two with equal fields are the same one.
type Notice struct {
	Kind Kind
	Text string // for people: what happens, and when
}

// source is one document that is absent (404) until there is something to announce.
type source struct {
	kind  Kind
	path  string
	parse func([]byte) (text string, err error)
}

var sources = [...]source{
	{Interruption, "/latest/meta-data/spot/instance-action", parseAction},
	{Rebalance, "/latest/meta-data/events/recommendations/rebalance", parseRebalance},
}

// Watcher polls one metadata service.
type Watcher struct {
	endpoint string
	log      *slog.Logger
	client   *http.Client
	every    time.Duration

	token   string
	renewAt time.Time
	state   [len(sources)]string // texts of what is announced; "" is nothing
	quiet   bool                 // that it fails has been said
}

// New makes a watcher that asks the service at an http or https URL ("" is Endpoint) so often (0 is Every). It dials nothing.
func New(endpoint string, every time.Duration, log *slog.Logger) (*Watcher, error) {
	endpoint, every = cmp.Or(endpoint, Endpoint), cmp.Or(every, Every)
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the metadata service's endpoint %q is not a URL such as %s", endpoint, Endpoint)
	}
	// Never through a proxy, which would answer for another machine; never to where a redirect leads; one idle connection at most.
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: timeout}).DialContext, MaxConnsPerHost: 1, MaxIdleConns: 1,
		IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true}
	return &Watcher{endpoint: strings.TrimRight(endpoint, "/"), log: log, every: every, client: &http.Client{Transport: transport, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Run polls until ctx ends. changed gets the whole list of what is announced whenever it is another one; it is never called twice at once.
func (w *Watcher) Run(ctx context.Context, changed func([]Notice)) {
	defer w.client.CloseIdleConnections()
	for failures := 0; ; {
		before := w.state
		err := w.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if w.state != before {
			changed(w.notices())
		}
		pause := w.every
		if err == nil {
			failures, w.quiet = 0, false
		} else {
			if !w.quiet {
				w.quiet = true
				w.log.Warn("the instance metadata service does not say whether this machine is taken back; trying again quietly", "error", err)
			}
			pause = min(w.every<<min(failures, 4), max(longest, w.every))
			failures++
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (w *Watcher) notices() []Notice {
	var list []Notice
	for i, text := range w.state {
		if text != "" {
			list = append(list, Notice{sources[i].kind, text})
		}
	}
	return list
}

// poll reads every source. One that gives no answer keeps its last state: only the service can take an announcement back.
func (w *Watcher) poll(ctx context.Context) error {
	var errs []error
	for i, src := range sources {
		body, err := w.get(ctx, src.path)
		switch {
		case errors.Is(err, errAbsent):
			w.state[i] = ""
		case err != nil:
			errs = append(errs, err)
			if ctx.Err() != nil || errors.As(err, new(*url.Error)) {
				return errors.Join(errs...) // nobody there: the next one would only wait as long
			}
		default:
			text, err := src.parse(body)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", src.path, err))
				continue
			}
			w.state[i] = text
		}
	}
	return errors.Join(errs...)
}

var (
	errAbsent = errors.New("not there")
	errToken  = errors.New("the token was refused")
)

// get reads one document. A token that the service does not know any more (after hibernation, for instance) is replaced once.
func (w *Watcher) get(ctx context.Context, path string) ([]byte, error) {
	for again := false; ; again = true {
		if err := w.authenticate(ctx); err != nil {
			return nil, err
		}
		body, err := w.do(ctx, http.MethodGet, path, "X-Aws-Ec2-Metadata-Token", w.token)
		if !errors.Is(err, errToken) || again {
			return body, err
		}
		w.token = ""
	}
}

func (w *Watcher) authenticate(ctx context.Context) error {
	now := time.Now()
	if w.token != "" && now.Before(w.renewAt) {
		return nil
	}
	body, err := w.do(ctx, http.MethodPut, "/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", fmt.Sprint(int(tokenLife.Seconds())))
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(body))
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("/latest/api/token: the answer is no token")
	}
	w.token, w.renewAt = token, now.Add(tokenLife-tokenSpare)
	return nil
}

func (w *Watcher) do(ctx context.Context, method, path, header, value string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(header, value)
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	switch {
	case resp.StatusCode == http.StatusUnauthorized && method == http.MethodGet:
		return nil, errToken
	case resp.StatusCode == http.StatusNotFound && method == http.MethodGet:
		_, _ = io.CopyN(io.Discard, resp.Body, maxBody) // so that the connection can be used again
		return nil, errAbsent
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%s %s: the answer is longer than %d bytes", method, path, maxBody)
	}
	return body, nil
}

// parseAction reads {"action": "terminate", "time": "2017-09-18T08:22:00Z"}.
func parseAction(body []byte) (string, error) {
	var v struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return "", fmt.Errorf("no announcement: %w", err)
	}
	if v.Action != "terminate" && v.Action != "stop" && v.Action != "hibernate" || v.Time.IsZero() {
		return "", errors.New("no announcement: action (terminate, stop or hibernate) and time are wanted")
	}
	return v.Action + " at " + v.Time.UTC().Format(time.RFC3339), nil
}

// parseRebalance reads {"noticeTime": "2020-10-27T08:22:00Z"}.
func parseRebalance(body []byte) (string, error) {
	var v struct {
		NoticeTime time.Time `json:"noticeTime"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return "", fmt.Errorf("no announcement: %w", err)
	}
	if v.NoticeTime.IsZero() {
		return "", errors.New("no announcement: noticeTime is wanted")
	}
	return "an interruption has become likely, said at " + v.NoticeTime.UTC().Format(time.RFC3339), nil
}
