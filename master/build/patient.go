package build

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// spacePause is the time between two looks whether there is space again.
const spacePause = 500 * time.Millisecond

// patience repeats what fails for want of space on the disk until it succeeds, or the build is left to the next master. The output of a build
// cannot be had again, so a full disk must not cost it: the agent keeps what is not acknowledged, and its program waits.
func (s *step) patience(do func() error) error {
	for told := false; ; told = true {
		err := do()
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			if told && err == nil {
				s.Log.Info("a build goes on: there is space for its log again", "build", s.job.ID, "step", s.n)
			}
			return err
		}
		if !told {
			s.Log.Error("a build waits: there is no space for its log", "build", s.job.ID, "step", s.n, "error", err)
		}
		select {
		case <-s.base.Done():
			return context.Cause(s.base)
		case <-time.After(spacePause):
		}
	}
}

// patientLog is a log that waits for space.
type patientLog struct {
	Log
	s *step
}

func (l patientLog) Write(stream proto.Stream, p []byte, end int64) error {
	return l.s.patience(func() error { return l.Log.Write(stream, p, end) })
}

func (l patientLog) Close() error { return l.s.patience(l.Log.Close) }

func (l patientLog) Flush() error { return l.s.patience(l.Log.Flush) }
