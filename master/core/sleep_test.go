package core_test

import (
	"math"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

func TestCostIsRunningTimeAndStoppedTimeEachAtItsPrice(t *testing.T) {
	t.Parallel()
	born := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(h int) time.Time { return born.Add(time.Duration(h) * time.Hour) }
	for _, c := range []struct {
		name string
		in   core.Instance
		now  time.Time
		want float64
	}{
		{"runs", core.Instance{AskedAt: at(0)}, at(3), 3},
		{"sleeps", core.Instance{AskedAt: at(0), Power: latent.Stopped, PowerAt: at(1)}, at(5), 1 + 4*0.25},
		{"sleeps again", core.Instance{AskedAt: at(0), Power: latent.Stopped, PowerAt: at(4), Slept: 2 * time.Hour}, at(8), 2 + 6*0.25},
		{"was woken", core.Instance{AskedAt: at(0), Power: latent.Waking, PowerAt: at(5), Slept: 4 * time.Hour}, at(6), 2 + 4*0.25},
		{"is being stopped: it still runs", core.Instance{AskedAt: at(0), Power: latent.Stopping, PowerAt: at(1)}, at(2), 2},
		{"is gone: nothing is added any more", core.Instance{AskedAt: at(0), GoneAt: at(4), Power: latent.Stopped, PowerAt: at(1), Slept: 3 * time.Hour}, at(99), 1 + 3*0.25},
		{"a clock that was set back", core.Instance{AskedAt: at(0), Power: latent.Stopped, PowerAt: at(3)}, at(2), 2},
		{"never asked for", core.Instance{}, at(2), 0},
	} {
		c.in.Price, c.in.StoppedPrice = 1, 0.25
		m := core.Show(&c.in, model.InstanceAttached)
		if got := core.Cost(&m, c.now); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %f, want %f", c.name, got, c.want)
		}
	}
}
