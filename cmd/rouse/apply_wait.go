package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rouse-ci/rouse/master/api"
)

const (
	drainPoll   = 300 * time.Millisecond
	drainRepeat = 10 * time.Second // a line that has not changed is shown again after this
)

// drain shows what still lives by an older configuration until nothing does. Interrupting it changes nothing: the apply is done.
func (s *session) drain(ctx context.Context, out api.Applied) error {
	began := time.Now()
	shown := map[string]string{}
	at := map[string]time.Time{}
	var away time.Time
	left := 0
	for {
		var st api.ApplyStatus
		err := s.Get(ctx, "/apply", nil, &st)
		if err != nil && ctx.Err() == nil {
			if err = s.away(ctx, err, &away); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%w.\nGeneration %d is in force; `rouse instances` shows what still ends", err, out.Generation)
			}
		}
		if ctx.Err() != nil {
			return &exitError{code: 130, msg: fmt.Sprintf("Interrupted. Generation %d is in force all the same; %s still to end: rouse instances.", out.Generation, plural(left, "machine"))}
		}
		if err == nil {
			away = time.Time{}
			left = len(st.Draining)
			if err := s.draining(st.Draining, shown, at); err != nil {
				return err
			}
			if left == 0 {
				return s.event("done", map[string]any{"generation": st.Generation, "seconds": time.Since(began).Seconds()}, func() error {
					_, err := fmt.Fprintf(s.stdout, "No machine of an older configuration is left (%s).\n", human(time.Since(began).Seconds()))
					return err
				})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainPoll):
		}
	}
}

// draining shows what has changed since it was last shown.
func (s *session) draining(list []api.Draining, shown map[string]string, at map[string]time.Time) error {
	now := map[string]bool{}
	for _, d := range list {
		text := d.State
		switch {
		case len(d.Builds) > 0:
			text += ", waits for build " + numbers(d.Builds)
		case d.State == "attached":
			text += ", about to end"
		}
		now[d.Worker] = true
		if shown[d.Worker] == text && time.Since(at[d.Worker]) < drainRepeat {
			continue
		}
		shown[d.Worker], at[d.Worker] = text, time.Now()
		if err := s.event("draining", d, func() error {
			_, err := fmt.Fprintf(s.stdout, "worker.%s: %s %s (%s)\n", clean(d.Worker), clean(dash(string(d.Instance))), clean(text), clean(d.Reason))
			return err
		}); err != nil {
			return err
		}
	}
	for w := range shown {
		if now[w] {
			continue
		}
		delete(shown, w)
		if err := s.event("drained", map[string]any{"worker": w}, func() error {
			_, err := fmt.Fprintf(s.stdout, "worker.%s: done\n", clean(w))
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
