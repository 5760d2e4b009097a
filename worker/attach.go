package worker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	dialTimeout  = 10 * time.Second
	helloTimeout = 30 * time.Second
	closeTimeout = time.Second
	maxRefusal   = 1 << 10 // bytes of an answer that is no WebSocket
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// backoff is the delay before the next attempt: full jitter, at most 1 s after a connection that worked, doubling up to 10 s: a build may be waiting for its agent.
func backoff(failures int) time.Duration {
	most := longestRetry
	if failures < 5 {
		most = time.Second << failures
	}
	return firstRetry + rand.N(most-firstRetry)
}

// attach dials the master and serves the connection to its end. admitted says that it was of use. The error is why it ended.
func (a *Agent) attach(ctx context.Context, orphan *orphan) (admitted bool, err error) {
	heard := new(atomic.Int64)
	alive := func() { heard.Store(time.Now().UnixNano()) }
	alive()
	ws, extension, err := a.dial(ctx, alive)
	if err != nil {
		return false, err
	}
	defer ws.CloseNow() //nolint:errcheck // it has been closed with a status where there is one to tell
	ws.SetReadLimit(proto.MaxMessage)
	lctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errLost)
	l := &link{ws: ws, ctx: lctx, cancel: cancel, heard: heard, pending: map[int64]chan proto.Message{}}
	s := &session{Agent: a, link: l, extension: extension}
	defer s.lost()
	defer s.leave()

	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(errLost) // before the wait
	helpers.Go(func() {   // a worker that ends says so, if the master listens
		select {
		case <-ctx.Done():
			defer time.AfterFunc(closeTimeout, func() { cancel(errLost) }).Stop()
			_ = ws.Close(websocket.StatusNormalClosure, "worker ends")
			cancel(errLost)
		case <-lctx.Done():
		}
	})
	helpers.Go(func() { l.heartbeat(a.cfg.Heartbeat, a.cfg.DeadAfter) })
	welcome := make(chan error, 1)
	if extension {
		helpers.Go(func() {
			err := s.hello(orphan)
			if err != nil {
				l.fail(err)
			}
			welcome <- err
			if err == nil {
				s.enter()
			}
		})
	} else {
		a.log.Info("connected to a master that speaks plain v7")
		orphan.stop()
		welcome <- nil
	}
	err = l.read(s.handle)
	cancel(err)
	if <-welcome == nil {
		admitted = true
		orphan.start()
	}
	return admitted, err
}

func (a *Agent) dial(ctx context.Context, alive func()) (ws *websocket.Conn, extension bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	h := http.Header{}
	h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(a.cfg.Name+":"+a.cfg.Secret)))
	h.Set("User-Agent", "rouse-worker/"+a.cfg.Version)
	h.Set(proto.HeaderProtocol, proto.Extension)
	h.Set(proto.HeaderAgent, a.nonce)
	if a.cfg.Instance != "" {
		h.Set(proto.HeaderInstance, a.cfg.Instance)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: a.cfg.TLS, DisableKeepAlives: true}
	//nolint:bodyclose // Dial has closed it
	ws, resp, err := websocket.Dial(ctx, a.cfg.Master, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		HTTPHeader: h,
		OnPingReceived: func(context.Context, []byte) bool {
			alive()
			return true
		},
		OnPongReceived: func(context.Context, []byte) { alive() },
	})
	if err != nil {
		if resp != nil && resp.StatusCode == http.StatusUnauthorized {
			return nil, false, fmt.Errorf("the master refuses the name %q with this password or token (401)", a.cfg.Name)
		}
		return nil, false, a.unreachable(err, resp)
	}
	return ws, resp.Header.Get(proto.HeaderProtocol) == proto.Extension, nil
}

// unreachable says why a connection was not made, and what to look at.
func (a *Agent) unreachable(err error, resp *http.Response) error {
	at := a.master()
	var ue *url.Error
	switch {
	case wantsTLS(err, resp) && strings.HasPrefix(at, "ws:"):
		return fmt.Errorf("the master at %s speaks TLS: use wss:// instead of ws://", at)
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		return fmt.Errorf("%s answered %s instead of opening a WebSocket: is it the worker port of a master? Its API has another one", at, resp.Status)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the master at %s does not speak TLS: use ws:// instead of wss://", at)
	case errors.As(err, &ue):
		return fmt.Errorf("no master answers at %s: %w", at, ue.Err)
	}
	return fmt.Errorf("no master answers at %s: %w", at, err)
}

// wantsTLS says that an answer to a request without TLS is that of a port which speaks it: servers of HTTP say so in words (of those that Dial has kept),
// others send an alert of TLS (a record of type 21 and version 3.x), which is no HTTP.
func wantsTLS(err error, resp *http.Response) bool {
	if resp != nil && resp.StatusCode == http.StatusBadRequest {
		text, readErr := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		return readErr == nil && strings.Contains(string(text), "HTTPS")
	}
	return err != nil && strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`)
}

// master is the master's URL for people: somebody may have put a password into it.
func (a *Agent) master() string {
	u, err := url.Parse(a.cfg.Master)
	if err != nil {
		return "its URL"
	}
	return u.Redacted()
}

// session is the agent's side of one link.
type session struct {
	*Agent
	*link
	extension bool

	v7mu sync.Mutex
	v7   map[string]*plain // commands of plain v7: they die with the link
}

// hello introduces the agent and waits to be admitted.
func (s *session) hello(orphan *orphan) error {
	ctx, cancel := context.WithTimeout(s.link.ctx, helloTimeout)
	defer cancel()
	h := proto.Hello{Info: s.info(), Commands: s.snapshot()}
	if _, err := s.call(ctx, proto.OpHello, "", h.Fields()); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer to hello in %v", helloTimeout)
		}
		return err
	}
	orphan.stop()
	s.log.Info("attached", "master", s.master(), "commands", len(h.Commands))
	return nil
}

// lost tells every command that the link is gone.
func (s *session) lost() {
	s.Agent.mu.Lock()
	for _, c := range s.commands {
		c.detach(s.link)
	}
	s.Agent.mu.Unlock()
	s.v7mu.Lock()
	defer s.v7mu.Unlock()
	for _, p := range s.v7 {
		p.cancel(errLost)
	}
}
