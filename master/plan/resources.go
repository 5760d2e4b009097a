package plan

import (
	"reflect"
	"slices"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
)

// planner is one run of Compute.
type planner struct {
	Input
	p      *Plan
	old    *hcl.Config // never nil
	inputs *inputs
	fleet  *fleet
	folded []folded

	redefined map[string]bool // builders whose builds are made otherwise

	oldSecrets, newSecrets []string // texts of sensitive variables
	oldWorkers, newWorkers map[string]*hcl.Worker
	byAddress              map[string]*Change // once all changes are there
}

// kindOf says how resources of one kind are compared.
type kindOf[T any] struct {
	kind    string
	name    func(*T) string
	address func(*T) string // after the kind
	rng     func(*T) hcl2.Range
	same    func(old, new *T) bool
	flat    func(cfg *hcl.Config, secrets []string, x *T) []attr
	judge   func(c *Change, old, new *T) // refines an update: action and reason
}

// compare adds a Change for each resource of a kind: in the order of the new configuration, and then what is gone in the order of the old one.
func compare[T any](pl *planner, k kindOf[T], old, new []T) {
	before := make(map[string]*T, len(old))
	for i := range old {
		before[k.name(&old[i])] = &old[i]
	}
	kept := make(map[string]bool, len(new))
	for i := range new {
		n := &new[i]
		name := k.name(n)
		kept[name] = true
		c := Change{Address: k.kind + "." + k.address(n), Kind: k.kind, Name: name, Action: NoOp, Range: place(k.rng(n))}
		o := before[name]
		switch {
		case o == nil:
			c.Action = Create
			c.Attributes, _ = diffAttrs(nil, sorted(k.flat(pl.New, pl.newSecrets, n)), nil)
		case !k.same(o, n):
			c.Attributes, c.Unchanged = diffAttrs(sorted(k.flat(pl.old, pl.oldSecrets, o)), sorted(k.flat(pl.New, pl.newSecrets, n)), pl.inputs)
			if len(c.Attributes) > 0 {
				c.Action = Update
			}
		}
		if o != nil && k.judge != nil {
			k.judge(&c, o, n)
		}
		pl.p.Changes = append(pl.p.Changes, c)
	}
	for i := range old {
		o := &old[i]
		if name := k.name(o); !kept[name] {
			kept[name] = true
			c := Change{Address: k.kind + "." + k.address(o), Kind: k.kind, Name: name, Action: Remove}
			c.Attributes, _ = diffAttrs(sorted(k.flat(pl.old, pl.oldSecrets, o)), nil, nil)
			pl.p.Changes = append(pl.p.Changes, c)
		}
	}
}

func place(r hcl2.Range) *hcl.Range {
	if r.Filename == "" {
		return nil
	}
	return &hcl.Range{Filename: r.Filename, Start: hcl.Pos(r.Start), End: hcl.Pos(r.End)}
}

// resources compares everything.
func (pl *planner) resources() {
	old, new := pl.old, pl.New
	pl.master()
	compare(pl, kindOf[hcl.Provider]{kind: "provider", name: func(x *hcl.Provider) string { return x.Name }, address: func(x *hcl.Provider) string { return x.Kind + "." + x.Name },
		rng:  func(x *hcl.Provider) hcl2.Range { return x.Range },
		same: func(o, n *hcl.Provider) bool { return o.Kind == n.Kind && reflect.DeepEqual(o.Config, n.Config) }, flat: providerAttrs, judge: judgeProvider}, old.Providers, new.Providers)
	compare(pl, kindOf[hcl.Secret]{kind: "secret", name: func(x *hcl.Secret) string { return x.Name }, address: func(x *hcl.Secret) string { return x.Name },
		rng: func(x *hcl.Secret) hcl2.Range { return x.Range },
		same: func(o, n *hcl.Secret) bool {
			return o.Env == n.Env && o.File == n.File && slices.Equal(o.Command, n.Command)
		}, flat: secretAttrs}, old.Secrets, new.Secrets)
	compare(pl, kindOf[hcl.Lock]{kind: "lock", name: func(x *hcl.Lock) string { return x.Name }, address: func(x *hcl.Lock) string { return x.Name },
		rng:  func(x *hcl.Lock) hcl2.Range { return x.Range },
		same: func(o, n *hcl.Lock) bool { return o.Max == n.Max && o.PerWorker == n.PerWorker }, flat: lockAttrs}, old.Locks, new.Locks)
	compare(pl, kindOf[hcl.Worker]{kind: "worker", name: func(x *hcl.Worker) string { return x.Name }, address: func(x *hcl.Worker) string { return x.Name },
		rng: func(x *hcl.Worker) hcl2.Range { return x.Range }, same: sameWorker, flat: workerAttrs, judge: pl.judgeWorker}, old.Workers, new.Workers)
	compare(pl, kindOf[hcl.Builder]{kind: "builder", name: func(x *hcl.Builder) string { return x.Name }, address: func(x *hcl.Builder) string { return x.Name },
		rng: func(x *hcl.Builder) hcl2.Range { return x.Range }, same: pl.sameBuilder, flat: pl.builderAttrs, judge: pl.judgeBuilder}, old.Builders, new.Builders)
	compare(pl, kindOf[hcl.Scheduler]{kind: "scheduler", name: func(x *hcl.Scheduler) string { return x.Name }, address: func(x *hcl.Scheduler) string { return x.Kind + "." + x.Name },
		rng: func(x *hcl.Scheduler) hcl2.Range { return x.Range }, same: sameScheduler, flat: schedulerAttrs, judge: judgeScheduler}, old.Schedulers, new.Schedulers)
	for i := range pl.p.Changes {
		c := &pl.p.Changes[i]
		if c.Kind == "worker" {
			c.Pool = pl.poolOf(c.Name)
		}
	}
}

func (pl *planner) poolOf(worker string) string {
	if w := pl.newWorkers[worker]; w != nil {
		return w.Pool
	}
	if w := pl.oldWorkers[worker]; w != nil {
		return w.Pool
	}
	return ""
}

func (pl *planner) master() {
	c := Change{Address: "master", Kind: "master", Name: pl.New.Master.Name, Action: NoOp, Range: place(pl.New.Master.Range)}
	defaults := masterAttrs(&hcl.Config{Master: hcl.DefaultMaster()})
	before, after := masterAttrs(pl.old), masterAttrs(pl.New)
	if pl.Old == nil {
		before = defaults
	}
	c.Attributes, c.Unchanged = diffAttrs(before, after, nil)
	if len(c.Attributes) > 0 {
		c.Action = Update
		if pl.Old == nil {
			c.Action = Create
			for i := range c.Attributes {
				c.Attributes[i].Before = nil
			}
		}
	}
	if c.Action != Update {
		c.Unchanged = 0
	}
	pl.p.Changes = append(pl.p.Changes, c)
}

// masterNames are attributes that are not named as their fields are.
var masterNames = map[string]string{"on_stop": "on_master_stop"}

func masterAttrs(cfg *hcl.Config) []attr {
	m := cfg.Master
	m.Tokens = nil
	list := flatten(nil, "", reflect.ValueOf(m), 0)
	for i := range list {
		if name := masterNames[list[i].path]; name != "" {
			list[i].path = name
		}
	}
	for _, t := range cfg.Master.Tokens {
		list = append(list, attr{path: "token." + t.Name + ".secret", value: "secret." + t.Secret.Name}, attr{path: "token." + t.Name + ".role", value: t.Role})
	}
	return sorted(list)
}

func providerAttrs(cfg *hcl.Config, secrets []string, p *hcl.Provider) []attr {
	list := flatten(nil, "", reflect.ValueOf(p.Config), 0)
	list = hide(list, "", cfg.SensitiveProvider(p), secrets)
	markDefaults(list, "", p.Attrs)
	list = addWritten(list, cfg, "", p.Attrs, cfg.SensitiveProvider(p), secrets)
	return append(list, attr{path: "kind", value: p.Kind, zero: true})
}

// markDefaults notes which values nobody has written, as far as the source is known: they are no news of a new resource.
func markDefaults(list []attr, prefix string, written map[string]hcl2.Range) {
	if written == nil {
		return
	}
	tops := map[string]bool{}
	for path := range written {
		tops[join(prefix, path)] = true
	}
	for i := range list {
		if a := &list[i]; !a.sensitive && !writtenPath(tops, a.path) {
			a.zero, a.unwritten = true, true
		}
	}
}

func writtenPath(tops map[string]bool, path string) bool {
	for p := path; p != ""; {
		if tops[p] || tops[unindexed(p)] {
			return true
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return false
}

// addWritten adds, as they are written, the attributes that a provider has decoded under another name. What is made from sensitive variables is there already.
func addWritten(list []attr, cfg *hcl.Config, prefix string, written map[string]hcl2.Range, sensitive, secrets []string) []attr {
	decoded := map[string]bool{} // every path with all that it is in
	for i := range list {
		for p := unindexed(list[i].path); p != "" && !decoded[p]; p = p[:max(0, strings.LastIndexByte(p, '.'))] {
			decoded[p] = true
		}
	}
	blocks := map[string]bool{}
	for path := range written {
		if i := strings.LastIndexByte(path, '.'); i >= 0 {
			blocks[path[:i]] = true
		}
	}
	for path, rng := range written {
		full := join(prefix, path)
		if decoded[full] || blocks[path] || slices.Contains(sensitive, path) {
			continue
		}
		text := cfg.Text(rng)
		if text == path[strings.LastIndexByte(path, '.')+1:] {
			text = "{}" // a block without attributes
		}
		list = append(list, attr{path: full, value: text, isExpr: true, expr: hcl.Expr{Path: full, Text: text, Range: rng}, sensitive: holdsText(text, secrets)})
	}
	return list
}

// unindexed is a path without positions: block[0].name is block.name.
func unindexed(path string) string {
	var b strings.Builder
	skip := false
	for _, r := range path {
		switch {
		case r == '[':
			skip = true
		case r == ']' && skip:
			skip = false
		case !skip:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func judgeProvider(c *Change, o, n *hcl.Provider) {
	if o.Kind != n.Kind {
		c.Action, c.Reason = Replace, "it is of another kind"
		for i := range c.Attributes {
			c.Attributes[i].ForcesReplace = c.Attributes[i].Path == "kind"
		}
	}
}

func secretAttrs(_ *hcl.Config, _ []string, s *hcl.Secret) []attr {
	list := []attr{{path: "env", value: s.Env, zero: s.Env == ""}, {path: "file", value: s.File, zero: s.File == ""}}
	if len(s.Command) > 0 {
		list = flatten(list, "command", reflect.ValueOf(s.Command), 0)
	}
	return list
}

func lockAttrs(_ *hcl.Config, _ []string, l *hcl.Lock) []attr {
	scope := "master"
	if l.PerWorker {
		scope = "worker"
	}
	return []attr{{path: "max", value: float64(l.Max), zero: l.Max == 1}, {path: "scope", value: scope, zero: !l.PerWorker}}
}

func sameScheduler(o, n *hcl.Scheduler) bool {
	x, y := *o, *n
	x.Range, y.Range = hcl2.Range{}, hcl2.Range{}
	return reflect.DeepEqual(x, y)
}

func schedulerAttrs(_ *hcl.Config, _ []string, s *hcl.Scheduler) []attr {
	x := *s
	x.Name = "" // it is in the address
	list := flatten(nil, "", reflect.ValueOf(x), 0)
	for i := range list {
		list[i].zero = list[i].zero || list[i].path == "kind" // it is in the address
	}
	return list
}

func judgeScheduler(c *Change, o, n *hcl.Scheduler) {
	switch {
	case c.Action == NoOp:
	case o.Kind != n.Kind:
		c.Action, c.Reason = Replace, "it is of another kind"
	case o.Every != n.Every || o.Cron != n.Cron || o.Zone != n.Zone:
		c.Note = "its next time is reckoned anew"
	case n.Kind == "periodic" || n.Kind == "nightly":
		c.Note = "its timer goes on"
	}
}

// providerOf is what a worker's machine is made by.
func providerOf(cfg *hcl.Config, w *hcl.Worker) *hcl.Provider {
	for i := range cfg.Providers {
		if cfg.Providers[i].Name == w.Provider {
			return &cfg.Providers[i]
		}
	}
	return nil
}
