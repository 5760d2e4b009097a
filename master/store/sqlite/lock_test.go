package sqlite

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestLockOfADeadProcessIsWaitedFor: a master that was killed as it started a program leaves its lock to that program for a moment. Whoever comes next
// waits for that, but not for a holder that lives.
func TestLockOfADeadProcessIsWaitedFor(t *testing.T) { // not parallel: the programs that it starts would have the locks of other tests for a moment
	path := filepath.Join(t.TempDir(), "lock")
	f, err := lockDir(path)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "0.3") // it has the lock for as long as it lives, as the child of a fork has
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(path); !locked(err) {
		t.Errorf("the holder lives, and somebody else gets the lock: %v", err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendln(nil, dead.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := lockDir(path)
	if err != nil {
		t.Fatal("the holder is dead, and its lock is not waited for: ", err)
	}
	if err := errors.Join(next.Close(), child.Wait()); err != nil {
		t.Fatal(err)
	}
}

func locked(err error) bool {
	var l *LockedError
	return errors.As(err, &l)
}
