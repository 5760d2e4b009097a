package ec2

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// BenchmarkCreate is what a launch costs on our side, with the record on a real disk: lock, look, two synced writes, and the request.
func BenchmarkCreate(b *testing.B) {
	a := newFakeEC2()
	r := newRig(b, a)
	n := 0
	for b.Loop() {
		n++
		if _, err := r.Create(b.Context(), request(providers.Key(fmt.Sprintf("k-%d", n)), testSpec())); err != nil {
			b.Fatal(err)
		}
		a.mu.Lock()
		a.instances = a.instances[:0]
		a.mu.Unlock()
	}
}

// BenchmarkPoll is what one poll of 500 instances costs on our side, from the SDK's values to the contract's.
func BenchmarkPoll(b *testing.B) {
	a := newFakeEC2()
	r := newRig(b, a)
	out := &ec2.DescribeInstancesOutput{Reservations: []types.Reservation{{}}}
	for i := range 500 {
		out.Reservations[0].Instances = append(out.Reservations[0].Instances, types.Instance{
			InstanceId: aws.String(fmt.Sprintf("i-%017x", i)), State: &types.InstanceState{Name: types.InstanceStateNameRunning}, InstanceType: types.InstanceTypeM7iLarge,
			Tags: []types.Tag{{Key: aws.String(tagOwner), Value: aws.String("me")}, {Key: aws.String(tagKey), Value: aws.String(fmt.Sprintf("k-%d", i))}, {Key: aws.String(tagWorker), Value: aws.String("w")}},
		})
	}
	r.api.DescribeInstances = func(context.Context, *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
		return out, nil
	}
	for b.Loop() {
		list, err := r.describeOwner(b.Context(), "me")
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range r.memory.merge(list, time.Now(), r.cfg.Settle) {
			_ = r.show(s)
		}
	}
}

// A client that can be reached from an interface makes the linker keep all operations of EC2: 30 MB. The tool of Go counts what it has kept.
func TestProgramHoldsOnlyTheOperationsThatAreCalled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("links a program")
	}
	bin := filepath.Join(t.TempDir(), "rouse")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/rouse") // not stripped
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("go", "tool", "nm", bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "service/ec2.(*Client)"); n == 0 || n > 250 {
		t.Errorf("%d methods of EC2's client are linked; with the operations that are called it is about a hundred, with all of them 2400", n)
	}
}
