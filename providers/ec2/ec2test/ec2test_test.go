package ec2test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// launch are the parameters of a launch.
func launch(token, key string, more ...string) []string {
	return append([]string{"ImageId", "ami-00000000000000010", "MinCount", "1", "MaxCount", "1", "InstanceType", "t3.small", "ClientToken", token,
		"TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", TagKey, "TagSpecification.1.Tag.1.Value", key,
		"TagSpecification.1.Tag.2.Key", TagWorker, "TagSpecification.1.Tag.2.Value", "w-" + key}, more...)
}

func run(t *testing.T, w *World, params ...string) string {
	t.Helper()
	return must[*Node](t, "RunInstances")(w.Client().Call(t.Context(), "RunInstances", params...)).Find("instanceId").Text
}

// seen are the states that a list through the proxy shows.
func seen(t *testing.T, w *World, params ...string) map[string]string {
	t.Helper()
	states := map[string]string{}
	for _, in := range must[*Node](t, "DescribeInstances")(w.Client().Call(t.Context(), "DescribeInstances", params...)).instances() {
		states[in.S("instanceId")] = in.S("instanceState", "name")
	}
	return states
}

func audit(t *testing.T, w *World) Audit {
	t.Helper()
	return must[Audit](t, "audit")(w.Audit(t.Context()))
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestTokenRepeatsTheReservation(t *testing.T) {
	t.Parallel()
	w := Start(t)
	var ids [4]string
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i] = run(t, w, launch("tok", "k1")...) })
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("one token made %v", ids)
		}
	}
	if _, err := w.Client().Call(t.Context(), "RunInstances", launch("tok", "k2")...); Code(err) != "IdempotentParameterMismatch" {
		t.Errorf("other parameters: %v", err)
	}
	must[*Node](t, "TerminateInstances")(w.Client().Call(t.Context(), "TerminateInstances", "InstanceId.1", ids[0]))
	n := must[*Node](t, "RunInstances")(w.Client().Call(t.Context(), "RunInstances", launch("tok", "k1")...))
	if in := n.instances(); len(in) != 1 || in[0].S("instanceId") != ids[0] || in[0].S("instanceState", "name") != "terminated" || n.S("reservationId") == "" {
		t.Errorf("a repeat after the end answered %s", n.render())
	}
	if other := run(t, w, launch("tok2", "k2")...); other == ids[0] {
		t.Error("another token made no other instance")
	}
	if a := audit(t, w); a.Launched != 2 || a.Keys != 2 || len(a.Duplicates) != 0 || len(a.Leaked) != 1 || a.Clean() {
		t.Errorf("the audit says %+v", a)
	}
}

func TestRefusedLaunchBindsTheTokenOnlyIfStrict(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		w := Start(t)
		if strict {
			w.StrictTokens()
		}
		w.Short(Shortage{Type: "t3.small"})
		if _, err := w.Client().Call(t.Context(), "RunInstances", launch("tok", "k1")...); Code(err) != "InsufficientInstanceCapacity" {
			t.Fatalf("no capacity: %v", err)
		}
		w.Short()
		_, err := w.Client().Call(t.Context(), "RunInstances", launch("tok", "k1", "EbsOptimized", "true")...)
		if strict != (Code(err) == "IdempotentParameterMismatch") || !strict && err != nil {
			t.Errorf("strict %v: %v", strict, err)
		}
	}
}

func TestShortagesMatchTypeZoneAndMarket(t *testing.T) {
	t.Parallel()
	w := Start(t)
	subnets := must[*Node](t, "DescribeSubnets")(w.Direct().Call(t.Context(), "DescribeSubnets", "Filter.1.Name", "availability-zone", "Filter.1.Value.1", Region+"b"))
	subnet := subnets.Find("subnetId").Text
	if subnet == "" {
		t.Fatal("no subnet in zone b")
	}
	spot := []string{"InstanceMarketOptions.MarketType", "spot"}
	for i, c := range []struct {
		s       Shortage
		params  []string
		lacking bool
	}{
		{Shortage{Type: "t3.small"}, nil, true},
		{Shortage{Type: "t3.large"}, nil, false},
		{Shortage{Market: "spot"}, nil, false},
		{Shortage{Market: "spot"}, spot, true},
		{Shortage{Zone: Region + "b"}, nil, false},
		{Shortage{Zone: Region + "b"}, []string{"SubnetId", subnet}, true},
		{Shortage{Zone: Region + "c"}, []string{"SubnetId", subnet}, false},
	} {
		w.Short(c.s)
		_, err := w.Client().Call(t.Context(), "RunInstances", launch(fmt.Sprint("tok", i), fmt.Sprint("k", i), c.params...)...)
		if got := Code(err) == "InsufficientInstanceCapacity"; got != c.lacking || err != nil && !got {
			t.Errorf("%+v with %v: %v", c.s, c.params, err)
		}
	}
}

// TestEachFaultHappens plans each fault once and looks at both sides: what the caller gets, and what moto has.
func TestEachFaultHappens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault Fault
		code  string // of the error; "" is a broken connection
		ok    bool   // no error
		made  int    // instances in moto after the first call
	}{
		{Fault{Kind: Refuse}, "", false, 0},
		{Fault{Kind: Fail500}, "InternalError", false, 0},
		{Fault{Kind: Fail503}, "Unavailable", false, 0},
		{Fault{Kind: Throttle}, "RequestLimitExceeded", false, 0},
		{Fault{Kind: NoCapacity}, "InsufficientInstanceCapacity", false, 0},
		{Fault{Kind: Hang, For: 50 * time.Millisecond}, "", false, 0},
		{Fault{Kind: Delay, For: 50 * time.Millisecond}, "", true, 1},
		{Fault{Kind: HangAfter, For: 50 * time.Millisecond}, "", false, 1},
		{Fault{Kind: LoseReply}, "", false, 1},
		{Fault{Kind: Late500}, "InternalError", false, 1},
		{Fault{Kind: Duplicate}, "", true, 1},
	} {
		t.Run(string(c.fault.Kind), func(t *testing.T) {
			t.Parallel()
			w := Start(t)
			c.fault.Action, c.fault.Rate, c.fault.Times = "RunInstances", 1, 1
			w.Plan(1, c.fault)
			_, err := w.Client().Call(t.Context(), "RunInstances", launch("tok", "k")...)
			if (err == nil) != c.ok || Code(err) != c.code {
				t.Errorf("the caller got %v", err)
			}
			if a := audit(t, w); a.Launched != c.made {
				t.Errorf("%d instances were made, want %d", a.Launched, c.made)
			}
			run(t, w, launch("tok", "k")...)
			if a := audit(t, w); a.Launched != 1 || len(a.Duplicates) != 0 {
				t.Errorf("after the repeat: %+v", a)
			}
			if n := w.Faulted()[c.fault.Kind]; n != 1 {
				t.Errorf("counted %d times", n)
			}
		})
	}
}

func TestHangLastsUntilTheCallerGivesUp(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Plan(1, Fault{Kind: Hang, Rate: 1, Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := w.Client().Call(ctx, "DescribeInstances"); err == nil || ctx.Err() == nil {
		t.Errorf("the call ended after %v with %v", time.Since(began), err)
	}
	seen(t, w) // the next one does not hang
}

func TestDuplicateWithoutATokenIsSeen(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Plan(1, Fault{Action: "RunInstances", Kind: Duplicate, Rate: 1})
	run(t, w, launch("", "k")...)
	if a := audit(t, w); a.Launched != 2 || len(a.Duplicates) != 1 || len(a.Beside) != 1 || !strings.HasPrefix(a.String(), "launched=2 duplicates=2 leaked=2") {
		t.Errorf("the audit says %s: %+v", a, a)
	}
	for _, in := range must[[]Instance](t, "instances")(w.Instances(t.Context())) {
		if err := w.Terminate(t.Context(), in.ID, "Client.InstanceInitiatedShutdown", "test"); err != nil {
			t.Error(err)
		}
	}
	if a := audit(t, w); len(a.Leaked) != 0 || len(a.Duplicates) != 1 {
		t.Errorf("at the end: %+v", a)
	}
}

func TestListsAreLate(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Plan(1, Fault{Kind: ListLate, Rate: 1, For: 700 * time.Millisecond, Times: 1})
	id := run(t, w, launch("tok", "k")...)
	if s := seen(t, w); len(s) != 0 {
		t.Errorf("listed at once: %v", s)
	}
	for _, action := range []string{"DescribeInstances", "TerminateInstances"} {
		if _, err := w.Client().Call(t.Context(), action, "InstanceId.1", id); Code(err) != "InvalidInstanceID.NotFound" {
			t.Errorf("%s: %v", action, err)
		}
	}
	until(t, "the instance is listed", func() bool { return seen(t, w)[id] == "running" })
}

func TestStatesPassByOrGoStale(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Boot(500 * time.Millisecond)
	id := run(t, w, launch("tok", "k")...)
	if s := seen(t, w)[id]; s != "pending" {
		t.Errorf("a new instance is %s", s)
	}
	if _, err := w.Client().Call(t.Context(), "StopInstances", "InstanceId.1", id); Code(err) != "IncorrectInstanceState" {
		t.Errorf("stop of a pending instance: %v", err)
	}
	until(t, "running", func() bool { return seen(t, w)[id] == "running" })

	w.Plan(1, Fault{Kind: Forget, Rate: 1, Times: 1})
	n := must[*Node](t, "TerminateInstances")(w.Client().Call(t.Context(), "TerminateInstances", "InstanceId.1", id))
	if got := n.Find("currentState").S("name"); got != "shutting-down" {
		t.Errorf("the forgotten order was answered with %s", got)
	}
	if s := seen(t, w)[id]; s != "running" {
		t.Errorf("after a forgotten order the instance is %s", s)
	}

	w.Plan(1, Fault{Kind: Stale, Rate: 1, Times: 1, For: 500 * time.Millisecond})
	must[*Node](t, "TerminateInstances")(w.Client().Call(t.Context(), "TerminateInstances", "InstanceId.1", id))
	if s := seen(t, w)[id]; s != "running" {
		t.Errorf("a stale list says %s", s)
	}
	if in := must[[]Instance](t, "instances")(w.Instances(t.Context())); in[0].State != "terminated" {
		t.Errorf("moto says %s", in[0].State)
	}
	until(t, "terminated", func() bool { return seen(t, w)[id] == "terminated" })
}

func TestBackdatedInstanceLooksOld(t *testing.T) {
	t.Parallel()
	w := Start(t)
	id := run(t, w, launch("tok", "k")...)
	w.Backdate(id, time.Hour)
	text := must[*Node](t, "DescribeInstances")(w.Client().Call(t.Context(), "DescribeInstances")).Find("launchTime").Text
	if at, err := time.Parse(time.RFC3339, text); err != nil || time.Since(at) < time.Hour || time.Since(at) > 2*time.Hour {
		t.Errorf("launched at %s (%v)", text, err)
	}
}

func TestStopAndStart(t *testing.T) {
	t.Parallel()
	w := Start(t)
	id := run(t, w, launch("tok", "k")...)
	for _, step := range []struct{ action, want string }{{"StopInstances", "stopped"}, {"StartInstances", "running"}} {
		must[*Node](t, step.action)(w.Client().Call(t.Context(), step.action, "InstanceId.1", id))
		if s := seen(t, w)[id]; s != step.want {
			t.Errorf("after %s: %s", step.action, s)
		}
	}
}

func TestPlanFollowsFromTheSeed(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64, backwards bool) (kinds [200]Kind) {
		p := plan{seed: seed, faults: Storm(0.5, time.Second), done: make([]int, len(Storm(0.5, time.Second)))}
		struck := map[Kind]int{}
		for _, f := range p.faults {
			struck[f.Kind] = 1 // nothing has to be made up for
		}
		for i := range kinds {
			if backwards {
				i = len(kinds) - 1 - i
			}
			kinds[i] = p.draw("RunInstances", i, struck).Kind
		}
		return kinds
	}
	if draw(1, false) != draw(1, true) {
		t.Error("the order of the calls changed the plan")
	}
	if draw(1, false) == draw(2, false) {
		t.Error("two seeds have one plan")
	}
	count := map[Kind]int{}
	for _, k := range draw(1, false) {
		count[k]++
	}
	if count[None] < 60 || count[None] > 160 || count[Forget]+count[Stale] != 0 || count[ListLate] == 0 {
		t.Errorf("drawn: %v", count)
	}
}

func TestEveryKindOfAStormStrikes(t *testing.T) {
	t.Parallel()
	faults := Storm(0.0001, time.Second) // hardly anything by chance
	p := plan{seed: 1, faults: faults, done: make([]int, len(faults))}
	struck := map[Kind]int{}
	for n := range 40 {
		for _, action := range []string{"RunInstances", "TerminateInstances"} {
			if f := p.draw(action, n+1, struck); f.Kind != None {
				if n+1 < 20 {
					t.Errorf("call %d of %s: %s", n+1, action, f.Kind)
				}
				struck[f.Kind]++
			}
		}
	}
	for _, f := range faults {
		if struck[f.Kind] != 1 {
			t.Errorf("%s has struck %d times in a storm that is long enough for each kind once", f.Kind, struck[f.Kind])
		}
	}
}

func TestBucketsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	form := func(action string, params ...string) url.Values {
		f := url.Values{"Action": {action}}
		for i := 0; i < len(params); i += 2 {
			f.Set(params[i], params[i+1])
		}
		return f
	}
	burst := func(b *buckets, f url.Values) (n int) {
		for n < 5000 && b.take(f, at) {
			n++
		}
		return n
	}
	b := newBuckets(1)
	for _, c := range []struct {
		form           url.Values
		size, second10 int // calls at once, and after ten seconds
	}{
		{form("RunInstances", "MaxCount", "1"), 5, 5},
		{form("TerminateInstances", "InstanceId.1", "i-1"), 100, 50},
		{form("DescribeInstances"), 50, 50},
		{form("DescribeInstances", "Filter.1.Name", "x"), 100, 100},
		{form("CreateTags"), 50, 50},
	} {
		at = time.Unix(0, 0)
		got := burst(b, c.form)
		at = at.Add(10 * time.Second)
		if later := burst(b, c.form); got != c.size || later != c.second10 {
			t.Errorf("%v: %d calls at once, want %d; %d after 10 s, want %d", c.form, got, c.size, later, c.second10)
		}
	}
	// 1000 instances at once are one request, and then there are two per second.
	at = time.Unix(100, 0)
	b = newBuckets(1)
	if !b.take(form("RunInstances", "MaxCount", "1000"), at) || b.take(form("RunInstances", "MaxCount", "1"), at) {
		t.Error("the resource bucket does not hold 1000")
	}
	at = at.Add(time.Second)
	if b.take(form("RunInstances", "MaxCount", "3"), at) || !b.take(form("RunInstances", "MaxCount", "2"), at) {
		t.Error("the resource bucket is not refilled with 2 in a second")
	}
}

func TestLimitsAndDenialsAreAnswered(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Limit(1)
	codes := map[string]int{}
	for i := range 12 {
		_, err := w.Client().Call(t.Context(), "RunInstances", launch(fmt.Sprint("tok", i), fmt.Sprint("k", i))...)
		codes[Code(err)]++
	}
	if codes[""] < 5 || codes["RequestLimitExceeded"] < 3 || codes[""]+codes["RequestLimitExceeded"] != 12 {
		t.Errorf("12 launches at once: %v", codes)
	}
	if got := w.Errors()["RunInstances RequestLimitExceeded"]; got != codes["RequestLimitExceeded"] || w.Calls()["RunInstances"] != 12 {
		t.Errorf("counted %v of %v", w.Errors(), w.Calls())
	}
	w.Deny("DescribeInstances")
	_, err := w.Client().Call(t.Context(), "DescribeInstances")
	if Code(err) != "UnauthorizedOperation" || !strings.Contains(err.Error(), "ec2:DescribeInstances") {
		t.Errorf("denied: %v", err)
	}
}

func TestWhatMotoAcceptsAndEC2DoesNot(t *testing.T) {
	t.Parallel()
	w := Start(t)
	for code, params := range map[string][]string{
		"InvalidKeyPair.NotFound": launch("a", "a", "KeyName", "nobody"),
		"InvalidGroup.NotFound":   launch("b", "b", "SecurityGroup.1", "nobody"),
		"InvalidAMIID.NotFound":   append(launch("c", "c")[2:], "ImageId", "ami-0123456789abcdef0"),
		"InvalidParameterValue":   append(append(launch("d", "d")[:6:6], launch("d", "d")[8:]...), "InstanceType", "t3.gigantic"),
		"DryRunOperation":         launch("e", "e", "DryRun", "true"),
	} {
		if _, err := w.Client().Call(t.Context(), "RunInstances", params...); Code(err) != code {
			t.Errorf("%s: %v", code, err)
		}
	}
	if a := audit(t, w); a.Launched != 0 {
		t.Errorf("%d instances were made", a.Launched)
	}
}

func TestInterruptionIsAnnouncedAndDone(t *testing.T) {
	t.Parallel()
	w := Start(t)
	id := run(t, w, launch("tok", "k", "InstanceMarketOptions.MarketType", "spot")...)
	base := must[string](t, "metadata")(w.Metadata(id))
	fetch := func(method, path, token string) (int, string) {
		t.Helper()
		req := must[*http.Request](t, "request")(http.NewRequestWithContext(t.Context(), method, base+path, nil))
		if method == http.MethodPut {
			req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60")
		}
		req.Header.Set("X-aws-ec2-metadata-token", token)
		resp := must[*http.Response](t, path)(http.DefaultClient.Do(req))
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	const action = "/latest/meta-data/spot/instance-action"
	if status, _ := fetch(http.MethodGet, action, ""); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}
	_, token := fetch(http.MethodPut, "/latest/api/token", "")
	if status, _ := fetch(http.MethodGet, action, token); status != http.StatusNotFound {
		t.Errorf("before the notice: %d", status)
	}
	if _, got := fetch(http.MethodGet, "/latest/meta-data/instance-id", token); got != id {
		t.Errorf("the instance is %s", got)
	}
	w.Interrupt(id, 300*time.Millisecond)
	_, text := fetch(http.MethodGet, action, token)
	var n struct {
		Action string
		Time   time.Time
	}
	if err := json.Unmarshal([]byte(text), &n); err != nil || n.Action != "terminate" || time.Until(n.Time) > time.Second {
		t.Errorf("the notice is %s (%v)", text, err)
	}
	until(t, "terminated", func() bool { return seen(t, w)[id] == "terminated" })
	in := must[*Node](t, "DescribeInstances")(w.Client().Call(t.Context(), "DescribeInstances", "InstanceId.1", id)).instances()[0]
	if got := in.S("stateReason", "code"); got != "Server.SpotInstanceTermination" {
		t.Errorf("the state's reason is %s", got)
	}
}

func TestPricesAndConsoles(t *testing.T) {
	t.Parallel()
	w := Start(t)
	w.Price("t3.small", 0.0208)
	w.Price("m5.large", 0.096)
	req := must[*http.Request](t, "request")(http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL, strings.NewReader(
		`{"ServiceCode":"AmazonEC2","Filters":[{"Field":"instanceType","Type":"TERM_MATCH","Value":"t3.small"}]}`)))
	req.Header.Set("X-Amz-Target", "AWSPriceListService.GetProducts")
	resp := must[*http.Response](t, "GetProducts")(http.DefaultClient.Do(req))
	defer resp.Body.Close()
	var out struct{ PriceList []string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || len(out.PriceList) != 1 || !strings.Contains(out.PriceList[0], `"USD":"0.0208000000"`) {
		t.Errorf("the price list is %v (%v)", out.PriceList, err)
	}
	id := run(t, w, launch("tok", "k")...)
	w.Print(id, func() []byte { return []byte("kernel panic") })
	n := must[*Node](t, "GetConsoleOutput")(w.Client().Call(t.Context(), "GetConsoleOutput", "InstanceId", id))
	if n.S("output") != "a2VybmVsIHBhbmlj" {
		t.Errorf("the console says %q", n.S("output"))
	}
}

func TestWorldsAreAccountsOfTheirOwn(t *testing.T) {
	t.Parallel()
	a, b := Start(t), Start(t)
	run(t, a, launch("tok", "k")...)
	if s := seen(t, b); len(s) != 0 {
		t.Errorf("another account sees %v", s)
	}
	if run(t, b, launch("tok", "k")...); audit(t, a).Launched != 1 {
		t.Error("accounts share tokens")
	}
}

func TestTwoMachinesOfOneWorkerAreSeen(t *testing.T) {
	t.Parallel()
	w := Start(t)
	one := func(key string) string {
		t.Helper()
		params := launch("tok-"+key, key)
		params[len(params)-1] = "w1"
		return run(t, w, params...)
	}
	end := func(id string) {
		t.Helper()
		must[*Node](t, "TerminateInstances")(w.Client().Call(t.Context(), "TerminateInstances", "InstanceId.1", id))
	}
	end(one("k1"))
	second := one("k2")
	if a := audit(t, w); len(a.Beside) != 0 {
		t.Errorf("a replacement counts: %+v", a)
	}
	third := one("k3")
	if a := audit(t, w); len(a.Beside) != 1 || len(a.Duplicates) != 0 || a.Clean() {
		t.Errorf("two at once: %+v", a)
	}
	end(second)
	end(third)
	if a := audit(t, w); a.String() != "launched=3 duplicates=1 leaked=0" {
		t.Errorf("%s", a)
	}
}
