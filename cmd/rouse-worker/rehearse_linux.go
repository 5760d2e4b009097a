package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/worker"
	"github.com/rouse-ci/rouse/worker/proto"
)

// What an agent does for the first time is slow: pages of its program are read and mapped, decoders are built, memory is taken from the kernel. All of that is
// in a machine's memory afterwards. So an agent whose machine is about to be saved does once what its copies will do in a hurry, with nobody at the other end:
// no key is made, no secret exists yet, and whatever is random here is made new after the restore.

const (
	rehearsal   = 2 * time.Second // at most: it is worth no more
	keepFree    = 6 << 20         // bytes that the kernel may want meanwhile
	mostBlanked = 1 << 30
)

func rehearse() {
	populate()
	var o order
	_ = json.Unmarshal([]byte(`{"agent":{"master":"ws://127.0.0.1:1"},"time":1,"seed":"AAAA","mac":"02:00:00:00:00:01","hostname":"x"}`), &o)
	var f file
	dec := json.NewDecoder(bytes.NewReader(o.Agent))
	dec.DisallowUnknownFields()
	_ = dec.Decode(&f)
	question := dhcpMessage([6]byte{2}, 1, nil)
	_, _ = parseDHCP(question, [6]byte{2}, 1)
	if nl, err := openNetlink(); err == nil {
		_, _ = cardIndex(int(nl), "lo")
		_ = unix.Close(int(nl))
	}
	_ = programVersion()
	attachToNobody()
	runtime.GC() // the next one is far away then
	blank()
}

// populate maps the whole of the program.
func populate() {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // from-to, rights, offset, device, inode, path
		if len(f) < 6 || f[4] == "0" {
			continue
		}
		low, high, _ := strings.Cut(f[0], "-")
		from, err := strconv.ParseUint(low, 16, 64)
		to, endErr := strconv.ParseUint(high, 16, 64)
		if err == nil && endErr == nil && from < to {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_POPULATE_READ) // an old kernel cannot: then it is slower
		}
	}
}

// attachToNobody has an agent attach to a server in this process, which admits it and ends it.
func attachToNobody() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGWINCH) // an order to end is none to end a rehearsal
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, rehearsal)
	defer cancel()
	dir, err := os.MkdirTemp("", "rehearsal")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // then it stays in every copy, and is empty
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	go func() {
		defer l.Close() //nolint:errcheck // nothing is lost
		if c, err := l.Accept(); err == nil {
			admitNobody(ctx, c)
		}
	}()
	a, err := worker.New(worker.Config{Master: "ws://" + l.Addr().String(), Name: "x", Secret: "x", Instance: "x", Basedir: dir, Adopt: true, Version: programVersion(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)).With("worker", "x")}) //nolint:sloglint // the handler that it will have is rehearsed, too
	if err != nil {
		_ = l.Close()
		return
	}
	_ = a.Run(ctx) // it ends as it may
}

// admitNobody is the server's side: the upgrade, the answer to hello, the end.
func admitNobody(ctx context.Context, c net.Conn) {
	defer c.Close() //nolint:errcheck // nothing is lost
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	w := &upgrade{conn: c, in: in, header: http.Header{proto.HeaderProtocol: {proto.Extension}}}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	_, b, err := ws.Read(ctx)
	if err != nil {
		return
	}
	if m, err := proto.Decode(b); err == nil {
		b, _ = proto.Encode(proto.Reply(m.Seq, nil))
		_ = ws.Write(ctx, websocket.MessageBinary, b)
	}
	_ = ws.Close(proto.StatusEnd, "that is all")
}

// upgrade answers one request on a connection, which is taken over then.
type upgrade struct {
	conn   net.Conn
	in     *bufio.Reader
	header http.Header
}

func (u *upgrade) Header() http.Header         { return u.header }
func (u *upgrade) Write(b []byte) (int, error) { return u.conn.Write(b) }

func (u *upgrade) WriteHeader(code int) {
	_, _ = fmt.Fprintf(u.conn, "HTTP/1.1 %d %s\r\n", code, http.StatusText(code))
	_ = u.header.Write(u.conn)
	_, _ = io.WriteString(u.conn, "\r\n")
}

func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, bufio.NewReadWriter(u.in, bufio.NewWriter(u.conn)), nil
}

// blank fills memory that nobody uses with zeros, and gives it back: what the boot has left in it would be saved, copied for each instance, and read again.
func blank() {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return
	}
	unit := uint64(si.Unit)
	free := int64(si.Freeram*unit) - keepFree
	if si.Totalram*unit > mostBlanked || free <= 0 { // of a large memory the boot has used little
		return
	}
	b, err := unix.Mmap(-1, 0, int(free), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_POPULATE)
	if err == nil {
		_ = unix.Munmap(b)
	}
}
