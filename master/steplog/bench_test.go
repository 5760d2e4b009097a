package steplog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// chunk is 64 KiB of lines of 80 characters, different enough that they do not compress to nothing.
func chunk() []byte {
	var b bytes.Buffer
	for x := uint32(1); b.Len() < 64<<10; x = x*1664525 + 1013904223 {
		line := "cc -O2 -g -Wall -c -o obj/" + strings.Repeat(string(rune('a'+x>>28)), int(x>>24&7)) + "file.o src/some/dir/file.c -I../include -DNAME=value -DOTHER=x"
		b.WriteString(line[:80-1])
		b.WriteByte('\n')
	}
	return b.Bytes()[:64<<10]
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCPU reports MB per second of the process's CPU time.
func perCPU(b *testing.B, start time.Duration, n int64) {
	b.ReportMetric(float64(n)/1e6/(cpu()-start).Seconds(), "MB/cpu-s")
}

// fill writes n bytes.
func fill(b testing.TB, w *Writer, n int64) int64 {
	p := chunk()
	end := w.Position()
	for stop := end + n; end < stop; {
		end += int64(len(p))
		ok(b, w.Write(proto.Stdout, p, end))
	}
	return end
}

func benchWrite(b *testing.B, secrets ...string) {
	const each = 256 << 20 // per file, so that the disk does not fill up
	p := chunk()
	b.SetBytes(int64(len(p)))
	d := openDir(b, Options{PackFrom: 1 << 62})
	id := stdio
	w := create(b, d, id, secrets...)
	start, total, end := cpu(), int64(0), int64(0)
	for b.Loop() {
		end += int64(len(p))
		total += int64(len(p))
		ok(b, w.Write(proto.Stdout, p, end))
		if end >= each {
			ok(b, w.Abandon())
			ok(b, d.Remove([]model.BuildID{id.Build}))
			id.Build++
			w, end = create(b, d, id, secrets...), 0
		}
	}
	perCPU(b, start, total)
}

func BenchmarkWrite(b *testing.B) { benchWrite(b) }

func BenchmarkWriteMasked(b *testing.B) {
	benchWrite(b, "hunter2hunter2", "ghp_0123456789abcdef", "-----BEGIN KEY-----\nMIIabcdefgh\nMIIijklmnop\n-----END KEY-----\n")
}

// BenchmarkCompress is Write and compression together, as a step that prints 64 MiB.
func BenchmarkCompress(b *testing.B) {
	d := openDir(b, Options{})
	id := stdio
	start, total := cpu(), int64(0)
	b.SetBytes(64 << 20)
	for b.Loop() {
		w := create(b, d, id)
		total += fill(b, w, 64<<20)
		ok(b, w.Close())
		d.Idle()
		ok(b, d.Remove([]model.BuildID{id.Build}))
	}
	perCPU(b, start, total)
}

func BenchmarkFollow(b *testing.B) {
	d := openDir(b, Options{PackFrom: 1 << 62})
	w := create(b, d, stdio)
	end := fill(b, w, 64<<20)
	ok(b, w.Close())
	r := reader(b, d, stdio)
	b.SetBytes(end)
	start, total := cpu(), int64(0)
	for b.Loop() {
		ok(b, r.Follow(context.Background(), 0, func(Line) error { return nil }))
		total += end
	}
	perCPU(b, start, total)
}

// BenchmarkLines reads 100 lines from somewhere in a packed log.
func BenchmarkLines(b *testing.B) {
	d := openDir(b, Options{})
	w := create(b, d, stdio)
	fill(b, w, 64<<20)
	ok(b, w.Close())
	d.Idle()
	r := reader(b, d, stdio)
	n, err := r.Count()
	ok(b, err)
	at := int64(0)
	for b.Loop() {
		at = (at + 1234567) % (n - 100)
		ls, err := r.Lines(at, 100)
		if err != nil || len(ls) != 100 {
			b.Fatal(len(ls), err)
		}
	}
}

func BenchmarkRawPacked(b *testing.B) {
	d := openDir(b, Options{})
	w := create(b, d, stdio)
	end := fill(b, w, 64<<20)
	ok(b, w.Close())
	d.Idle()
	r := reader(b, d, stdio)
	b.SetBytes(end)
	for b.Loop() {
		ok(b, r.WriteText(context.Background(), io.Discard))
	}
}

// BenchmarkGigabyte is one step that prints 1 GB, with a follower, and its compression; it reports by how much resident memory grew at most.
func BenchmarkGigabyte(b *testing.B) {
	d := openDir(b, Options{})
	id := stdio
	for b.Loop() {
		w := create(b, d, id)
		r := reader(b, d, id)
		before, start := resident(b), cpu()
		most := before
		followed := make(chan error, 1)
		go func() { followed <- r.Follow(context.Background(), 0, func(Line) error { return nil }) }()
		var total int64
		for range 16 {
			total = fill(b, w, 1e9/16)
			most = max(most, resident(b))
		}
		wrote := cpu()
		ok(b, w.Close())
		ok(b, <-followed)
		idle := make(chan struct{})
		go func() { d.Idle(); close(idle) }()
		tick := time.NewTicker(50 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case <-idle:
				waiting = false
			case <-tick.C:
			}
			most = max(most, resident(b))
		}
		tick.Stop()
		b.ReportMetric(float64(total)/1e6/(wrote-start).Seconds(), "MB/cpu-s-write+follow")
		b.ReportMetric(float64(most-before)/(1<<20), "MiB-grown")
		perCPU(b, start, total)
		ok(b, d.Remove([]model.BuildID{id.Build}))
	}
}

// resident is the process's resident memory in bytes.
func resident(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/statm")
	ok(b, err)
	var size, pages int64
	_, err = fmt.Sscan(string(text), &size, &pages)
	ok(b, err)
	return pages * int64(os.Getpagesize())
}
