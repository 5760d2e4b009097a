package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/providers"
)

func TestLaunchSaysEverythingInOneCall(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	var got *ec2.RunInstancesInput
	a.onRun = func(in *ec2.RunInstancesInput) error { got = in; return nil }
	r := newRig(t, a, func(c *Config) { c.Tags = map[string]string{"Team": "ci", "Name": "builder"} })
	s := testSpec()
	s.Market, s.Tags, s.SecurityGroupIDs, s.Subnets, s.KeyName = Market{Spot: true, MaxPrice: 0.05}, map[string]string{"Cost": "7"}, []string{"sg-01234567"}, []string{"subnet-01234567"}, "k"
	s.BlockDevices = []BlockDevice{{Device: "/dev/sda1", Size: 20, DeleteOnTermination: true}}
	if _, err := r.Create(t.Context(), request("k-1", s)); err != nil {
		t.Fatal(err)
	}
	switch {
	case *got.MinCount != 1 || *got.MaxCount != 1 || aws.ToString(got.ClientToken) != clientToken("k-1", 1):
		t.Errorf("count %d to %d, token %q", *got.MinCount, *got.MaxCount, *got.ClientToken)
	case got.MetadataOptions.HttpTokens != types.HttpTokensStateRequired:
		t.Error("IMDSv2 is not required")
	case got.InstanceInitiatedShutdownBehavior != types.ShutdownBehaviorTerminate:
		t.Error("a machine that powers itself off would only stop")
	case got.InstanceMarketOptions == nil || aws.ToString(got.InstanceMarketOptions.SpotOptions.MaxPrice) != "0.0500" ||
		got.InstanceMarketOptions.SpotOptions.SpotInstanceType != types.SpotInstanceTypeOneTime:
		t.Errorf("market %+v", got.InstanceMarketOptions)
	case !*got.BlockDeviceMappings[0].Ebs.DeleteOnTermination || *got.BlockDeviceMappings[0].Ebs.VolumeSize != 20:
		t.Error("the disk would stay behind")
	case aws.ToString(got.SubnetId) != "subnet-01234567" || got.SecurityGroupIds[0] != "sg-01234567" || aws.ToString(got.KeyName) != "k":
		t.Errorf("subnet %q, groups %v", *got.SubnetId, got.SecurityGroupIds)
	}
	kinds := map[types.ResourceType]bool{}
	for _, spec := range got.TagSpecifications {
		kinds[spec.ResourceType] = true
		m := map[string]string{}
		for _, tag := range spec.Tags {
			m[*tag.Key] = *tag.Value
		}
		for k, v := range map[string]string{tagOwner: "me", tagKey: "k-1", tagWorker: "w1", "Team": "ci", "Cost": "7", "Name": "builder"} {
			if m[k] != v {
				t.Errorf("%s: tag %s is %q, want %q", spec.ResourceType, k, m[k], v)
			}
		}
		if when, err := time.Parse(time.RFC3339, m[tagExpiry]); err != nil || when.Before(time.Now()) {
			t.Errorf("tag %s is %q", tagExpiry, m[tagExpiry])
		}
	}
	for _, k := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface, types.ResourceTypeSpotInstancesRequest} {
		if !kinds[k] {
			t.Errorf("a %s would be anonymous", k)
		}
	}
}

func TestLostReplyIsRepeatedWithTheSameToken(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	lost := true
	a.lose = func(*ec2.RunInstancesInput) bool { was := lost; lost = false; return was }
	a.hidden = func(*types.Instance) bool { return true } // and lists are late
	r := newRig(t, a)
	_, err := r.Create(t.Context(), request("k-1", testSpec()))
	wantClass(t, err, providers.Unknown)
	r.reopen()
	in, err := r.Create(t.Context(), request("k-1", testSpec()))
	if err != nil || in.ID == "" || len(a.living()) != 1 {
		t.Errorf("%+v, %v; living: %v", in, err, a.living())
	}
}

func TestLostReplyKeepsOtherChoicesWaiting(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	n := 0
	a.hidden = func(*types.Instance) bool { return true }
	a.onRun = func(in *ec2.RunInstancesInput) error {
		n++
		switch {
		case n == 1: // the request is still on its way when the caller gives up
			return &callError{op: "RunInstances", err: context.DeadlineExceeded, uncertain: true}
		case in.InstanceType == "m7i.large":
			return answered("RunInstances", "InsufficientInstanceCapacity")
		}
		return nil
	}
	r := newRig(t, a)
	s := testSpec()
	s.Types = []string{"m7i.large", "m6i.large"}
	for range 3 {
		_, err := r.Create(t.Context(), request("k-1", s))
		wantClass(t, err, providers.Unknown)
		if len(a.living()) > 0 {
			t.Fatal("another choice was launched while the first one may still be")
		}
	}
	r.reopen(func(c *Config) { c.Settle = time.Nanosecond }) // as if it had passed
	in, err := r.Create(t.Context(), request("k-1", s))
	if err != nil || in.Facts["type"] != "m6i.large" {
		t.Errorf("after the settle time: %+v, %v", in, err)
	}
}

func TestNothingIsCertainWhileAnEarlierRequestMayArrive(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	a.onRun = func(*ec2.RunInstancesInput) error {
		return &callError{op: "RunInstances", err: context.DeadlineExceeded, uncertain: true}
	}
	r := newRig(t, a)
	_, err := r.Create(t.Context(), request("k-1", testSpec()))
	wantClass(t, err, providers.Unknown)
	good := r.api.DescribeInstances
	r.api.DescribeInstances = func(context.Context, *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
		return nil, answered("DescribeInstances", "UnauthorizedOperation") // certainly not done, if nothing had been sent before
	}
	_, err = r.Create(t.Context(), request("k-1", testSpec()))
	wantClass(t, err, providers.Unknown)
	_, err = r.Create(t.Context(), request("k-2", testSpec()))
	wantClass(t, err, providers.Unauthorized)
	r.api.DescribeInstances, a.onRun = good, nil
	if in, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil || in.ID == "" {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestChangedConfigurationFindsWhatTheOldOneLaunched(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	lost, late := true, true
	a.lose = func(*ec2.RunInstancesInput) bool { was := lost; lost = false; return was }
	a.hidden = func(*types.Instance) bool { return late }
	r := newRig(t, a)
	req := request("k-1", testSpec())
	_, err := r.Create(t.Context(), req)
	wantClass(t, err, providers.Unknown)
	req.Agent.Master = "wss://other.example.org:9989" // other user data under the same token
	_, err = r.Create(t.Context(), req)
	wantClass(t, err, providers.Unknown)
	late = false
	in, err := r.Create(t.Context(), req)
	if err != nil || in.ID != "i-00000000000000001" || len(a.living()) != 1 {
		t.Errorf("%+v, %v; living: %v", in, err, a.living())
	}
}

func TestKeyOfALostStateIsFoundByItsTag(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	s := testSpec()
	s.Types = []string{"m7i.large", "m6i.large"}
	a.onRun = func(in *ec2.RunInstancesInput) error {
		if in.InstanceType == "m7i.large" {
			return answered("RunInstances", "InsufficientInstanceCapacity")
		}
		return nil
	}
	first, err := r.Create(t.Context(), request("k-1", s))
	if err != nil {
		t.Fatal(err)
	}
	a.onRun, r.dir = nil, t.TempDir()
	r.reopen()
	if again, err := r.Create(t.Context(), request("k-1", s)); err != nil || again.ID != first.ID || len(a.living()) != 1 {
		t.Errorf("%+v, %v; living: %v", again, err, a.living())
	}
}

func TestDestroyDuringALaunchEndsWhatComesOfIt(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	inside, goOn := make(chan bool), make(chan bool)
	a.onRun = func(*ec2.RunInstancesInput) error {
		a.mu.Unlock()
		defer a.mu.Lock()
		inside <- true
		<-goOn
		return nil
	}
	r := newRig(t, a)
	var in providers.Instance
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { in, err = r.Create(context.Background(), request("k-1", testSpec())) })
	<-inside
	if err := r.Destroy(t.Context(), "k-1"); err != nil {
		t.Errorf("Destroy while the launch is under way: %v, want accepted", err)
	}
	close(goOn)
	wg.Wait()
	if err != nil || in.State != providers.Stopping && in.State != providers.Gone {
		t.Errorf("Create: %+v, %v", in, err)
	}
	until(t, "it is terminated", func() bool { return len(a.living()) == 0 })
}

func TestRefusalsAreRememberedAndProbedAgain(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	tried := map[string]int{}
	short := true
	a.onRun = func(in *ec2.RunInstancesInput) error {
		where := aws.ToString(in.Placement.AvailabilityZone)
		tried[where]++
		if short && where == "eu-central-1a" {
			return answered("RunInstances", "InsufficientInstanceCapacity")
		}
		return nil
	}
	r := newRig(t, a)
	s := testSpec()
	s.Zones = []string{"a", "b"}
	for i := range 5 {
		in, err := r.Create(t.Context(), request(providers.Key(fmt.Sprintf("k-%d", i)), s))
		if err != nil || in.Facts["zone"] != "eu-central-1b" {
			t.Fatalf("%+v, %v", in, err)
		}
	}
	if tried["eu-central-1a"] != 1 {
		t.Errorf("a zone without capacity was asked %d times for five launches", tried["eu-central-1a"])
	}
	short = false
	for _, e := range r.refusals.m {
		e.until = time.Now().Add(-time.Second)
	}
	if in, err := r.Create(t.Context(), request("k-9", s)); err != nil || in.Facts["zone"] != "eu-central-1a" {
		t.Errorf("after the cool-down: %+v, %v", in, err)
	}
}

func TestAPlaceThatIsTakenBackAgainAndAgainIsAvoidedForAWhile(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	s := testSpec()
	s.Zones, s.Market = []string{"a", "b"}, Market{Spot: true}
	n := 0
	launch := func(wantZone string) providers.Key {
		t.Helper()
		n++
		key := providers.Key(fmt.Sprintf("k-%d", n))
		if in, err := r.Create(t.Context(), request(key, s)); err != nil || in.Facts["zone"] != wantZone {
			t.Fatalf("launch %d: %+v, %v", n, in, err)
		}
		return key
	}
	passed := func() { // the pause
		for _, e := range r.refusals.taken {
			e.until = time.Now().Add(-time.Second)
		}
	}
	r.Interrupted("nobody")
	r.Interrupted(launch("eu-central-1a"))
	r.Interrupted(launch("eu-central-1a")) // one says little
	r.Interrupted(launch("eu-central-1b"))
	r.Interrupted(launch("eu-central-1b"))
	_, err := r.Create(t.Context(), request("k-none", s))
	wantClass(t, err, providers.NoCapacity)
	if err == nil || !strings.Contains(err.Error(), "taken back 2 instances") {
		t.Errorf("it says %v", err)
	}
	passed()
	first := launch("eu-central-1a")
	second := launch("eu-central-1a")
	r.Interrupted(first)
	r.Interrupted(second) // together with the first
	e := r.refusals.taken[choice{Type: s.Types[0], Zone: "eu-central-1a", Market: spot}.String()]
	if e == nil || e.times != 3 || time.Until(e.until) < 9*time.Minute || time.Until(e.until) > 10*time.Minute {
		t.Errorf("after the next one: %+v", e)
	}
	launch("eu-central-1b")
	passed()
	e.at = time.Now().Add(-2 * time.Hour)
	r.Interrupted(launch("eu-central-1a"))
	launch("eu-central-1a") // what was long ago does not count
}

// TestOnlyWhatIsLentIsTakenBack: it is the agent who says that its machine is taken back, and what runs beside it there may make it say so.
func TestOnlyWhatIsLentIsTakenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFakeEC2())
	for n := range 4 {
		key := providers.Key(fmt.Sprintf("k-%d", n))
		if _, err := r.Create(t.Context(), request(key, testSpec())); err != nil {
			t.Fatalf("launch %d: %v", n, err)
		}
		r.Interrupted(key)
	}
}

func TestNoPlaceAtAllNamesEveryReason(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code string
		want providers.Class
	}{{"InsufficientInstanceCapacity", providers.NoCapacity}, {"VcpuLimitExceeded", providers.OverQuota}} {
		a := newFakeEC2()
		a.onRun = func(*ec2.RunInstancesInput) error { return answered("RunInstances", tc.code) }
		r := newRig(t, a)
		s := testSpec()
		s.Types, s.Market = []string{"m7i.large", "c7i.large"}, Market{Spot: true, OnDemand: true, MaxPrice: 1}
		for _, calls := range []int{4, 4} { // the second time nothing is asked
			_, err := r.Create(t.Context(), request("k-1", s))
			wantClass(t, err, tc.want)
			for _, part := range []string{"m7i.large, spot", "c7i.large, spot", "m7i.large, on-demand", "c7i.large, on-demand", tc.code} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if a.called("RunInstances") != calls {
				t.Errorf("%d launches were tried, want %d", a.called("RunInstances"), calls)
			}
		}
	}
}

func TestSpotStaysSpotUnlessFallbackIsConfigured(t *testing.T) {
	t.Parallel()
	for _, s := range []Spec{{Types: []string{"t"}, Market: Market{Spot: true}}, {Types: []string{"t"}, Market: Market{Spot: true, OnDemand: true}}} {
		last := s.choices("eu-west-1")[len(s.choices("eu-west-1"))-1]
		if (last.Market == onDemand) != s.Market.OnDemand {
			t.Errorf("%+v ends with %s", s.Market, last)
		}
	}
}

func TestMaxInstancesIsNotExceededByLaunchesAtOnce(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a, func(c *Config) { c.MaxInstances = 5 })
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := r.Create(context.Background(), request(providers.Key(fmt.Sprintf("k-%d", i)), testSpec()))
			if err != nil && providers.ClassOf(err) != providers.OverQuota {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(a.living()); n != 5 {
		t.Errorf("%d live, max_instances is 5", n)
	}
}

func TestJournalHoldsNoSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFakeEC2())
	if _, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil {
		t.Fatal(err)
	}
	files := 0
	_ = filepath.Walk(r.dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			data, _ := os.ReadFile(path)
			if files++; strings.Contains(string(data), "tok-s3cr3t") {
				t.Errorf("the token is in %s", path)
			}
		}
		return nil
	})
	if files == 0 {
		t.Error("nothing was written down")
	}
}

// Whatever is refused, lost, late, crashed and destroyed, in whatever order: never two living instances of one key, nothing that the journal does not
// know, and after Destroy has said NotFound nothing lives and nothing is made.
func TestOneKeyHasAtMostOneInstance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		a := newFakeEC2()
		var delayed []*ec2.RunInstancesInput // requests that arrive when nobody waits for them any more
		draw := func(what string, n int) bool { return rapid.IntRange(0, n).Draw(rt, what) == 0 }
		a.onRun = func(in *ec2.RunInstancesInput) error {
			switch {
			case draw("capacity", 2):
				return answered("RunInstances", "InsufficientInstanceCapacity")
			case draw("delayed", 4):
				delayed = append(delayed, in)
				return &callError{op: "RunInstances", err: context.DeadlineExceeded, uncertain: true}
			}
			return nil
		}
		a.lose = func(*ec2.RunInstancesInput) bool { return draw("lost", 3) }
		r := &rig{cloud: a, dir: t.TempDir(), t: t}
		r.reopen()
		s := testSpec()
		s.Types, s.Zones = []string{"m7i.large", "m6i.large"}, []string{"a", "b"}
		gone := false
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0, 1, 2:
				clear(r.refusals.m)
				_, _ = r.Create(t.Context(), request("k-1", s))
			case 3:
				r.reopen()
			case 4:
				if len(delayed) > 0 {
					in := delayed[0]
					delayed = delayed[1:]
					was, lose := a.onRun, a.lose
					a.onRun, a.lose = nil, nil
					_, _ = a.run(t.Context(), in)
					a.onRun, a.lose = was, lose
				}
			case 5:
				err := r.Destroy(t.Context(), "k-1")
				gone = gone || providers.ClassOf(err) == providers.NotFound && r.journal.doomed("k-1")
			}
			if n := len(a.living()); n > 1 {
				b, _ := json.Marshal(a.living())
				rt.Fatalf("%d live: %s", n, b)
			}
			if gone && len(delayed) == 0 && len(a.living()) > 0 {
				rt.Fatal("something lives after its end was certain")
			}
		}
	})
}
