package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LockedError says that another process holds the state.
type LockedError struct {
	Path string // of the lock file
	PID  int    // 0 if it is not known
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("the process with the ID %d", e.PID)
	}
	return fmt.Sprintf("the state is in use by %s (it holds %s); stop that one first, or give this one a state directory of its own", who, e.Path)
}

// A process that is killed in the moment in which it starts another one lives on in that one, with its lock, until that one has begun to be itself.
const (
	afterlife = 2 * time.Second
	lookAgain = 5 * time.Millisecond
)

// lockDir takes the lock that the system releases when the process ends, however it ends. The number in the file is for people, and tells a dead holder
// whose lock is about to go from one that lives.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	for began := time.Now(); ; time.Sleep(lookAgain) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock the state (%s): %w", path, err), f.Close())
		}
		b, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if dead := pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH); !dead || time.Since(began) > afterlife {
			return nil, errors.Join(&LockedError{Path: path, PID: pid}, f.Close())
		}
	}
	// On a full disk the number may be missing, which is no reason not to start.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	return f, nil
}
