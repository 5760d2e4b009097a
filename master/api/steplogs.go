package api

import (
	"context"
	"io"
	"strings"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/worker/proto"
)

// StepLogs serves the logs of a directory.
func StepLogs(d *steplog.Dir) Logs { return stepLogs{d} }

type stepLogs struct{ dir *steplog.Dir }

func (l stepLogs) OpenLog(build model.BuildID, step int, name string) (Log, error) {
	r, err := l.dir.Reader(steplog.ID{Build: build, Step: step, Name: name})
	if err != nil {
		return nil, err
	}
	return stepLog{r}, nil
}

type stepLog struct{ *steplog.Reader }

var streamNames = map[proto.Stream]string{proto.Stdout: "stdout", proto.Stderr: "stderr", proto.Header: "header"}

func lineOf(l steplog.Line) Line {
	// A log holds any bytes; JSON holds text.
	return Line{N: l.Number, Stream: streamNames[l.Stream], Text: strings.ToValidUTF8(string(l.Text), "\uFFFD"), Part: l.Part}
}

// linesAtOnce bounds what is held in memory for one reader.
const linesAtOnce = 1000

func (l stepLog) Lines(ctx context.Context, from int64, n int, fn func(Line) error) error {
	for n > 0 {
		lines, err := l.Reader.Lines(from, min(n, linesAtOnce))
		for _, line := range lines {
			if err := fn(lineOf(line)); err != nil {
				return err
			}
			from = line.Number + 1
		}
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			return nil
		}
		if n -= len(lines); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (l stepLog) Follow(ctx context.Context, from int64, fn func(Line) error) error {
	return l.Reader.Follow(ctx, from, func(line steplog.Line) error { return fn(lineOf(line)) })
}

func (l stepLog) WriteText(ctx context.Context, w io.Writer, stream string) error {
	for s, name := range streamNames {
		if name == stream {
			return l.Reader.WriteText(ctx, w, s)
		}
	}
	return l.Reader.WriteText(ctx, w)
}
