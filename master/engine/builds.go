package engine

import (
	"context"
	"errors"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// Job is one StartBuild effect.
type Job struct {
	Build  core.Build
	Resume bool // an earlier master process ran the build; go on where it stopped
}

// Outcome is what a build came to.
type Outcome struct {
	Result   model.Result
	Text     string
	Detached bool // the build has not ended: it goes on without us, and the next master resumes it
}

// Builds runs builds. Run returns exactly once for each Job. Its context is cancelled with a cause: a *StopCause, upon which the build ends
// with that result; or ErrDetach, upon which Run returns at once with Detached set and leaves everything so that another process can resume.
type Builds interface {
	Run(ctx context.Context, job Job) Outcome
}

// StopCause is the cause with which a build's context is cancelled when the core orders its end.
type StopCause struct {
	Result model.Result // Cancelled or Retry
	Reason string
}

func (c *StopCause) Error() string { return c.Result.String() + ": " + c.Reason }

// ErrDetach is the cause with which a build's context is cancelled when the master stops and keeps its builds.
var ErrDetach = errors.New("the master stops and keeps its builds")
