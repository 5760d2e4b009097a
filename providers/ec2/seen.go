package ec2

import (
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// seen is what DescribeInstances says of one instance of ours, as far as it matters. It is a value; EC2's own has a hundred fields.
type seen struct {
	ID, Worker, Owner string
	Key               providers.Key
	State             types.InstanceStateName
	Reason            string // why it is in that state, for people
	Taken             bool   // EC2 has taken it back
	Launched          time.Time
	Type, Zone, Image string
	Spot              bool
	Public, Private   string // addresses
	Devices           []string
}

// see reads an instance; false if it is not one that a rouse has tagged.
func see(in *types.Instance) (seen, bool) {
	s := seen{
		ID: aws.ToString(in.InstanceId), Launched: aws.ToTime(in.LaunchTime).UTC(), Type: string(in.InstanceType), Image: aws.ToString(in.ImageId),
		Spot: in.InstanceLifecycle == types.InstanceLifecycleTypeSpot, Public: aws.ToString(in.PublicIpAddress), Private: aws.ToString(in.PrivateIpAddress),
	}
	if in.State != nil {
		s.State = in.State.Name
	}
	if in.Placement != nil {
		s.Zone = aws.ToString(in.Placement.AvailabilityZone)
	}
	for _, t := range in.Tags {
		switch aws.ToString(t.Key) {
		case tagKey:
			s.Key = providers.Key(aws.ToString(t.Value))
		case tagOwner:
			s.Owner = aws.ToString(t.Value)
		case tagWorker:
			s.Worker = aws.ToString(t.Value)
		}
	}
	if r := in.StateReason; r != nil {
		s.Taken = takenBack[aws.ToString(r.Code)]
		s.Reason = clip(strings.TrimSpace(aws.ToString(r.Message)), maxText)
		if s.Reason == "" {
			s.Reason = clip(aws.ToString(r.Code), maxText)
		}
	}
	for _, m := range in.BlockDeviceMappings {
		if m.Ebs != nil {
			s.Devices = append(s.Devices, aws.ToString(m.Ebs.VolumeId))
		}
	}
	return s, s.ID != "" && s.Key.Valid() && s.Owner != ""
}

// takenBack are the codes of EC2's state reasons (StateReason in the API reference) with which it says that it needed a spot machine for others.
var takenBack = map[string]bool{"Server.SpotInstanceTermination": true, "Server.SpotInstanceShutdown": true}

// over says that nothing is left of it but a line in a list.
func (s seen) over() bool { return s.State == types.InstanceStateNameTerminated }

// leaving says that its end has begun.
func (s seen) leaving() bool { return s.over() || s.State == types.InstanceStateNameShuttingDown }

// instance is what the contract says of it. ours: this master launched it and did not order its end, so an end is a failure.
func (s seen) instance(ours bool, note string) providers.Instance {
	in := providers.Instance{Key: s.Key, ID: s.ID, Worker: s.Worker, CreatedAt: s.Launched, Facts: map[string]string{}}
	var detail []string
	switch s.State {
	case types.InstanceStateNamePending:
		in.State = providers.Pending
	case types.InstanceStateNameRunning:
		in.State = providers.Running
	case types.InstanceStateNameStopping:
		in.State = providers.Stopping
	case types.InstanceStateNameStopped:
		in.State = providers.Stopped
	case types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated:
		in.State = providers.Stopping
		if s.over() {
			in.State = providers.Gone
		}
		if ours {
			in.State = providers.Failed
			in.Interrupted = s.Taken
			detail = append(detail, fmt.Sprintf("%s, which rouse did not order", s.State))
		}
	default:
		detail = append(detail, fmt.Sprintf("state %.40q", string(s.State)))
	}
	if s.Reason != "" {
		detail = append(detail, s.Reason)
	}
	market := onDemand
	if s.Spot {
		market = spot
	}
	address := s.Public
	if address == "" {
		address = s.Private
	}
	for name, value := range map[string]string{"image": s.Image, "type": s.Type, "market": market, "zone": s.Zone, "address": address, "private_address": s.Private} {
		if value != "" {
			in.Facts[name] = value
		}
	}
	if note != "" {
		detail = append(detail, note)
	}
	if len(detail) == 0 {
		detail = append(detail, strings.Join(strings.Fields(s.Type+" "+s.Zone+" "+address), ", "))
	}
	in.Detail = strings.Join(detail, "; ")
	return in
}
