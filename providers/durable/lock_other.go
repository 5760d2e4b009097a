//go:build !unix

package durable

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

var held sync.Map // directories that are locked, by this process only: here nothing orders two masters on one state

// Lock waits for the lock of a directory, to the end of ctx. The error is fs.ErrNotExist when there is no directory.
func Lock(ctx context.Context, dir string) (unlock func(), err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if _, taken := held.LoadOrStore(dir, true); !taken {
			return func() { held.Delete(dir) }, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", dir, ctx.Err())
		}
	}
}

// Locked says whether somebody in this process holds the lock of a directory right now.
func Locked(dir string) bool {
	_, taken := held.Load(dir)
	return taken
}

// syncDir makes the names in a directory durable, where that is possible.
func syncDir(string) error { return nil }
