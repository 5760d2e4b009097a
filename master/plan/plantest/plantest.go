// Package plantest makes the large configuration that plans are measured with.
package plantest

import (
	"fmt"
	"strings"
)

// Large is a fleet of 10,000 workers (20 pools and 2,000 written out) and 1,000 builders of 3 steps. The caller gives what depends on a kind of provider:
// the blocks before the fleet, the provider's address, and the bodies of the instance blocks of a pool and of a single worker, the latter with a %q for what
// changes from "a" to "b". In the second edition 100 things differ: 40 workers, 40 builders, 20 limits.
func Large(before, provider, pool, single string, second bool) map[string][]byte {
	var b strings.Builder
	b.WriteString(before)
	for i := range 20 {
		fmt.Fprintf(&b, "worker \"pool%d\" {\n  provider = %s\n  count = 400\n  price = 0.1\n  properties = { slot = count.index }\n  instance {\n    %s\n  }\n}\n", i, provider, pool)
	}
	for i := range 2000 {
		edition, limit := "a", 1
		if second && i%50 == 0 {
			edition = "b"
		}
		if second && i%100 == 1 {
			limit = 2
		}
		fmt.Fprintf(&b, "worker \"w%d\" {\n  provider = %s\n  max_builds = %d\n  price = 0.2\n  instance {\n    %s\n  }\n}\n", i, provider, limit, fmt.Sprintf(single, edition))
	}
	files := map[string][]byte{"workers.hcl": []byte(b.String())}
	b.Reset()
	for i := range 1000 {
		goal := "test"
		if second && i%25 == 0 {
			goal = "check"
		}
		fmt.Fprintf(&b, `builder "b%d" {
  workers = [worker.pool%d, worker.w%d]
  step "git" "checkout" {
    repository = "https://example.org/project-%d.git"
    branch     = source.branch
  }
  step "shell" "test" {
    command = ["make", %q, "BUILD=${build.number}"]
    timeout = "10m"
    env     = { NAME = upper(worker.name) }
  }
  step "upload" "result" {
    from = "dist/${build.builder}.tar"
    to   = "result.tar"
    when = step.test.result == "success"
  }
}
`, i, i%20, i, i, goal)
	}
	b.WriteString("scheduler \"force\" \"force\" {\n  builders = [for i in range(1000) : \"b${i}\"]\n}\n")
	files["builders.hcl"] = []byte(b.String())
	return files
}
