package hcl

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// WriteDiagnostics renders diagnostics for a person, each with its source line. Width 0 means no wrapping.
func (c *Config) WriteDiagnostics(w io.Writer, diags hcl2.Diagnostics, width uint, color bool) error {
	c.naming.RLock()
	sources := maps.Clone(c.sources)
	c.naming.RUnlock()
	return hcl2.NewDiagnosticTextWriter(w, sources, width, color).WriteDiagnostics(diags)
}

// errorf adds a mistake. Subject nil means that it has no place.
func (l *loader) errorf(subject *hcl2.Range, summary, format string, args ...any) {
	l.diags = append(l.diags, mistake(subject, summary, format, args...))
}

func (l *loader) warnf(subject *hcl2.Range, summary, format string, args ...any) {
	d := mistake(subject, summary, format, args...)
	d.Severity = hcl2.DiagWarning
	l.diags = append(l.diags, d)
}

func mistake(subject *hcl2.Range, summary, format string, args ...any) *hcl2.Diagnostic {
	return &hcl2.Diagnostic{Severity: hcl2.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: subject}
}

// tidy drops repetitions and follow-ups, sorts by place and takes away the values in reach of an expression, which may be secret.
func tidy(diags hcl2.Diagnostics) hcl2.Diagnostics {
	type key struct {
		file, summary string
		start, end    int
	}
	seen := map[key]bool{}
	broken := map[string][]hcl2.Range{} // where expressions failed already
	var out hcl2.Diagnostics
	for _, d := range diags {
		if d.Subject != nil {
			k := key{d.Subject.Filename, d.Summary, d.Subject.Start.Byte, d.Subject.End.Byte}
			if seen[k] || followUp(d, broken[d.Subject.Filename]) {
				continue
			}
			seen[k] = true
			if d.Severity == hcl2.DiagError {
				broken[d.Subject.Filename] = append(broken[d.Subject.Filename], *d.Subject)
			}
		}
		c := *d
		suggest(&c)
		misplaced(&c)
		discreet(&c)
		c.Expression, c.EvalContext = nil, nil
		out = append(out, &c)
	}
	slices.SortStableFunc(out, func(a, b *hcl2.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return cmp.Compare(btoi(a.Subject != nil), btoi(b.Subject != nil))
		}
		return cmp.Or(cmp.Compare(a.Subject.Filename, b.Subject.Filename), cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte))
	})
	return out
}

// discreet leaves out of a function's complaint why it could not use a secret: most functions quote it, or what was made from it.
func discreet(d *hcl2.Diagnostic) {
	if d.Expression == nil || d.EvalContext == nil || d.Summary != "Invalid function argument" && d.Summary != "Error in function call" {
		return
	}
	for _, traversal := range d.Expression.Variables() {
		if v, diags := traversal.TraverseAbs(d.EvalContext); diags.HasErrors() || !v.ContainsMarked() {
			continue
		}
		what, _, _ := strings.Cut(d.Detail, ": ")
		d.Detail = strings.TrimSuffix(what, ".") + ". Why is not said, since it may quote a secret or the value of a sensitive variable."
		return
	}
}

// misplaced says of a secret that is named where there are none what to do instead.
func misplaced(d *hcl2.Diagnostic) {
	if d.Summary != "Unknown variable" || d.Expression == nil || d.EvalContext == nil || d.Subject == nil {
		return
	}
	for _, t := range d.Expression.Variables() {
		if t.RootName() != "secret" || t[0].SourceRange() != *d.Subject && t.SourceRange() != *d.Subject {
			continue
		}
		d.Summary = "No secret can be used here"
		d.Detail = "A secret is read when a step starts, and by the attributes that name one (password, and secret in token, mail and webhook). For a provider, an instance " +
			"or a local value take a sensitive variable: variable \"NAME\" { sensitive = true }, with its value in " + envPrefix + "NAME or a -var-file. For a command, give the secret to its step: " +
			"env = { TOKEN = secret.NAME }."
		return
	}
}

// followUp says whether d only reports that a value is not known, where an error in the same expression is why.
func followUp(d *hcl2.Diagnostic, broken []hcl2.Range) bool {
	if !strings.Contains(d.Detail, "must be known") && !strings.Contains(d.Detail, "is not known") {
		return false
	}
	return slices.ContainsFunc(broken, func(r hcl2.Range) bool { return d.Subject.Overlaps(r) })
}

// suggest adds the attribute that was probably meant to hcl's complaint about a missing one, and names what is missing in our words.
func suggest(d *hcl2.Diagnostic) {
	if d.Expression == nil || d.EvalContext == nil || d.Subject == nil ||
		(d.Summary != "Unsupported attribute" && d.Summary != "Invalid index" && d.Summary != "Missing map element") {
		return
	}
	for _, traversal := range d.Expression.Variables() {
		for i, step := range traversal {
			if i == 0 || step.SourceRange() != *d.Subject {
				continue
			}
			name, ok := stepName(step)
			if !ok {
				return
			}
			parent, diags := traversal[:i].TraverseAbs(d.EvalContext)
			if diags.HasErrors() || !parent.Type().IsObjectType() {
				return
			}
			what := traversal.RootName()
			noun := nouns[what]
			if what == "worker" && !inStep(d.EvalContext) {
				noun = "worker"
			}
			if what == "scheduler" && i == 2 {
				d.Summary = "Unknown scheduler"
				kind, _ := stepName(traversal[1])
				d.Detail = fmt.Sprintf("There is no %s scheduler %q.", kind, name)
			} else if noun != "" && i == 1 {
				d.Summary = "Unknown " + noun
				d.Detail = fmt.Sprintf("There is no %s %q.", noun, name)
			} else {
				d.Detail = fmt.Sprintf("%s has no attribute %q.", traversalText(traversal[:i]), name)
			}
			if parent.IsMarked() { // the names in a secret are not told
				return
			}
			d.Detail += onlyMeant(name, sortedKeys(parent.Type().AttributeTypes()))
			if what == "prop" && i == 1 {
				d.Detail += fmt.Sprintf(" If it may be absent, write try(prop.%s, \"default\").", name)
			} else if !strings.HasSuffix(d.Detail, "?") {
				d.Detail += didYouMean(name, sortedKeys(parent.Type().AttributeTypes()))
			}
			return
		}
	}
}

// nouns are the roots whose attributes are blocks of the configuration. In a step, worker is the worker it runs on and is not among them.
var nouns = map[string]string{
	"builder": "builder", "lock": "lock", "scheduler": "scheduler kind",
	"secret": "secret", "var": "variable", "local": "local value",
}

// inStep says whether an expression was evaluated with a step's scope.
func inStep(ctx *hcl2.EvalContext) bool {
	for ; ctx != nil; ctx = ctx.Parent() {
		if _, ok := ctx.Variables["build"]; ok {
			return true
		}
	}
	return false
}

func stepName(step hcl2.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl2.TraverseAttr:
		return s.Name, true
	case hcl2.TraverseIndex:
		if k, _ := s.Key.Unmark(); k.Type() == cty.String && k.IsKnown() && !k.IsNull() {
			return k.AsString(), true
		}
	}
	return "", false
}

func traversalText(t hcl2.Traversal) string {
	var b strings.Builder
	for _, step := range t {
		switch s := step.(type) {
		case hcl2.TraverseRoot:
			b.WriteString(s.Name)
		case hcl2.TraverseAttr:
			b.WriteString("." + s.Name)
		case hcl2.TraverseIndex:
			b.WriteString("[…]")
		}
	}
	return b.String()
}

// Nearest returns the candidate that is at most two edits (one for short names) away, "" if none is.
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", 3
	if len(name) < 4 {
		bestDistance = 2
	}
	for _, c := range candidates {
		if d := distance(name, c, bestDistance); d < bestDistance && d < max(len(name), len(c)) {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean returns a sentence that starts with a space, or, when no candidate is near, a short list of them.
func didYouMean(name string, candidates []string) string {
	best := Nearest(name, candidates)
	switch {
	case best != "":
		return fmt.Sprintf(" Did you mean %q?", best)
	case len(candidates) == 0:
		return ""
	case len(candidates) <= 12:
		return " There is: " + strings.Join(candidates, ", ") + "."
	}
	return ""
}

// distance is Levenshtein's, computed only as far as it can be below limit.
func distance(a, b string, limit int) int {
	if a == b {
		return 0
	}
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous + btoi(a[i] != b[j])
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func capital(s string) string {
	for i, r := range s {
		return string(unicode.ToUpper(r)) + s[i+len(string(r)):]
	}
	return s
}
