package engine

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
)

func TestTokenIsMaskedHoweverTheConsoleIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const token = "aabaab"
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{token, "a", "b", "aab", "\n", "other"}), 0, 12).Draw(t, "text"), "")
		var out bytes.Buffer
		m := &masker{w: &out, token: []byte(token)}
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if _, err := m.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := m.flush(); err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(text, token, "(secret)"); out.String() != want {
			t.Fatalf("%q became %q, want %q", text, out.String(), want)
		}
	})
}

func TestNoValueIsSeenHoweverTheConsoleIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := []string{"aabaab", "baabaabb", "other-secret", "abc"} // the last one is too short
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{values[0], values[1], values[2], "abc", "other-", "aab", "\n", "b"}), 0, 12).Draw(t, "text"), "")
		var hide [][]byte
		for _, v := range rapid.Permutation(values).Draw(t, "order") {
			hide = append(hide, []byte(v))
		}
		var buf bytes.Buffer
		out, flush := masked(&buf, hide)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if _, err := out.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := flush(); err != nil {
			t.Fatal(err)
		}
		want := text
		for _, v := range []string{values[2], values[1], values[0]} {
			want = strings.ReplaceAll(want, v, "(secret)")
		}
		if buf.String() != want {
			t.Fatalf("%q became %q, want %q", text, buf.String(), want)
		}
	})
}

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
		w.token = func(model.InstanceKey) providers.Secret { return "s3cret" }
		w.hide = func(_ context.Context, worker string, _ model.InstanceKey) [][]byte {
			if worker != "w1" {
				t.Error(worker)
			}
			return [][]byte{[]byte("hunter2")}
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
