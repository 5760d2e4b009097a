package steplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var stdio = ID{Build: 7, Step: 2, Name: "stdio"}

func openDir(t testing.TB, o Options) *Dir {
	t.Helper()
	return openDirAt(t, filepath.Join(t.TempDir(), "logs"), o)
}

func openDirAt(t testing.TB, path string, o Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	ok(t, err)
	t.Cleanup(func() { ok(t, d.Close()) })
	return d
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, d *Dir, id ID, secrets ...string) *Writer {
	t.Helper()
	var bs [][]byte
	for _, s := range secrets {
		bs = append(bs, []byte(s))
	}
	w, err := d.Create(id, bs)
	ok(t, err)
	t.Cleanup(func() { ok(t, w.Abandon()) })
	return w
}

func reader(t testing.TB, d *Dir, id ID) *Reader {
	t.Helper()
	r, err := d.Reader(id)
	ok(t, err)
	t.Cleanup(func() { ok(t, r.Close()) })
	return r
}

// text is what the streams printed.
func text(t testing.TB, r *Reader, streams ...proto.Stream) string {
	t.Helper()
	var b bytes.Buffer
	ok(t, r.WriteText(t.Context(), &b, streams...))
	return b.String()
}

func show(ls []Line) (out []string) {
	for _, l := range ls {
		s := fmt.Sprintf("%d %d %s", l.Number, l.Stream, l.Text)
		if l.Part {
			s += " …"
		}
		out = append(out, s)
	}
	return out
}

func TestLinesBelongToStreamsAndAreNumberedWhereTheyEnd(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{PackFrom: 1})
	w := create(t, d, stdio)
	ok(t, w.Write(proto.Stdout, []byte("one\ntw"), 6))
	ok(t, w.Write(proto.Stderr, []byte("err"), 9))
	ok(t, w.Write(proto.Header, []byte("head\n"), 14))
	ok(t, w.Write(proto.Stdout, []byte("o\nlast"), 20))
	r := reader(t, d, stdio)
	got, err := r.Lines(0, 10)
	ok(t, err)
	want := []string{"0 1 one", "1 3 head", "2 1 two"}
	if diff := cmp.Diff(want, show(got)); diff != "" {
		t.Fatal("while it grows:", diff)
	}
	ok(t, w.Close())
	d.Idle()
	want = append(want, "3 2 err", "4 1 last")
	for name, r := range map[string]*Reader{"opened before": r, "opened after": reader(t, d, stdio)} {
		got, err := r.Lines(0, 10)
		ok(t, err)
		if diff := cmp.Diff(want, show(got)); diff != "" {
			t.Error(name, diff)
		}
		if n, err := r.Count(); n != 5 || err != nil {
			t.Error(name, n, err)
		}
		if got, err = r.Lines(-2, 1); err != nil || len(got) != 1 || string(got[0].Text) != "err" {
			t.Error(name, show(got), err)
		}
		if s := text(t, r, proto.Stdout); s != "one\ntwo\nlast" {
			t.Errorf("%s: %q", name, s)
		}
	}
	info, err := reader(t, d, stdio).Info()
	ok(t, err)
	if !info.Packed || !info.Ended || info.Position != 20 {
		t.Errorf("%+v", info)
	}
}

func TestFilesArePrivateAndNamesAreEscaped(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{})
	id := ID{Build: 1, Step: 0, Name: "../../x/y. ü"}
	w := create(t, d, id)
	ok(t, w.Write(proto.Stdout, []byte("x"), 1))
	var seen []ID
	ok(t, d.walk(t.Context(), func(f file) error {
		seen = append(seen, f.id)
		fi, err := os.Stat(filepath.Join(d.path, f.path))
		ok(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Error(fi.Mode())
		}
		return nil
	}))
	if diff := cmp.Diff([]ID{id}, seen); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []ID{{}, {Build: 1, Name: ""}, {Build: 1, Step: -1, Name: "x"}, {Build: 1, Name: strings.Repeat("x", 300)}} {
		if _, err := d.Create(bad, nil); err == nil {
			t.Error(bad)
		}
	}
	if _, err := d.Create(id, nil); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	ok(t, w.Close())
	if _, err := d.Create(id, nil); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if _, err := d.Reader(ID{Build: 9, Name: "x"}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHundredsOfFollowersSeeEverythingOnceAndASlowOneStopsNobody(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{PackFrom: 1})
	w := create(t, d, stdio)
	const followers, lines = 200, 300
	var wg sync.WaitGroup
	slow := make(chan struct{})
	for i := range followers {
		r := reader(t, d, stdio)
		wg.Go(func() {
			next := int64(0)
			err := r.Follow(t.Context(), 0, func(l Line) error {
				if i == 0 && l.Number == 0 {
					<-slow // until everything is written and compressed
				}
				if want := fmt.Sprintf("line %d", next); string(l.Text) != want || l.Number != next {
					return fmt.Errorf("follower %d: got %d %q, want %q", i, l.Number, l.Text, want)
				}
				next++
				return nil
			})
			if err != nil || next != lines {
				t.Error(i, next, err)
			}
		})
	}
	end := int64(0)
	for i := range lines {
		p := fmt.Appendf(nil, "line %d\n", i)
		end += int64(len(p))
		ok(t, w.Write(proto.Stdout, p[:3], end-int64(len(p))+3))
		ok(t, w.Write(proto.Stdout, p[3:], end))
	}
	ok(t, w.Close())
	d.Idle()
	close(slow)
	wg.Wait()
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{})
	w := create(t, d, stdio)
	ok(t, w.Write(proto.Stdout, []byte("x\n"), 2))
	ctx, cancel := context.WithCancel(t.Context())
	err := reader(t, d, stdio).Follow(ctx, 0, func(Line) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAFullLogDropsOutputButItsPositionGoesOn(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{MaxSize: 1000})
	w := create(t, d, stdio)
	for i := range 100 {
		ok(t, w.Write(proto.Stdout, []byte(strings.Repeat("x", 99)+"\n"), int64(i+1)*100))
	}
	if w.Position() != 10000 {
		t.Error(w.Position())
	}
	ok(t, w.Abandon())
	w, err := d.Resume(stdio, nil)
	ok(t, err)
	if w.Position() != 10000 {
		t.Error("after a crash", w.Position())
	}
	ok(t, w.Write(proto.Stdout, []byte("more"), 10004))
	ok(t, w.Close())
	got := text(t, reader(t, d, stdio))
	if !strings.HasSuffix(got, "is not kept\n") || strings.Count(got, "\n") != 8+2 {
		t.Errorf("%q", got)
	}
	w, err = d.Resume(stdio, nil)
	ok(t, err)
	if w.Position() != 10004 {
		t.Error("after the end", w.Position())
	}
	ok(t, w.Close())
}

func TestAClosedLogGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	for _, packFrom := range []int64{1, 1 << 30} {
		d := openDir(t, Options{PackFrom: packFrom})
		w := create(t, d, stdio)
		ok(t, w.Write(proto.Stdout, []byte("first\n"), 6))
		ok(t, w.Close())
		d.Idle()
		old := reader(t, d, stdio)
		w, err := d.Resume(stdio, nil)
		ok(t, err)
		if w.Position() != 6 {
			t.Error(w.Position())
		}
		ok(t, w.Write(proto.Stdout, []byte("second\n"), 13))
		ok(t, w.Close())
		d.Idle()
		if got := text(t, reader(t, d, stdio)); got != "first\nsecond\n" {
			t.Errorf("%q", got)
		}
		_ = text(t, old)
	}
}

func TestOpenCompressesWhatWasLeft(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "logs")
	d := openDirAt(t, path, Options{PackFrom: 1 << 30})
	w := create(t, d, stdio)
	ok(t, w.Write(proto.Stdout, bytes.Repeat([]byte("hello\n"), 10000), 60000))
	ok(t, w.Close())
	grows := create(t, d, ID{Build: 7, Step: 3, Name: "stdio"})
	ok(t, grows.Write(proto.Stdout, bytes.Repeat([]byte("hello\n"), 10000), 60000))
	ok(t, grows.Abandon())
	ok(t, os.WriteFile(filepath.Join(path, "7", "9-x.logz.tmp"), []byte("half"), 0o600))
	ok(t, d.Close())

	d = openDirAt(t, path, Options{})
	d.Idle()
	var names []string
	ok(t, d.walk(t.Context(), func(f file) error { names = append(names, f.path); return nil }))
	if diff := cmp.Diff([]string{"7/2-stdio.logz", "7/3-stdio.log"}, names); diff != "" {
		t.Error(diff)
	}
	if n, err := reader(t, d, stdio).Count(); n != 10000 || err != nil {
		t.Error(n, err)
	}
}

func TestAWriteThatFailsLeavesTheLogWholeAndCanBeRepeated(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{PackFrom: 1})
	w := create(t, d, stdio)
	ok(t, w.Write(proto.Stdout, []byte("before\n"), 7))
	real := w.f
	ro, err := os.Open(real.Name())
	ok(t, err)
	w.f = ro // as a full disk: every write fails
	err = w.Write(proto.Stdout, []byte("lost\n"), 12)
	if err == nil || !strings.Contains(err.Error(), "7/2-stdio.log") || w.Position() != 7 {
		t.Error(err, w.Position())
	}
	w.f = real
	ok(t, ro.Close())
	ok(t, w.Write(proto.Stdout, []byte("after\n"), 13))
	if got := text(t, reader(t, d, stdio)); got != "before\nafter\n" {
		t.Errorf("%q", got)
	}
}

func TestPruneRemovesTheOldestAndNeverALiveOne(t *testing.T) {
	t.Parallel()
	d := openDir(t, Options{})
	now := time.Now()
	for i := range 6 {
		id := ID{Build: model.BuildID(i + 1), Name: "stdio"}
		w := create(t, d, id)
		ok(t, w.Write(proto.Stdout, bytes.Repeat([]byte("x"), 968), 968)) // 1000 bytes with head, magic and end mark: 8+16+968+16=1008
		if i != 1 {
			ok(t, w.Close())
		}
		at := now.Add(time.Duration(i-6) * time.Hour)
		ok(t, d.root.Chtimes(fmt.Sprintf("%d/0-stdio.log", i+1), at, at))
	}
	live := func(id ID) bool { return id.Build == 1 }
	res, err := d.Prune(t.Context(), PruneOptions{MaxAge: 210 * time.Minute, Live: live, Now: now})
	if err != nil || res.Files != 1 { // builds 1 and 2 are live
		t.Error(res, err)
	}
	res, err = d.Prune(t.Context(), PruneOptions{MaxSize: 3100, Live: live, Now: now})
	if err != nil || res.Files != 2 {
		t.Error(res, err)
	}
	var left []model.BuildID
	ok(t, d.walk(t.Context(), func(f file) error { left = append(left, f.id.Build); return nil }))
	if diff := cmp.Diff([]model.BuildID{1, 2, 6}, left); diff != "" {
		t.Error(diff)
	}
	if err := d.Remove([]model.BuildID{1, 2, 99}); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(d.path, "1")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the empty directory is still there:", err)
	}
}
