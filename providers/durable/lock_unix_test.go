//go:build unix

package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestALockBindsProcessesAndEndsWithItsHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "DURABLE_TEST_HOLD="+dir)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	var said string
	if _, err := fmt.Fscanln(out, &said); err != nil || said != "held" {
		t.Fatalf("the other process said %q: %v", said, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Lock(short, dir); !errors.Is(err, context.DeadlineExceeded) || !Locked(dir) {
		t.Errorf("another process holds the lock: %v", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestALockOutlivesARename(t *testing.T) {
	t.Parallel()
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.Mkdir(from, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if !Locked(to) {
		t.Error("the lock is gone")
	}
	unlock()
	if Locked(to) {
		t.Error("the lock is left")
	}
}
