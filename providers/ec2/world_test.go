package ec2

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

func TestMain(m *testing.M) {
	code := m.Run()
	ec2test.Stop()
	os.Exit(code)
}

// The provider alone, driven as the engine drives it, against a real API server that loses, repeats, delays, throttles and forgets.
func TestNothingIsDoubledOrLeakedWhateverGoesWrong(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	w.StrictTokens()
	w.Plan(7,
		ec2test.Fault{Kind: ec2test.LoseReply, Rate: 0.08}, ec2test.Fault{Kind: ec2test.Duplicate, Rate: 0.05}, ec2test.Fault{Kind: ec2test.Late500, Rate: 0.05},
		ec2test.Fault{Kind: ec2test.Fail500, Rate: 0.05}, ec2test.Fault{Kind: ec2test.Throttle, Rate: 0.08}, ec2test.Fault{Kind: ec2test.NoCapacity, Rate: 0.2},
		ec2test.Fault{Kind: ec2test.Delay, Rate: 0.05, For: 300 * time.Millisecond}, ec2test.Fault{Kind: ec2test.ListLate, Rate: 0.2, For: time.Second},
		ec2test.Fault{Kind: ec2test.Stale, Rate: 0.1, For: time.Second}, ec2test.Fault{Kind: ec2test.Forget, Rate: 0.2},
	)
	cfg, dir := worldConfig(w), t.TempDir()
	cfg.Settle = 3 * time.Second
	log := slog.New(slog.DiscardHandler)
	p, _ := openWorld(t, cfg, dir, "me", log)
	second, _ := openWorld(t, cfg, dir, "me", log) // a master that is being replaced
	t.Cleanup(func() { _ = p.Close(); _ = second.Close() })
	spec := worldSpec()
	spec.Types = []string{"t3.micro", "t3.small"}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			req := request(providers.Key(fmt.Sprintf("me-w%d-1", i)), spec)
			req.Worker = fmt.Sprintf("w%d", i)
			for n := range 6 {
				h := []providers.Provider{p, second}[n%2]
				if _, err := h.Create(ctx, req); err == nil {
					break
				}
			}
			_, _ = p.Get(ctx, req.Key)
			for ctx.Err() == nil {
				if providers.ClassOf(p.Destroy(ctx, req.Key)) == providers.NotFound {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Errorf("%s was never gone", req.Key)
		})
	}
	wg.Wait()
	audit, err := w.Audit(context.Background())
	if err != nil || !audit.Clean() || audit.Launched < 20 {
		t.Errorf("%s, %v: of one key: %v; of one worker: %v; live: %v", audit, err, audit.Duplicates, audit.Beside, audit.Leaked)
	}
	t.Logf("%s; faults: %v; calls: %v", audit, w.Faulted(), w.Calls())
}
