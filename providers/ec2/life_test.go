package ec2

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

func TestGetsShareOneSweepThatBeganAfterThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var work sync.WaitGroup
		base, stop := context.WithCancel(context.Background())
		sweeps := 0
		p := newPoller(base, &work, 2*time.Second, time.Minute, func(context.Context) ([]seen, error) {
			sweeps++
			n := sweeps
			time.Sleep(100 * time.Millisecond)
			return []seen{{ID: fmt.Sprint(n)}}, nil
		})
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				if list, err := p.fresh(t.Context()); err != nil || len(list) != 1 {
					t.Error(list, err)
				}
			})
		}
		all.Wait()
		if sweeps > 2 {
			t.Errorf("500 questions at once took %d sweeps", sweeps)
		}
		time.Sleep(50 * time.Millisecond)
		began := time.Now()
		before := sweeps
		if list, _ := p.fresh(t.Context()); list[0].ID == fmt.Sprint(before) {
			t.Error("an answer from before the question")
		}
		if d := time.Since(began); d > 2200*time.Millisecond {
			t.Errorf("it took %s", d)
		}
		time.Sleep(time.Hour)
		if sweeps != before+1 {
			t.Errorf("%d sweeps while nobody asked", sweeps-before-1)
		}
		stop()
		work.Wait()
	})
}

func TestHungSweepDelaysOnlyUntilTheNextOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var work sync.WaitGroup
		base, stop := context.WithCancel(context.Background())
		n := atomic.Int32{}
		p := newPoller(base, &work, time.Second, time.Minute, func(ctx context.Context) ([]seen, error) {
			if n.Add(1) == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		})
		began := time.Now()
		if _, err := p.fresh(t.Context()); err != nil || time.Since(began) > 2*hedge {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		stop()
		work.Wait()
	})
}

func TestFailedSweepIsAnErrorAndNeverAShortList(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	r.api.DescribeInstances = func(context.Context, *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
		return nil, answered("DescribeInstances", "InternalError")
	}
	_, err := r.List(t.Context(), "me")
	wantClass(t, err, providers.Unknown)
	pages := 0
	r.api.DescribeInstances = func(context.Context, *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
		if pages++; pages > 1 {
			return nil, answered("DescribeInstances", "UnauthorizedOperation")
		}
		return &ec2.DescribeInstancesOutput{NextToken: aws.String("2")}, nil
	}
	_, err = r.List(t.Context(), "me")
	wantClass(t, err, providers.Unauthorized)
}

func TestTerminationsAreMergedAndFailAlone(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	for i := range 20 {
		if _, err := r.Create(t.Context(), request(providers.Key(fmt.Sprintf("k-%d", i)), testSpec())); err != nil {
			t.Fatal(err)
		}
	}
	a.mu.Lock()
	bad := *a.instances[7].InstanceId
	a.onEnd = func(ids []string) error {
		if strings.Contains(strings.Join(ids, " "), bad) {
			return answered("TerminateInstances", "OperationNotPermitted")
		}
		return nil
	}
	a.mu.Unlock()
	var wg sync.WaitGroup
	var failed atomic.Int32
	for i := range 20 {
		wg.Go(func() {
			if err := r.Destroy(context.Background(), providers.Key(fmt.Sprintf("k-%d", i))); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if failed.Load() != 1 || len(a.living()) != 1 || a.living()[0] != bad {
		t.Errorf("%d failed; living: %v, want %s alone", failed.Load(), a.living(), bad)
	}
	a.mu.Lock()
	a.onEnd = nil
	a.calls = map[string]int{}
	a.mu.Unlock()
	if err := r.Destroy(t.Context(), "k-7"); err != nil {
		t.Error(err)
	}
	if n := a.called("TerminateInstances"); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestNotFoundNeedsProof(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	if _, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.hidden = func(*types.Instance) bool { return true }
	a.mu.Unlock()
	in, err := r.Get(t.Context(), "k-1")
	if err != nil || in.State != providers.Running {
		t.Errorf("an instance that is not listed yet: %+v, %v", in, err)
	}
	r.reopen()
	if in, err = r.Get(t.Context(), "k-1"); err != nil || in.State != providers.Pending || in.ID == "" {
		t.Errorf("in another process: %+v, %v", in, err)
	}
	for range 3 {
		if err := r.Destroy(t.Context(), "k-1"); err != nil {
			t.Errorf("Destroy said %v of an instance that may still be there", err)
		}
	}
	if len(a.living()) > 0 {
		t.Error("it was not terminated by its ID")
	}
	r.reopen(func(c *Config) { c.Settle = time.Nanosecond })
	wantClass(t, r.Destroy(t.Context(), "k-1"), providers.NotFound)
}

func TestOldDoomIsForgottenAndFreshDoomIsNot(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	for _, key := range []providers.Key{"k-old", "k-new", "k-lives"} {
		if _, err := r.Create(t.Context(), request(key, testSpec())); err != nil {
			t.Fatal(err)
		}
		if key != "k-lives" {
			if err := r.Destroy(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	old := time.Now().Add(-keepDoom - time.Hour)
	for _, key := range []providers.Key{"k-old", "k-lives"} {
		for _, name := range []string{fileDoomed, fileLaunch} {
			_ = os.Chtimes(r.journal.path(key, name), old, old)
		}
	}
	r.reopen()
	for key, want := range map[providers.Key]bool{"k-old": false, "k-new": true, "k-lives": true} {
		if rec, err := r.journal.load(key); err != nil || (rec != nil) != want {
			t.Errorf("%s: %+v, %v", key, rec, err)
		}
	}
	if in, err := r.Create(t.Context(), request("k-new", testSpec())); err != nil || in.State != providers.Gone && in.State != providers.Stopping {
		t.Errorf("Create of a destroyed key after a restart: %+v, %v", in, err)
	}
}

func TestForeignInstancesAreNeverTouched(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	theirs := &rig{cloud: a, dir: t.TempDir(), t: t}
	theirs.reopen()
	theirs.provider.owner = "them"
	req := request("k-1", testSpec())
	req.Owner = "them"
	if _, err := theirs.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	wantClass(t, r.Destroy(t.Context(), "k-1"), providers.NotFound)
	_, err := r.Get(t.Context(), "k-1")
	wantClass(t, err, providers.NotFound)
	_, err = r.Create(t.Context(), request("k-1", testSpec()))
	wantClass(t, err, providers.BadConfig)
	wantClass(t, r.Stop(t.Context(), "k-1", false), providers.NotFound)
	if len(a.living()) != 1 || a.called("TerminateInstances") != 0 {
		t.Errorf("living %v, %d terminations", a.living(), a.called("TerminateInstances"))
	}
}

func TestEndThatNobodyOrderedIsAFailureWithItsReason(t *testing.T) {
	t.Parallel()
	for code, taken := range map[string]bool{"Server.SpotInstanceTermination": true, "Server.SpotInstanceShutdown": true,
		"Server.InternalError": false, "Client.UserInitiatedShutdown": false} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			a := newFakeEC2()
			r := newRig(t, a)
			if _, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil {
				t.Fatal(err)
			}
			a.mu.Lock()
			a.instances[0].State = &types.InstanceState{Name: types.InstanceStateNameTerminated}
			a.instances[0].StateReason = &types.StateReason{Code: aws.String(code), Message: aws.String(code + ": instance reclaimed")}
			a.mu.Unlock()
			in, err := r.Get(t.Context(), "k-1")
			if err != nil || in.State != providers.Failed || in.Interrupted != taken || !strings.Contains(in.Detail, "instance reclaimed") {
				t.Errorf("%+v, %v", in, err)
			}
			wantClass(t, r.Destroy(t.Context(), "k-1"), providers.NotFound)
			if in, err = r.Get(t.Context(), "k-1"); err == nil && (in.State != providers.Gone || in.Interrupted) {
				t.Errorf("after Destroy said NotFound: %+v", in)
			}
		})
	}
}

func TestImpairedInstanceSaysSo(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	in, err := r.Create(t.Context(), request("k-1", testSpec()))
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.statuses = []types.InstanceStatus{{InstanceId: aws.String(in.ID), SystemStatus: &types.InstanceStatusSummary{Status: types.SummaryStatusImpaired}}}
	a.mu.Unlock()
	until(t, "the detail says impaired", func() bool {
		in, err := r.Get(t.Context(), "k-1")
		return err == nil && strings.Contains(in.Detail, "impaired")
	})
}

func TestElasticIPNeverStandsInTheWay(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	a.addresses = []types.Address{{AllocationId: aws.String("eipalloc-01234567"), PublicIp: aws.String("192.0.2.7")}}
	broken := true
	a.associate = func() error {
		if broken {
			return answered("AssociateAddress", "InternalError")
		}
		return nil
	}
	r := newRig(t, a)
	s := testSpec()
	s.ElasticIP = "192.0.2.7"
	for _, key := range []providers.Key{"k-1", "k-2"} {
		if _, err := r.Create(t.Context(), request(key, s)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the failure is shown", func() bool {
		in, err := r.Get(t.Context(), "k-1")
		return err == nil && in.State == providers.Running && strings.Contains(in.Detail, "192.0.2.7 is not attached: InternalError")
	})
	if err := r.Destroy(t.Context(), "k-1"); err != nil || len(a.living()) != 1 {
		t.Errorf("%v; living %v", err, a.living())
	}
	a.mu.Lock()
	broken = false
	a.mu.Unlock()
	until(t, "the other one gets it", func() bool {
		in, err := r.Get(t.Context(), "k-2")
		return err == nil && !strings.Contains(in.Detail, "not attached") && a.called("AssociateAddress") > 1
	})
	a.mu.Lock()
	holder := aws.ToString(a.addresses[0].InstanceId)
	a.mu.Unlock()
	if holder != "i-00000000000000002" {
		t.Errorf("%q has the address", holder)
	}
	if err := r.Destroy(t.Context(), "k-2"); err != nil {
		t.Error(err)
	}
	until(t, "the address is given back", func() bool { return a.called("DisassociateAddress") == 1 })
}

func TestAddressIsAttachedByTheNextMaster(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	a.addresses = []types.Address{{AllocationId: aws.String("eipalloc-01234567"), PublicIp: aws.String("192.0.2.7"), InstanceId: aws.String("i-another"), AssociationId: aws.String("eipassoc-0")}}
	r := newRig(t, a)
	s := testSpec()
	s.ElasticIP = "eipalloc-01234567"
	if _, err := r.Create(t.Context(), request("k-1", s)); err != nil {
		t.Fatal(err)
	}
	until(t, "it is shown that another one has it", func() bool {
		in, err := r.Get(t.Context(), "k-1")
		return err == nil && strings.Contains(in.Detail, "i-another has it")
	})
	_ = r.Close()
	a.mu.Lock()
	a.addresses[0].InstanceId, a.addresses[0].AssociationId = nil, nil
	a.mu.Unlock()
	r.reopen()
	until(t, "it is attached", func() bool { return a.called("AssociateAddress") == 1 })
}

func TestStopAndStartAreRepeatable(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a)
	if _, err := r.Create(t.Context(), request("k-1", testSpec())); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Stop(t.Context(), "k-1", false); err != nil {
			t.Fatal(err)
		}
	}
	if in, err := r.Get(t.Context(), "k-1"); err != nil || in.State != providers.Stopped {
		t.Errorf("%+v, %v", in, err)
	}
	for range 2 {
		if in, err := r.Start(t.Context(), "k-1", providers.Agent{}); err != nil || in.State != providers.Pending && in.State != providers.Running {
			t.Fatalf("%+v, %v", in, err)
		}
	}
	if a.called("StopInstances") != 1 || a.called("StartInstances") != 1 {
		t.Errorf("%d stops, %d starts", a.called("StopInstances"), a.called("StartInstances"))
	}
	if err := r.Destroy(t.Context(), "k-1"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Start(t.Context(), "k-1", providers.Agent{})
	wantClass(t, err, providers.NotFound)
}

func TestConsoleIsTheEndOfWhatWasPrinted(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10) + "the end"
	out, err := consoleText(base64.StdEncoding.EncodeToString([]byte(long)))
	if err != nil || len(out) != maxConsole || !strings.HasSuffix(string(out), "the end") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if _, err := consoleText("%%%"); err == nil || errors.Is(err, context.Canceled) {
		t.Error("what is no base64 was taken")
	}
}

// 500 instances that come and go cost at most three calls each, launches and looks and lists and ends together.
func TestInstanceCostsAtMostThreeCalls(t *testing.T) {
	t.Parallel()
	a := newFakeEC2()
	r := newRig(t, a, func(c *Config) { c.PollInterval = 100 * time.Millisecond })
	const n = 500
	var wg sync.WaitGroup
	for i := range n {
		key := providers.Key(fmt.Sprintf("k-%d", i))
		wg.Go(func() {
			if _, err := r.Create(context.Background(), request(key, testSpec())); err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if _, err := r.Get(context.Background(), key); err != nil {
					t.Error(err)
				}
			}
			for {
				if err := r.Destroy(context.Background(), key); providers.ClassOf(err) == providers.NotFound {
					return
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		total += c
	}
	if total > 3*n {
		t.Errorf("%d calls for %d instances: %v", total, n, a.calls)
	}
	t.Logf("%.2f calls for an instance: %v", float64(total)/n, a.calls)
}
