//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	virt "libvirt.org/go/libvirt"
)

// events runs the library's event loop, once for the process. It must be registered before the first connection is opened.
var events = sync.OnceValue(func() error {
	if err := virt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	// Without a timer of our own the loop sleeps for ever when nothing is registered, and never sees what is registered later.
	if _, err := virt.EventAddTimeout(1000, func(int) {}); err != nil {
		return err
	}
	go func() {
		for {
			if err := virt.EventRunDefaultImpl(); err != nil {
				time.Sleep(100 * time.Millisecond) // the loop must outlive whatever this is
			}
		}
	}()
	return nil
})

const (
	keepaliveInterval = 5 // seconds between probes of a silent connection…
	keepaliveCount    = 3 // …and how many may stay unanswered
)

// conn is a link over libvirt's own library.
type conn struct {
	c    *virt.Connect
	uri  string
	lost func(error)
	once sync.Once
	dead chan struct{}
	long chan struct{} // taken by calls that take seconds

	events int // number of the callback for events; negative: there is none
	mu     sync.Mutex
	users  int  // calls in the library
	closed bool // the last user shuts it
}

// longCalls is how many starts, saves and restores are under way at once on a connection. libvirtd answers five calls of one at a time (max_client_requests),
// and lets all others wait: with more, a guest that is there already would wait for its order until others are restored.
const longCalls = 4

// dial connects. The library's connect cannot be cancelled: at ctx's end it is given up, and closed whenever it returns.
func dial(ctx context.Context, uri string, event func(event), lost func(error)) (link, error) {
	type result struct {
		l   *conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		l, err := connect(uri, event, lost)
		done <- result{l, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.l, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.l != nil {
				r.l.Close()
			}
		}()
		return nil, &linkError{unreachable, "no connection to " + uri + " in time"}
	}
}

func connect(uri string, event func(event), lost func(error)) (*conn, error) {
	if err := events(); err != nil {
		return nil, translate(err)
	}
	uri = unattended(uri)
	c, err := virt.NewConnect(uri)
	if err != nil {
		e := translate(err)
		if e.Kind != noLibrary && e.Kind != denied {
			e.Kind = unreachable
		}
		return nil, e
	}
	l := &conn{c: c, uri: uri, lost: lost, dead: make(chan struct{}), long: make(chan struct{}, longCalls)}
	_ = c.SetKeepAlive(keepaliveInterval, keepaliveCount) // drivers without a wire have none
	_ = c.RegisterCloseCallback(func(_ *virt.Connect, reason virt.ConnectCloseReason) {
		l.broken(fmt.Errorf("the connection has closed (%d)", reason))
	})
	l.events, err = c.DomainEventLifecycleRegister(nil, func(_ *virt.Connect, d *virt.Domain, e *virt.DomainEventLifecycle) {
		if name, err := d.GetName(); err == nil {
			event(lifecycle(name, e))
		}
	})
	if err != nil { // a driver without events
		l.events = -1
	}
	return l, nil
}

// unattended makes ssh refuse where it would ask for a password or whether a host is the right one: nobody would answer, and it would wait for ever.
func unattended(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || !strings.HasSuffix(u.Scheme, "+ssh") || u.Query().Has("no_tty") {
		return uri
	}
	u.RawQuery = strings.TrimPrefix(u.RawQuery+"&no_tty=1", "&")
	return u.String()
}

func (l *conn) broken(err error) {
	l.once.Do(func() {
		close(l.dead)
		go l.lost(err)
	})
}

// Close ends the connection, as soon as no call is in the library any more: it would go on with what is not there. Guests go on.
func (l *conn) Close() {
	l.once.Do(func() { close(l.dead) })
	l.mu.Lock()
	last := !l.closed && l.users == 0
	l.closed = true
	l.mu.Unlock()
	if last {
		l.shut()
	}
}

// enter and leave count the calls in the library.
func (l *conn) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.users++
	return true
}

func (l *conn) leave() {
	l.mu.Lock()
	l.users--
	last := l.closed && l.users == 0
	l.mu.Unlock()
	if last {
		l.shut()
	}
}

// shut lets go of the connection. What is registered would keep it open.
func (l *conn) shut() {
	if l.events >= 0 {
		_ = l.c.DomainEventDeregister(l.events)
	}
	_ = l.c.UnregisterCloseCallback()
	_, _ = l.c.Close()
}

// do makes one call of the library, which cannot be cancelled: at the deadline it is left alone, and the connection counts as broken.
func do[T any](ctx context.Context, l *conn, f func() (T, error)) (T, error) {
	var zero T
	type result struct {
		v   T
		err error
	}
	select {
	case <-l.dead:
		return zero, &linkError{unreachable, "the connection is closed"}
	default:
	}
	limit := callTimeout
	if ctx.Value(patient{}) != nil {
		limit = copyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !l.enter() {
		return zero, &linkError{unreachable, "the connection is closed"}
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
		l.leave()
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return r.v, translate(r.err)
		}
		return r.v, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.broken(errors.New("a call was not answered in time"))
		}
		return zero, ctx.Err()
	}
}

// turn waits until a call that takes seconds may begin.
func (l *conn) turn(ctx context.Context) (over func(), err error) {
	select {
	case l.long <- struct{}{}:
		return func() { <-l.long }, nil
	case <-l.dead:
		return nil, &linkError{unreachable, "the connection is closed"}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func run(ctx context.Context, l *conn, f func() error) error {
	_, err := do(ctx, l, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (l *conn) Node(ctx context.Context) (node, error) {
	return do(ctx, l, func() (node, error) {
		info, err := l.c.GetNodeInfo()
		if err != nil {
			return node{}, err
		}
		n := node{CPUs: int(info.Cpus), Memory: int64(info.Memory) << 10}
		if v, err := l.c.GetLibVersion(); err == nil {
			n.Libvirt = version(v)
		}
		if v, err := l.c.GetVersion(); err == nil {
			kind, _ := l.c.GetType()
			n.Hypervisor = kind + " " + version(v)
		}
		return n, nil
	})
}

func (l *conn) Capabilities(ctx context.Context) (string, error) {
	return do(ctx, l, l.c.GetCapabilities)
}

func version(v uint32) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// translate classifies the library's errors by their codes.
func translate(err error) *linkError {
	if err == nil {
		return &linkError{}
	}
	var mine *linkError
	if errors.As(err, &mine) {
		return mine
	}
	var e virt.Error
	if !errors.As(err, &e) {
		if errors.Is(err, os.ErrNotExist) {
			return &linkError{unreachable, err.Error()}
		}
		return &linkError{failed, err.Error()}
	}
	kind, ok := map[virt.ErrorNumber]errorKind{
		virt.ERR_NO_DOMAIN: noDomain, virt.ERR_NO_NETWORK: noNetwork, virt.ERR_NO_STORAGE_POOL: noPool, virt.ERR_NO_STORAGE_VOL: noVolume,
		virt.ERR_DOM_EXIST: exists, virt.ERR_STORAGE_VOL_EXIST: exists, virt.ERR_OPERATION_INVALID: notRunning,
		virt.ERR_XML_ERROR: invalid, virt.ERR_XML_DETAIL: invalid, virt.ERR_XML_INVALID_SCHEMA: invalid, virt.ERR_INVALID_ARG: invalid,
		virt.ERR_CONFIG_UNSUPPORTED: invalid, virt.ERR_NO_SUPPORT: unsupported, virt.ERR_OPERATION_UNSUPPORTED: unsupported,
		virt.ERR_ARGUMENT_UNSUPPORTED: unsupported, virt.ERR_AUTH_FAILED: denied, virt.ERR_AUTH_CANCELLED: denied, virt.ERR_AUTH_UNAVAILABLE: denied, virt.ERR_ACCESS_DENIED: denied,
		virt.ERR_OPERATION_DENIED: denied, virt.ERR_INVALID_CONN: disconnected, virt.ERR_RPC: disconnected, virt.ERR_NO_CONNECT: unreachable,
	}[e.Code]
	switch {
	case strings.Contains(e.Message, "Failed to open libvirt.so"): // the binding's own text: there is no code for it
		kind = noLibrary
	case strings.Contains(e.Message, "No space left on device"): // from the kernel, or printed by qemu-img
		kind = noSpace
	case ok:
	case e.Code == virt.ERR_SYSTEM_ERROR && e.Domain == virt.FROM_RPC:
		kind = unreachable
		if strings.Contains(e.Message, "Permission denied") {
			kind = denied
		}
	case e.Code == virt.ERR_INTERNAL_ERROR && e.Domain == virt.FROM_RPC:
		kind = disconnected
	}
	return &linkError{kind, e.Message}
}

// lifecycle translates an event.
func lifecycle(name string, e *virt.DomainEventLifecycle) event {
	out := event{Name: name, What: fmt.Sprintf("event %d/%d", e.Event, e.Detail)}
	switch e.Event {
	case virt.DOMAIN_EVENT_STARTED:
		out.What = "started"
	case virt.DOMAIN_EVENT_STOPPED:
		out.Gone = true
		out.What = "stopped: " + map[int]string{
			int(virt.DOMAIN_EVENT_STOPPED_SHUTDOWN): "it powered off", int(virt.DOMAIN_EVENT_STOPPED_DESTROYED): "it was destroyed",
			int(virt.DOMAIN_EVENT_STOPPED_CRASHED): "it crashed", int(virt.DOMAIN_EVENT_STOPPED_SAVED): "it was saved",
			int(virt.DOMAIN_EVENT_STOPPED_FAILED): "the hypervisor's process ended", int(virt.DOMAIN_EVENT_STOPPED_MIGRATED): "it was moved",
		}[e.Detail]
	case virt.DOMAIN_EVENT_CRASHED:
		out.What = "crashed"
	case virt.DOMAIN_EVENT_SHUTDOWN:
		out.What = "shutting down"
	}
	return out
}
