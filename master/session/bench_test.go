package session

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchMaster is a Hub without the tests' event queue.
func benchMaster(b *testing.B) *master {
	m := newMaster(b, Options{})
	deliver := m.opt.Deliver
	m.opt.Deliver = func(ev core.Event) {
		deliver(ev)
		<-m.events
	}
	return m
}

// BenchmarkOutput sends output as fast as it is taken. The figure includes the sending end, which runs in the same process.
func BenchmarkOutput(b *testing.B) {
	m := benchMaster(b)
	a := m.attach("w1", nonceA)
	var got int64
	done := m.start(b.Context(), "w1", Command{ID: "c", Name: "shell", Output: func(_ proto.Stream, p []byte, _ int64) error {
		got += int64(len(p))
		return nil
	}})
	a.reply(a.want(proto.OpStartCommand), nil)
	chunk := make([]byte, 64<<10)
	for i := range chunk {
		chunk[i] = "0123456789 abcdefghijklmnopqrstuvwxyz\n"[i%38]
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			if _, _, err := a.conn.Read(context.Background()); err != nil {
				return
			}
		}
	})
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	before := cpu()
	var pos int64
	var buf []byte
	for b.Loop() {
		buf = proto.AppendOutput(buf[:0], "c", proto.Stdout, pos, chunk)
		if err := a.conn.Write(context.Background(), websocket.MessageBinary, buf); err != nil {
			b.Fatal(err)
		}
		pos += int64(len(chunk))
	}
	a.send(proto.Request(proto.OpComplete, a.next(), "c", proto.Completion{End: pos}.Fields()))
	if r := await(b, done); r.err != nil || got != pos {
		b.Fatalf("%v: %d of %d bytes", r.err, got, pos)
	}
	b.ReportMetric(float64(pos)/1e6/(cpu()-before).Seconds(), "MB/cpu-s")
	_ = a.conn.CloseNow()
	reader.Wait()
}

// BenchmarkCommand runs commands that end at once. The figures include the agent's end.
func BenchmarkCommand(b *testing.B) {
	m := benchMaster(b)
	a := m.attach("w1", nonceA)
	var agent sync.WaitGroup
	agent.Go(func() {
		for {
			q, err := a.tryRecv()
			if err != nil {
				return
			}
			switch q.Op {
			case proto.OpStartCommand:
				_ = a.trySend(proto.Reply(q.Seq, nil))
				_ = a.trySend(proto.Message{Op: proto.OpOutput, HasSeq: true, CommandID: q.CommandID, Stream: proto.Header, HasPos: true, Data: []byte("header\n")})
				_ = a.trySend(proto.Request(proto.OpComplete, a.next(), q.CommandID,
					proto.Completion{End: 7, Updates: []proto.Update{{Key: "rc", Value: int64(0)}}}.Fields()))
			case proto.OpForget:
				_ = a.trySend(proto.Reply(q.Seq, nil))
			}
		}
	})
	b.ReportAllocs()
	before := cpu()
	n := 0
	for b.Loop() {
		id := fmt.Sprintf("c%d", n)
		out, err := m.Run(b.Context(), "w1", Command{ID: id, Name: "shell", Args: map[string]any{"command": []string{"/bin/true"}, "workdir": "/base/b"},
			Output: func(proto.Stream, []byte, int64) error { return nil }})
		if err != nil || out.RC != 0 {
			b.Fatal(out, err)
		}
		m.Forget("w1", id)
		n++
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(n), "cpu-µs/op")
	_ = a.conn.CloseNow()
	agent.Wait()
}

// BenchmarkIdleSessions attaches many agents in one process and reports what each costs the master. The agents' own end is measured first,
// by connecting as many to a server that keeps nothing.
func BenchmarkIdleSessions(b *testing.B) {
	sessions := 10_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Max < 2*10_000+500 {
		sessions = max(int(files.Max)-500, 2) / 2 // each takes two file descriptors here
	}
	if s := os.Getenv("ROUSE_IDLE_SESSIONS"); s != "" {
		sessions, _ = strconv.Atoi(s)
	}
	for b.Loop() {
		m := benchMaster(b)
		before, rss := footprint(), resident()
		var conns []*rawAgent
		for i := range sessions {
			conns = append(conns, m.attachRaw(fmt.Sprintf("w%d", i)))
		}
		until(b, "all are admitted", func() bool { return m.Live() == sessions })
		// What the dialling side keeps of a connection is a TCPConn and a file descriptor, below 1 KiB, and is part of the figure.
		grown := resident() - rss // with the garbage that an operator's master has too
		b.ReportMetric(float64(grown)/float64(sessions), "rss-B/session")
		b.ReportMetric(float64(footprint()-before)/float64(sessions), "B/session")
		b.ReportMetric(float64(sessions), "sessions")
		start, used := time.Now(), cpu()
		wait := proto.Heartbeat + time.Second // with a ping for each
		if d, err := time.ParseDuration(os.Getenv("ROUSE_IDLE_WAIT")); err == nil {
			wait = d
		}
		time.Sleep(wait)
		b.ReportMetric(100*(cpu()-used).Seconds()/time.Since(start).Seconds(), "idle-cpu-%")
		for _, c := range conns {
			_ = c.Close()
		}
		until(b, "all are gone", func() bool { return m.Live() == 0 })
	}
}

// footprint is what the process has taken for objects and stacks.
func footprint() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapInuse + s.StackInuse)
}

// resident is the memory that the process occupies.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if err == nil {
		_, err = fmt.Sscan(string(b), &size, &pages)
	}
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// attachRaw attaches an agent that keeps nothing but its TCP connection.
func (m *master) attachRaw(worker string) *rawAgent {
	m.t.Helper()
	a, err := dialRaw(m.url, headers(worker, nonceA))
	if err != nil {
		m.t.Fatal(err)
	}
	env := make(map[string]any)
	for i := range 20 {
		env[fmt.Sprintf("VARIABLE_%d", i)] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
	}
	hello, err := proto.Encode(proto.Request(proto.OpHello, 0, "", proto.Hello{Info: map[string]any{"basedir": "/base", "environ": env}}.Fields()))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := a.write(hello); err != nil {
		m.t.Fatal(err)
	}
	return a
}

var _ http.Handler = (*Hub)(nil)
