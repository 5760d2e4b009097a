package engine

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// cpu is the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkDispatch gives queued builds to attached workers: core, engine and SQLite on the disk, and builds that store their one step as a
// real one does (when it begins and when it ends) and end at once. An iteration is one queue, from the first request to the last build.
func BenchmarkDispatch(b *testing.B) {
	for _, c := range []struct{ workers, builders, waiting int }{{16, 1, 10}, {16, 16, 500}, {16, 1000, 10_000}} {
		b.Run(fmt.Sprintf("workers=%d/builders=%d/queued=%d", c.workers, c.builders, c.waiting), func(b *testing.B) {
			w := newWorld(b)
			w.cfg.Workers, w.cfg.Builders, w.cfg.Providers = nil, nil, nil
			var names []string
			for i := range c.workers {
				names = append(names, fmt.Sprint("w", i))
				w.cfg.Workers = append(w.cfg.Workers, core.Worker{Name: names[i], MaxBuilds: 1})
			}
			for i := range c.builders {
				w.cfg.Builders = append(w.cfg.Builders, core.Builder{Name: fmt.Sprint("b", i), Workers: names, MaxAttempts: 5})
			}
			ended := make(chan struct{}, c.waiting)
			w.run = func(ctx context.Context, job Job) Outcome {
				step := model.Step{Build: job.Build.ID, Name: "true", Kind: "shell", StartedAt: time.Now(), Logs: []string{"stdio"}}
				for _, r := range []model.Result{model.NoResult, model.Success} {
					step.Result = r
					if err := w.e.Save(ctx, store.Tx{Steps: []model.Step{step}}); err != nil {
						b.Error(err)
					}
				}
				ended <- struct{}{}
				return Outcome{Result: model.Success}
			}
			commits := 0
			w.obs.Commit = func(time.Duration, int, error) { commits++ }
			w.start()
			for _, n := range names {
				w.attach(w.e, n, "")
			}
			used, before := cpu(b), commits
			for b.Loop() {
				w.submit(c.waiting)
				for range c.waiting {
					<-ended
				}
			}
			builds := float64(b.N * c.waiting)
			b.ReportMetric(float64((cpu(b)-used).Microseconds())/builds, "cpu-µs/build")
			b.ReportMetric(builds/b.Elapsed().Seconds(), "builds/s")
			b.ReportMetric(float64(commits-before)/builds, "commits/build")
			b.ReportMetric(0, "ns/op")
			w.stop(core.StopKeep)
		})
	}
}
