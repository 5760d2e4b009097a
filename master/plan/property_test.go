package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// anyConfig draws the text of a valid configuration. What is drawn of one part does not depend on the others, so two draws differ in anything.
func anyConfig(t *rapid.T) string {
	var b strings.Builder
	word := rapid.SampledFrom([]string{"a", "b", "c"})
	one := func(label string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, label) }
	fmt.Fprintf(&b, "variable \"token\" {\n  sensitive = true\n}\nvariable \"pin\" {\n  sensitive = true\n}\nlocals {\n  greeting = \"hello-${var.token}\"\n}\n")
	fmt.Fprintf(&b, "master {\n  on_master_stop = %q\n  max_attempts = %d\n}\n", one("stop", "keep", "drain"), rapid.IntRange(1, 3).Draw(t, "attempts"))
	fmt.Fprintf(&b, "provider \"cloud\" \"main\" {\n  region = %q\n%s}\n", one("region", "eu-1", "eu-2"), one("key", "", "  key = var.token\n"))
	locks := rapid.SliceOfNDistinct(word, 0, 3, rapid.ID).Draw(t, "locks")
	for _, l := range locks {
		fmt.Fprintf(&b, "lock %q {\n  max = %d\n}\n", l, rapid.IntRange(1, 2).Draw(t, "max"))
	}
	pools := rapid.SliceOfNDistinct(word, 1, 3, rapid.ID).Draw(t, "pools")
	for _, p := range pools {
		fmt.Fprintf(&b, "worker \"pool-%s\" {\n  provider = provider.cloud.main\n  count = %d\n  max_builds = %d\n  instance {\n    image = %q\n%s%s%s  }\n}\n", p,
			rapid.IntRange(1, 4).Draw(t, "count"), rapid.IntRange(0, 2).Draw(t, "builds"), one("image", "debian", "alpine"),
			one("env", "", "    env = { A = \"1\" }\n", "    env = { T = local.greeting }\n", "    env = { (var.token) = \"x${count.index}\" }\n"),
			one("login", "", "    login = var.token\n", "    login = \"x${var.pin}\"\n"),
			one("memory", "", "    max_memory = var.pin\n", "    max_memory = 5\n"))
	}
	fmt.Fprintf(&b, "worker \"single\" {\n  provider = provider.cloud.main\n  idle = %q\n}\n", "terminate")
	builders := rapid.SliceOfNDistinct(word, 1, 3, rapid.ID).Draw(t, "builders")
	var refs []string
	for _, name := range builders {
		workers := "worker.single"
		if rapid.Bool().Draw(t, "pool") {
			workers = "worker.pool-" + pools[0]
		}
		fmt.Fprintf(&b, "builder %q {\n  workers = [%s]\n  collapse = %v\n", name, workers, rapid.Bool().Draw(t, "collapse"))
		if len(locks) > 0 && rapid.Bool().Draw(t, "locked") {
			fmt.Fprintf(&b, "  locks = [lock.%s]\n", locks[0])
		}
		for i := range rapid.IntRange(1, 3).Draw(t, "steps") {
			fmt.Fprintf(&b, "  step \"shell\" \"s%d\" {\n    command = [\"make\", %q]\n%s  }\n", i, one("goal", "all", "test"), one("with", "", "    env = { T = var.token }\n", "    when = build.number > 1\n"))
		}
		b.WriteString("}\n")
		refs = append(refs, "builder."+name)
	}
	fmt.Fprintf(&b, "scheduler \"force\" \"force\" {\n  builders = [%s]\n}\n", strings.Join(refs, ", "))
	return b.String()
}

// Secrets that are looked for in everything that leaves.
const (
	token = "tok3n-that-must-not-leave"
	pin   = "73519284"
)

type loader interface {
	Fatalf(string, ...any)
	Helper()
}

func loadWith(t loader, src, token, pin string) *hcl.Config {
	t.Helper()
	cfg, diags := hcl.LoadFiles(map[string][]byte{"main.hcl": []byte(src)}, hcl.Options{Kinds: map[string]providers.Kind{"cloud": cloud{"cloud"}},
		Variables: map[string]string{"token": token, "pin": pin}, Getenv: func(string) string { return "" }})
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, src)
	}
	return cfg
}

// live makes some of the workers' instances live, some with builds.
func live(t *rapid.T, test *testing.T, cfg *hcl.Config) []string {
	var names []string
	for i, w := range cfg.Workers {
		switch rapid.IntRange(0, 2).Draw(t, "live") {
		case 1:
			names = append(names, w.Name)
		case 2:
			names = append(names, fmt.Sprintf("%s*%d", w.Name, i+1))
		}
	}
	return names
}

func TestAPlanOfTheSameIsEmptyWhateverItIs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		src := anyConfig(rt)
		in := input(t, loadWith(rt, src, token, pin), loadWith(rt, src, token, pin))
		in.Snapshot, in.Seen = fleetOf(t, in.Old, live(rt, t, in.Old)...)
		p := Compute(in)
		if !p.Empty() || p.Next != p.Base || len(p.Diagnostics)+len(p.Drift)+len(p.Work) > 0 || p.SourceChanged {
			rt.Fatalf("%s\n%+v", asText(t, p), p.Diagnostics)
		}
		if p.Summary.Instances[Keep] != len(p.Instances) || !strings.HasPrefix(asText(t, p), "No changes.") {
			rt.Fatalf("%s", asText(t, p))
		}
	})
}

func TestNoPlanHoldsASecret(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		old := loadWith(rt, anyConfig(rt), token, pin)
		tokenNow := rapid.SampledFrom([]string{token, token + "-rotated"}).Draw(rt, "token")
		new := loadWith(rt, anyConfig(rt), tokenNow, pin)
		in := input(t, old, new)
		in.Snapshot, in.Seen = fleetOf(t, old, live(rt, t, old)...)
		if rapid.Bool().Draw(rt, "first") {
			in.Old, in.Base = nil, 0
		}
		in.Findings = []Finding{{Provider: "main", Finding: providers.Finding{Summary: "Refused", Detail: "the cloud says: bad key " + tokenNow}}}
		in.Queued = []model.Request{{ID: 1, Builder: "a", Generation: 2}}
		p := Compute(in)
		b, err := json.Marshal(p)
		if err != nil {
			rt.Fatal(err)
		}
		for _, what := range []string{string(b), asText(t, p)} {
			if strings.Contains(what, token) || strings.Contains(what, pin) {
				rt.Fatalf("a secret is in\n%s", what)
			}
		}
	})
}

// What a plan counts is what it lists, and what it calls changed differs.
func TestAPlanAgreesWithItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		old, new := loadWith(rt, anyConfig(rt), token, pin), loadWith(rt, anyConfig(rt), token, pin)
		in := input(t, old, new)
		in.Snapshot, in.Seen = fleetOf(t, old, live(rt, t, old)...)
		p := Compute(in)
		counts := map[Action]int{}
		specs := map[string]string{}
		for _, w := range new.Workers {
			specs[w.Name] = w.Spec
		}
		actions := map[string]Action{}
		for _, c := range p.Changes {
			counts[c.Action]++
			actions[c.Address] = c.Action
			if (c.Action == Update || c.Action == Replace) && len(c.Attributes) == 0 && c.Reason != "provider.cloud.main changes" {
				rt.Errorf("%s changes, and nothing of it does", c.Address)
			}
			for _, a := range c.Attributes {
				if !a.Sensitive && fmt.Sprint(a.Before) == fmt.Sprint(a.After) && len(a.Inputs) == 0 {
					rt.Errorf("%s: %s is the same: %v", c.Address, a.Path, a.After)
				}
			}
		}
		if s := p.Summary; counts[Create] != s.Add || counts[Update] != s.Change || counts[Replace] != s.Replace || counts[Remove] != s.Remove || counts[NoOp] != s.NoOp {
			rt.Errorf("%v, %+v", counts, s)
		}
		for _, i := range p.Instances {
			busy := len(i.Builds) > 0
			want := Keep
			switch actions["worker."+i.Worker] {
			case Replace:
				want = map[bool]Fate{false: ReplaceWhenIdle, true: ReplaceAfterWork}[busy]
			case Remove:
				want = map[bool]Fate{false: End, true: EndAfterWork}[busy]
			}
			if i.Fate != want {
				rt.Errorf("%s: %s, want %s", i.Key, i.Fate, want)
			}
		}
		if len(p.Changes) < len(new.Workers)+len(new.Builders) {
			rt.Errorf("%d changes", len(p.Changes))
		}
	})
}
