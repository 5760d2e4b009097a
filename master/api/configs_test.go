package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/user"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/plan"
)

// desk notes what it was told.
type desk struct {
	applied api.ApplyAsk
	refuse  error
}

func (d *desk) Plan(_ context.Context, ask api.PlanAsk) (*plan.Plan, error) {
	return &plan.Plan{ID: string(ask.Files["x.hcl"][:4]), Summary: plan.Summary{Add: len(ask.Files["x.hcl"])}}, d.refuse
}

func (d *desk) Apply(_ context.Context, ask api.ApplyAsk) (api.Applied, error) {
	d.applied = ask
	return api.Applied{ID: "a", Changed: true, Generation: 3, From: "apply"}, d.refuse
}

func (d *desk) Rollback(context.Context, api.RollbackAsk) (api.Applied, error) {
	return api.Applied{From: "rollback"}, d.refuse
}

func (d *desk) Reconfig(context.Context, api.ReconfigAsk) (api.Applied, error) {
	return api.Applied{From: "reload"}, d.refuse
}

func (d *desk) Progress() (id, phase string) { return "a", "asking" }

func TestOrdersCarryTheNameOfWhoeverGivesThem(t *testing.T) {
	t.Parallel()
	d := &desk{}
	c := local(t, apitest.New(), func(o *api.Options) { o.Configs = d })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	var out api.Applied
	large := strings.Repeat("# 16 bytes here\n", 1<<17) // 2 MiB: more than other requests may have
	ask := api.ApplyAsk{PlanAsk: api.PlanAsk{Files: map[string][]byte{"x.hcl": []byte(large)}}, Order: api.Order{By: "somebody else"}}
	if err := c.Post(t.Context(), "/apply", nil, ask, &out); err != nil {
		t.Fatal(err)
	}
	if d.applied.By != me.Username || out.Generation != 3 || len(d.applied.Files["x.hcl"]) != len(large) {
		t.Errorf("by %q: %+v", d.applied.By, out)
	}
	var p plan.Plan
	if err := c.Post(t.Context(), "/plan", nil, ask.PlanAsk, &p); err != nil || p.ID != "# 16" || p.Summary.Add != len(large) {
		t.Errorf("%+v, %v", p, err)
	}
	d.refuse = &api.Refused{Status: 409, Text: "The plan is stale."}
	var problem *api.Problem
	if err := c.Post(t.Context(), "/rollback", nil, api.RollbackAsk{}, &out); !errors.As(err, &problem) || problem.Status != 409 || problem.Detail != "The plan is stale." {
		t.Errorf("got %v", err)
	}
	var st api.ApplyStatus
	if err := c.Get(t.Context(), "/apply", nil, &st); err != nil || st.Running != "a" || st.Phase != "asking" || len(st.Draining) == 0 {
		t.Errorf("%+v, %v", st, err) // the world's instance has a spec that its worker has not
	}
}

func TestGenerationsAreListedAndTheirTextIsForAdmins(t *testing.T) {
	t.Parallel()
	c := local(t, apitest.New(), nil)
	var list api.GenerationList
	if err := c.Get(t.Context(), "/generations", nil, &list); err != nil {
		t.Fatal(err)
	}
	if g := list.Generations; len(g) != 2 || g[0].Number != 2 || g[0].Current || g[0].Summary.Add != 2 || g[0].By != "ann" || !g[1].Current || g[1].Summary != nil {
		t.Errorf("%+v", list)
	}
	var text api.GenerationText
	if err := c.Get(t.Context(), "/generations/2", nil, &text); err != nil || string(text.Files["rouse.hcl"]) != "# nothing\n" || text.Variables["branch"] != `"main"` {
		t.Errorf("%+v, %v", text, err)
	}
	var problem *api.Problem
	if err := c.Get(t.Context(), "/generations/9", nil, &text); !errors.As(err, &problem) || problem.Status != 404 {
		t.Errorf("got %v", err)
	}
	if err := c.Post(t.Context(), "/reconfig", nil, api.ReconfigAsk{}, &api.Applied{}); !errors.As(err, &problem) || problem.Status != 503 {
		t.Errorf("a master that cannot: %v", err)
	}

	h := apitest.New().Server(func(o *api.Options) {
		o.Configs = &desk{}
		o.Tokens = func() []api.Token {
			return []api.Token{api.NewToken("eve", "read", "r"), api.NewToken("ci", "admin", "a")}
		}
	}).Handler()
	for _, tc := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", "/generations", "r", 200},
		{"GET", "/generations/2", "r", 403},
		{"GET", "/generations/2", "a", 200},
		{"POST", "/reconfig", "r", 403},
		{"POST", "/reconfig", "a", 200},
		{"POST", "/reconfig", "", 401},
	} {
		req := httptest.NewRequest(tc.method, api.Prefix+tc.path, strings.NewReader("{}"))
		req.Header.Set("Content-Type", "application/json")
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != tc.want {
			t.Errorf("%s %s with %q: %d, want %d (%s)", tc.method, tc.path, tc.token, w.Code, tc.want, http.StatusText(tc.want))
		}
	}
}
