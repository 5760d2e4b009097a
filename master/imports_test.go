package master_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/rouse-ci/rouse/"

// rule is one "never" of master/DESIGN.md, section 3. Patterns are paths in this module, or whole import paths of others; "x/..." is x and all below.
type rule struct {
	in     []string // packages that are bound by it
	but    []string // packages that are not
	tests  bool     // it binds test files too
	forbid []string // imports
	allow  []string // imports that are allowed nevertheless
	reason string
}

var rules = []rule{
	{
		in: []string{"master/core/...", "master/model/..."}, forbid: []string{"..."}, reason: "1: the core is pure: values and decisions only",
		allow: []string{
			"master/core/...", "master/model",
			"time", "cmp", "slices", "maps", "errors", "fmt", "strings", "strconv", "math", "container/heap", "math/rand/v2",
		},
	},
	{in: []string{"master/model"}, forbid: []string{"master/..."}, reason: "1: the nouns are the bottom: they import nothing of ours"},
	{
		in: []string{"master/core/latent/...", "master/core/queue/...", "master/core/schedule/..."}, forbid: []string{"master/core/..."},
		reason: "1: the core's machines know neither the core nor each other",
	},
	{in: []string{"worker/..."}, forbid: ours("master", "providers", "hcl", "metrics", "cmd"), reason: "2: the agent is copied into every VM", tests: true},
	{in: []string{"worker/proto"}, forbid: []string{module + "..."}, reason: "2: the wire is a leaf that both ends import", allow: []string{"worker/proto"}},
	{in: []string{"providers/..."}, forbid: ours("master", "hcl", "worker", "metrics", "cmd"), reason: "3: a provider knows the contract only"},
	{in: []string{"providers"}, forbid: []string{module + "..."}, reason: "3: the contract is a leaf"},
	{in: []string{"hcl/..."}, forbid: ours("master", "worker", "metrics", "cmd"), reason: "4: running state never leaks into configuration"},
	{in: []string{"..."}, but: []string{"cmd/...", "master/sim/..."}, forbid: []string{"master/sim/..."}, reason: "5: the simulator is for tests and rouse sim"},
	{
		in: []string{"..."}, but: []string{"cmd/..."}, forbid: []string{"providers/..."}, allow: []string{"providers", "providers/decode", "providers/durable"},
		reason: "3, 5: nothing but cmd names a concrete provider, and no provider another",
	},
	{
		in: []string{"..."}, but: []string{"metrics/...", "cmd/..."}, forbid: []string{"github.com/prometheus/client_golang/..."},
		reason: "5: metrics are described and collected in one place",
	},
	{
		in: []string{"..."}, but: []string{"master/store/..."}, reason: "5: only stores speak to databases", tests: true,
		forbid: []string{
			"database/sql/driver", "modernc.org/sqlite/...", "github.com/jackc/...", "github.com/lib/pq", "github.com/mattn/go-sqlite3", "github.com/ncruces/go-sqlite3/...",
		},
	},
	{
		in: []string{"..."}, but: []string{"providers/ec2"}, tests: true, forbid: []string{"github.com/aws/..."},
		reason: "3: one package speaks to AWS: its client takes a minute and gigabytes to compile",
	},
	{in: []string{"..."}, but: []string{"cmd/..."}, forbid: []string{"cmd/..."}, reason: "programs are at the top", tests: true},
	{
		in:     []string{"master/engine/...", "master/session/...", "master/store/...", "master/steplog/...", "master/sim/..."},
		forbid: []string{"hcl/..."}, reason: "3: what runs is given core.Config, not source text",
	},
	{
		in: []string{"master/plan/..."}, forbid: ours("master", "worker", "metrics"), allow: []string{"master/plan", "master/core", "master/model"},
		reason: "3: a plan is computed from values: it asks nobody",
	},
	{in: []string{"master/plan/..."}, forbid: []string{"os", "net", "net/http", "context", "log/slog"}, reason: "3: a plan is computed from values: it asks nobody"},
	{
		in: []string{"master/notify/..."}, forbid: ours("master", "hcl", "providers", "worker", "metrics"), allow: []string{"master/notify"},
		reason: "3: who is told what is decided elsewhere",
	},
}

// folders are the only ones at the top, besides hidden ones and those that git ignores.
var folders = []string{"cmd", "hcl", "providers", "worker", "images", "contrib", "metrics", "master"}

func ours(dirs ...string) []string {
	for i := range dirs {
		dirs[i] += "/..."
	}
	return dirs
}

func TestNobodyImportsWhatDesignForbids(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Fatal("this test must run in the module's tree:", err)
	}
	broken, files, err := check(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("only %d Go files found: the test looks at the wrong place", files)
	}
	for _, b := range broken {
		t.Error(b)
	}
}

// Each rule must be seen to fail: a rule that cannot fail is not there.
func TestEachRuleIsSeenToFail(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ file, source, want string }{
		{"master/core/x.go", `import "os"`, "1: the core is pure"},
		{"master/core/queue/x.go", `import "context"`, "1: the core is pure"},
		{"master/core/x.go", `import "github.com/rouse-ci/rouse/providers"`, "1: the core is pure"},
		{"master/core/x.go", `import "time"; var t = time.Now()`, "1: the core reads no clock"},
		{"master/core/latent/x.go", `import clock "time"; func f() { clock.Sleep(1) }`, "1: the core reads no clock"},
		{"master/model/x.go", `import "github.com/rouse-ci/rouse/master/core"`, "1: the nouns"},
		{"master/core/latent/x.go", `import "github.com/rouse-ci/rouse/master/core"`, "1: the core's machines"},
		{"master/core/latent/x.go", `import "github.com/rouse-ci/rouse/master/core/queue"`, "1: the core's machines"},
		{"worker/run/x.go", `import "github.com/rouse-ci/rouse/hcl"`, "2: the agent"},
		{"worker/x_test.go", `import "github.com/rouse-ci/rouse/master/session"`, "2: the agent"},
		{"worker/proto/x.go", `import "github.com/rouse-ci/rouse/worker/run"`, "2: the wire"},
		{"providers/local/x.go", `import "github.com/rouse-ci/rouse/master/model"`, "3: a provider knows"},
		{"providers/local/x.go", `import "github.com/rouse-ci/rouse/providers/fake"`, "3, 5: nothing but cmd"},
		{"providers/x.go", `import "github.com/rouse-ci/rouse/providers/decode"`, "3: the contract"},
		{"hcl/x.go", `import "github.com/rouse-ci/rouse/master/model"`, "4: running state"},
		{"master/engine/x.go", `import "github.com/rouse-ci/rouse/master/sim"`, "5: the simulator"},
		{"master/engine/x.go", `import "github.com/rouse-ci/rouse/providers/local"`, "3, 5: nothing but cmd"},
		{"master/api/x.go", `import "github.com/prometheus/client_golang/prometheus"`, "5: metrics"},
		{"master/engine/x_test.go", `import _ "modernc.org/sqlite"`, "5: only stores"},
		{"master/x_test.go", `import "github.com/aws/aws-sdk-go-v2/service/ec2"`, "3: one package"},
		{"providers/ec2/ec2test/x.go", `import "github.com/aws/smithy-go"`, "3: one package"},
		{"master/x.go", `import "github.com/rouse-ci/rouse/cmd/rouse"`, "programs are at the top"},
		{"master/engine/x.go", `import "github.com/rouse-ci/rouse/hcl"`, "3: what runs"},
		{"master/notify/x.go", `import "github.com/rouse-ci/rouse/master/core"`, "3: who is told"},
		{"master/plan/x.go", `import "github.com/rouse-ci/rouse/master/engine"`, "3: a plan"},
		{"master/plan/x.go", `import "os"`, "3: a plan"},
		{"providers/x.go", `import "github.com/hashicorp/hcl/v2"`, "6: "},
		{"hcl/x.go", `import hcl "github.com/hashicorp/hcl/v2"`, "6: "},
		{"hcl/x_test.go", `import . "github.com/hashicorp/hcl/v2"`, "6: "},
		{"internal/x.go", ``, "2: internal is no folder"},
		{"util/x.txt", ``, "2: util is no folder"},

		{"master/core/x.go", `import ("time"; "slices"; "github.com/rouse-ci/rouse/master/core/queue"); var t time.Time`, ""},
		{"master/core/x_test.go", `import ("os"; "time"); var t = time.Now()`, ""},
		{"master/engine/x_test.go", `import ("github.com/rouse-ci/rouse/providers/fake"; "github.com/rouse-ci/rouse/master/sim")`, ""},
		{"cmd/rouse/x.go", `import ("github.com/rouse-ci/rouse/providers/local"; "github.com/rouse-ci/rouse/master/sim")`, ""},
		{"hcl/x.go", `import ("github.com/rouse-ci/rouse/providers"; hcl2 "github.com/hashicorp/hcl/v2"; "github.com/hashicorp/hcl/v2/hclsyntax")`, ""},
		{"master/store/sqlite/x.go", `import _ "modernc.org/sqlite"`, ""},
		{"bin/x.go", ``, ""},
		{".ci/x.go", ``, ""},
	} {
		pkg := "package " + path.Base(path.Dir(tc.file)) + "\n"
		tree := fstest.MapFS{tc.file: {Data: []byte(pkg + tc.source)}, ".gitignore": {Data: []byte("/bin/\n*.test\n")}}
		broken, _, err := check(tree)
		switch {
		case err != nil:
			t.Errorf("%s %s: %v", tc.file, tc.source, err)
		case tc.want == "" && len(broken) > 0:
			t.Errorf("%s %s is fine, but %v", tc.file, tc.source, broken)
		case tc.want != "" && !slices.ContainsFunc(broken, func(b string) bool { return strings.Contains(b, tc.want) }):
			t.Errorf("%s %s breaks %q, but only %v was seen", tc.file, tc.source, tc.want, broken)
		}
	}
}

// check returns what breaks a rule in a tree, and how many Go files it has.
func check(tree fs.FS) (broken []string, files int, err error) {
	ignored := map[string]bool{}
	if data, err := fs.ReadFile(tree, ".gitignore"); err == nil {
		for line := range strings.Lines(string(data)) {
			ignored[strings.Trim(strings.TrimSpace(line), "/")] = true
		}
	}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir() && strings.HasSuffix(name, ".go"):
			files++
			found, err := checkFile(tree, name)
			broken = append(broken, found...)
			return err
		case !d.IsDir() || name == ".":
			return nil
		case strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || ignored[name]:
			return fs.SkipDir
		case !strings.Contains(name, "/") && !slices.Contains(folders, name):
			broken = append(broken, fmt.Sprintf("section 2: %s is no folder of the design", name))
			return fs.SkipDir
		}
		return nil
	})
	return broken, files, err
}

func checkFile(tree fs.FS, name string) (broken []string, err error) {
	src, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	dir, test := path.Dir(name), strings.HasSuffix(name, "_test.go")
	say := func(pos token.Pos, what, reason string) {
		broken = append(broken, fmt.Sprintf("%s: %s: rule %s", fset.Position(pos), what, reason))
	}
	clock := "" // what this file calls package time
	for _, spec := range file.Imports {
		full, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imported := strings.TrimPrefix(full, module)
		if full == "time" {
			if clock = "time"; spec.Name != nil {
				clock = spec.Name.Name
			}
		}
		if full == "github.com/hashicorp/hcl/v2" && (spec.Name == nil || spec.Name.Name != "hcl2") {
			say(spec.Pos(), "imports "+full+" under another name than hcl2", "6: our folder owns the name hcl")
		}
		for _, r := range rules {
			if match(r.in, dir) && !match(r.but, dir) && (r.tests || !test) &&
				(match(r.forbid, imported) || match(r.forbid, full)) && !match(r.allow, imported) {
				say(spec.Pos(), "imports "+imported, r.reason)
			}
		}
	}
	if match([]string{"master/core/...", "master/model/..."}, dir) && !test && clock != "" {
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == clock &&
					slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation"}, sel.Sel.Name) {
					say(n.Pos(), "uses time."+sel.Sel.Name, "1: the core reads no clock: the time is passed in")
				}
			}
			return true
		})
	}
	return broken, nil
}

// match says whether an import path fits one of the patterns.
func match(patterns []string, name string) bool {
	for _, p := range patterns {
		prefix, tree := strings.CutSuffix(p, "...")
		if p == name || tree && (strings.HasPrefix(name, prefix) || name == strings.TrimSuffix(prefix, "/")) {
			return true
		}
	}
	return false
}
