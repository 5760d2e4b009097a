package ec2

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// choices are all that a spec allows, in the order of preference: on the cheaper market first, there each type, there each place.
func (s Spec) choices(region string) []choice {
	or := func(list []string) []string {
		if len(list) == 0 {
			return []string{""}
		}
		return list
	}
	markets := []string{onDemand}
	if s.Market.Spot {
		markets = []string{spot}
		if s.Market.OnDemand {
			markets = append(markets, onDemand)
		}
	}
	var all []choice
	for _, market := range markets {
		for _, typ := range or(s.Types) {
			for _, subnet := range or(s.Subnets) {
				for _, zone := range or(s.Zones) {
					all = append(all, choice{Type: typ, Subnet: subnet, Zone: wholeZone(region, zone), Market: market})
				}
			}
		}
	}
	return all
}

// wholeZone puts the region before a zone's letter.
func wholeZone(region, zone string) string {
	if len(zone) == 1 {
		return region + zone
	}
	return zone
}

// clientToken names one attempt of one key for ever. EC2 takes up to 64 ASCII characters; keys may be longer.
func clientToken(key providers.Key, attempt int) string {
	sum := sha256.Sum256([]byte(string(key) + "\x00" + strconv.Itoa(attempt)))
	return "rouse-" + hex.EncodeToString(sum[:24])
}

// tags of everything that one launch makes. They depend on the request and its record only: a repeated launch must have the same parameters.
func (p *provider) tags(req providers.CreateRequest, s Spec, r *record) []types.Tag {
	expiry := r.Since.Add(p.cfg.limits().CreateTimeout + p.cfg.Settle + req.Agent.Orphan).UTC().Format(time.RFC3339)
	m := merged(map[string]string{"Name": req.Worker}, p.cfg.Tags, s.Tags,
		map[string]string{tagOwner: string(req.Owner), tagKey: string(req.Key), tagWorker: req.Worker, tagExpiry: expiry})
	var list []types.Tag
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, types.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return list
}

// launchInput is the whole request of one attempt: nothing about an instance is said by a later call, but what can only be attached to one that runs.
func (p *provider) launchInput(req providers.CreateRequest, s Spec, r *record) (*ec2.RunInstancesInput, error) {
	data, err := userData(s, req.Key, req.Agent)
	if err != nil {
		return nil, err
	}
	in := &ec2.RunInstancesInput{
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		ClientToken:                       aws.String(clientToken(req.Key, r.Attempt)),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate, // an agent that powers off ends its machine and what it costs
		InstanceType:                      types.InstanceType(r.Choice.Type),
		MetadataOptions: &types.InstanceMetadataOptionsRequest{
			HttpTokens: types.HttpTokensStateRequired, HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, HttpPutResponseHopLimit: aws.Int32(int32(s.HopLimit)),
		},
	}
	if len(data) > 0 {
		in.UserData = aws.String(base64.StdEncoding.EncodeToString(data))
	}
	tags := p.tags(req, s, r)
	kinds := []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface}
	if r.Choice.Market == spot {
		kinds = append(kinds, types.ResourceTypeSpotInstancesRequest)
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{
			SpotInstanceType: types.SpotInstanceTypeOneTime, InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorTerminate,
		}}
		if r.Choice.MaxPrice != "" {
			in.InstanceMarketOptions.SpotOptions.MaxPrice = aws.String(r.Choice.MaxPrice)
		}
	}
	for _, k := range kinds {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: k, Tags: tags})
	}
	if r.Choice.Image != "" {
		in.ImageId = aws.String(r.Choice.Image)
	}
	if s.KeyName != "" {
		in.KeyName = aws.String(s.KeyName)
	}
	if strings.HasPrefix(s.InstanceProfile, "arn:") {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: aws.String(s.InstanceProfile)}
	} else if s.InstanceProfile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String(s.InstanceProfile)}
	}
	if s.Template.set() {
		in.LaunchTemplate = &types.LaunchTemplateSpecification{}
		for dst, value := range map[**string]string{
			&in.LaunchTemplate.LaunchTemplateId: s.Template.ID, &in.LaunchTemplate.LaunchTemplateName: s.Template.Name, &in.LaunchTemplate.Version: s.Template.Version,
		} {
			if value != "" {
				*dst = aws.String(value)
			}
		}
	}
	if r.Choice.Zone != "" {
		in.Placement = &types.Placement{AvailabilityZone: aws.String(r.Choice.Zone)}
	}
	network(in, s, r.Choice.Subnet)
	for _, d := range s.BlockDevices {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, d.mapping())
	}
	if s.Hibernation {
		in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)}
	}
	if s.EBSOptimized {
		in.EbsOptimized = aws.Bool(true)
	}
	if s.Monitoring {
		in.Monitoring = &types.RunInstancesMonitoringEnabled{Enabled: aws.Bool(true)}
	}
	return in, nil
}

// network says subnet and groups: of the instance, or of its first interface when that must be described for its public address.
func network(in *ec2.RunInstancesInput, s Spec, subnet string) {
	if s.PublicIP != nil {
		eth := types.InstanceNetworkInterfaceSpecification{
			DeviceIndex: aws.Int32(0), AssociatePublicIpAddress: s.PublicIP, DeleteOnTermination: aws.Bool(true), Groups: s.SecurityGroupIDs,
		}
		if subnet != "" {
			eth.SubnetId = aws.String(subnet)
		}
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{eth}
		return
	}
	in.SecurityGroupIds, in.SecurityGroups = s.SecurityGroupIDs, s.SecurityGroups
	if subnet != "" {
		in.SubnetId = aws.String(subnet)
	}
}

func (d BlockDevice) mapping() types.BlockDeviceMapping {
	m := types.BlockDeviceMapping{DeviceName: aws.String(d.Device)}
	switch {
	case d.None:
		m.NoDevice = aws.String("")
		return m
	case d.Virtual != "":
		m.VirtualName = aws.String(d.Virtual)
		return m
	}
	e := &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(d.DeleteOnTermination), Encrypted: d.Encrypted, VolumeType: types.VolumeType(d.Type)}
	if d.Snapshot != "" {
		e.SnapshotId = aws.String(d.Snapshot)
	}
	if d.KMSKey != "" {
		e.KmsKeyId = aws.String(d.KMSKey)
	}
	for dst, n := range map[**int32]int64{&e.VolumeSize: d.Size, &e.Iops: d.IOPS, &e.Throughput: d.Throughput} {
		if n > 0 {
			*dst = aws.Int32(int32(n))
		}
	}
	m.Ebs = e
	return m
}

// checkSpec is the spec of a request.
func checkSpec(op string, spec any) (Spec, error) {
	s, ok := spec.(Spec)
	if !ok {
		return Spec{}, providers.Errorf(providers.BadConfig, op, "the specification is a %T, not one of ec2's", spec)
	}
	return s, nil
}
