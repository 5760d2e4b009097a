package main

import (
	"log/slog"

	"github.com/rouse-ci/rouse/master"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/metrics"
)

// newMeter makes what the master is measured with.
func newMeter(version string, log *slog.Logger) (master.Meter, error) {
	m, err := metrics.New(version)
	if err != nil {
		return master.Meter{}, err
	}
	return master.Meter{
		Observe: engine.Observe{Entry: m.Entry, Op: m.Op, Commit: m.Commit, Turn: m.Turn},
		Handler: m.Handler(),
		Applied: m.Applied,
		Watch: func(snapshot func() *core.Snapshot, past master.Records) {
			if err := m.Watch(snapshot, past); err != nil {
				log.Warn("master: the cost of earlier instances is not counted", "err", err)
			}
		},
	}, nil
}
