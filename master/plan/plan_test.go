package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// cloud stands for any kind of provider. Its name is that of the other one in small letters.
type cloud struct{ name string }

type cloudConfig struct {
	Region string
	Key    providers.Secret
}

type cloudSpec struct {
	Image  string
	Type   string
	Memory int64 // max_memory: named otherwise than its attribute
	Env    map[string]string
	Login  providers.Secret
	Disks  []cloudDisk
	boot   time.Duration
}

type cloudDisk struct {
	Size int64
}

func (c cloud) Name() string { return c.name }

func (cloud) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	var c cloudConfig
	a := decode.Body(body, ctx, "region", "key")
	a.String("region", &c.Region)
	a.String("key", (*string)(&c.Key))
	return c, a.Diags
}

func (cloud) DecodeInstance(_ any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	s := cloudSpec{Image: "base", Type: "small"}
	a := decode.Body(body, ctx, "image", "type", "max_memory", "env", "login", "boot", "disk")
	a.String("image", &s.Image)
	a.String("type", &s.Type)
	a.Int("max_memory", &s.Memory, 0, 1<<40)
	a.Env("env", &s.Env)
	a.String("login", (*string)(&s.Login))
	a.Duration("boot", &s.boot)
	var disk int64
	a.Int("disk", &disk, 0, 1<<20)
	if disk > 0 {
		s.Disks = []cloudDisk{{disk}}
	}
	return s, a.Diags
}

func (cloud) Open(context.Context, providers.Env) (providers.Provider, providers.Limits, error) {
	return nil, providers.Limits{}, errors.New("the test's cloud opens nothing")
}

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// load makes a configuration. Variables are NAME=VALUE; NAME.txt=TEXT is a file.
func load(t testing.TB, src string, vars ...string) *hcl.Config {
	t.Helper()
	o := hcl.Options{Kinds: map[string]providers.Kind{"cloud": cloud{"cloud"}, "other": cloud{"other"}}, Variables: map[string]string{}, Getenv: func(string) string { return "" }}
	files := map[string][]byte{"main.hcl": []byte(src)}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		if strings.Contains(name, ".") {
			files[name] = []byte(value)
		} else {
			o.Variables[name] = value
		}
	}
	cfg, diags := hcl.LoadFiles(files, o)
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, src)
	}
	return cfg
}

// base is the configuration that tests start from.
const base = `
provider "cloud" "main" {
  region = "eu-1"
}
lock "db" {}
worker "linux" {
  count    = 3
  provider = provider.cloud.main
  price    = 0.10
  instance {
    image = "debian-12"
    type  = "small"
    env   = { SLOT = "slot-${count.index}" }
  }
}
worker "big" {
  provider = provider.cloud.main
  price    = 1
  instance {
    image = "debian-12"
    type  = "large"
  }
}
builder "app" {
  workers = [worker.linux]
  locks   = [lock.db]
  step "shell" "test" {
    command = ["make", "test"]
    timeout = "10m"
  }
}
builder "doc" {
  workers = [worker.big]
  step "shell" "build" {
    command = "make doc"
  }
}
scheduler "force" "force" {
  builders = [builder.app, builder.doc]
}
scheduler "nightly" "night" {
  builders = [builder.app]
  cron     = "30 3 * * *"
}
`

// edit replaces texts: old, new, old, new.
func edit(t testing.TB, src string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(src, pairs[i]) {
			t.Fatalf("there is no %q to be replaced", pairs[i])
		}
		src = strings.Replace(src, pairs[i], pairs[i+1], 1)
	}
	return src
}

// fleetOf makes a live fleet: an attached instance for each worker that is named; "name*3" has build 3 on it.
func fleetOf(t testing.TB, cfg *hcl.Config, names ...string) (*core.Snapshot, map[string]Seen) {
	t.Helper()
	sn := &core.Snapshot{Time: testTime, Generation: 3}
	seen := map[string]Seen{}
	workers, builders := workersOf(cfg), map[string]string{}
	for _, b := range cfg.Builders {
		for _, w := range b.Workers {
			builders[w] = b.Name
		}
	}
	for _, n := range names {
		n, build, busy := strings.Cut(n, "*")
		w := workers[n]
		if w == nil {
			t.Fatalf("there is no worker %s", n)
		}
		key := model.InstanceKey("abc-" + n + "-1")
		in := core.InstanceView{Instance: core.Instance{Key: key, Worker: n, Provider: w.Provider, ProviderID: "i-" + n, Spec: w.Spec, Price: w.Price, BootedAt: testTime}, State: model.InstanceAttached}
		if busy {
			var id model.BuildID
			_, _ = fmt.Sscan(build, &id)
			sn.Builds = append(sn.Builds, core.Build{ID: id, Builder: builders[n], Worker: n, Instance: key, Generation: 3, Phase: model.BuildRunning})
			in.Builds = 1
		}
		sn.Instances = append(sn.Instances, in)
		s := seen[w.Provider]
		s.Instances = append(s.Instances, providers.Instance{Key: providers.Key(key), ID: "i-" + n, Worker: n, State: providers.Running, Facts: map[string]string{"image": "ami-1"}})
		seen[w.Provider] = s
	}
	return sn, seen
}

// input is a refreshed one with a live fleet of the old configuration.
func input(t testing.TB, old, new *hcl.Config, live ...string) Input {
	t.Helper()
	in := Input{Master: "abc", Base: 3, Now: testTime, Old: old, New: new, Refreshed: true}
	in.Snapshot, in.Seen = fleetOf(t, old, live...)
	return in
}

func asText(t testing.TB, p *Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.WriteText(&b, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// actions are the changes that are none of nothing, as one line each.
func actions(p *Plan) (out []string) {
	for _, c := range p.Changes {
		if c.Action != NoOp {
			out = append(out, string(c.Action)+" "+c.Address)
		}
	}
	return out
}

func fatesOf(p *Plan) (out []string) {
	for _, i := range p.Instances {
		out = append(out, i.Key+" "+string(i.Fate))
	}
	return out
}

func TestEachChangeHasItsAction(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		edit []string
		want []string
	}{
		{"nothing", nil, nil},
		{"comments and spaces", []string{`command = "make doc"`, "# a comment\n    command =    \"make doc\"", `["make", "test"]`, "[\n      \"make\", // tool\n \"test\",\n    ]"}, nil},
		{"another order", []string{"lock \"db\" {}\n", "", "builder \"app\"", "lock \"db\" {}\nbuilder \"app\""}, nil},
		{"a default that is written out", []string{"lock \"db\" {}", "lock \"db\" {\n  max = 1\n}"}, nil},
		{"a worker's limit", []string{"price    = 1\n", "price    = 1\n  max_builds = 2\n"}, []string{"update worker.big"}},
		{"an instance's type", []string{`type  = "large"`, `type  = "huge"`}, []string{"replace worker.big"}},
		{"a field without a name outside", []string{`type  = "large"`, "type  = \"large\"\n    boot = \"1m\""}, []string{"replace worker.big"}},
		{"a provider's argument", []string{`region = "eu-1"`, `region = "eu-2"`},
			[]string{"update provider.cloud.main", "replace worker.linux-1", "replace worker.linux-2", "replace worker.linux-3", "replace worker.big"}},
		{"more of a pool", []string{"count    = 3", "count    = 5"}, []string{"create worker.linux-4", "create worker.linux-5", "update builder.app"}},
		{"fewer of a pool", []string{"count    = 3", "count    = 2"}, []string{"remove worker.linux-3", "update builder.app"}},
		{"a step's command", []string{`"make doc"`, `"make docs"`}, []string{"update builder.doc"}},
		{"a step's option", []string{`command = "make doc"`, "command = \"make doc\"\n    always_run = true"}, []string{"update builder.doc"}},
		{"a step more", []string{`step "shell" "build"`, "step \"git\" \"fetch\" {\n repository = \"https://example.org/x.git\"\n}\n  step \"shell\" \"build\""}, []string{"update builder.doc"}},
		{"a lock's number", []string{`lock "db" {}`, "lock \"db\" {\n  max = 3\n}"}, []string{"update lock.db"}},
		{"a scheduler's time", []string{"30 3 * * *", "30 4 * * *"}, []string{"update scheduler.nightly.night"}},
		{"a builder less", []string{edit(t, base[strings.Index(base, `builder "doc"`):strings.Index(base, `scheduler "force"`)]), "", "[builder.app, builder.doc]", "[builder.app]"},
			[]string{"remove builder.doc", "update scheduler.force.force"}},
		{"the master's policy", []string{"provider \"cloud\"", "master {\n  on_master_stop = \"drain\"\n}\nprovider \"cloud\""}, []string{"update master"}},
		{"a secret", []string{"lock \"db\"", "secret \"x\" {\n  env = \"X\"\n}\nlock \"db\""}, []string{"create secret.x"}},
	} {
		old, new := load(t, base), load(t, edit(t, base, tc.edit...))
		p := Compute(input(t, old, new, "linux-1", "big"))
		if diff := cmp.Diff(tc.want, actions(p)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if p.Empty() != (len(tc.want) == 0) || (p.Next == p.Base) != (tc.edit == nil) { // an apply keeps another text, whatever it means
			t.Errorf("%s: empty is %v, next generation %d", tc.name, p.Empty(), p.Next)
		}
	}
}

func TestWhatBecomesOfLiveInstances(t *testing.T) {
	t.Parallel()
	old := load(t, base)
	gone := edit(t, base, base[strings.Index(base, `worker "big"`):strings.Index(base, `builder "app"`)], "", "worker.big", "worker.linux")
	for _, tc := range []struct {
		name   string
		src    string
		live   []string
		change func(in *Input)
		fates  []string
		drift  []string
	}{
		{"kept", base, []string{"linux-1", "big*7"}, nil, []string{"abc-big-1 keep", "abc-linux-1-1 keep"}, nil},
		{"replaced", edit(t, base, `"large"`, `"huge"`), []string{"linux-1", "big"}, nil, []string{"abc-big-1 replace-when-idle", "abc-linux-1-1 keep"}, nil},
		{"replaced after its build", edit(t, base, `"large"`, `"huge"`), []string{"big*7"}, nil, []string{"abc-big-1 replace-after-build"}, nil},
		{"ended", gone, []string{"big"}, nil, []string{"abc-big-1 end"}, nil},
		{"ended after its build", gone, []string{"big*7"}, nil, []string{"abc-big-1 end-after-build"}, nil},
		{"ending already", gone, []string{"big"}, func(in *Input) { in.Snapshot.Instances[0].Instance.Doomed = true }, []string{"abc-big-1 ending"}, nil},
		{"adopted", base, []string{"big"}, func(in *Input) {
			in.Old = load(t, gone)
			in.Snapshot.Workers = []core.WorkerView{{Worker: core.Worker{Name: "big"}, Retired: true}}
		}, []string{"abc-big-1 adopt"}, nil},
		{"an orphan", base, []string{"big"}, func(in *Input) {
			in.Seen["main"] = Seen{Instances: append(in.Seen["main"].Instances, providers.Instance{Key: "abc-who-9", ID: "i-9", State: providers.Running},
				providers.Instance{Key: "abc-over-1", State: providers.Gone}, providers.Instance{Key: "abc-new-1", CreatedAt: testTime.Add(time.Second)})}
		}, []string{"abc-who-9 destroy-orphan", "abc-big-1 keep"}, []string{"orphan abc-who-9"}},
		{"an orphan that nobody will look for", base, []string{"big"}, func(in *Input) {
			in.Seen["main"] = Seen{Instances: append(in.Seen["main"].Instances, providers.Instance{Key: "abc-who-9", ID: "i-9", State: providers.Running}),
				Left: map[string]bool{"abc-who-9": true, "abc-big-1": true}}
		}, []string{"abc-who-9 abandon-orphan", "abc-big-1 keep"}, []string{"orphan abc-who-9"}},
		{"gone", base, []string{"big", "linux-1"}, func(in *Input) { in.Seen["main"] = Seen{Instances: in.Seen["main"].Instances[1:]} },
			[]string{"abc-big-1 gone", "abc-linux-1-1 keep"}, []string{"gone abc-big-1"}},
		{"not there yet", base, []string{"big"}, func(in *Input) {
			in.Seen["main"] = Seen{}
			in.Snapshot.Instances[0].Instance.BootedAt = time.Time{}
		}, []string{"abc-big-1 keep"}, nil},
		{"failed", base, []string{"big"}, func(in *Input) {
			in.Seen["main"].Instances[0].State, in.Seen["main"].Instances[0].Detail = providers.Failed, "out of memory"
		}, []string{"abc-big-1 gone"}, []string{"failed abc-big-1"}},
		{"switched off", base, []string{"big"}, func(in *Input) { in.Seen["main"].Instances[0].State = providers.Stopped }, []string{"abc-big-1 keep"}, []string{"stopped abc-big-1"}},
		{"of another type", base, []string{"big"}, func(in *Input) { in.Seen["main"].Instances[0].Facts["type"] = "tiny" }, []string{"abc-big-1 keep"}, []string{"changed abc-big-1"}},
		{"not asked", base, []string{"big"}, func(in *Input) { in.Seen, in.Refreshed = nil, false }, []string{"abc-big-1 keep"}, nil},
		{"no answer", base, []string{"big"}, func(in *Input) { in.Seen["main"] = Seen{Err: errors.New("timeout")} }, []string{"abc-big-1 keep"}, nil},
		{"another image", base, []string{"big*4", "linux-1"}, func(in *Input) {
			in.Resolved = map[string][]providers.Resolved{"big": {{Attr: "image", Value: "ami-2", Detail: "debian of today"}}, "linux-1": {{Attr: "image", Value: "ami-1"}}, "linux-2": {{Attr: "image", Value: "ami-2"}}}
		}, []string{"abc-big-1 replace-after-build", "abc-linux-1-1 keep"}, nil},
	} {
		in := input(t, old, load(t, tc.src), tc.live...)
		if tc.change != nil {
			tc.change(&in)
		}
		p := Compute(in)
		if diff := cmp.Diff(tc.fates, fatesOf(p)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		var drift []string
		for _, d := range p.Drift {
			drift = append(drift, d.Kind+" "+d.Instance)
		}
		if diff := cmp.Diff(tc.drift, drift); diff != "" {
			t.Errorf("%s: drift: %s", tc.name, diff)
		}
	}
}

func TestAnImageThatMovedBehindAnUnchangedFilterIsAReplacement(t *testing.T) {
	t.Parallel()
	in := input(t, load(t, base), load(t, base), "big", "linux-1")
	in.Resolved = map[string][]providers.Resolved{"big": {{Attr: "image", Value: "ami-2", Detail: "debian of today"}}}
	p := Compute(in)
	if diff := cmp.Diff([]string{"replace worker.big"}, actions(p)); diff != "" || p.Empty() || p.Next != 4 {
		t.Errorf("%s, empty %v, next %d", diff, p.Empty(), p.Next)
	}
	text := asText(t, p)
	for _, want := range []string{`instance.image = "ami-1" -> "ami-2" # forces replacement`, "image stands for another one now: debian of today"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestAnInstanceOfAnOlderGenerationIsReplacedOnce(t *testing.T) {
	t.Parallel()
	in := input(t, load(t, base), load(t, base), "big*4")
	in.Snapshot.Instances[0].Instance.Spec = "older"
	in.Resolved = map[string][]providers.Resolved{"big": {{Attr: "image", Value: "ami-2"}}}
	p := Compute(in)
	if len(actions(p)) > 0 {
		t.Errorf("what its image stands for is no reason for %v", actions(p))
	}
	if diff := cmp.Diff([]string{"abc-big-1 replace-after-build"}, fatesOf(p)); diff != "" || !strings.Contains(p.Instances[0].Reason, "older generation") {
		t.Error(diff, p.Instances[0].Reason)
	}
}

func TestASecretThatIsRotatedIsAnUpdateThatShowsNothing(t *testing.T) {
	t.Parallel()
	src := "variable \"pw\" {\n  sensitive = true\n}\n" + edit(t, base, `type  = "large"`, "login = var.pw")
	p := Compute(input(t, load(t, src, "pw=hunter2-before"), load(t, src, "pw=hunter2-after"), "big"))
	if diff := cmp.Diff([]string{"update worker.big"}, actions(p)); diff != "" {
		t.Error(diff)
	}
	if text := asText(t, p); !strings.Contains(text, "~ instance.login = (sensitive)") || strings.Contains(text, "hunter2") {
		t.Error(text)
	}
	if diff := cmp.Diff([]string{"abc-big-1 keep"}, fatesOf(p)); diff != "" {
		t.Error(diff)
	}
}

func TestRunningBuildsAndWaitingRequestsKeepTheirDefinition(t *testing.T) {
	t.Parallel()
	noDoc := edit(t, base, base[strings.Index(base, `builder "doc"`):strings.Index(base, `scheduler "force"`)], "", "[builder.app, builder.doc]", "[builder.app]")
	queued := []model.Request{{ID: 21, Builder: "app", Generation: 3}, {ID: 22, Builder: "doc", Generation: 2, Worker: "big"}}
	for _, tc := range []struct {
		name, src string
		want      []string
	}{
		{"nothing", base, nil},
		{"a step", edit(t, base, `"make", "test"`, `"make", "check"`), []string{"build 5 keeps-definition", "request 21 keeps-definition"}},
		{"another place to build", edit(t, base, "count    = 3", "count    = 4"), nil},
		{"a builder less", noDoc, []string{"build 6 builder-removed", "request 22 builder-removed"}},
		{"a worker replaced", edit(t, base, `"large"`, `"huge"`), []string{"build 6 worker-replaced"}},
		{"a worker less", edit(t, base, base[strings.Index(base, `worker "big"`):strings.Index(base, `builder "app"`)], "", "worker.big", "worker.linux"), []string{"build 6 worker-removed", "request 22 no-worker"}},
	} {
		in := input(t, load(t, base), load(t, tc.src), "linux-1*5", "big*6")
		in.Queued = queued
		var got []string
		for _, w := range Compute(in).Work {
			got = append(got, fmt.Sprintf("%s %d %s", w.Kind, w.ID, w.Effect))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	noBig := edit(t, base, base[strings.Index(base, `worker "big"`):strings.Index(base, `builder "app"`)], "", "worker.big", "worker.linux")
	noDoc := edit(t, base, base[strings.Index(base, `builder "doc"`):strings.Index(base, `scheduler "force"`)], "", "[builder.app, builder.doc]", "[builder.app]")
	for _, tc := range []struct {
		name   string
		src    string
		change func(in *Input)
		want   []string
	}{
		{"none", base, nil, nil},
		{"a lock's new name", edit(t, base, `lock "db"`, `lock "database"`, "lock.db", "lock.database"), nil, []string{"warning: A renamed lock is a new lock"}},
		{"a lock's new name and number", edit(t, base, `lock "db" {}`, "lock \"database\" {\n  max = 2\n}", "lock.db", "lock.database"), nil, []string{"warning: A renamed lock is a new lock"}},
		{"a lock more", edit(t, base, `lock "db"`, "lock \"database\" {}\nlock \"db\""), nil, nil},
		{"a lock less", edit(t, base, "lock \"db\" {}\n", "", "  locks   = [lock.db]\n", ""), nil, nil},
		{"a builder that is waited for", noDoc, func(in *Input) { in.Queued = []model.Request{{ID: 1, Builder: "doc"}} }, []string{"warning: A builder with waiting requests is removed"}},
		{"all its workers", noBig, func(in *Input) { in.Queued = []model.Request{{ID: 1, Builder: "doc"}} }, []string{"warning: A builder loses all its workers"}},
		{"all its workers, and nobody waits", noBig, nil, nil},
		{"the address", edit(t, base, "lock \"db\"", "master {\n  listen = \":9990\"\n}\nlock \"db\""), nil, []string{"warning: The master must be started again"}},
		{"another kind", edit(t, base, `provider "cloud" "main"`, `provider "other" "main"`, "provider.cloud.main", "provider.other.main", "provider.cloud.main", "provider.other.main"),
			nil, []string{"error: A provider with instances becomes one of another kind"}},
		{"a finding", base, func(in *Input) {
			in.Findings = []Finding{{Provider: "main", Worker: "big", Finding: providers.Finding{Fatal: true, Attr: "type", Summary: "No such type"}}, {Provider: "main", Finding: providers.Finding{Summary: "Slow"}}}
		}, []string{"error: No such type", "warning: Slow"}},
		{"no answer", base, func(in *Input) { in.Seen["main"] = Seen{Err: errors.New("timeout")} }, []string{"warning: provider main can not be asked"}},
	} {
		in := input(t, load(t, base), load(t, tc.src), "linux-1")
		if tc.change != nil {
			tc.change(&in)
		}
		var got []string
		p := Compute(in)
		for _, d := range p.Diagnostics {
			got = append(got, d.Severity+": "+d.Summary)
			if d.Range == nil && strings.HasPrefix(d.Severity, "error") {
				t.Errorf("%s: it has no place", tc.name)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if p.Summary.Errors+p.Summary.Warnings != len(tc.want) {
			t.Errorf("%s: %+v", tc.name, p.Summary)
		}
	}
}

func TestTheGreatestCostIsOneInstanceOfEachLatentWorker(t *testing.T) {
	t.Parallel()
	src := edit(t, base, "  price    = 0.10\n", "")
	in := input(t, load(t, src), load(t, edit(t, src, "count    = 3", "count    = 4")))
	in.Prices = map[string]providers.Price{"linux-1": {Running: 0.2}, "linux-2": {Running: 0.2}, "linux-3": {Running: 0.2}}
	got := Compute(in).Cost
	if diff := cmp.Diff(Cost{Currency: "USD", Before: 1.6, After: 1.6, Unpriced: 1}, got); diff != "" {
		t.Error(diff)
	}
	in.Prices["linux-3"] = providers.Price{Running: 0.2, Most: 0.9} // spot, and on demand where there is none
	if got := Compute(in).Cost; got.After != 2.3 || got.Before != 2.3 {
		t.Errorf("with a dearer last resort: %+v", got)
	}
	if p := Compute(input(t, load(t, base), load(t, base))); p.Cost.Before != 1.3 || p.Cost.After != 1.3 {
		t.Errorf("of equal prices: %+v", p.Cost) // 0.1 + 0.1 + 0.1 is not 0.3
	}
	in.PricesBefore = map[string]providers.Price{"linux-1": {Running: 1}}
	in.Prices["linux-3"] = providers.Price{Running: 0.2}
	if got := Compute(in).Cost.Before; got != 2.4 {
		t.Errorf("before: %v", got)
	}
}

func TestStepsChangeWithTheVariablesAndFilesThatTheyUse(t *testing.T) {
	t.Parallel()
	src := "variable \"target\" {\n  default = \"all\"\n}\nlocals {\n  goal = upper(var.target)\n}\n" +
		edit(t, base, `"make doc"`, `"make ${local.goal} ${file("flags.txt")}"`)
	old := load(t, src, "flags.txt=-j1")
	for _, tc := range []struct {
		vars []string
		want []string
	}{
		{[]string{"flags.txt=-j1"}, nil},
		{[]string{"flags.txt=-j1", "target=all"}, nil},
		{[]string{"flags.txt=-j1", "target=doc"}, []string{"local.goal"}},
		{[]string{"flags.txt=-j2"}, []string{`file("flags.txt")`}},
	} {
		p := Compute(input(t, old, load(t, src, tc.vars...)))
		var got []string
		for _, c := range p.Changes {
			for _, a := range c.Attributes {
				got = append(got, a.Inputs...)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || p.Empty() != (tc.want == nil) {
			t.Errorf("%v: %s", tc.vars, diff)
		}
	}
}

func TestWhatAProviderCallsOtherwiseIsShownAsItIsWritten(t *testing.T) {
	t.Parallel()
	small := "variable \"mib\" {\n  default = 1\n}\n" + edit(t, base, `type  = "large"`, "max_memory = 1024")
	derived := edit(t, small, "max_memory = 1024", "max_memory = var.mib * 1024")
	for _, tc := range []struct {
		old, new *hcl.Config
		want     []string
	}{
		{load(t, small), load(t, edit(t, small, "= 1024", "= 2048")), []string{"instance.max_memory 1024 2048"}},
		{load(t, small), load(t, edit(t, small, "    max_memory = 1024\n", "")), []string{"instance.max_memory 1024 <nil>"}},
		{load(t, base), load(t, small), []string{"instance.max_memory <nil> 1024", "instance.type large <nil>"}},
		{load(t, derived), load(t, derived, "mib=2"), []string{"instance.memory 1024 2048"}},
		{load(t, derived), load(t, edit(t, derived, "price    = 1\n", "price = 2\n"), "mib=2"), []string{"price 1 2", "instance.memory 1024 2048"}},
	} {
		var got []string
		for _, c := range Compute(input(t, tc.old, tc.new)).Changes {
			for _, a := range c.Attributes {
				got = append(got, fmt.Sprint(a.Path, " ", a.Before, " ", a.After))
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTextNeedsNothingButTheJSON(t *testing.T) {
	t.Parallel()
	in := input(t, load(t, base), load(t, edit(t, base, "count    = 3", "count    = 7", `"large"`, `"huge"`, "30 3", "30 4", `"make doc"`, `"make docs"`, `lock "db"`, `lock "x"`, "lock.db", "lock.x")), "linux-1", "big*4")
	in.Queued = []model.Request{{ID: 9, Builder: "doc", Generation: 1}}
	p := Compute(in)
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Plan
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, &back); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(asText(t, p), asText(t, &back)); diff != "" {
		t.Error(diff)
	}
	if back.digest() != p.ID {
		t.Error("the plan's ID is not that of its content")
	}
}

func TestTheSamePlanMadeLaterHasTheSameID(t *testing.T) {
	t.Parallel()
	in := input(t, load(t, base), load(t, edit(t, base, "count    = 3", "count    = 7")), "linux-1", "big*4")
	a := Compute(in)
	in.Now = in.Now.Add(time.Hour)
	if b := Compute(in); a.ID != b.ID || a.CreatedAt.Equal(b.CreatedAt) {
		t.Error(a.ID, b.ID)
	}
	in.Base++
	if b := Compute(in); a.ID == b.ID {
		t.Error("another plan has the same ID")
	}
}
