package main

import (
	"fmt"
	"strings"
)

// unifiedDiff shows what changes between two texts, with three lines of context. It takes quadratic time in the lines that differ, which between a file
// and its tidy form are few; beyond a bound, the differing middle is shown as one change.
func unifiedDiff(name string, before, after []byte) string {
	a, b := splitLines(string(before)), splitLines(string(after))
	edits := diffLines(a, b)
	var out strings.Builder
	fmt.Fprintf(&out, "--- old/%s\n+++ new/%s\n", name, name)
	const around = 3
	for i := 0; i < len(edits); {
		if edits[i].op == ' ' {
			i++
			continue
		}
		start := max(0, i-around)
		end, quiet := i, 0
		for j := i; j < len(edits) && quiet <= 2*around; j++ {
			if edits[j].op == ' ' {
				quiet++
			} else {
				quiet, end = 0, j+1
			}
		}
		end = min(len(edits), end+around)
		writeHunk(&out, edits[start:end])
		i = end
	}
	return out.String()
}

type edit struct {
	op   byte // ' ', '-' or '+'
	line string
	a, b int // line numbers, from 0, at this point
}

func writeHunk(out *strings.Builder, edits []edit) {
	oldLines, newLines := 0, 0
	for _, e := range edits {
		if e.op != '+' {
			oldLines++
		}
		if e.op != '-' {
			newLines++
		}
	}
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", edits[0].a+1, oldLines, edits[0].b+1, newLines)
	for _, e := range edits {
		fmt.Fprintf(out, "%c%s\n", e.op, strings.TrimSuffix(e.line, "\n"))
		if !strings.HasSuffix(e.line, "\n") {
			out.WriteString("\\ No newline at end of file\n")
		}
	}
}

func splitLines(s string) []string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, line)
	}
	return lines
}

// diffLines finds a shortest edit by the longest common subsequence of the part between the common ends.
func diffLines(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var edits []edit
	i, j := 0, 0
	add := func(op byte) {
		e := edit{op: op, a: i, b: j}
		if op == '+' {
			e.line = b[j]
		} else {
			e.line = a[i]
		}
		if op != '+' {
			i++
		}
		if op != '-' {
			j++
		}
		edits = append(edits, e)
	}
	for range head {
		add(' ')
	}
	am, bm := a[head:len(a)-tail], b[head:len(b)-tail]
	common := commonLengths(am, bm)
	for i-head < len(am) || j-head < len(bm) {
		x, y := i-head, j-head
		switch {
		case x < len(am) && y < len(bm) && am[x] == bm[y]:
			add(' ')
		case y == len(bm) || x < len(am) && (common == nil || common[x+1][y] >= common[x][y+1]):
			add('-')
		default:
			add('+')
		}
	}
	for range tail {
		add(' ')
	}
	return edits
}

// commonLengths is the table of longest common subsequences of all pairs of tails; nil if it would be too large.
func commonLengths(a, b []string) [][]int32 {
	if len(a)*len(b) > 16<<20 {
		return nil
	}
	t := make([][]int32, len(a)+1)
	for i := range t {
		t[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				t[i][j] = t[i+1][j+1] + 1
			} else {
				t[i][j] = max(t[i+1][j], t[i][j+1])
			}
		}
	}
	return t
}
