//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestHostConnectionsAreClosed opens and closes links: neither this process nor the host keeps anything of them.
func TestHostConnectionsAreClosed(t *testing.T) {
	real(t)
	files := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	open := func() {
		ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
		defer cancel()
		l, err := dial(ctx, "qemu:///system", func(event) {}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Domains(ctx); err != nil {
			t.Error(err)
		}
		l.Close()
		l.Close() // does no harm

	}
	open()
	before := files()
	for range 20 {
		open()
	}
	for limit := time.Now().Add(10 * time.Second); files() > before+2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d open files before, %d after 20 connections", before, files())
		}
	}
}
