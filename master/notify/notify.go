// Package notify delivers notices to people: by mail through a relay, and as JSON to a webhook.
//
// Delivery is best effort, and no part of the master waits for it: Send only queues. Mail and webhook have a queue and a goroutine each, so that
// a relay that hangs does not hold up the webhook. The package knows nothing of configurations or of the core; what a notice is about and
// who is told is for the master to say.
package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	queueLen     = 256
	attempts     = 4
	firstBackoff = 2 * time.Second // doubles
	deadline     = 30 * time.Second
	drainTime    = 5 * time.Second // for what is queued when the master stops
	sameFor      = time.Minute     // equal notices within it are one
	maxText      = 4096            // bytes
)

// Notice is something that people should know.
type Notice struct {
	Kind   string // one word, such as "missing"
	Worker string // may be empty
	Text   string
	To     []string // addresses for mail; none = webhook only
}

// Targets are the ways out. Either may be nil.
type Targets struct {
	Name    string // of the master
	Mail    *Mail
	Webhook *Webhook
}

// Options of New. Targets is asked at every delivery, since a configuration may have changed meanwhile.
type Options struct {
	Targets func() Targets
	Log     *slog.Logger
	Backoff time.Duration // before the second attempt; default 2 s, doubles
	Timeout time.Duration // of one attempt; default 30 s
}

// Notifier queues and delivers. Its queues live in memory: what a crash loses was logged by whoever sent it.
type Notifier struct {
	o    Options
	mail chan item
	hook chan item

	mu   sync.Mutex
	seen map[string]time.Time // equal notices, by content
}

// item is one delivery of a notice.
type item struct {
	Notice
	id string // the same in all attempts, so that a receiver can tell a repetition
	at time.Time
	to string // address, for mail
}

// New makes a notifier. Nothing is delivered before Run.
func New(o Options) *Notifier {
	if o.Backoff <= 0 {
		o.Backoff = firstBackoff
	}
	if o.Timeout <= 0 {
		o.Timeout = deadline
	}
	return &Notifier{o: o, mail: make(chan item, queueLen), hook: make(chan item, queueLen), seen: map[string]time.Time{}}
}

// Send queues a notice for each address and for the webhook. It never blocks: what finds a full queue is logged and dropped. Of equal
// notices within a minute, only the first counts.
func (n *Notifier) Send(_ context.Context, note Notice) {
	now := time.Now()
	note.Text = strings.ToValidUTF8(note.Text[:min(len(note.Text), maxText)], "\uFFFD")
	note.To = slices.Compact(slices.Sorted(slices.Values(note.To)))
	if n.repeated(note, now) {
		return
	}
	it := item{Notice: note, id: rand.Text(), at: now}
	t := n.o.Targets()
	if t.Webhook != nil {
		n.queue(n.hook, it, "webhook")
	}
	if t.Mail == nil {
		return
	}
	for _, it.to = range note.To { // a mail for each, so that an address that is refused spoils nothing for the others
		n.queue(n.mail, it, "mail")
	}
}

func (n *Notifier) repeated(note Notice, now time.Time) bool {
	key := fmt.Sprintf("%q", []string{note.Kind, note.Worker, note.Text, strings.Join(note.To, " ")})
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, at := range n.seen {
		if now.Sub(at) >= sameFor {
			delete(n.seen, k)
		}
	}
	if _, ok := n.seen[key]; ok {
		return true
	}
	if len(n.seen) < queueLen { // beyond it the queue is the limit
		n.seen[key] = now
	}
	return false
}

func (n *Notifier) queue(q chan item, it item, by string) {
	select {
	case q <- it:
	default:
		n.log(it, by).Error("notify: too many notices wait; this one is dropped")
	}
}

func (n *Notifier) log(it item, by string) *slog.Logger {
	l := n.o.Log.With("by", by, "kind", it.Kind, "id", it.id)
	if it.Worker != "" {
		l = l.With("worker", it.Worker)
	}
	if it.to != "" {
		l = l.With("to", it.to)
	}
	return l
}

// Run delivers until ctx ends; then it tries once more, for a few seconds, what is queued.
func (n *Notifier) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { n.lane(ctx, n.mail, "mail", n.sendMail) })
	wg.Go(func() { n.lane(ctx, n.hook, "webhook", n.post) })
	wg.Wait()
	return nil
}

// sender makes one attempt.
type sender func(ctx context.Context, it item) error

func (n *Notifier) lane(ctx context.Context, q chan item, by string, send sender) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case it := <-q:
			n.deliver(ctx, it, by, send)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(drainTime, n.o.Timeout))
	defer cancel()
	for {
		select {
		case it := <-q:
			if err := send(last, it); err != nil {
				n.log(it, by).Error("notify: the master stops; a notice is not delivered", "err", err)
			}
		default:
			return
		}
	}
}

// permanent is an error that another attempt would meet again.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// deliver makes a few attempts. When ctx ends between two of them, it gives up; each failure has been logged.
func (n *Notifier) deliver(ctx context.Context, it item, by string, send sender) {
	pause := n.o.Backoff
	for try := 1; ; try++ {
		one, cancel := context.WithTimeout(ctx, n.o.Timeout)
		err := send(one, it)
		cancel()
		if err == nil {
			n.log(it, by).Debug("notify: delivered", "attempt", try)
			return
		}
		if try == attempts || ctx.Err() != nil || errors.As(err, new(permanent)) {
			n.log(it, by).Error("notify: a notice is not delivered", "attempt", try, "err", err)
			return
		}
		n.log(it, by).Warn("notify: an attempt failed; trying again", "attempt", try, "pause", pause, "err", err)
		select {
		case <-ctx.Done():
			n.log(it, by).Error("notify: the master stops; a notice is not delivered", "err", err)
			return
		case <-time.After(pause):
		}
		pause *= 2
	}
}
