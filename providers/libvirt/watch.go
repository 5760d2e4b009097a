package libvirt

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// reconnect is how often a host whose connection has broken is looked after while somebody watches.
const reconnect = 2 * time.Second

// watchers are those who want to hear of changes.
type watchers struct {
	mu   sync.Mutex
	next int
	all  map[int]func(providers.Key)
}

func (w *watchers) add(changed func(providers.Key)) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[int]func(providers.Key){}
	}
	id := w.next
	w.next++
	w.all[id] = changed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, id)
	}
}

func (w *watchers) tell(key providers.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, changed := range w.all {
		changed(key)
	}
}

// Watch implements providers.Watcher: hosts tell of their domains' lives. What happened while a connection was broken is not told afterwards, so
// everything of a host counts as changed when it is back.
func (p *provider) Watch(ctx context.Context, changed func(providers.Key)) error {
	defer p.watchers.add(changed)()
	until, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(p.ctx, stop)()
	var all sync.WaitGroup
	for _, h := range p.hosts {
		all.Go(func() { h.stayConnected(until) })
	}
	all.Wait()
	return ctx.Err()
}

// stayConnected dials a host whose connection has broken until it has one again, for as long as ctx lasts.
func (h *host) stayConnected(ctx context.Context) {
	tick := time.NewTicker(reconnect)
	defer tick.Stop()
	for {
		if h.isLost() {
			_, _ = h.link(ctx) // it waits between two attempts, and says why it fails
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// connected is told of each new connection and of each that has broken.
func (p *provider) connected(h *host, up bool) {
	p.watchers.tell("") // there is a room more or less
	if !up {
		return
	}
	for _, key := range p.records.on(h.Name) {
		p.watchers.tell(key)
	}
}

// heard tells of one domain, if its name may be one of ours.
func (p *provider) heard(name string) {
	if key, ok := strings.CutPrefix(name, prefix); ok && providers.Key(key).Valid() {
		p.watchers.tell(providers.Key(key))
	}
}

// FollowConsole implements providers.ConsoleFollower. A viewer who does not keep up misses something.
func (p *provider) FollowConsole(ctx context.Context, key providers.Key, w io.Writer) error {
	if !key.Valid() {
		return providers.Errorf(providers.NotFound, "follow the console", "%q is no key", key)
	}
	f := p.console.of(key)
	if f == nil {
		_, err := p.Get(ctx, key) // which follows what runs
		if f = p.console.of(key); f == nil {
			b, fileErr := readTail(p.console.file(key))
			if fileErr != nil && err != nil {
				return err
			}
			_, err = w.Write(b)
			return err
		}
	}
	before, news, leave := f.view()
	defer leave()
	if _, err := w.Write(before); err != nil {
		return err
	}
	for {
		select {
		case b := <-news:
			if _, err := w.Write(b); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case b := <-news:
			if _, err := w.Write(b); err != nil {
				return err
			}
		case <-f.done:
			if len(news) == 0 {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
