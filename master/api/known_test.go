package api_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/store"
)

// get asks a world's server over TCP.
func get(t *testing.T, w *apitest.World, path string, query url.Values, out any) error {
	t.Helper()
	s := httptest.NewServer(w.Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("a", "admin", "a-token")} }
	}).Handler())
	defer s.Close()
	c, err := api.NewClient(s.URL, "a-token", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Get(t.Context(), path, query, out)
}

func TestNameThatNeverWasIsAnErrorNotAnEmptyList(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"/builds?builder=helo":                          `There is no builder "helo", and the records have none. Did you mean "hello"?`,
		"/builds?worker=linx-1":                         `There is no worker "linx-1", and the records have none. Did you mean "linux-1"?`,
		"/instances?worker=linx-1":                      `There is no worker "linx-1"`,
		"/requests?builder=nope":                        `There is no builder "nope", and the records have none. There are: `,
		"/builds?builder=hidden":                        "", // nothing was built
		"/builds?builder=hello&before=1&worker=linux-2": "",
		"/instances?worker=mac":                         "",
		"/requests?builder=hidden":                      "",
	} {
		path, values, _ := strings.Cut(query, "?")
		q, err := url.ParseQuery(values)
		if err != nil {
			t.Fatal(err)
		}
		var out json.RawMessage
		if err := get(t, apitest.New(), path, q, &out); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}

func TestBackoffThatIsOverIsNotShown(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	w.Live.Workers[1].BackoffUntil = apitest.Now.Add(-time.Second)
	var out api.WorkerList
	if err := get(t, w, "/workers", nil, &out); err != nil || !out.Workers[1].BackoffUntil.IsZero() || out.Workers[1].Tries != 2 {
		t.Errorf("%v %+v", err, out.Workers[1])
	}
}

func TestRunningBuildSaysThatItsAgentIsAway(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	w.Live.Workers[0].AwaySince, w.Live.Workers[0].AwayUntil = apitest.At(14*time.Second), apitest.At(14*time.Second).Add(core.ResumeGrace)
	var list api.BuildList
	if err := get(t, w, "/builds", nil, &list); err != nil {
		t.Fatal(err)
	}
	const want = "its agent has been away for 14s; it waits another 1m46s"
	if list.Builds[0].Waits != want || list.Builds[1].Waits != "" {
		t.Errorf("%+v", list.Builds)
	}
	var one api.BuildDetail
	if err := get(t, w, "/builds/2", nil, &one); err != nil || one.Waits != want {
		t.Errorf("%v %q", err, one.Waits)
	}
	var workers api.WorkerList
	if err := get(t, w, "/workers", nil, &workers); err != nil || !workers.Workers[0].AwaySince.Equal(apitest.At(14*time.Second)) {
		t.Errorf("%v %+v", err, workers.Workers[0])
	}
}

func TestExplainSaysWhyAnAgentCouldNotAttach(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	c := local(t, w, func(o *api.Options) {
		o.Refused = func(worker string) (string, time.Time) { return worker + " had a wrong password", apitest.Now }
	})
	var e api.Explanation
	if err := c.Get(t.Context(), "/requests/3/explain", nil, &e); err != nil || len(e.Candidates) != 1 || !slices.Contains(e.Candidates[0].Blocks, "mac had a wrong password") {
		t.Errorf("%v %+v", err, e)
	}
}

// stuck is an engine that can store nothing at present.
type stuck struct{ *apitest.World }

func (stuck) Snapshot(context.Context) (*core.Snapshot, error) { return nil, store.ErrNoSpace }

func TestBuildsAreShownWhileNothingCanBeStored(t *testing.T) {
	t.Parallel()
	w := apitest.New()
	c := local(t, w, func(o *api.Options) { o.Engine = stuck{w} })
	var list api.BuildList
	if err := c.Get(t.Context(), "/builds", nil, &list); err != nil || len(list.Builds) != 2 {
		t.Errorf("%v %+v", err, list)
	}
	var one api.BuildDetail
	if err := c.Get(t.Context(), "/builds/2", nil, &one); err != nil || one.ID != 2 {
		t.Errorf("%v %+v", err, one)
	}
}

func TestWrongTokenIsToldFromNone(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(apitest.New().Server(func(o *api.Options) {
		o.Tokens = func() []api.Token { return []api.Token{api.NewToken("a", "admin", "a-token")} }
	}).Handler())
	defer s.Close()
	for token, want := range map[string]string{"": "A token is needed here", "wrong": "The token that was sent is not one of"} {
		c, err := api.NewClient(s.URL, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out api.WorkerList
		if err := c.Get(t.Context(), "/workers", nil, &out); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong") && token != "" {
			t.Errorf("%q: %v", token, err)
		}
		c.Close()
	}
}
