package libvirt

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

const (
	dialTimeout = 15 * time.Second
	firstPause  = 500 * time.Millisecond // after a dial that failed; doubles
	longPause   = 30 * time.Second
)

// host is one machine and the connection to it, which is made when it is first needed and made again when it has broken. Calls of one host wait
// for its dial, not for another host's.
type host struct {
	Host
	dial    dialer
	event   func(event)
	changed func(h *host, up bool) // a connection was made, or has broken
	log     *slog.Logger

	mu      sync.Mutex
	current link
	dialing chan struct{} // closed when the dial under way is over; nil: none is
	err     error         // of the last dial
	pause   time.Duration
	until   time.Time // no dial before
	closed  bool
	lostAt  time.Time // zero if the last connection has not broken
}

// onlyHost is the name of the host of a provider without host blocks.
const onlyHost = "host"

// titleOf is what people call a host. One that nobody has named has no name for them.
func titleOf(name string) string {
	if name == onlyHost {
		return "the host"
	}
	return "host " + name
}

func (h *host) title() string { return titleOf(h.Name) }

// Title is title at the beginning of a sentence.
func (h *host) Title() string { t := h.title(); return strings.ToUpper(t[:1]) + t[1:] }

// isLost says whether there should be a connection, and is none: it has broken, or could not be made.
func (h *host) isLost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return (!h.lostAt.IsZero() || h.err != nil) && h.current == nil && !h.closed
}

// link returns the connection, and dials if there is none. While a host is down, calls fail at once with the last reason.
func (h *host) link(ctx context.Context) (link, error) {
	for {
		h.mu.Lock()
		switch {
		case h.closed:
			h.mu.Unlock()
			return nil, &linkError{unreachable, "the provider is closed"}
		case h.current != nil:
			defer h.mu.Unlock()
			return h.current, nil
		case h.dialing == nil && time.Now().Before(h.until):
			defer h.mu.Unlock()
			return nil, h.err
		case h.dialing == nil:
			h.dialing = make(chan struct{})
			go h.connect()
		}
		wait := h.dialing
		h.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, &linkError{unreachable, "no connection to " + h.URI + " in time"}
		}
	}
}

func (h *host) connect() {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	var mine link
	var early error // it has broken before it was taken in
	l, err := h.dial(ctx, h.URI, h.event, func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if mine == nil {
			early = err
			return
		}
		h.lost(mine, err)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.dialing)
	h.dialing = nil
	if err == nil && early != nil {
		go l.Close()
		err = &linkError{unreachable, early.Error()}
	}
	switch {
	case err != nil:
		h.pause = min(max(2*h.pause, firstPause), longPause)
		h.until, h.err = time.Now().Add(h.pause), err
		h.log.Warn("libvirt: no connection", "host", h.Name, "uri", h.URI, "err", err)
	case h.closed:
		go l.Close()
	default:
		mine, h.current, h.pause, h.err, h.lostAt = l, l, 0, nil, time.Time{}
		go h.changed(h, true)
	}
}

// lost lets go of a connection that has broken. The next call makes a new one. The caller holds the lock.
func (h *host) lost(l link, err error) {
	if h.current != l {
		return
	}
	h.log.Warn("libvirt: the connection is lost; the guests go on", "host", h.Name, "uri", h.URI, "err", err)
	old := h.current
	h.current, h.lostAt = nil, time.Now()
	go old.Close()
	go h.changed(h, false)
}

func (h *host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.current != nil {
		h.current.Close()
		h.current = nil
	}
}

// classify makes a provider's error of a link's.
func classify(op, host string, err error) error {
	class := providers.Unknown
	switch kindOf(err) {
	case unreachable:
		class = providers.Transient
	case noDomain:
		class = providers.NotFound
	case noNetwork, noPool, noVolume, invalid, unsupported, noLibrary, exists:
		class = providers.BadConfig
	case denied:
		class = providers.Unauthorized
	case noSpace:
		class = providers.NoCapacity
	}
	if op == "create" || class != providers.NotFound && class != providers.BadConfig {
		return providers.Errorf(class, op, "%s: %w", titleOf(host), err)
	}
	return providers.Errorf(providers.Unknown, op, "%s: %w", titleOf(host), err)
}

// keyed lets one call at a time work on a name.
type keyed struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// keys are the instances that a call of this process works on, by state directory and key: while a configuration changes, two providers are open on
// the same directory for a moment. (Two processes never are: a master locks its state.)
var keys keyed

func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		wait := k.busy[key]
		if wait == nil {
			if k.busy == nil {
				k.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.busy[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.busy, key)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
