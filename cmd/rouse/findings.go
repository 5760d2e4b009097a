package main

import (
	"log/slog"
	"sync"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
)

// findings shows what a master finds wrong with its configuration directory: as text, as all commands do; but where the log is JSON and the master serves, as
// records, since whoever reads that log reads nothing else. What is found before it serves waits until it is known whether it ever does.
type findings struct {
	text func(cfg *hcl.Config, diags hcl2.Diagnostics)
	log  *slog.Logger // nil: always as text
	dir  string       // the directory's whole name: who reads a log does not know where the master was started

	mu      sync.Mutex
	serving bool
	early   []finding
}

type finding struct {
	cfg   *hcl.Config
	diags hcl2.Diagnostics
}

func (f *findings) report(cfg *hcl.Config, diags hcl2.Diagnostics) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.log == nil:
		f.text(cfg, diags)
	case f.serving:
		f.record(cfg, diags)
	default:
		f.early = append(f.early, finding{cfg, diags})
	}
}

// serves says that the master has come up.
func (f *findings) serves() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serving = true
	for _, e := range f.early {
		f.record(e.cfg, e.diags)
	}
	f.early = nil
}

// ended shows what has kept a master from serving.
func (f *findings) ended() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.early {
		f.text(e.cfg, e.diags)
	}
	f.early = nil
}

func (f *findings) record(cfg *hcl.Config, diags hcl2.Diagnostics) {
	for _, d := range cfg.Report(cfg.Relocate(f.dir, diags)).Diagnostics {
		about := []any{"detail", d.Detail}
		if d.Range != nil {
			about = append(about, "file", d.Range.Filename, "line", d.Range.Start.Line)
		}
		if d.Severity == "error" {
			f.log.Error("configuration: "+d.Summary, about...)
		} else {
			f.log.Warn("configuration: "+d.Summary, about...)
		}
	}
}
