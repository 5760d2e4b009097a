package hcl

import (
	"slices"

	hcl2 "github.com/hashicorp/hcl/v2"
)

// Names that Buildbot has given up, or that its users write by habit. They mean what the new ones mean, and are warned of.
var (
	oldBlocks  = map[string]string{"slave": "worker", "buildslave": "worker"}
	oldBuilder = map[string]string{
		"slaves": "workers", "slavenames": "workers", "slavename": "workers", "workernames": "workers", "workername": "workers",
		"builddir": "build_dir", "slavebuilddir": "build_dir", "workerbuilddir": "build_dir",
		"mergeRequests": "collapse", "collapseRequests": "collapse",
	}
	oldScheduler = map[string]string{"builderNames": "builders", "buildernames": "builders", "periodicBuildTimer": "every"}
)

// content decodes a body whose attributes may have their old names, too.
func (l *loader) content(body hcl2.Body, schema *hcl2.BodySchema, old map[string]string) (*hcl2.BodyContent, hcl2.Diagnostics) {
	wide := *schema
	wide.Attributes = slices.Clone(schema.Attributes)
	for _, name := range sortedKeys(old) {
		if slices.ContainsFunc(schema.Attributes, func(a hcl2.AttributeSchema) bool { return a.Name == old[name] }) {
			wide.Attributes = append(wide.Attributes, hcl2.AttributeSchema{Name: name})
		}
	}
	content, diags := body.Content(&wide)
	for _, name := range sortedKeys(old) {
		a, ok := content.Attributes[name]
		if !ok {
			continue
		}
		now := old[name]
		delete(content.Attributes, name)
		if twin, twice := content.Attributes[now]; twice {
			l.errorf(&a.NameRange, "Set twice", "%s is the old name of %s, which is set at line %d.", name, twin.Name, twin.NameRange.Start.Line)
			continue
		}
		l.deprecated(&a.NameRange, name, now)
		content.Attributes[now] = a
	}
	return content, diags
}

// root decodes the outermost blocks, which may have their old names, too.
func (l *loader) root(body hcl2.Body) (*hcl2.BodyContent, hcl2.Diagnostics) {
	wide := *rootSchema
	wide.Blocks = slices.Clone(rootSchema.Blocks)
	for _, name := range sortedKeys(oldBlocks) {
		at := slices.IndexFunc(rootSchema.Blocks, func(b hcl2.BlockHeaderSchema) bool { return b.Type == oldBlocks[name] })
		wide.Blocks = append(wide.Blocks, hcl2.BlockHeaderSchema{Type: name, LabelNames: rootSchema.Blocks[at].LabelNames})
	}
	content, diags := body.Content(&wide)
	for _, b := range content.Blocks {
		if now, old := oldBlocks[b.Type]; old {
			l.deprecated(&b.TypeRange, b.Type, now)
			b.Type = now
		}
	}
	return content, diags
}

func (l *loader) deprecated(r *hcl2.Range, old, now string) {
	l.warnf(r, "Deprecated name", "%q is the old name of %q and means the same. Write %s.", old, now, now)
}
