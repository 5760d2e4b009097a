//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// TestHostAnswersWhileAConsoleIsSilent follows the console of a guest that prints nothing: no other call may wait for it.
func TestHostAnswersWhileAConsoleIsSilent(t *testing.T) {
	real(t)
	defer noneLeft(t)
	ctx := t.Context()
	p := realProvider(t, t.TempDir(), "bench", slog.New(slog.DiscardHandler))
	defer p.Close() //nolint:errcheck // it holds nothing
	key := request("bench-silent-1").Key
	if _, err := p.Create(ctx, request(key)); err != nil {
		t.Fatal(err)
	}
	l, err := p.hosts[0].link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	for range 30 {
		began := time.Now()
		if _, err := l.Volumes(ctx, "default"); err != nil {
			t.Error(err)
		}
		slowest = max(slowest, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("the slowest of 30 answers: %s", slowest)
	if slowest > 3*time.Second {
		t.Errorf("an answer came after %s", slowest)
	}
	for p.Destroy(context.Background(), key) == nil { //nolint:revive // until it is not there
	}
}
