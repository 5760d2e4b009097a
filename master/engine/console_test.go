package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
)

func TestOnlyWhatIsNewOfAConsoleIsShown(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{{"", "abc", "abc"}, {"abc", "abc", ""}, {"abc", "abcde", "de"}, {"abc", "cde", "de"}, {"abc", "xyz", "xyz"}, {"abc", "", ""}} {
		if got := string(fresh([]byte(c[0]), []byte(c[1]))); got != c[2] {
			t.Errorf("%q after %q: %q is new, want %q", c[1], c[0], got, c[2])
		}
	}
}

func TestConsoleIsReadAndFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		k, _ := w.faked("", `console = "hello, my token is s3cret, PW=hunter2"`)
		w.mask = func(_ context.Context, worker string, key model.InstanceKey, out io.Writer) (io.Writer, func() error) {
			if worker != "w1" || key == "" {
				t.Error(worker, key)
			}
			s := steplog.NewMasker([][]byte{[]byte("s3cret"), []byte("hunter2")}).Stream(out)
			return s, s.Flush
		}
		w.run = until
		w.start()
		id, key := w.busy(k)
		var out bytes.Buffer
		if err := w.e.ReadConsole(t.Context(), model.InstanceKey(key), false, &out); err != nil || out.String() != "hello, my token is (secret), PW=(secret)" {
			t.Errorf("%q, %v", out.String(), err)
		}
		out.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.e.ReadConsole(ctx, model.InstanceKey(key), true, &out); !errors.Is(err, context.DeadlineExceeded) || out.String() != "hello, my token is (secret), PW=(secret)" {
			t.Errorf("followed: %q, %v", out.String(), err)
		}
		if err := w.e.ReadConsole(t.Context(), "x", false, &out); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v", err)
		}
		_ = w.e.Do(t.Context(), core.CancelAsked{Request: id})
		w.wait(id)
		w.stop(core.StopDrain)
	})
}
