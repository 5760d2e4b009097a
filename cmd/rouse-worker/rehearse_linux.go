package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"
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
	callNobody()
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

// callNobody connects to a server on this machine that refuses.
func callNobody() {
	ctx, cancel := context.WithTimeout(context.Background(), rehearsal)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close() //nolint:errcheck // nothing is lost
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = c.Write([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
		}
	}()
	transport := &http.Transport{DisableKeepAlives: true}
	//nolint:bodyclose // Dial has closed it
	ws, _, err := websocket.Dial(ctx, "ws://"+l.Addr().String(), &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err == nil {
		_ = ws.CloseNow()
	}
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
