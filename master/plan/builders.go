package plan

import (
	"reflect"
	"slices"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
)

// sameBuilder is the short way: nothing that is written differs, and nothing that it uses has changed.
func (pl *planner) sameBuilder(o, n *hcl.Builder) bool {
	if !pl.inputs.same || o.Description != n.Description || !slices.Equal(o.Workers, n.Workers) || !slices.Equal(o.Locks, n.Locks) || o.Collapse != n.Collapse ||
		o.MaxAttempts != n.MaxAttempts || o.BuildDir != n.BuildDir || !sameValues(o.Properties, n.Properties) || len(o.Steps) != len(n.Steps) {
		return false
	}
	x, _ := pl.old.EnvExpression(o)
	y, _ := pl.New.EnvExpression(n)
	if x.Text != y.Text {
		return false
	}
	for i, s := range o.Steps {
		if !pl.sameStep(s, n.Steps[i]) {
			return false
		}
	}
	return true
}

func (pl *planner) sameStep(o, n *hcl.Step) bool {
	return o.Name == n.Name && o.Kind == n.Kind && flagsOf(o) == flagsOf(n) &&
		slices.EqualFunc(pl.old.Expressions(o), pl.New.Expressions(n), func(a, b hcl.Expr) bool { return a.Path == b.Path && a.Text == b.Text })
}

// flags are a step's options that are the same for every build.
type flags struct{ HaltOnFailure, FlunkOnFailure, WarnOnFailure, FlunkOnWarnings, WarnOnWarnings, AlwaysRun bool }

func flagsOf(s *hcl.Step) flags {
	return flags{s.HaltOnFailure, s.FlunkOnFailure, s.WarnOnFailure, s.FlunkOnWarnings, s.WarnOnWarnings, s.AlwaysRun}
}

func (pl *planner) builderAttrs(cfg *hcl.Config, secrets []string, b *hcl.Builder) []attr {
	own := struct {
		Description string
		Workers     []any
		Locks       []hcl.Access
		Collapse    bool
		MaxAttempts int
		BuildDir    string
		Properties  map[string]any
	}{b.Description, pl.foldWorkers(cfg, b.Workers), b.Locks, b.Collapse, b.MaxAttempts, b.BuildDir, b.Properties}
	list := flatten(nil, "", reflect.ValueOf(own), 0)
	for i := range list {
		switch a := &list[i]; a.path {
		case "max_attempts":
			a.zero = b.MaxAttempts == cfg.Master.MaxAttempts
		case "build_dir":
			a.zero = b.BuildDir == b.Name
		}
	}
	if env, ok := cfg.EnvExpression(b); ok {
		list = append(list, expression("", env, secrets))
	}
	order := []any{}
	for _, s := range b.Steps {
		order = append(order, s.Name)
		prefix := "step." + s.Name
		list = append(list, attr{path: prefix, value: s.Kind})
		for _, a := range flatten(nil, prefix, reflect.ValueOf(flagsOf(s)), 0) {
			a.zero = a.value == (a.path == prefix+".flunk_on_failure" || a.path == prefix+".halt_on_failure" && s.Kind != "shell" && s.Kind != "set_property" && s.Kind != "trigger")
			list = append(list, a)
		}
		for _, e := range cfg.Expressions(s) {
			list = append(list, expression(prefix, e, secrets))
		}
	}
	return append(list, attr{path: "steps", value: order, zero: true})
}

func expression(prefix string, e hcl.Expr, secrets []string) attr {
	return attr{path: join(prefix, e.Path), value: e.Text, isExpr: true, expr: e, sensitive: holdsText(e.Text, secrets)}
}

// judgeBuilder leaves the order of steps away where the steps that come and go say it already, and tells a change of the definition, which what runs or waits
// keeps, from one of who builds and when, which holds for what waits, too.
func (pl *planner) judgeBuilder(c *Change, o, n *hcl.Builder) {
	common := func(a, b *hcl.Builder) (names []string) {
		for _, s := range a.Steps {
			if slices.ContainsFunc(b.Steps, func(t *hcl.Step) bool { return t.Name == s.Name }) {
				names = append(names, s.Name)
			}
		}
		return names
	}
	if slices.Equal(common(o, n), common(n, o)) {
		c.Attributes = slices.DeleteFunc(c.Attributes, func(a Attribute) bool { return a.Path == "steps" })
	}
	switch {
	case len(c.Attributes) == 0:
		c.Action = NoOp
	case slices.ContainsFunc(c.Attributes, func(a Attribute) bool {
		return a.Path == "steps" || a.Path == "env" || a.Path == "build_dir" || under(a.Path, "step") || under(a.Path, "properties")
	}):
		pl.redefined[n.Name] = true
		c.Note = "new requests are built so; what runs or waits keeps its definition"
	}
}

// folded is a list of workers in short.
type folded struct {
	cfg   *hcl.Config
	names []string
	short []any
}

// foldWorkers writes a list of workers as people do: worker.linux[1..40] for those of a pool that follow each other. Thousands of builders may name the
// same thousands of workers, so what was folded once is not folded again.
func (pl *planner) foldWorkers(cfg *hcl.Config, names []string) []any {
	for _, f := range pl.folded {
		if f.cfg == cfg && slices.Equal(f.names, names) {
			return f.short
		}
	}
	workers := pl.newWorkers
	if cfg == pl.old {
		workers = pl.oldWorkers
	}
	var short []any
	for i := 0; i < len(names); {
		pool := ""
		if w := workers[names[i]]; w != nil {
			pool = w.Pool
		}
		j := i + 1
		for pool != "" && j < len(names) && workers[names[j]] != nil && workers[names[j]].Pool == pool {
			j++
		}
		if pool == "" || j == i+1 {
			short = append(short, "worker."+names[i])
			i++
			continue
		}
		var numbers []string
		for _, n := range names[i:j] {
			numbers = append(numbers, strings.TrimPrefix(n, pool+"-"))
		}
		short = append(short, "worker."+pool+"["+spans(numbers)+"]")
		i = j
	}
	if len(pl.folded) < 64 {
		pl.folded = append(pl.folded, folded{cfg, names, short})
	}
	return short
}
