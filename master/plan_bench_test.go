package master

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/plan/plantest"
)

// largeFleet is the text of 10,000 workers and 1,000 builders. In the second edition 100 things differ.
func largeFleet(second bool) map[string][]byte {
	return plantest.Large("master { listen = \"127.0.0.1:0\" }\nprovider \"fake\" \"main\" {}\n", "provider.fake.main",
		`detail = "s${count.index}"`, `detail = %q`, second)
}

// large is a master of a large fleet, at rest. plan asks it what the second edition would do, and returns the answer's size.
func large(tb testing.TB) (s *site, plan func() int64) {
	tb.Helper()
	s = newSite(tb)
	for name, text := range largeFleet(false) {
		if err := os.WriteFile(filepath.Join(s.o.ConfigDir, name), text, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	s.up()
	body, err := json.Marshal(api.PlanAsk{Files: largeFleet(true), Refresh: true})
	if err != nil {
		tb.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.o.StateDir, SocketName))
	}}}
	tb.Cleanup(client.CloseIdleConnections)
	return s, func() int64 {
		tb.Helper()
		r, err := client.Post("http://rouse"+api.Prefix+"/plan", "application/json", bytes.NewReader(body))
		if err != nil {
			tb.Fatal(err)
		}
		defer r.Body.Close()
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || r.StatusCode != http.StatusOK || n < 100_000 {
			tb.Fatalf("status %d, %d bytes, %v", r.StatusCode, n, err)
		}
		return n
	}
}

// BenchmarkPlanOfALargeFleet is what one plan costs the master, from the request's first byte to the answer's last, beside what it holds anyway.
func BenchmarkPlanOfALargeFleet(b *testing.B) {
	_, plan := large(b)
	b.ReportAllocs()
	for b.Loop() {
		plan()
	}
}

// It is not parallel: what others allocate would count.
func TestAPlanOfALargeFleetAllocatesLittle(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("it takes seconds, and the race detector allocates, too")
	}
	_, plan := large(t)
	plan() // whatever is made once
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	plan()
	runtime.ReadMemStats(&after)
	const most = 370 << 20 // 325 MiB when it was written; 440 MiB when the text was scanned twice
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("a plan allocates %d MiB, more than %d", n>>20, most>>20)
	} else {
		t.Logf("a plan allocates %d MiB", n>>20)
	}
}

func TestTheCollectorsPaceIsPutBack(t *testing.T) {
	usual := debug.SetGCPercent(100)
	defer debug.SetGCPercent(usual)
	first, second := thrifty(), thrifty()
	first()
	first() // once is enough
	if now := debug.SetGCPercent(thriftPercent); now != thriftPercent {
		t.Errorf("while one is thrifty: %d", now)
	}
	second()
	if now := debug.SetGCPercent(100); now != 100 {
		t.Errorf("afterwards: %d", now)
	}
}
