package ec2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/rouse-ci/rouse/providers"
)

// fakeEC2 is EC2 in memory, as far as a provider's life needs it: client tokens, tags, capacity, and replies that are lost.
type fakeEC2 struct {
	mu        sync.Mutex
	instances []*types.Instance
	tokens    map[string]*ec2.RunInstancesInput
	byToken   map[string]*types.Instance
	calls     map[string]int
	addresses []types.Address
	statuses  []types.InstanceStatus

	onRun     func(in *ec2.RunInstancesInput) error // refuses
	lose      func(in *ec2.RunInstancesInput) bool  // the launch is done, its reply is lost
	hidden    func(in *types.Instance) bool         // lists are late
	onEnd     func(ids []string) error
	associate func() error
}

func newFakeEC2() *fakeEC2 {
	return &fakeEC2{tokens: map[string]*ec2.RunInstancesInput{}, byToken: map[string]*types.Instance{}, calls: map[string]int{}}
}

func answered(op, code string) error {
	return &callError{op: op, err: &smithy.GenericAPIError{Code: code, Message: "said the test"}}
}

var errLost = errors.New("connection reset by peer")

func (a *fakeEC2) api() *api {
	return &api{
		RunInstances: a.run, DescribeInstances: a.list, TerminateInstances: a.end, DescribeAddresses: a.listAddresses, AssociateAddress: a.assoc,
		DisassociateAddress: func(_ context.Context, in *ec2.DisassociateAddressInput) (*ec2.DisassociateAddressOutput, error) {
			a.count("DisassociateAddress")
			return &ec2.DisassociateAddressOutput{}, nil
		},
		DescribeInstanceStatus: func(context.Context, *ec2.DescribeInstanceStatusInput) (*ec2.DescribeInstanceStatusOutput, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return &ec2.DescribeInstanceStatusOutput{InstanceStatuses: slices.Clone(a.statuses)}, nil
		},
		StopInstances: func(_ context.Context, in *ec2.StopInstancesInput) (*ec2.StopInstancesOutput, error) {
			a.count("StopInstances")
			a.set(in.InstanceIds[0], types.InstanceStateNameStopped)
			return &ec2.StopInstancesOutput{}, nil
		},
		StartInstances: func(_ context.Context, in *ec2.StartInstancesInput) (*ec2.StartInstancesOutput, error) {
			a.count("StartInstances")
			a.set(in.InstanceIds[0], types.InstanceStateNameRunning)
			return &ec2.StartInstancesOutput{}, nil
		},
	}
}

func (a *fakeEC2) count(op string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[op]++
}

func (a *fakeEC2) called(op string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[op]
}

func (a *fakeEC2) run(_ context.Context, in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
	a.count("RunInstances")
	a.mu.Lock()
	defer a.mu.Unlock()
	token := aws.ToString(in.ClientToken)
	if old := a.tokens[token]; old != nil {
		if aws.ToString(old.UserData) != aws.ToString(in.UserData) || aws.ToString(old.ImageId) != aws.ToString(in.ImageId) || old.InstanceType != in.InstanceType {
			return nil, answered("RunInstances", "IdempotentParameterMismatch")
		}
		return &ec2.RunInstancesOutput{Instances: []types.Instance{*a.byToken[token]}}, nil
	}
	if a.onRun != nil {
		if err := a.onRun(in); err != nil {
			return nil, err
		}
	}
	i := &types.Instance{
		InstanceId: aws.String(fmt.Sprintf("i-%017x", len(a.instances)+1)), ImageId: in.ImageId, InstanceType: in.InstanceType, LaunchTime: aws.Time(time.Now()),
		State: &types.InstanceState{Name: types.InstanceStateNameRunning}, Tags: in.TagSpecifications[0].Tags, Placement: in.Placement,
	}
	a.instances = append(a.instances, i)
	a.tokens[token], a.byToken[token] = in, i
	if a.lose != nil && a.lose(in) {
		return nil, &callError{op: "RunInstances", err: errLost, uncertain: true}
	}
	return &ec2.RunInstancesOutput{Instances: []types.Instance{*i}}, nil
}

func (a *fakeEC2) list(_ context.Context, in *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
	a.count("DescribeInstances")
	a.mu.Lock()
	defer a.mu.Unlock()
	tag := strings.TrimPrefix(aws.ToString(in.Filters[0].Name), "tag:")
	var found []types.Instance
	for _, i := range a.instances {
		fits := slices.ContainsFunc(i.Tags, func(t types.Tag) bool {
			return aws.ToString(t.Key) == tag && slices.Contains(in.Filters[0].Values, aws.ToString(t.Value))
		})
		if fits && (a.hidden == nil || !a.hidden(i)) {
			found = append(found, *i)
		}
	}
	return &ec2.DescribeInstancesOutput{Reservations: []types.Reservation{{Instances: found}}}, nil
}

func (a *fakeEC2) end(_ context.Context, in *ec2.TerminateInstancesInput) (*ec2.TerminateInstancesOutput, error) {
	a.count("TerminateInstances")
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.onEnd != nil {
		if err := a.onEnd(in.InstanceIds); err != nil {
			return nil, err
		}
	}
	for _, id := range in.InstanceIds {
		if !slices.ContainsFunc(a.instances, func(i *types.Instance) bool { return *i.InstanceId == id }) {
			return nil, answered("TerminateInstances", "InvalidInstanceID.NotFound")
		}
	}
	out := &ec2.TerminateInstancesOutput{}
	for _, i := range a.instances {
		if slices.Contains(in.InstanceIds, *i.InstanceId) {
			i.State = &types.InstanceState{Name: types.InstanceStateNameTerminated}
			out.TerminatingInstances = append(out.TerminatingInstances, types.InstanceStateChange{
				InstanceId: i.InstanceId, CurrentState: &types.InstanceState{Name: types.InstanceStateNameShuttingDown},
			})
		}
	}
	return out, nil
}

func (a *fakeEC2) listAddresses(context.Context, *ec2.DescribeAddressesInput) (*ec2.DescribeAddressesOutput, error) {
	a.count("DescribeAddresses")
	a.mu.Lock()
	defer a.mu.Unlock()
	return &ec2.DescribeAddressesOutput{Addresses: slices.Clone(a.addresses)}, nil
}

func (a *fakeEC2) assoc(_ context.Context, in *ec2.AssociateAddressInput) (*ec2.AssociateAddressOutput, error) {
	a.count("AssociateAddress")
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.associate != nil {
		if err := a.associate(); err != nil {
			return nil, err
		}
	}
	a.addresses[0].InstanceId, a.addresses[0].AssociationId = in.InstanceId, aws.String("eipassoc-1")
	return &ec2.AssociateAddressOutput{AssociationId: aws.String("eipassoc-1")}, nil
}

func (a *fakeEC2) set(id string, state types.InstanceStateName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.instances {
		if *i.InstanceId == id {
			i.State = &types.InstanceState{Name: state}
		}
	}
}

// living are the instances that cost money.
func (a *fakeEC2) living() (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.instances {
		if i.State.Name != types.InstanceStateNameTerminated {
			ids = append(ids, *i.InstanceId)
		}
	}
	return ids
}

// rig is a provider on an account.
type rig struct {
	*provider
	cloud *fakeEC2
	dir   string
	t     testing.TB
}

func testConfig() Config {
	return Config{Region: "eu-central-1", PollInterval: time.Millisecond, CallTimeout: 5 * time.Second, Settle: 10 * time.Minute, RateFactor: 1}
}

func newRig(t testing.TB, a *fakeEC2, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{cloud: a, dir: t.TempDir(), t: t}
	r.reopen(change...)
	return r
}

// reopen is what happens when a master is killed and the next one starts: only the directory is left.
func (r *rig) reopen(change ...func(*Config)) {
	r.t.Helper()
	c := testConfig()
	for _, f := range change {
		f(&c)
	}
	p, err := open(providers.Env{Name: "aws", Owner: "me", Config: c, StateDir: r.dir, Log: slog.New(slog.DiscardHandler)}, c, c.Region, r.cloud.api())
	if err != nil {
		r.t.Fatal(err)
	}
	r.provider = p
	r.t.Cleanup(func() { _ = p.Close() })
}

func testSpec() Spec {
	return Spec{AMI: "ami-0123456789abcdef0", Types: []string{"m7i.large"}, Agent: true, HopLimit: 1}
}

func request(key providers.Key, s Spec) providers.CreateRequest {
	return providers.CreateRequest{
		Key: key, Owner: "me", Worker: "w1", Spec: s,
		Agent: providers.Agent{Master: "wss://ci.example.org:9989", Name: "w1", Token: "tok-s3cr3t", Orphan: 10 * time.Minute},
	}
}

func wantClass(t *testing.T, err error, want providers.Class) {
	t.Helper()
	if err == nil || providers.ClassOf(err) != want {
		t.Errorf("error %v has class %s, want %s", err, providers.ClassOf(err), want)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
