package libvirt

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// maxConsole is how much of what a guest printed is kept.
const maxConsole = 64 << 10

// consoles keeps what guests print: a follower for each, which writes into a file.
type consoles struct {
	dir   string
	mu    sync.Mutex
	live  map[providers.Key]*follower
	broke map[providers.Key]time.Time // when following ended, where it may be taken up again
}

const (
	consoleRest = 10 * time.Second // before a console that could not be followed is tried again
	keepConsole = 24 * time.Hour   // after its guest's last word
)

// follower is the console of one guest.
type follower struct {
	mu      sync.Mutex
	tail    []byte
	file    *os.File
	written int64
	viewers map[chan []byte]bool
	done    chan struct{}
}

// Write takes what the guest printed.
func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail = append(f.tail, b...)
	if over := len(f.tail) - maxConsole; over > 0 {
		f.tail = append(f.tail[:0], f.tail[over:]...)
	}
	for v := range f.viewers {
		select {
		case v <- append([]byte(nil), b...):
		default: // somebody who does not read misses something
		}
	}
	if f.file != nil && f.written < 16*maxConsole { // a file that is read after a restart only
		n, _ := f.file.Write(b)
		f.written += int64(n)
	}
	return len(b), nil
}

// of is a guest's follower, if it has one.
func (c *consoles) of(key providers.Key) *follower {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live[key]
}

// view returns what was printed, and a channel of what is printed from then on.
func (f *follower) view() (before []byte, news chan []byte, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news = make(chan []byte, 256)
	f.viewers[news] = true
	return append([]byte(nil), f.tail...), news, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.viewers, news)
	}
}

// follow begins to follow a guest's console, if nobody does: what it printed before (to a master that has ended, say) is in its file.
func (c *consoles) follow(p *provider, key providers.Key, l link) *follower {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.live[key]; f != nil {
		return f
	}
	if time.Since(c.broke[key]) < consoleRest || p.ctx.Err() != nil {
		return nil
	}
	f := &follower{viewers: map[chan []byte]bool{}, done: make(chan struct{})}
	f.tail, _ = readTail(c.file(key))
	if f.file, _ = os.OpenFile(c.file(key), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); f.file != nil { // without it, only a restart forgets
		if st, err := f.file.Stat(); err == nil {
			f.written = st.Size()
		}
	}
	c.live[key] = f
	p.work.Go(func() {
		defer close(f.done)
		if err := l.Console(p.ctx, domainName(key), f); err != nil && !errors.Is(err, context.Canceled) {
			p.log.Debug("libvirt: console", "instance", key, "err", err)
		}
		c.mu.Lock()
		delete(c.live, key)
		c.broke[key] = time.Now()
		c.mu.Unlock()
		if f.file != nil {
			_ = f.file.Close()
		}
	})
	return f
}

func (c *consoles) file(key providers.Key) string { return filepath.Join(c.dir, string(key)+".log") }

// tidy removes what guests printed, some time after their end: somebody may still ask why one failed.
func (c *consoles) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, at := range c.broke {
		if time.Since(at) > consoleRest {
			delete(c.broke, k)
		}
	}
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, n := range names {
		key, _ := strings.CutSuffix(n.Name(), ".log")
		if st, err := n.Info(); err == nil && c.live[providers.Key(key)] == nil && time.Since(st.ModTime()) > keepConsole {
			_ = os.Remove(filepath.Join(c.dir, n.Name()))
		}
	}
}

// readTail returns the end of what a guest printed.
func readTail(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	if st, err := file.Stat(); err == nil && st.Size() > maxConsole {
		if _, err := file.Seek(-maxConsole, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(file, maxConsole))
}

// Console implements providers.ConsoleReader.
func (p *provider) Console(ctx context.Context, key providers.Key) ([]byte, error) {
	if !key.Valid() {
		return nil, providers.Errorf(providers.NotFound, "console", "%q is no key", key)
	}
	if f := p.console.of(key); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return append([]byte(nil), f.tail...), nil
	}
	b, err := readTail(p.console.file(key))
	if errors.Is(err, os.ErrNotExist) {
		_, err := p.Get(ctx, key)
		return nil, err
	}
	if err != nil {
		return nil, providers.Errorf(providers.Transient, "console", "%w", err)
	}
	return b, nil
}
