//go:build !unix

package ec2

import (
	"context"
	"fmt"
	"sync"
	"time"
)

var held sync.Map // directories that are locked, by this process only: here nothing orders two masters on one state

// lock takes the lock of a directory.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if _, taken := held.LoadOrStore(dir, true); !taken {
			return func() { held.Delete(dir) }, nil
		}
		if !sleep(ctx, pause) {
			return nil, fmt.Errorf("lock %s: %w", dir, context.DeadlineExceeded)
		}
	}
}

// syncDir makes the names in a directory durable, where that is possible.
func syncDir(string) error { return nil }
