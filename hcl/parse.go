package hcl

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
)

// The parsers and the evaluator recurse, and a Go stack that overflows ends the process and cannot be caught, so nesting is bounded before a
// parser sees the text. Brackets are one way to recurse (about 10 KiB of stack each); chains of operators, conditions and indexes are another.
const (
	maxNesting = 100
	maxChain   = 500    // operators of one expression
	maxMarks   = 2_000  // what could nest in one string of JSON
	harmless   = 10_000 // bytes that could nest at all: with so few, no stack overflows whatever they mean
)

// parse parses the configuration files; the others become data that file() finds.
func (l *loader) parse(files map[string][]byte) hcl2.Body {
	var parsed []*hcl2.File
	for _, name := range sortedKeys(files) {
		src := files[name]
		if !isConfigFile(name) {
			l.files.seen[name] = src
			continue
		}
		l.cfg.Files[name] = src
		l.cfg.sources[name] = &hcl2.File{Bytes: src}
		f, diags := parseFile(name, src)
		l.diags = append(l.diags, diags...)
		if f != nil && f.Body != nil {
			l.cfg.sources[name] = f
			parsed = append(parsed, f)
		}
	}
	return hcl2.MergeFiles(parsed)
}

// parseFile parses one file, unless it is too large or too deep to be parsed safely.
func parseFile(name string, src []byte) (*hcl2.File, hcl2.Diagnostics) {
	if len(src) > maxFileSize {
		return nil, hcl2.Diagnostics{{
			Severity: hcl2.DiagError,
			Summary:  "File too large",
			Detail:   fmt.Sprintf("%s has %d bytes; the limit is %d.", name, len(src), maxFileSize),
		}}
	}
	if strings.HasSuffix(name, ".json") {
		if d := checkJSONDepth(name, src); d != nil {
			return nil, hcl2.Diagnostics{d}
		}
		return json.Parse(src, name)
	}
	if !plainlyShallow(src) && !surelyShallow(src) {
		tokens, diags := hclsyntax.LexConfig(src, name, hcl2.InitialPos)
		if diags.HasErrors() {
			return nil, diags
		}
		if d := checkDepth(tokens); d != nil {
			return nil, hcl2.Diagnostics{d}
		}
	}
	f, diags := hclsyntax.ParseConfig(src, name, hcl2.InitialPos)
	return f, withoutCascade(diags)
}

// withoutCascade leaves out what follows from a mistake that is shown: a quote or an interpolation that is not closed makes a string of all lines behind it, and
// the parser complains of each of them.
func withoutCascade(diags hcl2.Diagnostics) hcl2.Diagnostics {
	const unclosed, multiline = "Unclosed template interpolation sequence", "Invalid multi-line string" // hclsyntax's words
	begun := map[int]bool{}                                                                             // lines behind which everything may follow from a mistake in them
	for _, d := range diags {
		if d.Summary == unclosed && d.Subject != nil {
			begun[d.Subject.Start.Line] = true
		}
	}
	return slices.DeleteFunc(diags, func(d *hcl2.Diagnostic) bool {
		if d.Summary != multiline || d.Subject == nil {
			return false
		}
		line := d.Subject.Start.Line
		follows := begun[line] || begun[line-1]
		begun[line] = true
		return follows
	})
}

// plainlyShallow saves most files from being scanned twice. It knows nothing of strings and comments, so it may be wrong about the depth,
// but not about there being few brackets and operators.
func plainlyShallow(src []byte) bool {
	depth, deepest, total := 0, 0, 0
	for _, c := range src {
		switch c {
		case '{', '[', '(':
			depth++
			deepest = max(deepest, depth)
			total++
		case '}', ']', ')':
			depth--
		case '!', '?', '-', '+', '*', '/', '%', '<', '>', '&', '|':
			total++
		}
	}
	return total <= harmless && deepest <= maxNesting
}

// checkDepth refuses text that would make the parser recurse too deeply. It counts operators by bracket level, and anew after each separator.
func checkDepth(tokens hclsyntax.Tokens) *hcl2.Diagnostic {
	var chain [maxNesting + 1]int
	var opener [maxNesting + 1]hclsyntax.TokenType
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl,
			hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			if t.Type == hclsyntax.TokenOBrack || t.Type == hclsyntax.TokenTemplateControl {
				chain[depth]++ // a[…][…] and %{ if } nest without brackets in brackets
			}
			if depth == maxNesting {
				return tooDeep(t.Range)
			}
			depth++
			chain[depth], opener[depth] = 0, t.Type
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd,
			hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth = max(depth-1, 0)
		case hclsyntax.TokenNewline:
			if depth == 0 || opener[depth] == hclsyntax.TokenOBrace {
				chain[depth] = 0
			}
		case hclsyntax.TokenComma:
			chain[depth] = 0
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
			hclsyntax.TokenQuestion, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual,
			hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq:
			chain[depth]++
		}
		if chain[depth] > maxChain {
			return tooDeep(t.Range)
		}
	}
	return nil
}

// checkJSONDepth does the same for JSON, each of whose strings may be a template. What a string's brackets mean is not known (one could be
// in a comment), so a template is refused when it has too many of them.
func checkJSONDepth(name string, src []byte) *hcl2.Diagnostic {
	depth, line := 0, 1
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '\n':
			line++
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			length := jsonString(src[i+1:])
			if template := src[i+1 : i+1+length]; deepTemplate(template) {
				depth = maxNesting + 1
			}
			i += length + 1
		}
		if depth > maxNesting {
			pos := hcl2.Pos{Line: line, Column: 1, Byte: min(i, len(src))}
			return tooDeep(hcl2.Range{Filename: name, Start: pos, End: pos})
		}
	}
	return nil
}

// jsonString is the length of a string's content, up to its closing quote.
func jsonString(src []byte) int {
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(src)
}

func deepTemplate(s []byte) bool {
	if !bytes.Contains(s, []byte("${")) && !bytes.Contains(s, []byte("%{")) && !bytes.Contains(s, []byte(`\u`)) {
		return false
	}
	n := 0
	for _, c := range s {
		switch c {
		case '{', '[', '(', '!', '?', '-', '+', '*', '/', '%', '<', '>', '=', '&', '|', '\\':
			n++
		}
	}
	return n > maxMarks
}

func tooDeep(r hcl2.Range) *hcl2.Diagnostic {
	return &hcl2.Diagnostic{
		Severity: hcl2.DiagError,
		Summary:  "Too deeply nested",
		Detail: fmt.Sprintf("Brackets and templates may be nested %d deep, and one expression may have %d operators. Move parts of it into locals.",
			maxNesting, maxChain),
		Subject: &r,
	}
}
