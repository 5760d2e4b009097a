package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// good is a request that must have succeeded.
func (c *cloud) good(r api.Request) api.Request {
	c.t.Helper()
	if r.Result != model.Success {
		c.t.Errorf("request %d: %s after %d attempts (%s)", r.ID, r.Result, r.Attempts, r.Text)
	}
	return r
}

// TestEC2WarmInstanceOfTheNewestImage builds twice on one instance, whose image a filter has chosen, and looks at what was launched.
func TestEC2WarmInstanceOfTheNewestImage(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.configure(cloudConfig{Wait: "2s", Image: `
    ami {
      owners         = ["0997-2010-9477"]
      location_regex = "bucket/rouse-worker-([0-9]+)\\."
    }`, Instance: `tags = { Team = "ci" }`, Builders: quick("b", 50)})
	c.up(nil)
	c.good(c.done(c.force("b"), time.Minute))
	c.good(c.done(c.force("b"), time.Minute))
	live := c.live()
	if len(live) != 1 {
		t.Fatalf("two builds have %d instances", len(live))
	}
	in := live[0]
	if in.Image != "ami-00000000000000010" {
		t.Errorf("the image is %s, not the one with the greatest number that is available", in.Image)
	}
	for _, tag := range []string{ec2test.TagKey, ec2test.TagOwner, ec2test.TagWorker, "rouse:expiry"} {
		if in.Tags[tag] == "" {
			t.Errorf("no tag %s: %v", tag, in.Tags)
		}
	}
	if in.Tags["Team"] != "ci" || in.Tags[ec2test.TagWorker] != "w-1" || in.ClientToken == "" || in.ClientToken == "ABCDE" {
		t.Errorf("launched with token %q and tags %v", in.ClientToken, in.Tags)
	}
	n, err := c.ec2.Direct().Call(t.Context(), "DescribeInstances", "InstanceId.1", in.ID)
	if err != nil || n.Find("metadataOptions").S("httpTokens") != "required" {
		t.Errorf("instance metadata without a token: %v, %q", err, n.Find("metadataOptions").S("httpTokens"))
	}
	n, err = c.ec2.Direct().Call(t.Context(), "DescribeInstanceAttribute", "InstanceId", in.ID, "Attribute", "instanceInitiatedShutdownBehavior")
	if err != nil || n.Find("value").Text != "terminate" {
		t.Errorf("an instance that shuts down by itself would %q (%v)", n.Find("value").Text, err)
	}
	if a := c.ends(30 * time.Second); a.Launched != 1 {
		t.Errorf("%s", a)
	}
}

func TestEC2StoppedInstanceIsStartedAgain(t *testing.T) {
	c := newCloud(t)
	c.ec2.Boot(300 * time.Millisecond)
	c.play()
	c.configure(cloudConfig{Wait: "0s", Worker: `idle = "stop"`, Builders: quick("b", 50)})
	m := c.up(nil)
	for build := 1; build <= 2; build++ {
		c.good(c.done(c.force("b"), time.Minute))
		c.until("the instance is stopped", 40*time.Second, func() bool {
			live := c.live()
			return len(live) == 1 && live[0].State == "stopped"
		})
		c.until("the master knows it", 40*time.Second, func() bool {
			return c.worker().State == "stopped"
		})
	}
	if n := c.guests.Boots(); n != 2 {
		t.Errorf("switched on %d times", n)
	}
	m.stop(10 * time.Second)
	c.rewrite(`idle = "stop"`, `idle = "terminate"`)
	c.up(nil)
	if a := c.ends(time.Minute); a.Launched != 1 {
		t.Errorf("%s", a)
	}
}

func TestEC2ElasticIPFollowsTheInstance(t *testing.T) {
	c := newCloud(t)
	c.ec2.Boot(300 * time.Millisecond)
	c.play()
	n, err := c.ec2.Direct().Call(t.Context(), "AllocateAddress", "Domain", "vpc")
	if err != nil {
		t.Fatal(err)
	}
	address := n.Find("publicIp").Text
	holder := func() string {
		t.Helper()
		n, err := c.ec2.Direct().Call(t.Context(), "DescribeAddresses", "PublicIp.1", address)
		if err != nil {
			t.Fatal(err)
		}
		return n.Find("instanceId").Text
	}
	c.configure(cloudConfig{Wait: "0s", Instance: fmt.Sprintf("elastic_ip = %q", address), Builders: builder("b", `
  step "shell" "work" { # a build does not wait for the address
    command     = "until [ -e $E2E_WITNESS.address${build.number} ]; do sleep 0.05; done"
    log_environ = false
  }
`)})
	c.up(nil)
	// No detach of the second instance succeeds: the address never stands in the way.
	for build := range 2 {
		if build == 1 {
			c.ec2.Plan(1, ec2test.Fault{Action: "DisassociateAddress", Kind: ec2test.Fail500, Rate: 1})
		}
		id := c.force("b")
		c.until("the instance has the address", 30*time.Second, func() bool {
			live := c.live()
			return len(live) == 1 && holder() == live[0].ID
		})
		write(t, fmt.Sprintf("%s.address%d", c.witnessFile(), build+1), "")
		c.good(c.done(id, time.Minute))
		c.until("the instance is gone", 30*time.Second, func() bool { return len(c.live()) == 0 })
		if build == 0 { // rouse gives it back beside all else; moto does not do it by itself when an instance ends, as EC2 does
			c.until("the address is free", 30*time.Second, func() bool { return holder() == "" })
		}
	}
	if a := c.ends(30 * time.Second); a.Launched != 2 {
		t.Errorf("%s", a)
	}
}

// TestEC2SpotInterruptionCostsNoAttempt takes an instance back in the middle of a build.
func TestEC2SpotInterruptionCostsNoAttempt(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.configure(cloudConfig{Wait: "0s", Instance: `
    spot {
      price_multiplier = 1.5
      fallback         = "on-demand"
    }`, Builders: builder("b", `
  step "shell" "once" {
    command     = "if [ -e $E2E_WITNESS.been ]; then echo again; else touch $E2E_WITNESS.been; echo first >> $E2E_WITNESS; sleep 300; fi"
    log_environ = false
  }
`)})
	c.up(nil)
	id := c.force("b")
	c.until("the step runs", time.Minute, func() bool { return slices.Contains(c.witnessed(), "first") })
	live := c.live()
	if len(live) != 1 || live[0].Market != "spot" {
		t.Fatalf("launched: %+v", live)
	}
	c.ec2.Interrupt(live[0].ID, 9*time.Second) // the agent asks every five seconds
	r := c.good(c.done(id, time.Minute))
	if r.Attempts != 1 {
		t.Errorf("the interruption was charged: %d attempts", r.Attempts)
	}
	if !strings.Contains(c.said(), "takes the instance back") {
		t.Error("nothing says that the provider takes the instance back")
	}
	if a := c.ends(30 * time.Second); a.Launched != 2 {
		t.Errorf("%s", a)
	}
}

// TestEC2CapacityIsLookedForElsewhere has no spot machines at all, and one type of machine in one zone only.
func TestEC2CapacityIsLookedForElsewhere(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.ec2.Short(ec2test.Shortage{Market: "spot"}, ec2test.Shortage{Type: "t3.small"}, ec2test.Shortage{Zone: "us-east-1a"})
	c.configure(cloudConfig{Wait: "0s", Type: `instance_types = ["t3.small", "t3.medium"]`, Instance: `
    zones = ["a", "b"]
    spot {
      fallback = "on-demand"
    }`, Builders: quick("b", 50)})
	c.up(nil)
	c.good(c.done(c.force("b"), time.Minute))
	for _, in := range c.machines() {
		if in.Type != "t3.medium" || in.Zone != "us-east-1b" || in.Market != "on-demand" {
			t.Errorf("launched %+v", in)
		}
	}
	before := c.ec2.Calls()["RunInstances"]
	c.good(c.done(c.force("b"), time.Minute))
	if n := c.ec2.Calls()["RunInstances"] - before; n != 1 {
		t.Errorf("the second launch asked %d times: what was refused a moment ago was not remembered", n)
	}
	if a := c.ends(30 * time.Second); a.Launched != 2 {
		t.Errorf("%s", a)
	}
}

// TestEC2ConsoleOfAnInstanceThatNeverAttaches is kept with the build that waited for it.
func TestEC2ConsoleOfAnInstanceThatNeverAttaches(t *testing.T) {
	c := newCloud(t)
	c.guests.Fate = func(_ ec2test.Instance, _ int) ec2test.Fate { return ec2test.Fate{Dead: true} }
	c.play()
	c.configure(cloudConfig{Wait: "0s", Worker: `missing_timeout = "3s"`, Builders: quick("b", 50)})
	c.up(nil)
	id := c.force("b")
	// On a busy machine the API server may need longer than missing_timeout for a launch, and the first builds have no instance that could say anything. A
	// console that cannot be read at once is read again after half a minute.
	const panicked = "Unable to mount root fs"
	var kept int
	c.until("a console is kept", 90*time.Second, func() bool {
		list, err := try[api.BuildList](c.world, "/builds", "request", fmt.Sprint(id))
		if err != nil {
			return false
		}
		for _, b := range list.Builds {
			if out, err := c.rouse("logs", fmt.Sprint(b.ID), "-log", "console"); err == nil && strings.Contains(out, panicked) {
				kept = int(b.ID)
				return true
			}
		}
		time.Sleep(200 * time.Millisecond) // a program is started for each look
		return false
	})
	if b := get[api.BuildDetail](c.world, fmt.Sprintf("/builds/%d", kept)); len(b.Steps) == 0 || !strings.Contains(b.Steps[len(b.Steps)-1].Text, "missing_timeout") {
		t.Errorf("the build does not say why: %+v", b.Steps)
	}
	if _, err := c.rouse("cancel", "request", fmt.Sprint(id)); err != nil {
		t.Error(err)
	}
	c.done(id, time.Minute)
	c.ends(time.Minute)
}

// TestEC2MissingPermissionEndsTheLoop shows the action that is not allowed, and does not launch for ever.
func TestEC2MissingPermissionEndsTheLoop(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.ec2.Deny("RunInstances")
	c.configure(cloudConfig{Wait: "0s", Builders: quick("b", 50)})
	c.up(nil)
	id := c.force("b")
	c.until("the worker says why", time.Minute, func() bool {
		w := c.worker()
		r := get[api.Request](c.world, fmt.Sprintf("/requests/%d", id))
		return strings.Contains(w.LastError+r.Text, "ec2:RunInstances")
	})
	if n := c.ec2.Calls()["RunInstances"]; n > 10 {
		t.Errorf("asked %d times", n)
	}
	c.ec2.Deny()
	if r := c.request(id); r.State != model.RequestDone {
		if _, err := c.rouse("cancel", "request", fmt.Sprint(id)); err != nil {
			t.Error(err)
		}
		c.done(id, 30*time.Second)
	}
	c.ends(30 * time.Second)
}

// TestEC2KilledMasterLosesNothing kills masters where a launch or an end is on its way.
func TestEC2KilledMasterLosesNothing(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.configure(cloudConfig{Wait: "0s", Count: 2, Builders: quick("b", 200)})
	var ids []model.RequestID
	for _, p := range []point{
		{line: "effect CreateInstance"},
		{line: "worker substantiating", after: 2 * time.Millisecond},
		{line: "worker substantiating", after: 20 * time.Millisecond},
		{line: "launched"},
		{line: "worker attached"},
		{line: "build running"},
		{line: "effect DestroyInstance"},
		{line: "effect DestroyInstance", after: 3 * time.Millisecond},
		{line: "instance gone"},
	} {
		m := c.start(p.arm(t.Context(), c.world))
		select {
		case <-m.ready:
			if made, err := post[api.Forced](c.world, "/force", api.Force{Builder: "b"}); err == nil {
				ids = append(ids, made.Requests...)
			}
		case <-m.dead:
		case <-time.After(30 * time.Second):
			t.Fatal("the master does not come up")
		}
		m.awaitDeath(time.Minute)
	}
	c.up(nil)
	for _, id := range ids {
		if r := c.good(c.done(id, time.Minute)); r.Attempts != 1 {
			t.Errorf("request %d: %d attempts", id, r.Attempts)
		}
	}
	builds := len(get[api.BuildList](c.world, "/builds", "limit", "1000").Builds) // a request whose answer was lost with its master is served, too
	if a := c.ends(time.Minute); a.Launched != builds {
		t.Errorf("%d builds: %s", builds, a)
	}
}

// TestEC2LostStateIsReaped takes the state away from under live instances: only tags know them then.
func TestEC2LostStateIsReaped(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.configure(cloudConfig{Wait: "10m", Builders: quick("b", 50)})
	m := c.up(nil)
	c.good(c.done(c.force("b"), time.Minute))
	mine := c.live()
	if len(mine) != 1 {
		t.Fatalf("%d instances", len(mine))
	}
	tags := mine[0].Tags
	n, err := c.ec2.Direct().Call(t.Context(), "DescribeInstanceAttribute", "InstanceId", mine[0].ID, "Attribute", "userData")
	if err != nil {
		t.Fatal(err)
	}
	data := n.Find("value").Text
	launch := func(token, owner, key string) {
		t.Helper()
		if n, err := c.ec2.Direct().Call(t.Context(), "RunInstances", "ImageId", mine[0].Image, "MinCount", "1", "MaxCount", "1", "ClientToken", token, "UserData", data,
			"TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", ec2test.TagOwner, "TagSpecification.1.Tag.1.Value", owner,
			"TagSpecification.1.Tag.2.Key", ec2test.TagKey, "TagSpecification.1.Tag.2.Value", key,
			"TagSpecification.1.Tag.3.Key", ec2test.TagWorker, "TagSpecification.1.Tag.3.Value", "w"); err != nil {
			t.Fatal(err)
		} else {
			c.ec2.Backdate(n.Find("instanceId").Text, time.Hour) // what is younger than any call is left alone
		}
	}
	orphan := tags[ec2test.TagKey] + "9"
	launch("orphan", tags[ec2test.TagOwner], orphan)
	launch("foreign", "somebody-else", "somebody-else-w-1")
	out, err := c.rouse("reap", "-dry-run")
	if code(err) != 2 || !strings.Contains(out, orphan) || strings.Contains(out, "somebody-else") || strings.Contains(out, tags[ec2test.TagKey]+" ") {
		t.Errorf("reap -dry-run: %v: %s", err, out)
	}
	if len(c.live()) != 3 {
		t.Error("a dry run has ended instances")
	}
	out, err = c.rouse("reap", "-auto-approve")
	if code(err) != 2 || !strings.Contains(out, orphan) {
		t.Errorf("reap: %v: %s", err, out)
	}
	c.until("the orphan is gone", 20*time.Second, func() bool { return len(c.live()) == 2 })
	for _, in := range c.live() {
		if in.Tags[ec2test.TagKey] == orphan {
			t.Error("the wrong one was ended")
		}
		if in.Tags[ec2test.TagOwner] == "somebody-else" {
			if err := c.ec2.Terminate(t.Context(), in.ID, "Client.UserInitiatedShutdown", "the test ends"); err != nil {
				t.Error(err)
			}
		}
	}
	m.stop(10 * time.Second)
	c.rewrite(`build_wait_timeout = "10m"`, `build_wait_timeout = "0s"`)
	c.up(nil)
	c.ends(time.Minute)
}

// TestEC2PlanSaysWhatIsMissing: the preflight finds what a launch would end with, and launches nothing.
func TestEC2PlanSaysWhatIsMissing(t *testing.T) {
	c := newCloud(t)
	c.play()
	c.configure(cloudConfig{Builders: quick("b", 50)})
	c.up(nil)
	c.rewrite(theImage, `ami = "ami-0123456789abcdef0"`, `security_groups = ["default"]`, `security_groups = ["nobody"]`, `keypair_name    = ""`, `keypair_name = "nokey"`)
	out, err := c.rouse("plan", filepath.Join(c.dir, "config"))
	for _, want := range []string{"ami-0123456789abcdef0", "nobody", "nokey"} {
		if !strings.Contains(out, want) {
			t.Errorf("plan does not name %s (%v):\n%s", want, err, out)
		}
	}
	if len(c.machines()) != 0 {
		t.Error("a plan has launched something")
	}
	c.ends(10 * time.Second)
}

// TestEC2HungCallDelaysNothingElse hangs one launch; the builds of other workers do not wait for it.
func TestEC2HungCallDelaysNothingElse(t *testing.T) {
	c := newCloud(t)
	c.play()
	const hang = 20 * time.Second
	c.ec2.Plan(1, ec2test.Fault{Action: "RunInstances", Kind: ec2test.Hang, Rate: 1, Times: 1, For: hang})
	c.configure(cloudConfig{Wait: "0s", Count: 4, Builders: quick("b", 20)})
	c.up(nil)
	began := time.Now()
	stuck := c.force("b")
	c.until("the call hangs", 10*time.Second, func() bool { return c.ec2.Faulted()[ec2test.Hang] == 1 })
	var ids []model.RequestID
	for range 3 {
		ids = append(ids, c.force("b"))
	}
	for _, id := range ids {
		c.good(c.done(id, 30*time.Second))
	}
	took := time.Since(began)
	if r := c.request(stuck); took >= hang || r.State == model.RequestDone {
		t.Errorf("three builds took %v beside a call that hung for %v", took, hang)
	}
	t.Logf("three builds beside a hung call: %v", took.Round(time.Millisecond))
	c.good(c.done(stuck, time.Minute))
	if a := c.ends(30 * time.Second); a.Launched != 4 {
		t.Errorf("%s", a)
	}
}

// worker is the first worker.
func (c *cloud) worker() api.Worker {
	c.t.Helper()
	for _, w := range get[api.WorkerList](c.world, "/workers").Workers {
		if w.Name == "w-1" {
			return w
		}
	}
	c.t.Fatal("there is no worker w-1")
	return api.Worker{}
}

// rouse runs an operator's command against the world's master.
func (c *cloud) rouse(args ...string) (string, error) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), programs.rouse, args...)
	cmd.Env = append(append(os.Environ(), c.env...), "ROUSE_STATE="+c.state, "E2E_MARK="+c.mark)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// code is the exit status of a command.
func code(err error) int {
	var exit interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
