package hcl

import (
	"fmt"
	"strings"
	"testing"
)

// large is a configuration of 1,000 workers (half of them written out, half counted) and 200 builders of 3 steps.
func large() map[string][]byte {
	var workers, builders strings.Builder
	workers.WriteString("provider \"test\" \"main\" {}\nlock \"db\" {}\nlocals {\n  image = \"debian-12\"\n}\n")
	for i := range 500 {
		fmt.Fprintf(&workers, `
worker "w%d" {
  provider           = provider.test.main
  max_builds         = 1
  build_wait_timeout = "5m"
  properties         = { os = "linux", slot = %d }
  locks              = [lock.db]
  instance {
    image = "${local.image}-%d"
    env   = { SLOT = "%d" }
  }
}
`, i, i, i, i)
	}
	for i := range 5 {
		fmt.Fprintf(&workers, `
worker "c%d" {
  provider   = provider.test.main
  count      = 100
  properties = { slot = count.index }
  instance {
    image = "${local.image}-${count.index}"
  }
}
`, i)
	}
	for i := range 200 {
		fmt.Fprintf(&builders, `
builder "b%d" {
  workers = [worker.w%d, worker.w%d, worker.c%d]
  env     = { CI = "true", BUILD = build.number }

  step "git" "checkout" {
    repository = "https://example.org/project-%d.git"
    branch     = source.branch
  }

  step "shell" "test" {
    command = ["make", "test", "-j${worker.info.numcpus}", "BUILD=${build.number}"]
    timeout = "10m"
    env     = { LEVEL = try(prop.level, "1"), NAME = upper(worker.name) }
  }

  step "upload" "result" {
    from = "dist/${build.builder}.tar"
    when = step.test.result == "success"
  }
}
`, i, i, 2*i, i%5, i)
	}
	builders.WriteString("scheduler \"force\" \"force\" {\n  builders = [for i in range(200) : \"b${i}\"]\n}\n")
	return map[string][]byte{"workers.hcl": []byte(workers.String()), "builders.hcl": []byte(builders.String())}
}

func TestALargeConfigurationIsValid(t *testing.T) {
	t.Parallel()
	c, diags := LoadFiles(large(), testOptions())
	if len(diags) > 0 || len(c.Workers) != 1000 || len(c.Builders) != 200 {
		t.Fatalf("%d workers, %d builders\n%s", len(c.Workers), len(c.Builders), rendered(c, diags))
	}
}

// BenchmarkLoad is `rouse validate` of 1,000 workers and 200 builders.
func BenchmarkLoad(b *testing.B) {
	files := large()
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := LoadFiles(files, testOptions()); len(diags) > 0 {
			b.Fatal(diags)
		}
	}
}

// BenchmarkEval is what a build pays at the start of a step.
func BenchmarkEval(b *testing.B) {
	c, _ := LoadFiles(large(), testOptions())
	step := c.Builders[7].Steps[1]
	scope := Scope{Build: map[string]any{"number": 1}, Worker: map[string]any{"name": "w", "info": map[string]any{"numcpus": 4}}, Prop: map[string]any{"level": "2"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := step.Eval(scope, c.Env()); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}
