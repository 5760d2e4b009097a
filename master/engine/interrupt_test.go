package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// regretful is a cloud that takes instances back, and hears of it.
type regretful struct {
	*cloud
	mu   sync.Mutex
	told []providers.Key
}

func (c *regretful) Interrupted(key providers.Key) {
	c.mu.Lock()
	c.told = append(c.told, key)
	c.mu.Unlock()
	panic("a provider may be broken")
}

func (c *regretful) heard() []providers.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]providers.Key(nil), c.told...)
}

// TestAProviderIsToldOnceOfEachInstanceThatWasTakenBack, whether its agent or only the provider has said so.
func TestAProviderIsToldOnceOfEachInstanceThatWasTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &regretful{cloud: w.cloud}
		w.provider = func() providers.Provider { return c }
		w.deaf = true // no agent attaches: what the provider shows counts
		w.start()
		id := w.submit(1)[0]
		synctest.Wait()
		first := w.snapshot().Instances[0].Instance.Key
		for range 2 { // an agent says it on each of its connections
			w.e.Deliver(core.EndAsked{Worker: "w1", Interrupted: core.InterruptedSpot, Reason: "taken back"})
		}
		live := func() model.InstanceKey {
			for range 600 {
				time.Sleep(100 * time.Millisecond)
				for _, in := range w.snapshot().Instances {
					if !in.Instance.Doomed && in.Instance.Key != first {
						return in.Instance.Key
					}
				}
			}
			t.Fatal("there is no second instance")
			return ""
		}
		second := live()
		w.cloud.mu.Lock()
		w.cloud.get = func(_ context.Context, key providers.Key) (providers.Instance, error) {
			return providers.Instance{Key: key, State: providers.Failed, Interrupted: key == providers.Key(second)}, nil
		}
		w.cloud.mu.Unlock()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if len(c.heard()) > 1 {
				break
			}
		}
		if got := c.heard(); len(got) != 2 || got[0] != providers.Key(first) || got[1] != providers.Key(second) {
			t.Errorf("told of %v, want %s and %s", got, first, second)
		}
		_ = w.e.Do(t.Context(), core.CancelAsked{Request: id})
		w.wait(id)
		w.stop(core.StopDrain)
	})
}
