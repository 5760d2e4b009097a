package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/providers/ec2"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// cloud is a world whose masters have an EC2 provider: an account on a real API server, a proxy that breaks the calls, and somebody who plays the inside
// of the machines.
type cloud struct {
	*world
	ec2    *ec2test.World
	guests *ec2test.Guests
}

// newCloud skips the test unless `make e2e-ec2` runs it: an ordinary `go test` of everything must not do it a second time.
func newCloud(t *testing.T) *cloud {
	t.Helper()
	if os.Getenv("E2E_EC2") == "" {
		t.Skip("make e2e-ec2 runs it")
	}
	t.Parallel()
	e := ec2test.Start(t)
	w := newWorld(t, true)
	w.env = e.Env()
	c := &cloud{world: w, ec2: e}
	c.guests = &ec2test.Guests{World: e, Program: programs.worker, Config: ec2.AgentConfig, Dir: filepath.Join(w.dir, "guests"), Every: 50 * time.Millisecond,
		Env: []string{"E2E_WITNESS=" + w.witnessFile()}}
	return c
}

// play starts the guests. A test changes them before.
func (c *cloud) play() { c.guests.Start(c.t) }

// cloudConfig is what tests say of the configuration.
type cloudConfig struct {
	Provider string // attributes of the provider block
	Worker   string // attributes of the worker block
	Instance string // attributes of the instance block
	Image    string // default: ami = …
	Type     string // attribute
	Count    int
	Wait     string // build_wait_timeout
	Blocks   string // more blocks
	Builders string
}

const theImage = `ami = "ami-00000000000000010"`

func (c *cloud) configure(k cloudConfig) {
	c.t.Helper()
	text := fmt.Sprintf(`
master {
  listen         = "127.0.0.1:0"
  url            = %q
  on_master_stop = "keep"
}
provider "ec2" "cloud" {
  region        = "us-east-1"
  rate_factor   = 1000
  poll_interval = "100ms"
  call_timeout  = "10s"
  settle        = "5s"
  %s
}
worker "w" {
  provider           = provider.ec2.cloud
  count              = %d
  max_builds         = 1
  build_wait_timeout = %q
  orphan_timeout     = "10m"
  %s
  instance {
    %s
    %s
    keypair_name    = ""
    security_groups = ["default"]
    %s
  }
}
%s
%s
`, c.proxy.url(), k.Provider, max(k.Count, 1), orDefault(k.Wait, "0s"), k.Worker, orDefault(k.Image, theImage), orDefault(k.Type, `instance_type = "t3.small"`),
		k.Instance, k.Blocks, k.Builders)
	dir := filepath.Join(c.dir, "config")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// machines are the account's instances, as the API server has them.
func (c *cloud) machines() []ec2test.Instance {
	c.t.Helper()
	all, err := c.ec2.Instances(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

// live are the machines that are not terminated.
func (c *cloud) live() (live []ec2test.Instance) {
	for _, in := range c.machines() {
		if in.Live() {
			live = append(live, in)
		}
	}
	return live
}

// ends waits until no instance lives, by the master's books and by the API server's, stops the master, and audits the account.
func (c *cloud) ends(within time.Duration) ec2test.Audit {
	c.t.Helper()
	c.until("all instances are gone", within, func() bool {
		list, err := try[api.InstanceList](c.world, "/instances")
		return err == nil && len(list.Instances) == 0
	})
	masters := c.all()
	if last := masters[len(masters)-1]; !last.isDead() {
		last.stop(30 * time.Second)
	}
	a, err := c.ec2.Audit(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if !a.Clean() {
		c.t.Errorf("%s: of one key: %v; of one worker: %v; live: %v", a, a.Duplicates, a.Beside, a.Leaked)
	}
	c.noSecrets()
	c.withinPolicy()
	return a
}

// withinPolicy looks whether every action that was called is one that the published policy allows.
func (c *cloud) withinPolicy() {
	c.t.Helper()
	b, err := os.ReadFile("../../../contrib/ec2/policy.json")
	if err != nil {
		c.t.Fatal(err)
	}
	for action := range c.ec2.Calls() {
		if !strings.Contains(action, ":") {
			action = "ec2:" + action
		}
		if !strings.Contains(string(b), `"`+action+`"`) {
			c.t.Errorf("the policy in contrib/ec2 does not allow %s, which was called", action)
		}
	}
}

// noSecrets looks for tokens of instances in all that the masters have said.
func (c *cloud) noSecrets() {
	c.t.Helper()
	said := c.said()
	files, _ := filepath.Glob(filepath.Join(c.guests.Dir, "*", "agent.json"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), `"token":"`)
		if token, _, ok := strings.Cut(rest, `"`); ok && len(token) > 8 && strings.Contains(said, token) {
			c.t.Error("a master's log has an instance's token")
		}
	}
}

// quick is a builder with a step of so many milliseconds.
func quick(name string, ms int) string {
	return builder(name, fmt.Sprintf(`
  step "shell" "work" {
    command     = "echo begin ${build.number} >> $E2E_WITNESS; sleep %d.%03d; echo end ${build.number} >> $E2E_WITNESS"
    log_environ = false
  }
`, ms/1000, ms%1000))
}
