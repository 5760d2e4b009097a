package hcl

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// What a comparison of two configurations must know beyond their values: what steps will evaluate, what those expressions use, and which
// values must not be shown.

// DefaultMaster returns what the master block is where it says nothing.
func DefaultMaster() Master { return defaultMaster() }

// Given returns what every variable with a value from outside was given, as HCL expressions: Options.Variables that make the same configuration elsewhere.
// The values of sensitive variables are among them: the result is for a master's local socket or a TLS connection, and never to be stored or shown.
func (c *Config) Given() map[string]string { return maps.Clone(c.given) }

// GivenSensitive returns the names of the sensitive variables that a value was given for.
func (c *Config) GivenSensitive() []string { return slices.Sorted(slices.Values(c.sensitive)) }

// SensitiveDigests are keyed digests of the values of the named sensitive variables, for whoever must know whether they are the same elsewhere, and not what they are. A
// variable that there is not, or whose value is not known, has none. A digest of what is easily guessed is easily guessed: the key must be fresh each time, and
// neither it nor the digests are to be stored.
func (c *Config) SensitiveDigests(key []byte, names []string) map[string]string {
	out := map[string]string{}
	all, ok := c.root("var")
	if !ok {
		return out
	}
	for _, name := range names {
		v, ok := attribute(all, name)
		if !ok || !v.ContainsMarked() {
			continue
		}
		v, _ = v.UnmarkDeep()
		if !v.IsWhollyKnown() {
			continue
		}
		text, err := ctyjson.Marshal(v, cty.DynamicPseudoType) // with its type: "1" is not 1
		if err != nil {
			continue
		}
		h := hmac.New(sha256.New, key)
		_, _ = h.Write(append([]byte(name+"\x00"), text...))
		out[name] = hex.EncodeToString(h.Sum(nil))
	}
	return out
}

// SensitiveValues returns every text in the values of sensitive variables, for whoever must make sure that it holds none of them.
func (c *Config) SensitiveValues() []string {
	v, ok := c.root("var")
	if !ok || !v.Type().IsObjectType() {
		return nil
	}
	var out []string
	for _, e := range v.AsValueMap() {
		if !e.ContainsMarked() {
			continue
		}
		e, _ = e.UnmarkDeep()
		_ = cty.Walk(e, func(_ cty.Path, leaf cty.Value) (bool, error) {
			if leaf.Type() == cty.String && leaf.IsKnown() && !leaf.IsNull() && leaf.AsString() != "" {
				out = append(out, leaf.AsString())
			}
			return true, nil
		})
	}
	slices.Sort(out)
	return out
}

// Expr is an expression that is evaluated later, when a step runs.
type Expr struct {
	Path  string // the attribute's name
	Text  string // its source
	Range hcl2.Range

	expr hcl2.Expression
	cfg  *Config
}

// Expressions returns what a step evaluates when it runs, sorted by path. The defaults of omitted attributes are not among it.
func (c *Config) Expressions(s *Step) []Expr {
	out := make([]Expr, 0, len(s.attrs)+1)
	for name, a := range s.attrs {
		out = append(out, c.expr(name, a.Expr))
	}
	if s.When != nil {
		out = append(out, c.expr("when", s.When))
	}
	slices.SortFunc(out, func(a, b Expr) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// EnvExpression returns the builder's env, if it has one.
func (c *Config) EnvExpression(b *Builder) (Expr, bool) {
	if b.Env == nil {
		return Expr{}, false
	}
	return c.expr("env", b.Env), true
}

func (c *Config) expr(path string, e hcl2.Expression) Expr {
	return Expr{Path: path, Text: c.Text(e.Range()), Range: e.Range(), expr: e, cfg: c}
}

// Text returns what is written in a range of the configuration.
func (c *Config) Text(r hcl2.Range) string {
	if f := c.source(r.Filename); f != nil && r.Start.Byte <= r.End.Byte && r.End.Byte <= len(f.Bytes) {
		return string(f.Bytes[r.Start.Byte:r.End.Byte])
	}
	return ""
}

// Inputs returns what of the configuration the expression uses: var.x, local.y, file("z"); sorted. See SameInput.
func (e Expr) Inputs() []string {
	seen := map[string]bool{}
	if e.expr == nil {
		return nil
	}
	for _, t := range e.expr.Variables() {
		if root := t.RootName(); root == "var" || root == "local" {
			if name, ok := stepName(second(t)); ok {
				seen[root+"."+name] = true
			} else {
				seen[root] = true
			}
		}
	}
	e.cfg.filesOf(e.expr, seen)
	return slices.Sorted(maps.Keys(seen))
}

func second(t hcl2.Traversal) hcl2.Traverser {
	if len(t) < 2 {
		return nil
	}
	return t[1]
}

// fileFunctions read files of the configuration's directory.
var fileFunctions = map[string]bool{"file": true, "templatefile": true, "fileexists": true, "filebase64": true}

// filesOf notes the files that an expression reads. One whose name is not known before the step runs may be any.
func (c *Config) filesOf(e hcl2.Expression, seen map[string]bool) {
	node, ok := e.(hclsyntax.Node)
	if !ok {
		return
	}
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl2.Diagnostics {
		call, ok := n.(*hclsyntax.FunctionCallExpr)
		if !ok || !fileFunctions[call.Name] || len(call.Args) == 0 {
			return nil
		}
		v, diags := call.Args[0].Value(c.env.ctx)
		v, _ = v.Unmark()
		if diags.HasErrors() || !v.IsKnown() || v.IsNull() || v.Type() != cty.String {
			seen["file(…)"] = true
		} else {
			seen[`file("`+v.AsString()+`")`] = true
		}
		return nil
	})
}

// SameInput says whether an input of an expression (see Expr) is the same in both configurations.
func SameInput(a, b *Config, name string) bool {
	if file, ok := strings.CutPrefix(name, "file("); ok {
		file = strings.Trim(strings.TrimSuffix(file, ")"), `"`)
		if file != "…" {
			x, inA := a.Files[file]
			y, inB := b.Files[file]
			return inA == inB && bytes.Equal(x, y)
		}
		return maps.EqualFunc(a.data(), b.data(), bytes.Equal)
	}
	root, attr, one := strings.Cut(name, ".")
	x, inA := a.root(root)
	y, inB := b.root(root)
	if one {
		x, inA = attribute(x, attr)
		y, inB = attribute(y, attr)
	}
	if !inA || !inB {
		return inA == inB
	}
	return sameValue(x, y)
}

// SameInputs says whether all inputs of all expressions are the same.
func SameInputs(a, b *Config) bool {
	return SameInput(a, b, "var") && SameInput(a, b, "local") && SameInput(a, b, "file(…)")
}

// sameValue ignores marks. It compares, and tells nothing.
func sameValue(x, y cty.Value) bool {
	x, _ = x.UnmarkDeep()
	y, _ = y.UnmarkDeep()
	return x.RawEquals(y)
}

// data is what expressions have read.
func (c *Config) data() map[string][]byte {
	m := maps.Clone(c.Files)
	maps.DeleteFunc(m, func(name string, _ []byte) bool { return isConfigFile(name) })
	return m
}

// root returns the object of all variables or local values.
func (c *Config) root(name string) (cty.Value, bool) {
	if c.env == nil {
		return cty.NilVal, false
	}
	for ctx := c.env.ctx; ctx != nil; ctx = ctx.Parent() {
		if v, ok := ctx.Variables[name]; ok {
			return v, true
		}
	}
	return cty.NilVal, false
}

func attribute(v cty.Value, name string) (cty.Value, bool) {
	if v == cty.NilVal || v.IsMarked() || !v.Type().IsObjectType() || !v.Type().HasAttribute(name) {
		return cty.NilVal, false
	}
	return v.GetAttr(name), true
}

// SensitiveInstance returns the attributes of a worker's instance block, by dotted path, that are made from sensitive variables: neither their values nor
// those of the attributes in them may be shown.
func (c *Config) SensitiveInstance(w *Worker) []string {
	return c.sensitiveAttrs(c.bodies["worker."+w.Name])
}

// SensitiveProvider does the same for a provider block.
func (c *Config) SensitiveProvider(p *Provider) []string {
	return c.sensitiveAttrs(c.bodies["provider."+p.Name])
}

func (c *Config) sensitiveAttrs(body hcl2.Body) []string { return attrsWhere(body, c.madeFromSecrets) }

// attrsWhere returns the attributes of a block and of the blocks in it, by dotted path, with expressions of some kind.
func attrsWhere(body hcl2.Body, is func(hcl2.Expression) bool) []string {
	var out []string
	switch b := body.(type) {
	case nil:
	case *hclsyntax.Body:
		out = attrsIn(out, "", b, 0, is)
	default: // JSON, whose nested blocks are objects
		attrs, _ := body.JustAttributes()
		for name, a := range attrs {
			if is(a.Expr) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func attrsIn(out []string, prefix string, b *hclsyntax.Body, depth int, is func(hcl2.Expression) bool) []string {
	if depth > maxNesting {
		return out
	}
	for name, a := range b.Attributes {
		if is(a.Expr) {
			out = append(out, prefix+name)
		}
	}
	for _, block := range b.Blocks {
		out = attrsIn(out, prefix+block.Type+".", block.Body, depth+1, is)
	}
	return out
}

// madeFromSecrets looks at what an expression names, not at its value: a mark is lost where a provider decodes.
func (c *Config) madeFromSecrets(e hcl2.Expression) bool {
	for _, t := range e.Variables() {
		v, ok := c.root(t.RootName())
		if !ok {
			continue // count
		}
		if name, named := stepName(second(t)); named {
			v, ok = attribute(v, name)
		}
		if ok && v.ContainsMarked() {
			return true
		}
	}
	return false
}

// SameText says whether two expressions are written with the same tokens: spaces, comments and line breaks apart, and a comma is as good as a new line
// between the items of an object.
func SameText(a, b string) bool {
	if a == b {
		return true
	}
	x, ok := canonicalText(a)
	y, also := canonicalText(b)
	return ok && also && slices.Equal(x, y)
}

// token is what counts of one.
type token struct {
	t    hclsyntax.TokenType
	text string
}

func canonicalText(s string) (out []token, ok bool) {
	tokens, diags := hclsyntax.LexExpression([]byte(s), "", hcl2.InitialPos)
	if diags.HasErrors() {
		return nil, false
	}
	var open []hclsyntax.TokenType
	comma := false // seen, and to be written if an item follows
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenComment, hclsyntax.TokenNewline:
			comma = comma || len(open) > 0 && open[len(open)-1] == hclsyntax.TokenOBrace && strings.HasSuffix(string(t.Bytes), "\n")
			continue
		case hclsyntax.TokenComma:
			comma = true
			continue
		case hclsyntax.TokenEOF:
			continue
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			comma = false
			if len(open) > 0 {
				open = open[:len(open)-1]
			}
		}
		if last := len(out) - 1; comma && last >= 0 && out[last].t != hclsyntax.TokenOBrace && out[last].t != hclsyntax.TokenOBrack {
			out = append(out, token{t: hclsyntax.TokenComma})
		}
		comma = false
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			open = append(open, t.Type)
		}
		out = append(out, token{t.Type, string(t.Bytes)})
	}
	return out, true
}

// SoundProviders returns the providers whose blocks are as they were meant, also where something else in the text is wrong, such as a variable that has no
// value any more: who must end their instances needs no more of the text than them.
func (c *Config) SoundProviders() []Provider {
	var out []Provider
	for i := range c.Providers {
		if p := &c.Providers[i]; !c.unsound[p.Name] && len(attrsWhere(c.bodies["provider."+p.Name], c.madeFromUnknown)) == 0 {
			out = append(out, *p)
		}
	}
	return out
}

// madeFromUnknown says whether an expression names a variable or a local value that nobody knows.
func (c *Config) madeFromUnknown(e hcl2.Expression) bool {
	for _, t := range e.Variables() {
		v, ok := c.root(t.RootName())
		if name, named := stepName(second(t)); ok && named {
			v, ok = attribute(v, name)
		}
		if !ok {
			return true
		}
		if v, _ = v.UnmarkDeep(); !v.IsWhollyKnown() {
			return true
		}
	}
	return false
}
