package plan

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Paint gives a text a style: "create", "update", "replace", "remove", "bold", "quiet", "error" or "warning". nil paints nothing.
type Paint func(style, text string) string

// WriteText shows the plan to a person. It needs nothing but the Plan, so a saved one looks the same. What comes from outside is shown without control
// characters.
func (p *Plan) WriteText(w io.Writer, paint Paint) error {
	if paint == nil {
		paint = func(_, text string) string { return text }
	}
	t := &text{w: bufio.NewWriter(w), p: p, paint: paint}
	t.preface()
	groups := t.groups()
	t.legend()
	for _, g := range groups {
		t.group(g)
	}
	t.instances()
	t.work()
	t.drift()
	t.cost()
	t.diagnostics()
	t.last()
	return t.w.Flush()
}

type text struct {
	w     *bufio.Writer
	p     *Plan
	paint Paint
}

// maxNamed bounds how many instances, builds and requests of one kind are named; JSON has them all.
const maxNamed = 10

var symbols = map[Action]string{Create: "+", Update: "~", Replace: "-/+", Remove: "-"}

var legends = map[Action]string{Create: "create", Update: "update in place", Replace: "replace (drain, then a new generation)", Remove: "remove (drain)"}

func (t *text) line(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

func (t *text) preface() {
	p := t.p
	if p.Offline && p.Base == 0 {
		t.line("%s", t.paint("warning", "No master is running, and none has applied a configuration here: everything is new."))
	} else if p.Offline {
		t.line("%s", t.paint("warning", "No master is running: this compares the configuration with the state on disk."))
	}
	if !p.Refreshed && p.Base > 0 {
		t.line("%s", t.paint("quiet", "The providers were not asked: this goes by the master's records."))
	}
	if p.Offline || !p.Refreshed && p.Base > 0 {
		t.line("")
	}
}

func (t *text) legend() {
	used := map[Action]bool{}
	for i := range t.p.Changes {
		used[t.p.Changes[i].Action] = true
	}
	delete(used, NoOp)
	if len(used) == 0 {
		return
	}
	t.line("What would be done:")
	for _, a := range []Action{Create, Update, Replace, Remove} {
		if used[a] {
			t.line("%5s %s", t.pad(a, 5), legends[a])
		}
	}
	t.line("")
}

// pad aligns a symbol to the right before it is painted.
func (t *text) pad(a Action, width int) string {
	return strings.Repeat(" ", max(0, width-len(symbols[a]))) + t.paint(string(a), symbols[a])
}

// group is one change, or several workers of one block that change alike.
type group struct {
	*Change
	numbers []string        // of the workers in the pool
	varies  map[string]bool // attributes that are not the same for all
}

// groups folds the workers of a pool that change alike. Attributes that differ from one to the other, such as what is made from count.index, do not keep
// them apart: those are shown as they are for the first.
func (t *text) groups() []*group {
	var all []*group
	pools := map[string]*group{}
	for i := range t.p.Changes {
		c := &t.p.Changes[i]
		if c.Action == NoOp {
			continue
		}
		number, ok := strings.CutPrefix(c.Name, c.Pool+"-")
		if c.Pool == "" || !ok {
			all = append(all, &group{Change: c})
			continue
		}
		key := alike(c)
		g := pools[key]
		if g == nil {
			g = &group{Change: c}
			pools[key] = g
			all = append(all, g)
		}
		g.numbers = append(g.numbers, number)
		if g.Change != c {
			g.differ(c)
		}
	}
	return all
}

// alike is what workers of one pool must have in common to be one entry.
func alike(c *Change) string {
	var b strings.Builder
	b.WriteString(c.Pool + "\x00" + string(c.Action) + "\x00" + c.Reason + "\x00" + c.Note)
	for i := range c.Attributes {
		b.WriteString("\x00" + c.Attributes[i].Path)
	}
	return b.String()
}

// differ notes which attributes are not the same for all.
func (g *group) differ(c *Change) {
	for i := range min(len(c.Attributes), len(g.Attributes)) {
		a, b := &c.Attributes[i], &g.Attributes[i]
		if !g.varies[a.Path] && (value(a.Before) != value(b.Before) || value(a.After) != value(b.After)) {
			if g.varies == nil {
				g.varies = map[string]bool{}
			}
			g.varies[a.Path] = true
		}
	}
}

var verbs = map[Action]string{Create: "will be created", Update: "will be updated in place", Replace: "must be replaced", Remove: "will be removed"}

func (t *text) group(g *group) {
	address := g.Address
	if g.Pool != "" && len(g.numbers) > 0 {
		address = "worker." + g.Pool + "[" + spans(g.numbers) + "]"
		if len(g.numbers) > 1 {
			address += fmt.Sprintf(" (%d workers)", len(g.numbers))
		}
	}
	t.line("  %s", t.paint("bold", "# "+Clean(address)+" "+verbs[g.Action]))
	if g.Reason != "" {
		t.line("  # (because %s)", Clean(g.Reason))
	}
	if g.Note != "" {
		t.line("  # (%s)", Clean(g.Note))
	}
	if len(g.Attributes) == 0 && g.Unchanged == 0 {
		t.line("  %s %s {}", t.pad(g.Action, 3), Clean(head(g.Change)))
		t.line("")
		return
	}
	t.line("  %s %s {", t.pad(g.Action, 3), Clean(head(g.Change)))
	width := 0
	for i := range g.Attributes {
		width = max(width, len([]rune(g.Attributes[i].Path)))
	}
	for i := range g.Attributes {
		a := &g.Attributes[i]
		t.attribute(a, min(width, 40), g.varies[a.Path], g.Action)
	}
	if g.Unchanged > 0 {
		t.line("      %s", t.paint("quiet", fmt.Sprintf("# (%s hidden)", plural(g.Unchanged, "unchanged attribute"))))
	}
	t.line("    }")
	t.line("")
}

// head is the first line of the block that a change is about.
func head(c *Change) string {
	if c.Kind == "master" {
		return "master"
	}
	name := strconv.Quote(c.Name)
	if c.Pool != "" {
		name = strconv.Quote(c.Pool)
	}
	if kind, ok := strings.CutSuffix(strings.TrimPrefix(c.Address, c.Kind+"."), "."+c.Name); ok && (c.Kind == "provider" || c.Kind == "scheduler") {
		return c.Kind + " " + strconv.Quote(kind) + " " + name
	}
	return c.Kind + " " + name
}

func (t *text) attribute(a *Attribute, width int, varies bool, action Action) {
	symbol, style := "~", string(Update)
	var change string
	switch before, after := a.show(a.Before), a.show(a.After); {
	case a.Sensitive:
		change = "(sensitive)"
		switch action {
		case Create:
			symbol, style = "+", string(Create)
		case Remove:
			symbol, style = "-", string(Remove)
		}
	case a.Before == nil:
		symbol, style, change = "+", string(Create), after
	case a.After == nil:
		symbol, style, change = "-", string(Remove), before
		if action != Remove {
			change += " -> (not set)"
		}
	case before == after && len(a.Inputs) > 0:
		change = before
	default:
		before, after = window(before, after)
		change = before + " -> " + after
	}
	if len(a.Inputs) > 0 {
		change += " # (it uses " + strings.Join(a.Inputs, ", ") + ", which changes)"
	}
	if varies {
		change += " # (and so on)"
	}
	if a.ForcesReplace && action == Replace {
		change += " # forces replacement"
	}
	t.line("      %s %-*s = %s", t.paint(style, symbol), width, Clean(a.Path), Clean(change))
}

// show is a value in HCL's spelling, on one line.
func (a *Attribute) show(v any) string {
	if s, ok := v.(string); ok && a.Expression {
		return strings.Join(strings.Fields(s), " ")
	}
	return value(v)
}

func value(v any) string {
	switch v := v.(type) {
	case nil:
		return "(not set)"
	case string:
		for _, root := range []string{"secret.", "lock.", "provider.", "worker."} {
			if strings.HasPrefix(v, root) {
				return v // a reference
			}
		}
		return strconv.Quote(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		items := make([]string, len(v))
		for i, e := range v {
			items[i] = value(e)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(b)
}

// maxShown bounds a value on a line.
const maxShown = 120

// window cuts two long values to where they differ.
func window(a, b string) (string, string) {
	x, y := []rune(a), []rune(b)
	if len(x) <= maxShown && len(y) <= maxShown {
		return a, b
	}
	from := 0
	for from < len(x) && from < len(y) && x[from] == y[from] {
		from++
	}
	from = max(0, from-maxShown/4)
	cut := func(r []rune) string {
		r = r[min(from, len(r)):]
		s := string(r)
		if len(r) > maxShown {
			s = string(r[:maxShown]) + "…"
		}
		if from > 0 {
			s = "…" + s
		}
		return s
	}
	return cut(x), cut(y)
}

// spans makes "1..3, 7" of the numbers of workers.
func spans(numbers []string) string {
	var n []int
	for _, s := range numbers {
		i, err := strconv.Atoi(s)
		if err != nil {
			return strings.Join(numbers, ", ")
		}
		n = append(n, i)
	}
	slices.Sort(n)
	var out []string
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		if j == i {
			out = append(out, strconv.Itoa(n[i]))
		} else {
			out = append(out, fmt.Sprintf("%d..%d", n[i], n[j]))
		}
		i = j + 1
	}
	return strings.Join(out, ", ")
}

// fates in the order in which they are shown, with what is said of them.
var fates = []struct {
	fate Fate
	text string
}{
	{ReplaceWhenIdle, "replaced now"},
	{ReplaceAfterWork, "replaced after its build"},
	{End, "ended now"},
	{EndAfterWork, "ended after its build"},
	{Adopt, "adopted"},
	{DestroyOrphan, "destroyed as an orphan"},
	{Abandon, "left behind"},
	{Lost, "gone already"},
	{Ending, "ending already"},
}

func (t *text) instances() {
	by := map[Fate][]*Instance{}
	for i := range t.p.Instances {
		x := &t.p.Instances[i]
		by[x.Fate] = append(by[x.Fate], x)
	}
	kept := len(by[Keep])
	if len(t.p.Instances) == kept {
		return
	}
	t.line("%s", t.paint("bold", "Instances:"))
	for _, f := range fates {
		for i, x := range by[f.fate] {
			if i == maxNamed {
				t.line("    and %d more: %s", len(by[f.fate])-i, f.text)
				break
			}
			what := f.text
			if len(x.Builds) > 0 {
				what = strings.Replace(what, "its build", buildList(x), 1)
			}
			t.line("    %s %s", Clean(x.Key), t.paint("quiet", Clean("# "+because(what, x.Reason))))
		}
	}
	if kept > 0 {
		t.line("    %s", t.paint("quiet", fmt.Sprintf("# (%s hidden)", plural(kept, "kept instance"))))
	}
	t.line("")
}

func because(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}

func buildList(x *Instance) string {
	var n []string
	for _, b := range x.Builds {
		n = append(n, "#"+strconv.FormatInt(int64(b), 10))
	}
	if len(n) == 1 {
		return "build " + n[0]
	}
	return "builds " + strings.Join(n, ", ")
}

func (t *text) work() {
	if len(t.p.Work) == 0 {
		return
	}
	t.line("%s", t.paint("bold", "Running builds and waiting requests:"))
	shown := map[string]int{}
	for i := range t.p.Work {
		w := &t.p.Work[i]
		if shown[w.Kind]++; shown[w.Kind] > maxNamed {
			continue
		}
		t.line("    %s #%d of %s %s", w.Kind, w.ID, Clean(w.Builder), Clean(w.Text))
	}
	for _, kind := range []string{"build", "request"} {
		if n := shown[kind] - maxNamed; n > 0 {
			t.line("    and %s more", plural(n, kind))
		}
	}
	t.line("")
}

func (t *text) drift() {
	if len(t.p.Drift) == 0 {
		return
	}
	t.line("%s", t.paint("bold", "Changed behind the master's back:"))
	for i, d := range t.p.Drift {
		if i == maxNamed {
			t.line("    and %d more", len(t.p.Drift)-i)
			break
		}
		t.line("    %s %s: %s", Clean(d.Address), Clean(d.Instance), Clean(d.Text))
	}
	t.line("")
}

func (t *text) cost() {
	c := t.p.Cost
	if c.Before == c.After && (c.Unpriced == 0 || t.p.Empty()) {
		return
	}
	more := ""
	if c.Unpriced > 0 {
		more = fmt.Sprintf(" (without %s whose price is not known)", plural(c.Unpriced, "worker"))
	}
	t.line("Greatest cost per hour, if all instances are there at once: %s -> %s %s%s.", amount(c.Before), amount(c.After), Clean(c.Currency), more)
	t.line("")
}

func amount(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }

func (t *text) diagnostics() {
	for _, d := range t.p.Diagnostics {
		title, style := "Warning: ", "warning"
		if d.Severity == "error" {
			title, style = "Error: ", "error"
		}
		t.line("%s%s", t.paint(style, title), t.paint("bold", Clean(d.Summary)))
		if d.Range != nil {
			t.line("  on %s line %d (%s)", Clean(d.Range.Filename), d.Range.Start.Line, Clean(d.Address))
		} else if d.Address != "" {
			t.line("  %s", Clean(d.Address))
		}
		if d.Detail != "" {
			t.line("  %s", Clean(d.Detail))
		}
		t.line("")
	}
}

func (t *text) last() {
	s := t.p.Summary
	switch {
	case !t.p.Empty():
		t.line("%s %d to add, %d to change, %d to replace, %d to remove.", t.paint("bold", "Plan:"), s.Add, s.Change, s.Replace, s.Remove)
	case t.p.SourceChanged && t.p.Base > 0:
		t.line("%s The text differs, but nothing that it means.", t.paint("bold", "No changes. The fleet matches the configuration."))
	default:
		t.line("%s", t.paint("bold", "No changes. The fleet matches the configuration."))
	}
}

// Clean replaces what could drive a terminal or turn the order of a text around.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || 0x202A <= r && r <= 0x202E || 0x2066 <= r && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}
