package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/worker/proto"
)

// logs serves a directory of real logs, and a writer of the log of build 1's first step.
func logs(t *testing.T) (*api.Client, *steplog.Writer) {
	t.Helper()
	dir, err := steplog.Open(t.TempDir(), steplog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := dir.Create(steplog.ID{Build: 1, Step: 0, Name: "stdio"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Close()
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	return local(t, apitest.New(), func(o *api.Options) { o.Logs = api.StepLogs(dir) }), w
}

func write(t *testing.T, w *steplog.Writer, s proto.Stream, text string) {
	t.Helper()
	if err := w.Write(s, []byte(text), w.Position()+int64(len(text))); err != nil {
		t.Fatal(err)
	}
}

const logURL = "/builds/1/steps/0/logs/stdio"

func TestFollowersSeeLinesWhileTheLogGrowsAndItsEnd(t *testing.T) {
	t.Parallel()
	c, w := logs(t)
	write(t, w, proto.Stdout, "one\n")
	var got []string
	err := c.Stream(t.Context(), logURL+"/follow", nil, func(b json.RawMessage) error {
		var l api.Line
		if err := json.Unmarshal(b, &l); err != nil {
			return err
		}
		got = append(got, fmt.Sprint(l.N, " ", l.Stream, " ", l.Text))
		switch len(got) { // each line is written only when the one before has arrived
		case 1:
			write(t, w, proto.Stderr, "bad \xff byte\n")
		case 2:
			write(t, w, proto.Stdout, "no end")
			return w.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0 stdout one", "1 stderr bad \uFFFD byte", "2 stdout no end"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLinesAreReadFromAnywhere(t *testing.T) {
	t.Parallel()
	c, w := logs(t)
	for i := range 5000 {
		write(t, w, proto.Stdout, fmt.Sprintf("line %d\n", i))
	}
	for _, test := range []struct{ from, lines, first, last string }{
		{"0", "1", "line 0", "line 0"}, {"100", "2500", "line 100", "line 2599"}, {"-3", "1000", "line 4997", "line 4999"}, {"4999", "10", "line 4999", "line 4999"},
		{"6000", "10", "", ""},
	} {
		var lines []string
		err := c.Stream(t.Context(), logURL, url.Values{"from": {test.from}, "lines": {test.lines}}, func(b json.RawMessage) error {
			var l api.Line
			err := json.Unmarshal(b, &l)
			lines = append(lines, l.Text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		first, last := "", ""
		if len(lines) > 0 {
			first, last = lines[0], lines[len(lines)-1]
		}
		if first != test.first || last != test.last {
			t.Errorf("from %s: %q to %q, want %q to %q", test.from, first, last, test.first, test.last)
		}
	}
	var raw strings.Builder
	if err := c.Copy(t.Context(), logURL+"/raw", url.Values{"stream": {"stdout"}}, &raw); err != nil || strings.Count(raw.String(), "\n") != 5000 {
		t.Errorf("%v, %d bytes", err, raw.Len())
	}
}

func TestSlowReaderDoesNotSlowTheWriter(t *testing.T) {
	t.Parallel()
	c, w := logs(t)
	write(t, w, proto.Stdout, "begin\n")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop := errors.New("seen enough")
	err := c.Stream(ctx, logURL+"/follow", nil, func(json.RawMessage) error {
		// This client reads nothing more while 32 MiB are written: more than all buffers on the way hold.
		line := strings.Repeat("x", 1023) + "\n"
		for range 32 << 10 {
			write(t, w, proto.Stdout, line)
		}
		return stop
	})
	if !errors.Is(err, stop) || w.Position() != 32<<20+6 {
		t.Errorf("%v at %d", err, w.Position())
	}
}

func TestUnknownLogsAndBuildsAreToldApart(t *testing.T) {
	t.Parallel()
	c, _ := logs(t)
	for path, want := range map[string]string{
		"/builds/99/steps/0/logs/stdio":              "There is no build 99.",
		"/builds/1/steps/7/logs/stdio":               `There is no log "stdio" of step 7 of build 1.`,
		"/builds/1/steps/0/logs/..%2F..%2Fetc/raw":   `There is no log "../../etc" of step 0 of build 1.`,
		"/builds/1/steps/0/logs/stdio/follow?from=x": "the master does not accept that:\n  from: invalid integer",
	} {
		err := c.Stream(t.Context(), path, nil, func(json.RawMessage) error { return nil })
		var p *api.Problem
		if !errors.As(err, &p) || !strings.HasPrefix(p.Detail, want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func TestCatalogTakesWhatForceNeeds(t *testing.T) {
	t.Parallel()
	got := api.CatalogOf(&hcl.Config{
		Workers:    []hcl.Worker{{Name: "w"}, {Name: "many-1", Pool: "many"}},
		Builders:   []hcl.Builder{{Name: "b", Description: "d", Workers: []string{"w"}}},
		Schedulers: []hcl.Scheduler{{Name: "f", Kind: "force", Builders: []string{"b"}, Priority: 2, Properties: map[string]any{"p": "v"}}, {Name: "p", Kind: "periodic", Every: time.Minute}},
	})
	want := &api.Catalog{
		Builders:   []api.Builder{{Name: "b", Description: "d", Workers: []string{"w"}}},
		Schedulers: []api.Scheduler{{Name: "f", Kind: "force", Builders: []string{"b"}, Priority: 2, Properties: map[string]any{"p": "v"}}, {Name: "p", Kind: "periodic", Every: 60}},
		Pools:      map[string]string{"many-1": "many"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
