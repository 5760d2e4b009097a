package master

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// priced is the fake provider with prices, moving parts and calls that can be held up.
type priced struct {
	*fake.Kind
	mu    sync.Mutex
	image string
	price float64
	hold  chan struct{} // not nil: List waits for it, or for its deadline
	open  int
	most  int // open at once
	made  int
	asked int // opened only to be asked
}

func (k *priced) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	p, lim, err := k.Kind.Open(ctx, env)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open++
	k.made++
	if env.ReadOnly {
		k.asked++
	}
	k.most = max(k.most, k.open)
	return &pricedProvider{p, k}, lim, err
}

func (k *priced) DecodeInstance(c any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	return k.Kind.DecodeInstance(c, body, ctx)
}

func (k *priced) set(f func()) { k.mu.Lock(); defer k.mu.Unlock(); f() }

type pricedProvider struct {
	providers.Provider
	k *priced
}

func (p *pricedProvider) Close() error {
	p.k.set(func() { p.k.open-- })
	return p.Provider.Close()
}

func (p *pricedProvider) Price(context.Context, any) (providers.Price, error) {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	return providers.Price{Running: p.k.price, Stopped: p.k.price / 10}, nil
}

func (p *pricedProvider) Resolve(context.Context, any) ([]providers.Resolved, error) {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	return []providers.Resolved{{Attr: "image", Value: p.k.image}}, nil
}

func (p *pricedProvider) List(ctx context.Context, owner providers.Owner) ([]providers.Instance, error) {
	p.k.mu.Lock()
	hold, image := p.k.hold, p.k.image
	p.k.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, providers.Errorf(providers.Unknown, "list", "no answer: %w", ctx.Err())
		}
	}
	list, err := p.Provider.List(ctx, owner)
	for i := range list {
		if image == "ami-1" {
			list[i].Facts = map[string]string{"image": "ami-1"}
		} else {
			list[i].Facts = map[string]string{"image": "ami-old"}
		}
	}
	return list, err
}

func (p *pricedProvider) Check(ctx context.Context, specs []any) []providers.Finding {
	return p.Provider.(providers.Checker).Check(ctx, specs)
}

func newPriced(t *testing.T) (*site, *priced) {
	s := newSite(t)
	k := &priced{Kind: s.kind, image: "ami-1", price: 0.4}
	s.o.Hcl.Kinds = map[string]providers.Kind{"fake": k}
	return s, k
}

func files(text string) map[string][]byte { return map[string][]byte{"rouse.hcl": []byte(text)} }

func (s *site) refusedWith(err error, status int, want string) {
	s.t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != status || !strings.Contains(p.Detail, want) {
		s.t.Errorf("got %+v, want status %d and %q", err, status, want)
	}
}

func TestPricesOfProvidersReachWorkersWithoutAGeneration(t *testing.T) {
	t.Parallel()
	s, _ := newPriced(t)
	s.write(text("", ""))
	s.up()
	s.until("the price is known", func() bool { return ask[api.WorkerList](s, "/workers").Workers[0].Price == 0.4 })
	if g := ask[api.GenerationList](s, "/generations").Generations; len(g) != 1 || g[0].From != "start" || g[0].Summary == nil || g[0].Summary.Add == 0 {
		t.Errorf("generations: %+v", g)
	}
	s.write(strings.Replace(text("", ""), "build_wait_timeout", "price = 7\n  build_wait_timeout", 1))
	s.reconfig()
	if w := ask[api.WorkerList](s, "/workers").Workers[0]; w.Price != 7 {
		t.Errorf("the configuration's own price is %v", w.Price)
	}
}

func TestAnImageThatHasMovedMakesPlansStaleAndReplacesInstances(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	id := s.machine()
	in := api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(text("", "")), Refresh: true}}
	p := must[plan.Plan](s, "/plan", in.PlanAsk)
	if !p.Empty() {
		t.Fatalf("nothing has moved, and the plan is %+v", p.Summary)
	}
	k.set(func() { k.image = "ami-2" })
	in.Expect = &api.Expect{Plan: p.ID, Master: p.Master, Base: p.Base, Resolved: p.Resolved}
	_, err := tell[api.Applied](s, "/apply", in)
	s.refusedWith(err, 409, "image of worker.w was ami-1 and is ami-2")
	in.Expect = &api.Expect{Master: "somebody-else", Base: p.Base}
	_, err = tell[api.Applied](s, "/apply", in)
	s.refusedWith(err, 409, "made for the master somebody-else")
	in.Expect = &api.Expect{Master: p.Master, Base: 7}
	_, err = tell[api.Applied](s, "/apply", in)
	s.refusedWith(err, 409, "starts from generation 7, and generation 1 is in force")

	in.Expect = nil
	out := must[api.Applied](s, "/apply", in)
	if out.Summary.Replace != 1 || out.Summary.Instances[plan.ReplaceAfterWork] != 1 {
		t.Errorf("applied %+v", out)
	}
	if n := len(s.kind.Instances("cloud")); n != 1 {
		t.Errorf("%d machines: one was ended under its build", n)
	}
	if d := ask[api.ApplyStatus](s, "/apply").Draining; len(d) != 1 || d[0].Worker != "w" || !strings.Contains(d[0].Reason, "image stands for ami-2 now") {
		t.Errorf("what drains: %+v", d)
	}
	if err := s.client.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, new(api.Done)); err != nil {
		t.Fatal(err)
	}
	s.gone()
}

func TestOneChangeAtATimeAndPlansAreNotHeldUp(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	hold := make(chan struct{})
	k.set(func() { k.hold = hold })
	first := make(chan error, 1)
	go func() {
		_, err := tell[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(text("", `detail = "one"`)), Refresh: true}})
		first <- err
	}()
	var st api.ApplyStatus
	s.until("the first one asks", func() bool { st = ask[api.ApplyStatus](s, "/apply"); return st.Phase == "asking" })
	other := api.PlanAsk{Files: files(text("", `detail = "two"`))}
	_, err := tell[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: other})
	s.refusedWith(err, 409, st.Running)
	_, err = tell[api.Applied](s, "/reconfig", api.ReconfigAsk{})
	s.refusedWith(err, 409, st.Running)
	_, err = tell[api.Applied](s, "/rollback", api.RollbackAsk{Generation: 1})
	s.refusedWith(err, 409, st.Running)
	if p := must[plan.Plan](s, "/plan", other); p.Summary.Replace != 1 {
		t.Errorf("the plan meanwhile: %+v", p.Summary)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if st := ask[api.ApplyStatus](s, "/apply"); st.Running != "" || st.Generation != 2 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestWhatIsRefusedChangesNothingAndClosesWhatItOpened(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	before := ask[api.GenerationList](s, "/generations")
	other := strings.Replace(text(`seed = 5`, `create_error = "bad-config"`), "build_wait", `price = 1
  build_wait`, 1)
	for name, tc := range map[string]struct {
		in     api.ApplyAsk
		status int
		want   string
	}{
		"a broken file":   {api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files("worker {")}}, 422, "rouse.hcl line 1"},
		"no file":         {api.ApplyAsk{PlanAsk: api.PlanAsk{Files: map[string][]byte{}}}, 422, "No configuration"},
		"a fatal finding": {api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(other), Refresh: true}}, 422, "This instance can not be created"},
		"no variable":     {api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files("variable \"n\" {}\n" + text("", ""))}}, 422, `The variable "n" has no default`},
		"a stale plan":    {api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(other)}, Expect: &api.Expect{Base: 9}}, 409, "stale"},
	} {
		_, err := tell[api.Applied](s, "/apply", tc.in)
		s.refusedWith(err, tc.status, tc.want)
		if s.t.Failed() {
			t.Fatalf("in: %s", name)
		}
	}
	if after := ask[api.GenerationList](s, "/generations"); len(after.Generations) != len(before.Generations) {
		t.Errorf("generations: %+v", after)
	}
	k.set(func() {
		if k.open != 1 || k.made < 3 {
			t.Errorf("%d providers are open of %d that were opened; want the one in use", k.open, k.made)
		}
	})
}

func TestAPlanWithoutARefreshOpensNoProvider(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	p := must[plan.Plan](s, "/plan", api.PlanAsk{Files: files(text("seed = 5", ""))})
	k.set(func() {
		if p.Empty() || k.made != 1 {
			t.Errorf("%d providers were opened for a plan with %+v", k.made-1, p.Summary)
		}
	})
}

func TestAPlanOpensProvidersOnlyToAskThem(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	opened := func(made, asked int, when string) {
		t.Helper()
		k.set(func() {
			if k.made != made || k.asked != asked {
				t.Errorf("%s: %d were opened, %d of them only to be asked; want %d, %d", when, k.made, k.asked, made, asked)
			}
		})
	}
	opened(1, 0, "at the start")
	next := api.PlanAsk{Files: files(text("seed = 5", "")), Refresh: true}
	must[plan.Plan](s, "/plan", next)
	opened(2, 1, "for a plan")
	must[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: next})
	opened(3, 1, "to be installed")
}

func TestAFewPlansAreMadeAtOnceAndTheOthersWait(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	hold := make(chan struct{})
	k.set(func() { k.hold = hold })
	var all sync.WaitGroup
	for range 2*maxPlans + 1 {
		all.Go(func() {
			c, err := api.NewClient(filepath.Join(s.o.StateDir, SocketName), "", nil)
			if err == nil {
				defer c.Close()
				err = c.Post(t.Context(), "/plan", nil, api.PlanAsk{Files: files(text("seed = 5", "")), Refresh: true}, new(plan.Plan))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	s.until("the first plans ask their provider", func() (ok bool) {
		k.set(func() { ok = k.made == 1+maxPlans })
		return ok
	})
	close(hold)
	all.Wait()
	k.set(func() {
		if k.open != 1 || k.made != 1+2*maxPlans+1 || k.most != 1+maxPlans {
			t.Errorf("%d providers are open, %d were opened, at most %d at once", k.open, k.made, k.most)
		}
	})
}

func TestWhatCouldNotBeResolvedWhenAPlanWasMadeMakesItStale(t *testing.T) {
	t.Parallel()
	s, _ := newPriced(t)
	s.write(text("", ""))
	s.up()
	in := api.PlanAsk{Files: files(text("", `type = "large"`)), Refresh: true}
	p := must[plan.Plan](s, "/plan", in)
	_, err := tell[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: in, Expect: &api.Expect{Plan: p.ID, Master: p.Master, Base: p.Base, Refreshed: true}})
	s.refusedWith(err, 409, "image of worker.w was (none)")
}

func TestAFatalFindingIsAWarningAtAReload(t *testing.T) {
	t.Parallel()
	s, _ := newPriced(t)
	s.write(text("", ""))
	s.up()
	s.write(text("", `create_error = "bad-config"`))
	if out := s.reconfig(); !out.Changed || out.Generation != 2 {
		t.Errorf("%+v", out)
	}
	s.until("the finding is logged", func() bool { return strings.Contains(s.log.String(), "preflight: This instance can not be created") })
	s.down()
	s.up()
}

func TestSensitiveVariablesAreTheMastersOwnAndNowhereElse(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-of-the-master"
	s, _ := newPriced(t)
	s.o.Hcl.Variables = map[string]string{"password": secret}
	conf := "variable \"password\" {\n  sensitive = true\n}\nvariable \"n\" { default = \"one\" }\n" +
		strings.Replace(text("", ""), `command = "true"`, `command = "echo ${var.n}"`, 1)
	s.write(conf)
	s.up()
	in := api.PlanAsk{Files: files(conf), Variables: map[string]string{"n": `"two"`}, Refresh: true}
	p := must[plan.Plan](s, "/plan", in)
	out := must[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: in, Order: api.Order{Reason: "n"}})
	if p.Empty() || !out.Changed {
		t.Errorf("another value of a variable is no change: %+v", p.Changes)
	}
	text := ask[api.GenerationText](s, "/generations/2")
	if got := text.Variables; !maps.Equal(got, map[string]string{"n": `"two"`}) || text.By == "" || text.Reason != "n" {
		t.Errorf("stored: %+v", text.Generation)
	}
	elsewhere := func(password string) []plan.Diagnostic {
		t.Helper()
		o := s.o.Hcl
		o.Variables = map[string]string{"password": password, "n": "two"}
		cfg, diags := hcl.LoadFiles(files(conf), o)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		key := []byte("thirty-two bytes that are random")
		in.Sensitive = &api.SensitiveGiven{Key: key, Digests: cfg.SensitiveDigests(key, cfg.GivenSensitive())}
		p := must[plan.Plan](s, "/plan", in)
		if strings.Contains(fmt.Sprintf("%+v", p), password) {
			t.Error("the value is in the plan")
		}
		return p.Diagnostics
	}
	if d := elsewhere(secret); len(d) != 0 {
		t.Errorf("the same value: %+v", d)
	}
	if d := elsewhere("another-one"); len(d) != 1 || d[0].Address != "variable.password" || d[0].Severity != "warning" {
		t.Errorf("another value: %+v", d)
	}
	s.down()
	s.up() // with the value from its command line again
	if g := ask[api.ApplyStatus](s, "/apply").Generation; g != 2 {
		t.Errorf("generation %d", g)
	}
	s.down()
	db, err := os.ReadFile(filepath.Join(s.o.StateDir, "rouse.db"))
	if err != nil {
		t.Fatal(err)
	}
	for where, b := range map[string]string{"the state": string(db), "the log": s.log.String(), "the plan": fmt.Sprintf("%+v", p)} {
		if strings.Contains(b, secret) {
			t.Errorf("the value of a sensitive variable is in %s", where)
		}
	}
}

func TestAProviderThatDoesNotAnswerHoldsUpNoPlanForLong(t *testing.T) {
	t.Parallel()
	s, k := newPriced(t)
	s.write(text("", ""))
	s.up()
	hold := make(chan struct{})
	defer close(hold)
	k.set(func() { k.hold = hold })
	h := &house{kinds: s.o.Hcl.Kinds, owner: "o", stateDir: t.TempDir(), log: s.o.Log}
	cfg, diags := hcl.LoadFiles(files(text("", "")), s.o.Hcl)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	opened, _, err := h.openNew(t.Context(), cfg, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for handle, o := range opened {
		o.Limits.CallTimeout = 50 * time.Millisecond
		opened[handle] = o
	}
	began := time.Now()
	got := h.survey(t.Context(), cfg, opened, nil)
	if took := time.Since(began); took > 10*time.Second || got.seen["cloud"].Err == nil || len(got.resolved["w"]) != 1 {
		t.Errorf("after %s: %+v", took, got)
	}
	if err := closeAll(opened); err != nil {
		t.Error(err)
	}
}

func TestAPlanWithoutAMasterComparesWithTheState(t *testing.T) {
	t.Parallel()
	s, _ := newPriced(t)
	s.write(text(`place = "here"`, ""))
	plans := func(refresh bool, text string) *plan.Plan {
		t.Helper()
		cfg, diags := hcl.LoadFiles(files(text), s.o.Hcl)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		p, err := PlanOffline(t.Context(), s.o, cfg, refresh)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := plans(true, text("", "")); !p.Offline || p.Base != 0 || p.Summary.Add == 0 {
		t.Errorf("without a state: %+v", p.Summary)
	}
	s.up()
	s.machine()
	look := func(when string) {
		t.Helper()
		for _, refresh := range []bool{true, false} {
			if p := plans(refresh, text(`place = "here"`, "")); p.Base != 1 || !p.Empty() || len(p.Instances) != 1 || p.Instances[0].Fate != plan.Keep {
				t.Errorf("%s, the same: %+v, %+v", when, p.Summary, p.Instances)
			}
			if p := plans(refresh, text(`place = "there"`, "")); p.Summary.Replace != 1 || len(p.Drift) != 0 || p.Summary.Instances[plan.ReplaceAfterWork] != 1 {
				t.Errorf("%s, moved: %+v, %+v, %+v", when, p.Summary, p.Instances, p.Drift)
			}
		}
	}
	look("beside a master")
	s.down()
	look("without one")
	var ids []model.Generation
	s.up()
	for _, g := range ask[api.GenerationList](s, "/generations").Generations {
		ids = append(ids, g.Number)
	}
	if len(ids) != 1 {
		t.Errorf("generations %v", ids)
	}
}
