package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

// table writes lines and aligned rows to standard output. What masters and builds say is shown without control characters, so that it cannot
// drive the terminal.
type table struct {
	a    *app
	w    *tabwriter.Writer
	text bytes.Buffer // what w has aligned; its lines still end in spaces
}

func newTable(a *app) *table {
	t := &table{a: a}
	t.w = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	return t
}

func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(t.text.String()) {
		if _, err := fmt.Fprintln(t.a.stdout, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// head writes the names of the columns.
func (t *table) head(names ...string) { t.row(toAny(names)...) }

// row writes one aligned row.
func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = clean(fmt.Sprint(c))
	}
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

// line writes a line that belongs to no column.
func (t *table) line(format string, args ...any) {
	for l := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintln(t.w, clean(strings.TrimSuffix(l, "\n")))
	}
}

// pair writes a name and a value, unless the value is empty.
func (t *table) pair(name string, value any) {
	if s := fmt.Sprint(value); s != "" {
		t.row("  "+name, s)
	}
}

// gap ends a block: columns before and after it are not aligned with each other.
func (t *table) gap() {
	_ = t.w.Flush()
	fmt.Fprintln(t.w)
}

func toAny(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}

// clean replaces what could drive a terminal: all that others have written passes it.
func clean(s string) string { return plan.Clean(s) }

// human shows seconds with two units at most: 37ms, 2.5s, 12s, 3m20s, 2h05m, 3d04h.
func human(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func money(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'f', 4, 64)
}

// why is the text of what has a result, without the result where the text begins with it: that is shown beside it.
func why(r model.Result, text string) string { return strings.TrimPrefix(text, r.String()+": ") }

// outcome is a result, or the phase of what has none yet.
func outcome(r model.Result, phase string) string {
	if r == model.NoResult {
		return phase
	}
	return r.String()
}
