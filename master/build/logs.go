package build

import (
	"log/slog"

	"github.com/rouse-ci/rouse/master/steplog"
)

// StepLogs makes the logs of builds in a directory.
func StepLogs(d *steplog.Dir, log *slog.Logger) Logs { return stepLogs{d, log} }

type stepLogs struct {
	dir *steplog.Dir
	log *slog.Logger
}

func (l stepLogs) Create(id steplog.ID, secrets [][]byte) (Log, error) {
	w, err := l.dir.Create(id, secrets)
	return l.noted(id, w, err)
}

func (l stepLogs) Resume(id steplog.ID, secrets [][]byte) (Log, error) {
	w, err := l.dir.Resume(id, secrets)
	return l.noted(id, w, err)
}

// noted tells the operator what the writer has to tell: secrets too short to be masked, damage that was repaired.
func (l stepLogs) noted(id steplog.ID, w *steplog.Writer, err error) (Log, error) {
	if err != nil {
		return nil, err
	}
	for _, note := range w.Notes() {
		l.log.Warn("step log", "build", id.Build, "step", id.Step, "note", note)
	}
	return w, nil
}
