package ec2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rouse-ci/rouse/providers"
)

// account is what a preflight looks at. It counts the calls, and answers with an error where one is set.
type account struct {
	cloud
	mu     sync.Mutex
	calls  map[string]int
	errs   map[string]error // by operation
	dryRun func(*ec2.RunInstancesInput) error
	runs   []*ec2.RunInstancesInput
	quotas map[string]float64
}

func code(c string) error { return &smithy.GenericAPIError{Code: c, Message: "as EC2 says"} }

// status is an error as the SDK gives it, with the answer that it came with.
func status(n int, c, message string) error {
	return &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: n}}, Err: &smithy.GenericAPIError{Code: c, Message: message},
	}}
}

// denied is what the governor makes of a missing permission.
func denied(op string) error { return &callError{op: op, err: code("UnauthorizedOperation")} }

func (a *account) called(op string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = map[string]int{}
	}
	a.calls[op]++
	return a.errs[op]
}

// answer is a call that gives what f makes of its input.
func answer[I, O any](a *account, op string, f func(*I) *O) call[I, O] {
	return func(_ context.Context, in *I) (*O, error) {
		if err := a.called(op); err != nil {
			return nil, err
		}
		return f(in), nil
	}
}

func values(filters []types.Filter) []string {
	if len(filters) != 1 {
		panic("one filter is expected")
	}
	return filters[0].Values
}

func (a *account) api() *api {
	x86, arm := types.ArchitectureTypeX8664, types.ArchitectureTypeArm64
	kinds := map[string]types.InstanceTypeInfo{
		"m7i.large": {ProcessorInfo: &types.ProcessorInfo{SupportedArchitectures: []types.ArchitectureType{x86}}, HibernationSupported: aws.Bool(true),
			MemoryInfo: &types.MemoryInfo{SizeInMiB: aws.Int64(8192)}, SupportedUsageClasses: []types.UsageClassType{"on-demand", "spot"},
			VCpuInfo: &types.VCpuInfo{DefaultVCpus: aws.Int32(2)}},
		"c7g.large": {ProcessorInfo: &types.ProcessorInfo{SupportedArchitectures: []types.ArchitectureType{arm}}, HibernationSupported: aws.Bool(false),
			MemoryInfo: &types.MemoryInfo{SizeInMiB: aws.Int64(65536)}, SupportedUsageClasses: []types.UsageClassType{"on-demand"}},
	}
	return &api{
		DescribeImages: func(ctx context.Context, in *ec2.DescribeImagesInput) (*ec2.DescribeImagesOutput, error) {
			if err := a.called("DescribeImages"); err != nil {
				return nil, err
			}
			return a.describeImages(ctx, in)
		},
		GetCallerIdentity: answer(a, "GetCallerIdentity", func(*sts.GetCallerIdentityInput) *sts.GetCallerIdentityOutput { return &sts.GetCallerIdentityOutput{} }),
		DescribeInstances: func(_ context.Context, in *ec2.DescribeInstancesInput) (*ec2.DescribeInstancesOutput, error) {
			if err := a.called("DescribeInstances"); err != nil {
				return nil, err
			}
			if aws.ToBool(in.DryRun) {
				return nil, code("DryRunOperation")
			}
			tag := types.Tag{Key: aws.String(tagOwner), Value: aws.String("me")}
			return &ec2.DescribeInstancesOutput{Reservations: []types.Reservation{{Instances: []types.Instance{
				{InstanceId: aws.String("i-ours"), Tags: []types.Tag{tag}}, {InstanceId: aws.String("i-theirs")},
			}}}}, nil
		},
		RunInstances: func(_ context.Context, in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
			err := a.called("RunInstances")
			a.mu.Lock()
			defer a.mu.Unlock()
			a.runs = append(a.runs, in)
			switch {
			case err != nil:
				return nil, err
			case a.dryRun != nil:
				err = a.dryRun(in)
			default:
				err = code("DryRunOperation")
			}
			return &ec2.RunInstancesOutput{Instances: []types.Instance{{InstanceId: aws.String("i-oops")}}}, err
		},
		TerminateInstances: answer(a, "TerminateInstances", func(*ec2.TerminateInstancesInput) *ec2.TerminateInstancesOutput {
			return &ec2.TerminateInstancesOutput{}
		}),
		DescribeInstanceTypes: answer(a, "DescribeInstanceTypes", func(in *ec2.DescribeInstanceTypesInput) *ec2.DescribeInstanceTypesOutput {
			out := &ec2.DescribeInstanceTypesOutput{}
			for _, v := range values(in.Filters) {
				if k, ok := kinds[v]; ok {
					k.InstanceType = types.InstanceType(v)
					out.InstanceTypes = append(out.InstanceTypes, k)
				}
			}
			return out
		}),
		DescribeInstanceTypeOfferings: answer(a, "DescribeInstanceTypeOfferings", func(in *ec2.DescribeInstanceTypeOfferingsInput) *ec2.DescribeInstanceTypeOfferingsOutput {
			out := &ec2.DescribeInstanceTypeOfferingsOutput{}
			for _, v := range values(in.Filters) {
				if v == "m7i.large" {
					for _, z := range []string{"eu-central-1a", "eu-central-1b"} {
						out.InstanceTypeOfferings = append(out.InstanceTypeOfferings, types.InstanceTypeOffering{InstanceType: types.InstanceType(v), Location: &z})
					}
				}
			}
			return out
		}),
		DescribeAvailabilityZones: answer(a, "DescribeAvailabilityZones", func(*ec2.DescribeAvailabilityZonesInput) *ec2.DescribeAvailabilityZonesOutput {
			out := &ec2.DescribeAvailabilityZonesOutput{}
			for _, z := range []string{"eu-central-1a", "eu-central-1b", "eu-central-1c"} {
				out.AvailabilityZones = append(out.AvailabilityZones, types.AvailabilityZone{ZoneName: &z})
			}
			return out
		}),
		DescribeSubnets: answer(a, "DescribeSubnets", func(in *ec2.DescribeSubnetsInput) *ec2.DescribeSubnetsOutput {
			out := &ec2.DescribeSubnetsOutput{}
			for _, s := range []types.Subnet{
				{SubnetId: aws.String("subnet-a"), AvailabilityZone: aws.String("eu-central-1a"), VpcId: aws.String("vpc-1"), AvailableIpAddressCount: aws.Int32(9)},
				{SubnetId: aws.String("subnet-c"), AvailabilityZone: aws.String("eu-central-1c"), VpcId: aws.String("vpc-2"), AvailableIpAddressCount: aws.Int32(0)},
			} {
				if slices.Contains(values(in.Filters), *s.SubnetId) {
					out.Subnets = append(out.Subnets, s)
				}
			}
			return out
		}),
		DescribeSecurityGroups: answer(a, "DescribeSecurityGroups", func(in *ec2.DescribeSecurityGroupsInput) *ec2.DescribeSecurityGroupsOutput {
			g := types.SecurityGroup{GroupId: aws.String("sg-1"), GroupName: aws.String("ci"), VpcId: aws.String("vpc-1")}
			if v := values(in.Filters); slices.Contains(v, "sg-1") || slices.Contains(v, "ci") {
				return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: []types.SecurityGroup{g}}
			}
			return &ec2.DescribeSecurityGroupsOutput{}
		}),
		DescribeKeyPairs: answer(a, "DescribeKeyPairs", func(in *ec2.DescribeKeyPairsInput) *ec2.DescribeKeyPairsOutput {
			if slices.Contains(values(in.Filters), "ops") {
				return &ec2.DescribeKeyPairsOutput{KeyPairs: []types.KeyPairInfo{{KeyName: aws.String("ops")}}}
			}
			return &ec2.DescribeKeyPairsOutput{}
		}),
		DescribeVolumes: answer(a, "DescribeVolumes", func(in *ec2.DescribeVolumesInput) *ec2.DescribeVolumesOutput {
			if slices.Contains(values(in.Filters), "vol-1") {
				return &ec2.DescribeVolumesOutput{Volumes: []types.Volume{{VolumeId: aws.String("vol-1"), AvailabilityZone: aws.String("eu-central-1a")}}}
			}
			return &ec2.DescribeVolumesOutput{}
		}),
		DescribeAddresses: answer(a, "DescribeAddresses", func(*ec2.DescribeAddressesInput) *ec2.DescribeAddressesOutput {
			return &ec2.DescribeAddressesOutput{Addresses: []types.Address{
				{PublicIp: aws.String("192.0.2.1"), AllocationId: aws.String("eipalloc-1")},
				{PublicIp: aws.String("192.0.2.2"), InstanceId: aws.String("i-ours")},
				{PublicIp: aws.String("192.0.2.3"), InstanceId: aws.String("i-theirs")},
				{PublicIp: aws.String("192.0.2.4"), NetworkInterfaceId: aws.String("eni-1")},
			}}
		}),
		GetServiceQuota: func(_ context.Context, in *servicequotas.GetServiceQuotaInput) (*servicequotas.GetServiceQuotaOutput, error) {
			if err := a.called("GetServiceQuota"); err != nil {
				return nil, err
			}
			v, ok := a.quotas[*in.QuotaCode]
			if !ok {
				return nil, code("NoSuchResourceException")
			}
			return &servicequotas.GetServiceQuotaOutput{Quota: &quotatypes.ServiceQuota{Value: &v}}, nil
		},
		DescribeSpotPriceHistory: answer(a, "DescribeSpotPriceHistory", func(*ec2.DescribeSpotPriceHistoryInput) *ec2.DescribeSpotPriceHistoryOutput {
			return &ec2.DescribeSpotPriceHistoryOutput{}
		}),
	}
}

func (a *account) provider(t *testing.T, c Config) *provider {
	t.Helper()
	if a.images == nil {
		a.images = someImages()
		for i := range a.images {
			a.images[i].RootDeviceName = aws.String("/dev/sda1")
			a.images[i].BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(20)}}}
		}
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 5 * time.Second
	}
	c.PollInterval = time.Second
	p, err := open(providers.Env{Name: "aws", Owner: "me", StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, c, "eu-central-1", a.api())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// fine is a spec with nothing wrong.
func fine(change func(*Spec)) any {
	s := Spec{AMI: "ami-1", Types: []string{"m7i.large"}, SecurityGroups: []string{"ci"}, KeyName: "ops", Agent: true, HopLimit: 1}
	if change != nil {
		change(&s)
	}
	return s
}

// shown are findings in short: fatal ones with "!", the spec, the attribute, the summary.
func shown(found []providers.Finding) string {
	var all []string
	for _, f := range found {
		mark := "?"
		if f.Fatal {
			mark = "!"
		}
		all = append(all, fmt.Sprintf("%s%d %s: %s", mark, f.Spec, f.Attr, f.Summary))
		if f.Summary == "" || f.Detail == "" || !strings.HasSuffix(f.Summary, strings.TrimRight(f.Summary, ".")) {
			all = append(all, fmt.Sprintf("MALFORMED %+v", f))
		}
	}
	return strings.Join(all, "\n")
}

func TestAPreflightFindsWhatIsWrongAndSaysWhere(t *testing.T) {
	t.Parallel()
	arm := func(a *account) {
		a.images = someImages()
		a.images[0].Architecture = "arm64"
	}
	for _, tc := range []struct {
		name    string
		specs   []any
		prepare func(*account)
		want    string
		detail  string // of the first finding
	}{
		{"nothing is wrong", []any{fine(nil)}, nil, "", ""},
		{"nothing to check", nil, nil, "", ""},
		{"a template has everything", []any{Spec{Template: LaunchTemplate{Name: "t"}, Agent: true, HopLimit: 1}}, nil, "", ""},
		{"unknown image", []any{fine(func(s *Spec) { s.AMI = "ami-9" })}, nil, "!0 ami: No such image", "eu-central-1"},
		{"image not available", []any{fine(func(s *Spec) { s.AMI = "ami-3" })}, nil, "!0 ami: The image is not available", "pending"},
		{"unknown type", []any{fine(func(s *Spec) { s.Types = []string{"m9.large"} })}, nil, "!0 instance_type: No such type of instance", "m9.large"},
		{"one of two types is unknown", []any{fine(func(s *Spec) { s.Types = []string{"m9.large", "m7i.large"} })}, nil, "?0 instance_types: No such type of instance", ""},
		{"another architecture", []any{fine(nil)}, arm, "!0 instance_type: The image does not run on this type", "arm64, and m7i.large is x86_64"},
		{"one of two types has another architecture", []any{fine(func(s *Spec) { s.Types = []string{"c7g.large", "m7i.large"} })}, arm,
			"?0 instance_types: The image does not run on this type", ""},
		{"not sold as spot", []any{fine(func(s *Spec) { s.Types, s.Market = []string{"c7g.large"}, Market{Spot: true, Product: "x"} })}, arm,
			"!0 instance_type: The type is not sold as spot", "on-demand only"},
		{"unknown zone", []any{fine(func(s *Spec) { s.Zones = []string{"z"} })}, nil, "!0 placement: No such zone", `"eu-central-1z"`},
		{"one of two zones is unknown", []any{fine(func(s *Spec) { s.Zones = []string{"z", "a"} })}, nil, "?0 zones: No such zone", ""},
		{"a zone that does not offer the type", []any{fine(func(s *Spec) { s.Zones = []string{"c"} })}, nil, "!0 instance_type: The zone does not offer the type", "m7i.large in eu-central-1c"},
		{"one of two zones does not offer the type", []any{fine(func(s *Spec) { s.Zones = []string{"c", "a"} })}, nil, "?0 instance_type: The zone does not offer the type", ""},
		{"unknown subnet", []any{fine(func(s *Spec) { s.Subnets, s.SecurityGroups = []string{"subnet-x"}, nil })}, nil, "!0 subnet_id: No such subnet", "subnet-x"},
		{"a full subnet in a zone that does not offer the type", []any{fine(func(s *Spec) { s.Subnets, s.SecurityGroups = []string{"subnet-c"}, nil })}, nil,
			"?0 subnet_id: The subnet has no free address\n!0 instance_type: The zone does not offer the type", ""},
		{"group and subnet of two networks", []any{fine(func(s *Spec) {
			s.Subnets, s.SecurityGroups, s.SecurityGroupIDs = []string{"subnet-a", "subnet-c"}, nil, []string{"sg-1"}
		})}, nil, "?0 subnet_ids: The subnet has no free address\n?0 instance_type: The zone does not offer the type\n!0 security_group_ids: Security group and subnet are of two networks", ""},
		{"unknown group", []any{fine(func(s *Spec) { s.SecurityGroups, s.SecurityGroupIDs = nil, []string{"sg-x"} })}, nil, "!0 security_group_ids: No such security group", "sg-x"},
		{"the documents' default names", []any{fine(func(s *Spec) { s.SecurityGroups, s.KeyName = []string{defaultName}, defaultName })}, nil,
			"!0 security_name: No such security group\n!0 keypair_name: No such key pair",
			"aws ec2 create-security-group --region eu-central-1 --group-name latent_buildbot_slave --description 'rouse workers'"},
		{"unknown key pair", []any{fine(func(s *Spec) { s.KeyName = "my key" })}, nil, "!0 keypair_name: No such key pair",
			"aws ec2 create-key-pair --region eu-central-1 --key-name 'my key' --query KeyMaterial --output text > 'my key.pem'"},
		{"no key pair", []any{fine(func(s *Spec) { s.KeyName = "" })}, nil, "", ""},
		{"unknown volume", []any{fine(func(s *Spec) { s.Volumes = []Volume{{"vol-2", "/dev/sdf"}} })}, nil, "!0 volume: No such volume", ""},
		{"a volume elsewhere", []any{fine(func(s *Spec) { s.Volumes, s.Zones = []Volume{{"vol-1", "/dev/sdf"}}, []string{"b"} })}, nil, "!0 volume: The volume is elsewhere", "eu-central-1a"},
		{"a volume here", []any{fine(func(s *Spec) { s.Volumes, s.Zones = []Volume{{"vol-1", "/dev/sdf"}}, []string{"b", "a"} })}, nil, "", ""},
		{"a root volume that is too small", []any{fine(func(s *Spec) { s.BlockDevices = []BlockDevice{{Device: "/dev/sda1", Size: 10}} })}, nil,
			"!0 block_device: The root volume is smaller than the image", "needs 20 GiB"},
		{"an address of ours", []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.2" }), fine(func(s *Spec) { s.ElasticIP = "eipalloc-1" })}, nil, "", ""},
		{"unknown address", []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.9" })}, nil, "!0 elastic_ip: No such elastic address", "aws ec2 allocate-address"},
		{"somebody else's address", []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.3" })}, nil, "!0 elastic_ip: The address is taken", "i-theirs"},
		{"an address of an interface", []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.4" })}, nil, "!0 elastic_ip: The address is taken", "eni-1"},
		{"one address for two", []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.1" }), fine(func(s *Spec) { s.ElasticIP, s.KeyName = "192.0.2.1", "" })}, nil,
			"!1 elastic_ip: The address is used twice", ""},
		{"hibernation of a type that cannot", []any{fine(func(s *Spec) { s.Hibernation, s.Types = true, []string{"c7g.large"} })}, arm, "!0 hibernation: The type can not hibernate", "c7g.large"},
		{"hibernation on a root volume that is not encrypted and too small", []any{fine(func(s *Spec) {
			s.Hibernation, s.BlockDevices = true, []BlockDevice{{Device: "/dev/sda1", Size: 4}}
		})}, func(a *account) { a.images = someImages(); a.images[0].RootDeviceName = aws.String("/dev/sda1") },
			"?0 hibernation: The root volume may not be encrypted\n?0 hibernation: The memory does not fit on the root volume", "encrypted = true"},
		{"hibernation as it should be", []any{fine(func(s *Spec) {
			s.Hibernation, s.BlockDevices = true, []BlockDevice{{Device: "/dev/sda1", Size: 40, Encrypted: aws.Bool(true)}}
		})}, nil, "", ""},
		{"a filter", []any{fine(func(s *Spec) {
			s.AMI, s.Image = "", &ImageFilter{Owners: []string{us}, LocationRegex: us + `/ci-(\d+)`}
		})}, nil, "", ""},
		{"a filter without owners", []any{fine(func(s *Spec) { s.AMI, s.Image = "", &ImageFilter{Filters: map[string][]string{"name": {"ci-*"}}} })}, nil,
			"?0 ami: An image of anybody may be taken", "owners = [\"self\"]"},
		{"a filter that leaves nothing", []any{fine(func(s *Spec) {
			s.AMI, s.Image = "", &ImageFilter{Owners: []string{us}, Filters: map[string][]string{"name": {"ci-*"}, "architecture": {"arm64"}}}
		})}, nil, "!0 ami.filters: No image is left", `Without the filter "architecture" there would be 2.`},
		{"an expression that leaves nothing", []any{fine(func(s *Spec) { s.AMI, s.Image = "", &ImageFilter{Owners: []string{us}, LocationRegex: "x"} })}, nil,
			"!0 ami.location_regex: No image is left", "Without location_regex there would be 3."},
		{"a spec of another kind", []any{"x", fine(nil)}, nil, "!0 : Not an instance of EC2", ""},
		{"what is true of several is said once", []any{fine(func(s *Spec) { s.KeyName = "x" }), fine(func(s *Spec) { s.KeyName, s.Types = "x", []string{"m7i.large", "c7g.large"} })}, nil,
			"!0 keypair_name: No such key pair\n?1 instance_types: The image does not run on this type", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := &account{}
			if tc.prepare != nil {
				tc.prepare(a)
			}
			found := a.provider(t, Config{}).Check(t.Context(), tc.specs)
			if got := shown(found); got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
			if len(found) > 0 && !strings.Contains(found[0].Detail, tc.detail) {
				t.Errorf("detail: %s", found[0].Detail)
			}
		})
	}
}

func TestWhatKeepsAPreflightOutIsSaidOnce(t *testing.T) {
	t.Parallel()
	many := []any{fine(nil), fine(func(s *Spec) { s.KeyName = "" }), fine(func(s *Spec) { s.AMI = "ami-2" })}
	dns := &callError{op: "DescribeInstances", err: &net.DNSError{Err: "no such host", Name: "ec2.eu-centrl-1.amazonaws.com", IsNotFound: true}}
	for _, tc := range []struct {
		name   string
		config Config
		op     string
		err    error
		want   string
		detail string
		calls  int // in all
	}{
		{"bad credentials", Config{Identifier: "AKIA"}, "GetCallerIdentity", &callError{op: "GetCallerIdentity", err: code("InvalidClientTokenId")}, "!-1 identifier: The credentials were not accepted", "check the access key", 2},
		{"expired credentials", Config{Profile: "ci"}, "GetCallerIdentity", &callError{op: "GetCallerIdentity", err: code("ExpiredToken")}, "!-1 profile: The credentials were not accepted", "expired", 2},
		{"no credentials", Config{}, "GetCallerIdentity", &callError{op: "GetCallerIdentity", err: &credentialError{errors.New("none found")}}, "!-1 : The credentials were not accepted", "AWS_ACCESS_KEY_ID", 2},
		{"wrong region", Config{}, "DescribeInstances", dns, "!-1 region: EC2 can not be reached", "describe-regions", 2},
		{"wrong endpoint", Config{Endpoint: "http://x"}, "DescribeInstances", dns, "!-1 endpoint: EC2 can not be reached", "no such host", 2},
		{"region not enabled", Config{}, "DescribeInstances", &callError{op: "DescribeInstances", err: code("AuthFailure")}, "!-1 region: The region eu-central-1 does not accept the credentials", "AuthFailure", 2},
		{"no permission to look", Config{}, "DescribeInstances", denied("DescribeInstances"), "!-1 : A permission is missing", "ec2:DescribeInstances", 11},
		{"nobody there", Config{}, "DescribeInstances", &callError{op: "DescribeInstances", err: context.DeadlineExceeded}, "!-1 : EC2 gives no usable answer", "No answer", 2},
		{"no permission to launch", Config{}, "RunInstances", denied("RunInstances"), "!-1 : A launch is not permitted", "ec2:RunInstances", 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := &account{errs: map[string]error{tc.op: tc.err}}
			found := a.provider(t, tc.config).Check(t.Context(), many)
			total := 0
			for n := range maps.Values(a.calls) {
				total += n
			}
			if got := shown(found); got != tc.want || !strings.Contains(found[0].Detail, tc.detail) || total > tc.calls {
				t.Errorf("after %d calls %v:\n%s\n%+v", total, a.calls, got, found)
			}
		})
	}
}

func TestSTSOutOfReachKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	a := &account{errs: map[string]error{"GetCallerIdentity": &callError{op: "GetCallerIdentity", err: &net.DNSError{Err: "no such host"}}}}
	if got := shown(a.provider(t, Config{}).Check(t.Context(), []any{fine(nil)})); got != "" {
		t.Error(got)
	}
}

func TestAMissingPermissionToLookIsAWarningAndHidesNothingElse(t *testing.T) {
	t.Parallel()
	everything := fine(func(s *Spec) {
		s.Zones, s.Volumes, s.ElasticIP, s.KeyName = []string{"a"}, []Volume{{"vol-1", "/dev/sdf"}}, "192.0.2.3", "missing"
		s.SecurityGroupIDs = []string{"sg-1"}
	})
	for op, want := range map[string]string{
		"DescribeKeyPairs":              "key pairs",
		"DescribeSecurityGroups":        "security groups",
		"DescribeInstanceTypes":         "types of instances",
		"DescribeInstanceTypeOfferings": "which zones offer the types",
		"DescribeAvailabilityZones":     "zones",
		"DescribeVolumes":               "volumes",
		"DescribeAddresses":             "elastic addresses",
		"DescribeImages":                "images",
	} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			a := &account{errs: map[string]error{op: denied(op)}}
			found := a.provider(t, Config{}).Check(t.Context(), []any{everything})
			at := slices.IndexFunc(found, func(f providers.Finding) bool { return f.Summary == "Not checked: "+want })
			if at < 0 || found[at].Fatal || found[at].Spec != -1 || !strings.Contains(found[at].Detail, "ec2:"+op) {
				t.Errorf("%s\n%+v", shown(found), found)
			}
			if got := shown(found); op != "DescribeKeyPairs" && !strings.Contains(got, "No such key pair") || op != "DescribeAddresses" && !strings.Contains(got, "The address is taken") {
				t.Error(got)
			}
		})
	}
}

func TestEachKindOfThingIsAskedForOnce(t *testing.T) {
	t.Parallel()
	a := &account{}
	var specs []any
	for i := range 300 { // 20 different ones, with different images, keys and groups
		i %= 20
		specs = append(specs, fine(func(s *Spec) {
			s.AMI, s.KeyName, s.SecurityGroups = fmt.Sprintf("ami-%d", i%2+1), "ops", []string{"ci"}
			s.Tags = map[string]string{"n": fmt.Sprint(i)}
			s.Zones = []string{"a", "b"}
		}))
	}
	if got := shown(a.provider(t, Config{}).Check(t.Context(), specs)); got != "" {
		t.Error(got)
	}
	for op, n := range a.calls {
		if most := map[string]int{"RunInstances": 20}[op]; n > max(most, 1) {
			t.Errorf("%d calls of %s", n, op)
		}
	}
	if a.calls["RunInstances"] != 20 {
		t.Errorf("%d dry runs of 20 different specs", a.calls["RunInstances"])
	}
}

func TestADryRunIsTheLaunchItselfWithoutAToken(t *testing.T) {
	t.Parallel()
	a := &account{}
	filter := &ImageFilter{Owners: []string{us}, LocationRegex: us + `/ci-(\d+)`}
	specs := []any{fine(func(s *Spec) {
		s.AMI, s.Image, s.Market, s.Zones = "", filter, Market{Spot: true, MaxPrice: 0.5, Product: "Linux/UNIX"}, []string{"b"}
	})}
	if got := shown(a.provider(t, Config{}).Check(t.Context(), specs)); got != "" {
		t.Fatal(got)
	}
	in := a.runs[0]
	if len(a.runs) != 1 || !aws.ToBool(in.DryRun) || in.ClientToken != nil || aws.ToString(in.ImageId) != "ami-2" || in.InstanceType != "m7i.large" ||
		aws.ToString(in.Placement.AvailabilityZone) != "eu-central-1b" || aws.ToString(in.InstanceMarketOptions.SpotOptions.MaxPrice) != "0.5000" {
		t.Errorf("%+v", in)
	}
}

func TestWhatADryRunSaysPointsAtItsAttribute(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ code, message, want string }{
		{"InvalidParameterValue", "Value (ci) for parameter iamInstanceProfile.name is invalid", "!0 instance_profile_name: EC2 would refuse the launch"},
		{"InvalidAMIID.NotFound", "", "!0 ami: EC2 would refuse the launch"},
		{"InvalidSubnetID.NotFound", "", "!0 subnet_id: EC2 would refuse the launch"},
		{"InvalidGroup.NotFound", "", "!0 security_name: EC2 would refuse the launch"},
		{"InvalidKeyPair.NotFound", "", "!0 keypair_name: EC2 would refuse the launch"},
		{"InvalidLaunchTemplateName.NotFoundException", "", "!0 launch_template: EC2 would refuse the launch"},
		{"InvalidBlockDeviceMapping", "", "!0 block_device: EC2 would refuse the launch"},
		{"UnsupportedHibernationConfiguration", "", "!0 hibernation: EC2 would refuse the launch"},
		{"VcpuLimitExceeded", "", "?0 : EC2 would refuse the launch now"},
		{"UnauthorizedOperation", "", "!-1 : A launch is not permitted"},
		{"RequestLimitExceeded", "", "?-1 : Not checked: whether instances can be launched"},
	} {
		a := &account{dryRun: func(*ec2.RunInstancesInput) error { return status(400, tc.code, tc.message) }}
		if got := shown(a.provider(t, Config{}).Check(t.Context(), []any{fine(nil)})); got != tc.want {
			t.Errorf("%s: %s", tc.code, got)
		}
	}
	// What the preflight has found itself is not said twice.
	a := &account{dryRun: func(*ec2.RunInstancesInput) error { return code("InvalidKeyPair.NotFound") }}
	if got := shown(a.provider(t, Config{}).Check(t.Context(), []any{fine(func(s *Spec) { s.KeyName = "x" })})); got != "!0 keypair_name: No such key pair" {
		t.Error(got)
	}
}

func TestAnEndpointThatLaunchesOnADryRunIsUndone(t *testing.T) {
	t.Parallel()
	a := &account{dryRun: func(*ec2.RunInstancesInput) error { return nil }}
	found := a.provider(t, Config{}).Check(t.Context(), []any{fine(nil), fine(func(s *Spec) { s.KeyName = "" })})
	if got := shown(found); got != "!-1 endpoint: The endpoint launches where it is told only to check" || !strings.Contains(found[0].Detail, "i-oops") {
		t.Errorf("%s", got)
	}
	if a.calls["TerminateInstances"] != 1 || a.calls["RunInstances"] != 1 {
		t.Errorf("%v", a.calls)
	}

	ctx, cancel := context.WithCancel(t.Context())
	a = &account{dryRun: func(*ec2.RunInstancesInput) error { cancel(); return nil }}
	p := a.provider(t, Config{})
	var end error
	terminate := p.api.TerminateInstances
	p.api.TerminateInstances = func(ctx context.Context, in *ec2.TerminateInstancesInput) (*ec2.TerminateInstancesOutput, error) {
		end = ctx.Err()
		return terminate(ctx, in)
	}
	p.Check(ctx, []any{fine(nil)})
	if a.calls["TerminateInstances"] != 1 || end != nil {
		t.Errorf("who asked has gone: %v, %v", a.calls, end)
	}
}

func TestAPreflightStopsAskingWhenEC2FallsSilent(t *testing.T) {
	t.Parallel()
	a := &account{errs: map[string]error{"DescribeInstanceTypes": &callError{op: "DescribeInstanceTypes", err: context.DeadlineExceeded}}}
	found := a.provider(t, Config{}).Check(t.Context(), []any{fine(func(s *Spec) { s.ElasticIP = "192.0.2.9" })})
	if got := shown(found); got != "?-1 : Not checked: types of instances" || !strings.Contains(found[0].Detail, "No answer") {
		t.Errorf("%s\n%+v", got, found)
	}
	for _, op := range []string{"DescribeKeyPairs", "DescribeAddresses", "RunInstances"} {
		if a.calls[op] > 0 {
			t.Errorf("%s was called", op)
		}
	}
}

func TestACommandNamesRegionEndpointAndProfile(t *testing.T) {
	t.Parallel()
	p := &provider{region: "eu-central-1", cfg: Config{Endpoint: "http://127.0.0.1:5000", Profile: "it's"}}
	want := `aws ec2 create-security-group --region eu-central-1 --endpoint-url http://127.0.0.1:5000 --profile 'it'\''s' --group-name '$(x)' ''`
	if got := p.command("create-security-group", "--group-name", "$(x)", ""); got != want {
		t.Error(got)
	}
}
