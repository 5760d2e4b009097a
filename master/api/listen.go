package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// SocketName is the local socket's name in the state directory.
const SocketName = "rouse.sock"

// maxSocketPath is how long a local socket's path may be: sun_path has 108 bytes on Linux and 104 on BSD, with the final zero.
const maxSocketPath = 103

// ListenLocal listens on a local socket of mode 0600. A socket that a dead master left is replaced; one where somebody answers is an error.
func ListenLocal(path string) (net.Listener, error) {
	const suffix = ".new"
	if len(path)+len(suffix) > maxSocketPath {
		return nil, fmt.Errorf("the path of the local socket is too long for the system (%d bytes, at most %d): %s: use a state directory with a shorter path",
			len(path), maxSocketPath-len(suffix), path)
	}
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// The mode is set before the socket has its name, so that at no time another user can connect.
	if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + suffix, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(path+suffix, 0o600)
	if err == nil {
		err = os.Rename(path+suffix, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return limit(&localListener{UnixListener: l, path: path, file: fi}), nil
}

func checkStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way of the local socket: it is no socket; move it away", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("another master answers at %s: stop it first, or use another state directory", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

type localListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo
	once sync.Once
}

// Close removes the socket, unless another master has put its own there.
func (l *localListener) Close() error {
	l.once.Do(func() {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.file) {
			_ = os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}

// ListenTCP listens on an address. Without TLS only loopback addresses are accepted: tokens must not cross a network in clear.
func ListenTCP(addr string, conf *tls.Config) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address of the API %q: %w (write \"HOST:PORT\")", addr, err)
	}
	if conf == nil && !loopback(host) {
		return nil, fmt.Errorf("the API on %s would send tokens over the network in clear: set tls_cert and tls_key in the master block, or listen on 127.0.0.1", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the API (master.api = %q): %w%s", addr, err, ListenHint(err))
	}
	l = limit(l) // below TLS: the server must see that it is TLS
	if conf == nil {
		return l, nil
	}
	conf = conf.Clone()
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	conf.NextProtos = []string{"http/1.1"}
	return tls.NewListener(l, conf), nil
}

// ListenHint says what to do where an address could not be listened on: ": " and a sentence, or "".
func ListenHint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another program has this port, perhaps another master: end it, or configure another port"
	case errors.Is(err, syscall.EACCES):
		return ": ports below 1024 are for root: configure another one, or give the program CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this machine does not have that address: configure one that it has, or only \":PORT\" for all of them"
	}
	return ""
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Serve answers on a listener until ctx ends, then lets what is under way end (streams at once) and returns nil. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	local := l.Addr().Network() == "unix"
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			if local {
				return context.WithValue(context.Background(), localKey{}, true)
			}
			return context.Background()
		},
		ConnContext: withPeer,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stop.Do(func() { close(s.quit) })
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if srv.Shutdown(late) != nil {
		_ = srv.Close()
	}
	<-ended //nolint:errcheck // it was closed: that is its error
	return nil
}

// maxConns bounds the connections of one listener; more wait in the system's queue.
const maxConns = 4096

func limit(l net.Listener) net.Listener {
	return &limitListener{Listener: l, slots: make(chan struct{}, maxConns)}
}

type limitListener struct {
	net.Listener
	slots chan struct{}
}

func (l *limitListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type limitConn struct {
	net.Conn
	free func()
}

func (c *limitConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
