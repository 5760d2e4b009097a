package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

type consoleWorld struct {
	*apitest.World
	quiet bool // the console goes on, and nothing more is printed
	empty bool // nothing is printed at all
}

func (w consoleWorld) ReadConsole(ctx context.Context, key model.InstanceKey, follow bool, out io.Writer) error {
	if key != "abc-linux-1-2" {
		return fmt.Errorf("console of instance %s: %w", key, store.ErrNotFound)
	}
	if w.empty {
		return nil
	}
	_, err := fmt.Fprintf(out, "booting\nfollow %v\n", follow)
	if w.quiet && follow && err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func TestConsoleIsStreamed(t *testing.T) {
	t.Parallel()
	w := consoleWorld{World: apitest.New()}
	c := local(t, w.World, func(o *api.Options) { o.Engine = w })
	for follow, want := range map[string]string{"false": "booting\nfollow false\n", "true": "booting\nfollow true\n"} {
		var out bytes.Buffer
		if err := c.Copy(t.Context(), "/instances/abc-linux-1-2/console", url.Values{"follow": {follow}}, &out); err != nil || out.String() != want {
			t.Errorf("%q: %q, %v", follow, out.String(), err)
		}
	}
	var out bytes.Buffer
	if err := c.Copy(t.Context(), "/instances/gone/console", nil, &out); err == nil || !strings.Contains(err.Error(), "no instance gone") || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestAnEmptyConsoleIsAnAnswer(t *testing.T) {
	t.Parallel()
	w := consoleWorld{World: apitest.New(), empty: true}
	c := local(t, w.World, func(o *api.Options) { o.Engine = w })
	var out bytes.Buffer
	if err := c.Copy(t.Context(), "/instances/abc-linux-1-2/console", nil, &out); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// heard closes itself at the first bytes.
type heard struct {
	once  sync.Once
	first chan struct{}
}

func (h *heard) Write(b []byte) (int, error) {
	h.once.Do(func() { close(h.first) })
	return len(b), nil
}

func TestAQuietConsoleDoesNotHoldUpTheStop(t *testing.T) {
	t.Parallel()
	w := consoleWorld{World: apitest.New(), quiet: true}
	c, stop := serve(t, w.World, func(o *api.Options) { o.Engine = w })
	out := &heard{first: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- c.Copy(t.Context(), "/instances/abc-linux-1-2/console", url.Values{"follow": {"true"}}, out)
	}()
	select {
	case <-out.first:
	case err := <-ended:
		t.Fatal("it ended at once:", err)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 2*time.Second { // after 3 s it would be cut off
		t.Errorf("the stop took %s", took)
	}
	if err := <-ended; err == nil {
		t.Error("the client takes what it got for the whole")
	}
}
