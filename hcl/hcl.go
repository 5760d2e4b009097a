// Package hcl turns source text into a resolved, typed configuration, or into every mistake that it holds, each with its place and, where a
// name is nearly right, the name that was meant.
//
// It knows nothing of running systems: it dials nothing, starts nothing but a secret's command (and that only when a secret is read), and names no
// provider; kinds of provider come in through Options. DESIGN.md beside it holds the grammar and its reasons.
package hcl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Bounds of what is read.
const (
	maxFileSize  = 4 << 20 // of one file of configuration
	maxFiles     = 1000    // in one directory
	maxDataSize  = 1 << 20 // of one file that an expression reads
	maxWorkers   = 100_000 // identities in all
	maxCount     = 10_000  // of one worker block
	maxSteps     = 1_000   // of one builder
	maxNameLen   = 50      // Buildbot's bound for workers
	maxBuilders  = 100_000 // blocks
	maxSecretLen = 64 << 10
)

// Load reads the directory's *.hcl and *.hcl.json files, which together are one configuration. The Config is never nil, so that the diagnostics can be
// rendered with their source (Config.WriteDiagnostics); if they hold an error it is good for nothing else.
func Load(dir string, o Options) (*Config, hcl2.Diagnostics) {
	if o.Dir == "" {
		o.Dir = dir
	}
	files, err := readDir(dir)
	if err != nil {
		return newConfig(), hcl2.Diagnostics{{
			Severity: hcl2.DiagError,
			Summary:  "Cannot read the configuration",
			Detail:   capital(err.Error()) + ".",
		}}
	}
	return LoadFiles(files, o)
}

// LoadFiles makes a configuration from source text that was read before: by Load, or from an older Config's Files. Entries whose names do not end in .hcl or
// .hcl.json, or which are in a folder, are data: what expressions read through file() and templatefile() when the text was first loaded.
func LoadFiles(files map[string][]byte, o Options) (*Config, hcl2.Diagnostics) {
	l := &loader{o: o, cfg: newConfig(), files: &fileReader{dir: o.Dir, seen: map[string][]byte{}}}
	if l.o.Getenv == nil {
		l.o.Getenv = os.Getenv
	}
	body := l.parse(files)
	if !l.diags.HasErrors() && len(l.cfg.Files) == 0 {
		l.errorf(nil, "No configuration", "There is no file whose name ends in .hcl or .hcl.json%s. `rouse init` writes an example.", inDir(o.Dir))
	}
	if !l.diags.HasErrors() {
		l.load(body)
	}
	for name, data := range l.files.seen {
		l.cfg.Files[name] = data
	}
	diags := tidy(l.diags)
	hide(diags, slices.DeleteFunc(l.cfg.sensitiveValues(), func(s []byte) bool { return len(s) < Masked })) // a shorter one is in any message
	return l.cfg, diags
}

// loader is one run of Load.
type loader struct {
	o     Options
	cfg   *Config
	diags hcl2.Diagnostics
	files *fileReader

	base *hcl2.EvalContext // var, local and the functions
	refs *hcl2.EvalContext // base's child: worker, builder, lock, scheduler, secret

	secrets map[string]Secret
	labels  map[string][]string              // of worker blocks -> the names of their workers, where all are known
	owners  map[string]Worker                // who holds what only one may have
	blocks  map[string]map[string]hcl2.Range // kind of block -> name -> where it is, for duplicates and suggestions

	countBroken bool // a worker block's count is wrong, so nobody can say that a builder has no workers
}

// load resolves the blocks in the order in which they can depend on each other. A stage with mistakes does not stop the next one, so that all of them
// are found in one run; what is unknown for that reason is an unknown value and causes no second complaint.
func (l *loader) load(body hcl2.Body) {
	content, diags := l.root(body)
	l.diags = append(l.diags, diags...)
	l.blocks = map[string]map[string]hcl2.Range{}
	blocks := content.Blocks.ByType()

	l.cfg.env = &Env{accepting: l.o.Accepted}
	l.base = &hcl2.EvalContext{Functions: l.functions(), Variables: map[string]cty.Value{}}
	l.variables(blocks["variable"])
	l.locals(blocks["locals"])
	l.secretBlocks(blocks["secret"])
	l.lockBlocks(blocks["lock"])
	l.providerBlocks(blocks["provider"])
	workers := l.expandWorkers(blocks["worker"])
	l.references(workers, blocks["builder"], blocks["scheduler"])
	l.master(blocks["master"])
	l.workers(workers)
	l.builderBlocks(blocks["builder"])
	l.schedulerBlocks(blocks["scheduler"])
	if !diags.HasErrors() { // else a missing block may only be misspelt
		l.crossChecks(len(blocks["worker"]), len(blocks["builder"]))
		l.checkNotices(workers)
	}

	l.cfg.env.ctx, l.cfg.env.secrets, l.cfg.env.dir = l.refs, l.secrets, l.o.Dir
	l.checkSteps()
	l.cfg.env.accepting = false
}

var rootSchema = &hcl2.BodySchema{Blocks: []hcl2.BlockHeaderSchema{
	{Type: "master"},
	{Type: "provider", LabelNames: []string{"kind", "name"}},
	{Type: "worker", LabelNames: []string{"name"}},
	{Type: "builder", LabelNames: []string{"name"}},
	{Type: "scheduler", LabelNames: []string{"kind", "name"}},
	{Type: "lock", LabelNames: []string{"name"}},
	{Type: "variable", LabelNames: []string{"name"}},
	{Type: "locals"},
	{Type: "secret", LabelNames: []string{"name"}},
}}

func newConfig() *Config {
	return &Config{
		Files:     map[string][]byte{},
		Variables: map[string]string{},
		given:     map[string]string{},
		bodies:    map[string]hcl2.Body{},
		unsound:   map[string]bool{},
		sources:   map[string]*hcl2.File{},
		Master:    defaultMaster(),
	}
}

// readDir reads the configuration's files of one directory, without its folders.
func readDir(dir string) (map[string][]byte, error) {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("not a directory, but a file: %s. Give the directory that it is in; all *.hcl files there are one configuration", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !isConfigFile(e.Name()) {
			continue
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("%s holds more than %d configuration files", dir, maxFiles)
		}
		data, err := readBounded(filepath.Join(dir, e.Name()), maxFileSize)
		if err != nil {
			return nil, err
		}
		files[e.Name()] = data
	}
	return files, nil
}

func isConfigFile(name string) bool {
	return (strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".hcl.json")) &&
		!strings.HasPrefix(name, ".") && !strings.Contains(name, "/")
}

// readBounded reads a regular file of at most limit bytes. A device or a pipe is refused before it is opened, since it might never end.
func readBounded(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file: %s", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}

func inDir(dir string) string {
	switch dir {
	case "":
		return ""
	case ".":
		return " in this directory"
	}
	return " in " + dir
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
