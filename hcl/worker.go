package hcl

import (
	"fmt"
	"maps"
	"slices"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/rouse-ci/rouse/providers"
)

// providerBlocks lets each block be decoded by its kind. A provider's name is unique among all kinds: it is a label of metrics and a directory.
func (l *loader) providerBlocks(blocks hcl2.Blocks) {
	for _, b := range blocks {
		kind, name := b.Labels[0], b.Labels[1]
		if !l.declare("provider", name, b, 1) {
			l.cfg.unsound[name] = true // which of them is it?
		}
		p := Provider{Name: name, Kind: kind, Attrs: ranges(b.Body), Range: b.DefRange}
		l.cfg.bodies["provider."+name] = b.Body
		if k, ok := l.o.Kinds[kind]; ok {
			config, diags := k.DecodeProvider(b.Body, l.base)
			l.diags = append(l.diags, diags...)
			p.Config = config
			if diags.HasErrors() {
				l.cfg.unsound[name] = true
			}
		} else {
			l.cfg.unsound[name] = true
			l.errorf(&b.LabelRanges[0], "Unknown kind of provider", "There is no kind of provider %q.%s", kind, didYouMean(kind, sortedKeys(l.o.Kinds)))
			p.Kind = ""
		}
		l.cfg.Providers = append(l.cfg.Providers, p)
	}
}

var workerSchema = &hcl2.BodySchema{
	Attributes: attributes("provider", "count", "password", "properties", "default_properties", "max_builds", "keepalive_interval", "missing_timeout",
		"build_wait_timeout", "notify_on_missing", "locks", "price", "orphan_timeout", "idle"),
	Blocks: []hcl2.BlockHeaderSchema{{Type: "instance"}},
}

// workerBlock is a worker block with its names, before its attributes are decoded.
type workerBlock struct {
	block    *hcl2.Block
	content  *hcl2.BodyContent
	label    string
	counted  bool
	broken   bool // its count is wrong, so its names are not known
	misspelt bool // something in it is unknown, so nothing can be said to be missing
	names    []string
	attrs    map[string]hcl2.Range // of its instance block, once one worker of it was decoded
}

// ranges is the same for all workers of the block.
func (w *workerBlock) ranges(body hcl2.Body) map[string]hcl2.Range {
	if w.attrs == nil {
		w.attrs = ranges(body)
	}
	return w.attrs
}

// expandWorkers finds out the names of all workers, which references need before anything that holds references is decoded.
func (l *loader) expandWorkers(blocks hcl2.Blocks) []*workerBlock {
	var all []*workerBlock
	total := 0
	pools := map[string]hcl2.Range{} // blocks with a count: references name them as they name a worker
	for _, b := range blocks {
		first, again := pools[b.Labels[0]]
		declared := !again && l.declare("worker", b.Labels[0], b, 0)
		if again {
			l.duplicate("worker", b.Labels[0], b.LabelRanges[0], first)
		}
		content, diags := b.Body.Content(workerSchema)
		l.diags = append(l.diags, diags...)
		w := &workerBlock{block: b, content: content, label: b.Labels[0], names: []string{b.Labels[0]}, misspelt: diags.HasErrors()}
		a := &attrs{m: content.Attributes, ctx: l.base, diags: &l.diags}
		if a.has("count") {
			count := -1
			a.integer("count", &count, 0, maxCount)
			w.counted, w.names, w.broken = true, nil, count < 0
			l.countBroken = l.countBroken || w.broken
			for i := 1; i <= count; i++ {
				w.names = append(w.names, fmt.Sprintf("%s-%d", w.label, i))
			}
			if n := len(w.names); n > 0 && len(w.names[n-1]) > maxNameLen {
				a.bad("count", "The name %q would have more than %d characters.", w.names[n-1], maxNameLen)
			}
			if declared {
				delete(l.blocks["worker"], w.label) // the block's name is no worker's
				if !l.o.Accepted {
					pools[w.label] = b.LabelRanges[0]
				}
			}
			if again {
				w.names = nil // they are those of the other block
			}
		}
		if total += len(w.names); total > maxWorkers {
			l.errorf(&b.DefRange, "Too many workers", "A configuration may have %d workers in all.", maxWorkers)
			return all
		}
		all = append(all, w)
	}
	for _, w := range all {
		if !w.counted {
			continue
		}
		for _, n := range w.names {
			r := w.block.LabelRanges[0]
			if first, ok := l.blocks["worker"][n]; ok {
				l.duplicate("worker", n, r, first)
				continue
			}
			l.blocks["worker"][n] = r
		}
	}
	return all
}

// workers decodes the worker blocks, once for each identity, since count.index may be anywhere in them.
func (l *loader) workers(all []*workerBlock) {
	for _, w := range all {
		ctx := l.refs
		if w.broken {
			w.names = []string{w.label} // for its other mistakes
		}
		for i, name := range w.names {
			if w.counted {
				ctx = withCount(l.refs, i)
			}
			l.worker(w, name, ctx, i)
			if l.diags.HasErrors() && i > 0 {
				break // the others have the same mistakes
			}
		}
	}
}

func withCount(parent *hcl2.EvalContext, i int) *hcl2.EvalContext {
	ctx := parent.NewChild()
	ctx.Variables = map[string]cty.Value{"count": cty.ObjectVal(map[string]cty.Value{"index": cty.NumberIntVal(int64(i))})}
	return ctx
}

func (l *loader) worker(wb *workerBlock, name string, ctx *hcl2.EvalContext, index int) {
	b := wb.block
	a := &attrs{m: wb.content.Attributes, ctx: ctx, diags: &l.diags}
	w := Worker{
		Name: name, KeepaliveInterval: time.Hour, MissingTimeout: time.Hour, BuildWaitTimeout: 10 * time.Minute, OrphanTimeout: 10 * time.Minute,
		Range: b.DefRange,
	}
	if wb.counted {
		w.Pool = wb.label
	}
	provider := l.providerRef(a)
	latent := a.has("provider")
	if latent {
		w.MissingTimeout = 20 * time.Minute
	}
	if provider != nil {
		w.Provider = provider.Name
	}
	w.Password = l.secretRef(a, "password", "worker_password")
	a.properties("properties", &w.Properties)
	a.properties("default_properties", &w.DefaultProperties)
	a.integer("max_builds", &w.MaxBuilds, 0, 100_000)
	a.duration("keepalive_interval", &w.KeepaliveInterval, false)
	a.duration("missing_timeout", &w.MissingTimeout, false)
	a.duration("build_wait_timeout", &w.BuildWaitTimeout, true)
	a.duration("orphan_timeout", &w.OrphanTimeout, false)
	if a.has("orphan_timeout") && w.OrphanTimeout < time.Minute {
		a.bad("orphan_timeout", "It is %s; below a minute, a restart of the master would end machines that work.", w.OrphanTimeout)
	}
	a.float("price", &w.Price, 0, 1e6)
	a.strs("notify_on_missing", &w.NotifyOnMissing)
	for _, address := range w.NotifyOnMissing {
		if !mailAddress(address) {
			a.bad("notify_on_missing", "%q is not an address such as \"ops@example.org\".", address)
		}
	}
	l.accesses(a, &w.Locks)
	if latent && index == 0 {
		l.timeouts(a, &w)
	}
	w.Idle = "terminate"
	a.oneOf("idle", &w.Idle, "terminate", "stop", "hibernate")

	if latent {
		l.instance(wb, &w, provider, index)
	} else {
		l.standard(wb, a)
	}
	l.cfg.Workers = append(l.cfg.Workers, w)
}

// standard checks what only a standard worker must or must not have.
func (l *loader) standard(wb *workerBlock, a *attrs) {
	for _, b := range wb.content.Blocks {
		l.errorf(&b.DefRange, "Instance without a provider", "A worker with an instance block needs a provider that makes the instance, such as provider = provider.%s.",
			l.exampleProvider())
		return // then a password is not what is missing
	}
	for _, name := range []string{"build_wait_timeout", "orphan_timeout", "idle"} {
		if a.has(name) {
			l.errorf(&a.m[name].NameRange, "Only for latent workers", "Nobody but its owner ends a standard worker, so %s means nothing here. "+
				"A latent worker has a provider, such as provider = provider.%s.", name, l.exampleProvider())
		}
	}
	if !a.has("password") && !wb.misspelt {
		l.errorf(&wb.block.DefRange, "Worker without a password", "Anybody could attach as %q. Say where its password is: password = secret.%s, and secret %q { file = \"…\" }. "+
			"(A latent worker, which has a provider, needs none.)", wb.label, "worker_password", "worker_password")
	}
}

func (l *loader) exampleProvider() string {
	for _, p := range l.cfg.Providers {
		if p.Kind != "" { // it is empty where the kind is unknown
			return p.Kind + "." + p.Name
		}
	}
	return "local.here"
}

// providerRef reads provider = provider.KIND.NAME.
func (l *loader) providerRef(a *attrs) *Provider {
	attr, ok := a.m["provider"]
	if !ok {
		return nil
	}
	t, diags := hcl2.AbsTraversalForExpr(attr.Expr)
	if diags.HasErrors() || t.RootName() != "provider" || len(t) != 3 {
		a.bad("provider", "It must be a reference to a provider block, such as provider.%s, without quotes.", l.exampleProvider())
		return nil
	}
	kind, ok1 := stepName(t[1])
	name, ok2 := stepName(t[2])
	var known []string
	var found *Provider
	for i := range l.cfg.Providers {
		p := &l.cfg.Providers[i]
		if ok1 && ok2 && p.Name == name && p.Kind == kind {
			return p
		}
		if p.Name == name && p.Kind == "" {
			found = p // its kind is unknown, which is reported there
		}
		known = append(known, p.Kind+"."+p.Name)
	}
	if found != nil {
		return found
	}
	l.errorf(a.rng("provider"), "Unknown provider", "There is no provider %q.%s", kind+"."+name, didYouMean(kind+"."+name, known))
	return nil
}

// instance decodes the instance block. Without a block, the kind sees an empty one.
func (l *loader) instance(wb *workerBlock, w *Worker, p *Provider, index int) {
	blocks := wb.content.Blocks
	if len(blocks) > 1 {
		l.errorf(&blocks[1].DefRange, "Duplicate instance", "A worker has one instance block; there is one at line %d already.", blocks[0].DefRange.Start.Line)
	}
	if p == nil || l.o.Kinds[p.Kind] == nil {
		return // reported where the provider is named
	}
	body := hcl2.EmptyBody()
	if len(blocks) > 0 {
		body = blocks[0].Body
	}
	ctx := l.base
	if wb.counted {
		ctx = withCount(l.base, index)
	}
	spec, diags := l.o.Kinds[p.Kind].DecodeInstance(p.Config, body, ctx)
	if len(blocks) == 0 {
		for _, d := range diags {
			if d.Subject == nil || d.Subject.Filename == "" {
				r := wb.block.DefRange
				d.Subject = &r
			}
		}
	}
	l.diags = append(l.diags, diags...)
	w.Instance, w.Attrs = spec, wb.ranges(body)
	l.cfg.bodies["worker."+w.Name] = body
	if sleeper, ok := l.o.Kinds[p.Kind].(providers.SleepKind); w.Idle == "stop" || w.Idle == "hibernate" {
		err := fmt.Errorf("a provider of kind %s can only terminate", p.Kind)
		if ok {
			err = sleeper.CanSleep(p.Config, spec, w.Idle == "hibernate")
		}
		if attr := wb.content.Attributes["idle"]; err != nil && attr != nil {
			l.errorf(attr.Expr.Range().Ptr(), "The instance can not "+w.Idle, "idle = %q: %v.", w.Idle, err)
		}
	}
	w.Spec = digest(p.Kind, p.Config, spec)
	if k, ok := l.o.Kinds[p.Kind].(providers.ExclusiveKind); ok && !diags.HasErrors() {
		l.exclusive(wb, w, k.Exclusive(p.Config, spec))
	}
}

// ranges says where the attributes of a block and of the blocks in it are, by dotted path.
func ranges(body hcl2.Body) map[string]hcl2.Range {
	b, ok := body.(*hclsyntax.Body)
	if !ok {
		return nil
	}
	m := map[string]hcl2.Range{}
	addRanges(m, "", b, 0)
	return m
}

func addRanges(m map[string]hcl2.Range, prefix string, b *hclsyntax.Body, depth int) {
	if depth > maxNesting {
		return
	}
	for name, a := range b.Attributes {
		m[prefix+name] = a.Expr.Range()
	}
	for _, block := range b.Blocks {
		if _, ok := m[prefix+block.Type]; !ok {
			m[prefix+block.Type] = block.DefRange()
		}
		addRanges(m, prefix+block.Type+".", block.Body, depth+1)
	}
}

// references makes the values through which blocks name each other: a worker is its name, or the list of its names if it is counted; builders
// and schedulers are their names; a lock is an object (see lockValue).
func (l *loader) references(workers []*workerBlock, builders, schedulers hcl2.Blocks) {
	w, b, locks := map[string]cty.Value{}, map[string]cty.Value{}, map[string]cty.Value{}
	l.labels = map[string][]string{}
	for _, wb := range workers {
		unknown := func(name string) bool { _, ok := l.blocks["worker"][name]; return !ok }
		if !wb.broken && !slices.ContainsFunc(wb.names, unknown) {
			l.labels[wb.label] = wb.names
		}
		switch {
		case !wb.counted:
			w[wb.label] = cty.StringVal(wb.label)
		case wb.broken:
			w[wb.label] = cty.DynamicVal
		default:
			w[wb.label] = stringsTuple(wb.names)
		}
	}
	for _, block := range builders {
		b[block.Labels[0]] = cty.StringVal(block.Labels[0])
	}
	kinds := map[string]map[string]cty.Value{}
	for _, k := range schedulerKinds {
		kinds[k] = map[string]cty.Value{}
	}
	for _, block := range schedulers {
		if m := kinds[block.Labels[0]]; m != nil {
			m[block.Labels[1]] = cty.StringVal(block.Labels[1])
		}
	}
	s := map[string]cty.Value{}
	for k, m := range kinds {
		s[k] = cty.ObjectVal(m)
	}
	for _, name := range l.known("lock") {
		locks[name] = lockValue(name)
	}
	l.refs = l.base.NewChild()
	l.refs.Variables = map[string]cty.Value{
		"worker": cty.ObjectVal(w), "builder": cty.ObjectVal(b), "lock": cty.ObjectVal(locks), "scheduler": cty.ObjectVal(s),
		"secret": secretObject(l.secrets, nil),
	}
	maps.DeleteFunc(l.refs.Variables, func(_ string, v cty.Value) bool { return v == cty.NilVal })
}

// names reads a list of workers or builders, and reports those that do not exist.
func (l *loader) names(a *attrs, attr, kind string) []string {
	var good []string
	var seen map[string]bool
	add := func(names []string) { // most name one pool and perhaps one more: a set of all is made only if it pays
		switch {
		case len(good) == 0:
			good = append(make([]string, 0, len(names)+1), names...)
			return
		case len(names) > 4 && seen == nil:
			seen = make(map[string]bool, len(good)+len(names))
			for _, name := range good {
				seen[name] = true
			}
		}
		for _, name := range names {
			if seen == nil && slices.Contains(good, name) || seen[name] {
				continue
			}
			if good = append(good, name); seen != nil {
				seen[name] = true
			}
		}
	}
	whole := func(expr hcl2.Expression) bool { // a thousand builders may name a thousand workers each: they need not be made values for that
		t, ok := expr.(*hclsyntax.ScopeTraversalExpr)
		if !ok || kind != "worker" || len(t.Traversal) != 2 || t.Traversal.RootName() != "worker" {
			return false
		}
		label, _ := stepName(t.Traversal[1])
		names := l.labels[label]
		add(names)
		return len(names) > 0
	}
	a.elementsUnless(attr, whole, func(v cty.Value, r *hcl2.Range) {
		given, err := toStrings(v)
		if err != nil {
			l.errorf(r, fmt.Sprintf("Unsuitable value for %q", attr), "%s.", capital(err.Error()))
		}
		for _, name := range given {
			if _, ok := l.blocks[kind][name]; !ok {
				l.errorf(r, "Unknown "+kind, "There is no %s %q.%s", kind, name, didYouMean(name, l.known(kind)))
			} else {
				add([]string{name})
			}
		}
	})
	return good
}
