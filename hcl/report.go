package hcl

import (
	"bytes"
	"path/filepath"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
)

// Report is what `rouse validate -json` prints: the shape of `terraform validate -json`, which editors understand already.
type Report struct {
	FormatVersion string       `json:"format_version"`
	Valid         bool         `json:"valid"`
	ErrorCount    int          `json:"error_count"`
	WarningCount  int          `json:"warning_count"`
	Diagnostics   []Diagnostic `json:"diagnostics"`
}

// Diagnostic is one mistake or warning.
type Diagnostic struct {
	Severity string   `json:"severity"` // "error" or "warning"
	Summary  string   `json:"summary"`
	Detail   string   `json:"detail"`
	Range    *Range   `json:"range,omitempty"`
	Snippet  *Snippet `json:"snippet,omitempty"`
}

// Range is a place in a file; lines and columns count from 1, bytes from 0, and End is exclusive.
type Range struct {
	Filename string `json:"filename"`
	Start    Pos    `json:"start"`
	End      Pos    `json:"end"`
}

// Pos is one end of a Range.
type Pos struct {
	Line   int `json:"line"`
	Column int `json:"column"`
	Byte   int `json:"byte"`
}

// Snippet is the source line of a Diagnostic. Offsets are bytes in Code.
type Snippet struct {
	Context              *string  `json:"context"` // the block around it, such as `worker "linux"`
	Code                 string   `json:"code"`
	StartLine            int      `json:"start_line"`
	HighlightStartOffset int      `json:"highlight_start_offset"`
	HighlightEndOffset   int      `json:"highlight_end_offset"`
	Values               []string `json:"values"` // always empty: values may be secret
}

// Report makes the machine-readable form of diagnostics.
func (c *Config) Report(diags hcl2.Diagnostics) Report {
	r := Report{FormatVersion: "1.0", Diagnostics: []Diagnostic{}}
	for _, d := range diags {
		out := Diagnostic{Severity: "error", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl2.DiagWarning {
			out.Severity = "warning"
			r.WarningCount++
		} else {
			r.ErrorCount++
		}
		if s := d.Subject; s != nil {
			out.Range = &Range{Filename: s.Filename, Start: Pos(s.Start), End: Pos(s.End)}
			out.Snippet = c.snippet(s)
		}
		r.Diagnostics = append(r.Diagnostics, out)
	}
	r.Valid = r.ErrorCount == 0
	return r
}

func (c *Config) snippet(r *hcl2.Range) *Snippet {
	f := c.source(r.Filename)
	if f == nil || r.Start.Byte > len(f.Bytes) {
		return nil
	}
	start := bytes.LastIndexByte(f.Bytes[:r.Start.Byte], '\n') + 1
	line := f.Bytes[start:]
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	s := &Snippet{Code: strings.ToValidUTF8(string(line), "\uFFFD"), StartLine: r.Start.Line, Values: []string{}}
	s.HighlightStartOffset = r.Start.Byte - start
	s.HighlightEndOffset = min(max(r.End.Byte, r.Start.Byte)-start, len(line))
	if nav, ok := f.Nav.(interface{ ContextString(offset int) string }); ok {
		if text := nav.ContextString(r.Start.Byte); text != "" {
			s.Context = &text
		}
	}
	return s
}

// source is a parsed file.
func (c *Config) source(name string) *hcl2.File {
	c.naming.RLock()
	defer c.naming.RUnlock()
	return c.sources[name]
}

// Relocate names the configuration's files as they are called from where the user is, for messages. Others may read the configuration meanwhile.
func (c *Config) Relocate(dir string, diags hcl2.Diagnostics) hcl2.Diagnostics {
	if dir == "" || dir == "." {
		return diags
	}
	move := func(r *hcl2.Range) *hcl2.Range {
		if r == nil || c.Files[r.Filename] == nil {
			return r
		}
		moved := *r
		moved.Filename = filepath.Join(dir, r.Filename)
		c.naming.Lock()
		c.sources[moved.Filename] = c.sources[r.Filename]
		c.naming.Unlock()
		return &moved
	}
	out := make(hcl2.Diagnostics, len(diags))
	for i, d := range diags {
		moved := *d
		moved.Subject, moved.Context = move(d.Subject), move(d.Context)
		out[i] = &moved
	}
	return out
}
