package e2e

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// stranger is a worker that knows the password and nothing else.
func (w *world) stranger(ctx context.Context, to string) (*websocket.Conn, error) {
	h := http.Header{}
	h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("w:pw-of-w")))
	ws, _, err := websocket.Dial(ctx, "ws://"+to, &websocket.DialOptions{HTTPHeader: h})
	return ws, err
}

// answer takes part in Buildbot's introduction, so that the worker is attached, and returns when the master has asked all it wants to know.
func answer(ctx context.Context, ws *websocket.Conn) error {
	for {
		_, b, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		m, err := proto.Decode(b)
		if err != nil {
			return err
		}
		var result any
		if m.Op == proto.OpGetWorkerInfo {
			result = map[string]any{"basedir": "/nonexistent", "version": "4.0.0", "system": "posix", "numcpus": 1,
				"worker_commands": map[string]any{"shell": "3.3"}, "environ": map[string]any{}, "delete_leftover_dirs": false}
		}
		reply, err := proto.Encode(proto.Reply(m.Seq, result))
		if err != nil {
			return err
		}
		if err := ws.Write(ctx, websocket.MessageBinary, reply); err != nil {
			return err
		}
		if m.Op == proto.OpSetWorkerSettings {
			return nil
		}
	}
}

// frame is a WebSocket frame by hand: a masked (with zeros) binary message that says it has size bytes.
func frame(size uint64, payload []byte) []byte {
	b := []byte{0x82, 0x80 | 127}
	b = binary.BigEndian.AppendUint64(b, size)
	return append(append(b, 0, 0, 0, 0), payload...)
}

// raw upgrades by hand, and writes whatever it is given.
func (w *world) rawStranger(to string, bytes ...[]byte) error {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	auth := base64.StdEncoding.EncodeToString([]byte("w:pw-of-w"))
	_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Basic %s\r\n\r\n", auth)
	for _, b := range bytes {
		if _, err := c.Write(b); err != nil {
			return nil // it was turned away, as it deserves
		}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	return nil
}

// TestStrangersAtTheWorkerPort lets a worker that knows its password send what no worker sends, while a build runs on another one.
func TestStrangersAtTheWorkerPort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	build := talk{Name: "long", Seed: 3, Lines: 200, PaceMS: 15}
	w.standard(config{Worker: `
worker "good" {
  provider           = provider.local.here
  build_wait_timeout = "0s"
  instance {}
}
`, Builders: strings.ReplaceAll(builder("b", build.step()), "worker.w", "worker.good")}, "pw-of-w")
	m := w.up(nil)
	id := w.force("b")
	w.until("the build prints", 20*time.Second, w.now(logged(0, 5000)))
	began := time.Now()

	deep := append([]byte{0x81, 0xa2, 'o', 'p'}, append(make([]byte, 0, 5000), strings.Repeat("\x91", 4000)...)...)
	messages := map[string][]byte{
		"no msgpack":     []byte("\xc1 this is none"),
		"a number":       {0x2a},
		"empty":          {},
		"lying map":      {0xdf, 0xff, 0xff, 0xff, 0xff},
		"lying array":    {0x81, 0xa2, 'o', 'p', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"lying string":   {0x81, 0xa2, 'o', 'p', 0xdb, 0x7f, 0xff, 0xff, 0xff, 'x'},
		"too deep":       deep,
		"too large":      make([]byte, proto.MaxMessage+1),
		"no such op":     {0x82, 0xa2, 'o', 'p', 0xa3, 'x', 'y', 'z', 0xaa, 's', 'e', 'q', '_', 'n', 'u', 'm', 'b', 'e', 'r', 1},
		"cut off":        {0x82, 0xa2, 'o', 'p', 0xa8, 'c', 'o', 'm'},
		"nil everywhere": {0x82, 0xa2, 'o', 'p', 0xc0, 0xaa, 's', 'e', 'q', '_', 'n', 'u', 'm', 'b', 'e', 'r', 0xc0},
	}
	for name, msg := range messages {
		for _, introduced := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			var ws *websocket.Conn
			w.until("the stranger gets in", 20*time.Second, func() (ok bool) {
				var err error
				if ws, err = w.stranger(ctx, m.worker); err == nil && introduced {
					if err = answer(ctx, ws); err != nil {
						_ = ws.CloseNow()
					}
				}
				return err == nil
			})
			if err := ws.Write(ctx, websocket.MessageBinary, msg); err != nil && name != "too large" {
				t.Errorf("%s: %v", name, err)
			}
			_ = ws.CloseNow()
			cancel()
		}
	}
	var wg sync.WaitGroup
	for name, bytes := range map[string][][]byte{
		"no WebSocket":          {[]byte("\x16\x03\x01\x02\x00 not a frame at all, and more of it")},
		"a frame of 2^63 bytes": {frame(1<<63-1, []byte("x"))},
		"a frame cut off":       {frame(1000, []byte("x"))},
		"a frame too large":     {frame(1<<30, make([]byte, 1<<20)), make([]byte, 8<<20)},
		"reserved bits":         {{0xff, 0x80, 0, 0, 0, 0}},
		"an unmasked frame":     {{0x82, 0x01, 0x2a}},
	} {
		wg.Go(func() {
			if err := w.rawStranger(m.worker, bytes...); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for range 200 { // who says nothing, and who says nonsense
		wg.Go(func() {
			c, err := net.Dial("tcp", m.worker)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "GARBAGE\r\n\r\n")
			_ = c.Close()
		})
	}
	wg.Wait()

	w.goodBuild(id, build)
	t.Logf("strangers came for %v", time.Since(began).Round(time.Millisecond))

	// A flood from one authenticated worker, until another build is over.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var ws *websocket.Conn
	w.until("the stranger gets in", 20*time.Second, func() bool {
		var err error
		if ws, err = w.stranger(ctx, m.worker); err != nil {
			return false
		}
		return answer(ctx, ws) == nil
	})
	flood, sent := context.WithCancel(ctx)
	defer sent()
	wg.Go(func() {
		big, err := proto.Encode(proto.Request(proto.OpUpdate, 7, "b999.s0.0", map[string]any{"args": []any{[]any{"stdout", strings.Repeat("x", 100_000)}}}))
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		for flood.Err() == nil {
			if err := ws.Write(flood, websocket.MessageBinary, big); err != nil {
				t.Log("the flood ended: ", err)
				break
			}
			n++
		}
		t.Logf("%d messages of the flood were taken", n)
	})
	wg.Go(func() {
		for {
			if _, _, err := ws.Read(flood); err != nil {
				return
			}
		}
	})
	w.goodBuild(w.force("b"), build)
	sent()
	_ = ws.CloseNow()
	wg.Wait()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib int
			if _, err := fmt.Sscan(v, &kib); err != nil || kib > 300<<10 {
				t.Errorf("the master took %d MiB of memory", kib>>10)
			}
			t.Logf("the master took %d MiB of memory at most", kib>>10)
		}
	}
	if strings.Contains(w.said(), "panic") {
		t.Error("something panicked")
	}
	w.clean()
}

// goodBuild waits for a build that nobody's misbehaviour may touch.
func (w *world) goodBuild(id model.RequestID, k talk) {
	w.t.Helper()
	r := w.done(id, 30*time.Second)
	if r.Result != model.Success || r.Attempts != 1 {
		w.t.Errorf("got %s after %d attempts (%s), want success at once", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, k)
}
