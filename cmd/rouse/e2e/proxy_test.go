package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between agents and the master's worker port. Its address stays the same while masters come and go, each on a port of its own, and it
// is where the network breaks.
type proxy struct {
	l    net.Listener
	park bool // newcomers wait for a master, instead of being turned away

	mu     sync.Mutex
	target string
	change chan struct{} // closed and replaced when the target changes
	pairs  map[*pair]struct{}
	shut   bool
	wg     sync.WaitGroup
}

// pair is one connection through the proxy.
type pair struct {
	agent, master net.Conn
	frozen        chan struct{} // closed: nothing passes any more
	once          sync.Once
}

func newProxy(t *testing.T, park bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, park: park, change: make(chan struct{}), pairs: map[*pair]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "ws://" + p.l.Addr().String() }

func (p *proxy) close() {
	p.mu.Lock()
	p.shut = true
	close(p.change)
	p.change = make(chan struct{})
	p.mu.Unlock()
	_ = p.l.Close()
	p.cut()
	p.wg.Wait()
}

// point sends newcomers to an address; "" is nowhere.
func (p *proxy) point(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = to
	close(p.change)
	p.change = make(chan struct{})
}

// cut breaks all connections and says how many there were.
func (p *proxy) cut() int { return p.each(func(c *pair) { c.close() }) }

// freeze keeps all connections open and passes nothing over them any more.
func (p *proxy) freeze() int { return p.each(func(c *pair) { c.once.Do(func() { close(c.frozen) }) }) }

// half breaks the agents' ends of all connections; the master hears nothing of that.
func (p *proxy) half() int {
	return p.each(func(c *pair) {
		c.once.Do(func() { close(c.frozen) })
		reset(c.agent)
	})
}

func (p *proxy) each(f func(*pair)) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		f(c)
	}
	return len(p.pairs)
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

func (c *pair) close() {
	c.once.Do(func() { close(c.frozen) })
	reset(c.agent)
	reset(c.master)
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// dial connects to the master of the moment.
func (p *proxy) dial() net.Conn {
	deadline := time.Now().Add(8 * time.Second)
	for {
		p.mu.Lock()
		to, change, shut := p.target, p.change, p.shut
		p.mu.Unlock()
		if shut {
			return nil
		}
		if to != "" {
			if c, err := new(net.Dialer).DialContext(context.Background(), "tcp", to); err == nil {
				return c
			}
		}
		if !p.park || time.Now().After(deadline) {
			return nil
		}
		select {
		case <-change:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *proxy) serve(agent net.Conn) {
	master := p.dial()
	if master == nil {
		reset(agent)
		return
	}
	c := &pair{agent: agent, master: master, frozen: make(chan struct{})}
	p.mu.Lock()
	shut := p.shut
	p.pairs[c] = struct{}{}
	p.mu.Unlock()
	if shut {
		c.close()
	}
	var both sync.WaitGroup
	both.Go(func() { c.copy(master, agent) })
	both.Go(func() { c.copy(agent, master) })
	both.Wait()
	c.close()
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

func (c *pair) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-c.frozen:
			if err == nil { // swallow it: the other end sees silence
				continue
			}
		default:
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			select {
			case <-c.frozen: // the other side must not hear of it
			default:
				if errors.Is(err, io.EOF) {
					_ = to.Close()
				} else {
					reset(to)
				}
				_ = from.Close()
			}
			return
		}
	}
}
