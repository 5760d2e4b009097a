package hcl

import (
	"cmp"
	"regexp"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

var builderSchema = &hcl2.BodySchema{
	Attributes: attributes("description", "workers", "locks", "collapse", "max_attempts", "build_dir", "env", "properties"),
	Blocks:     []hcl2.BlockHeaderSchema{{Type: "step", LabelNames: []string{"kind", "name"}}},
}

// unsafeDir is what a directory's name on a worker of any system had better not hold.
var unsafeDir = regexp.MustCompile(`[^A-Za-z0-9._-]`)

func (l *loader) builderBlocks(blocks hcl2.Blocks) {
	if len(blocks) > maxBuilders {
		l.errorf(&blocks[maxBuilders].DefRange, "Too many builders", "A configuration may have %d builders.", maxBuilders)
		return
	}
	for _, b := range blocks {
		l.declare("builder", b.Labels[0], b, 0)
		l.cfg.Builders = append(l.cfg.Builders, l.builder(b))
	}
}

func (l *loader) builder(block *hcl2.Block) Builder {
	content, diags := l.content(block.Body, builderSchema, oldBuilder)
	l.diags = append(l.diags, diags...)
	a := &attrs{m: content.Attributes, ctx: l.refs, diags: &l.diags}
	b := Builder{Name: block.Labels[0], MaxAttempts: l.cfg.Master.MaxAttempts, Range: block.DefRange}
	a.str("description", &b.Description)
	a.flag("collapse", &b.Collapse)
	a.integer("max_attempts", &b.MaxAttempts, 1, 1000)
	a.properties("properties", &b.Properties)
	l.accesses(a, &b.Locks)

	b.BuildDir = unsafeDir.ReplaceAllString(b.Name, "_")
	a.text("build_dir", &b.BuildDir)
	if a.has("build_dir") && (unsafeDir.MatchString(b.BuildDir) || strings.Trim(b.BuildDir, ".") == "" || len(b.BuildDir) > 100) {
		a.bad("build_dir", "%q is not the name of one directory: letters, digits, \".\", \"_\" and \"-\" only.", b.BuildDir)
	}
	if env, ok := a.m["env"]; ok {
		b.Env = env.Expr
	}
	errors := countErrors(l.diags)
	b.Workers = l.names(a, "workers", "worker")
	if len(b.Workers) == 0 && countErrors(l.diags) == errors && !diags.HasErrors() && !l.countBroken {
		subject := &block.DefRange
		if a.has("workers") {
			subject = a.rng("workers")
		}
		l.errorf(subject, "Builder without workers", "The builder %q has nobody to build on. Name its workers: workers = [%s].", b.Name, l.exampleWorker())
	}
	b.Steps = l.steps(content.Blocks, b.Env)
	if len(content.Blocks) == 0 && !diags.HasErrors() {
		l.errorf(&block.DefRange, "Builder without steps", "The builder %q does nothing. Add a step, such as step \"shell\" \"test\" { command = \"make test\" }.", b.Name)
	}
	return b
}

func countErrors(diags hcl2.Diagnostics) int {
	n := 0
	for _, d := range diags {
		n += btoi(d.Severity == hcl2.DiagError)
	}
	return n
}

func (l *loader) exampleWorker() string {
	if len(l.cfg.Workers) == 0 {
		return "worker.NAME"
	}
	w := &l.cfg.Workers[0]
	if name := cmp.Or(w.Pool, w.Name); hclsyntax.ValidIdentifier(name) {
		return "worker." + name
	}
	return "\"" + w.Name + "\""
}

// crossChecks looks at what no single block can know. It gets the numbers of blocks.
func (l *loader) crossChecks(workers, builders int) {
	if workers == 0 {
		l.errorf(nil, "No workers", "A configuration needs a worker block: worker \"local\" {\n  provider = provider.%s\n}", l.exampleProvider())
	}
	if builders == 0 {
		l.errorf(nil, "No builders", "A configuration needs a builder block: builder \"test\" {\n  workers = [worker.NAME]\n  step \"shell\" \"test\" { command = \"make test\" }\n}")
	}
	dirs := map[string]*Builder{}
	for i := range l.cfg.Builders {
		b := &l.cfg.Builders[i]
		if first, ok := dirs[b.BuildDir]; ok && first.Name == b.Name {
			continue // a duplicate, which is reported already
		} else if ok {
			l.errorf(&b.Range, "Builders share a directory", "The builders %q (at %s:%d) and %q would both work in %q on their workers. Give one of them another build_dir.",
				first.Name, first.Range.Filename, first.Range.Start.Line, b.Name, b.BuildDir)
			continue
		}
		dirs[b.BuildDir] = b
	}
	reached := map[string]bool{}
	for _, s := range l.cfg.Schedulers {
		for _, name := range s.Builders {
			reached[name] = true
		}
	}
	if l.diags.HasErrors() {
		return // a scheduler that could not be read may reach them
	}
	for _, b := range l.cfg.Builders {
		if !reached[b.Name] {
			r := b.Range
			l.warnf(&r, "Builder without a scheduler", "No scheduler reaches the builder %q, so it never builds. `rouse force` needs one too: scheduler \"force\" \"force\" { builders = [builder.%s] }.",
				b.Name, b.Name)
		}
	}
}
