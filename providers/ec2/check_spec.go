package ec2

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// judge holds one spec against what there is.
func (f *preflight) judge(w *inventory, s *numbered) {
	f.judgeImage(w, s)
	f.judgeTypes(w, s)
	f.judgePlaces(w, s)
	f.judgeAccess(w, s)
	f.judgeDisks(w, s)
	f.judgeHibernation(w, s)
}

func (f *preflight) judgeImage(w *inventory, s *numbered) {
	switch {
	case s.Image != nil:
		if err := w.filtered[imageKey(s.Image)]; err != nil {
			f.noImage(w, s, err)
		}
		if len(s.Image.Owners) == 0 && s.Image.Filters["owner-id"] == nil && s.Image.Filters["owner-alias"] == nil {
			f.warn(s, "ami", "An image of anybody may be taken", "Without owners, whoever publishes an image that fits the other conditions decides what your workers run. "+
				"Name the owners, such as owners = [\"self\"].")
		}
	case s.AMI != "" && w.images != nil:
		im, ok := w.images[s.AMI]
		switch {
		case !ok:
			f.fatal(s, "ami", "No such image", "There is no image %s in %s, or it is not shared with this account. An image's ID is good in one region only.", s.AMI, f.p.region)
		case im.State != "available":
			f.fatal(s, "ami", "The image is not available", "The image %s is in state %q.", s.AMI, im.State)
		}
	}
}

// noImage says why a filter gives no image, and which condition leaves none.
func (f *preflight) noImage(w *inventory, s *numbered, err error) {
	if providers.ClassOf(err) != providers.BadConfig {
		f.fatal(s, "ami", "The image can not be chosen", "%s", ended(err.Error()))
		return
	}
	found := w.emptied[imageKey(s.Image)]
	attr := "ami"
	if len(found) == 1 {
		attr = found[0].attr
	}
	detail := fmt.Sprintf("There is none for %s", criteria(s.Image))
	if s.Image.LocationRegex != "" {
		detail += fmt.Sprintf(" whose location begins with a match of %q", s.Image.LocationRegex)
	}
	f.fatal(s, attr, "No image is left", "%s. %s", detail, sentence(found))
}

// judgeTypes holds the types against the image, the market and the region. One that fits is enough for a launch; what is wrong with others is a
// warning.
func (f *preflight) judgeTypes(w *inventory, s *numbered) {
	if w.types == nil {
		return
	}
	im, _ := w.image(&s.Spec)
	var wrong []func(fatal bool)
	attr := plural("instance_type", s.Types)
	for _, name := range s.Types {
		summary, detail := "", ""
		info, ok := w.types[name]
		arch := info.ProcessorInfo
		switch {
		case !ok:
			summary, detail = "No such type of instance", fmt.Sprintf("%s has no type %q.", f.p.region, name)
		case im.Architecture != "" && arch != nil && len(arch.SupportedArchitectures) > 0 && !slices.Contains(arch.SupportedArchitectures, types.ArchitectureType(im.Architecture)):
			summary, detail = "The image does not run on this type", fmt.Sprintf("The image %s is for %s, and %s is %s.", im.ID, im.Architecture, name, joined(arch.SupportedArchitectures))
		case s.Market.Spot && !s.Market.OnDemand && len(info.SupportedUsageClasses) > 0 && !slices.Contains(info.SupportedUsageClasses, types.UsageClassTypeSpot):
			summary, detail = "The type is not sold as spot", fmt.Sprintf("%s is sold as %s only.", name, joined(info.SupportedUsageClasses))
		default:
			continue
		}
		wrong = append(wrong, func(fatal bool) {
			f.say(providers.Finding{Fatal: fatal, Spec: s.at, Attr: attr, Summary: summary, Detail: detail})
		})
	}
	for _, say := range wrong {
		say(len(wrong) == len(s.Types))
	}
}

func joined[T ~string](list []T) string {
	var all []string
	for _, v := range list {
		all = append(all, string(v))
	}
	return strings.Join(all, " or ")
}

// judgePlaces looks whether the zones and subnets exist and offer the types.
func (f *preflight) judgePlaces(w *inventory, s *numbered) {
	var zones []string
	missing := 0
	for _, z := range s.Zones {
		z = wholeZone(f.p.region, z)
		if w.zones != nil && !w.zones[z] {
			missing++
			fatal := missing == len(s.Zones)
			f.say(providers.Finding{Fatal: fatal, Spec: s.at, Attr: placesAttr(&s.Spec), Summary: "No such zone", Detail: fmt.Sprintf("There is no zone %q in %s, or it is not enabled for this account.", z, f.p.region)})
			continue
		}
		zones = append(zones, z)
	}
	missing = 0
	for _, id := range s.Subnets {
		if w.subnets == nil {
			break
		}
		net, ok := w.subnets[id]
		if !ok {
			missing++
			fatal := missing == len(s.Subnets)
			f.say(providers.Finding{Fatal: fatal, Spec: s.at, Attr: placesAttr(&s.Spec), Summary: "No such subnet", Detail: fmt.Sprintf("There is no subnet %s in %s that this account may use.", id, f.p.region)})
			continue
		}
		zones = append(zones, aws.ToString(net.AvailabilityZone))
		if n := net.AvailableIpAddressCount; n != nil && *n == 0 {
			f.warn(s, placesAttr(&s.Spec), "The subnet has no free address", "All addresses of %s (%s) are in use.", id, aws.ToString(net.CidrBlock))
		}
	}
	if w.offered == nil || len(s.Types) == 0 || len(zones) == 0 {
		return
	}
	pairs := 0
	var none []string
	for _, t := range s.Types {
		for _, z := range zones {
			if len(w.offered[t]) == 0 || slices.Contains(w.offered[t], z) { // a type that nobody offers is reported as such
				pairs++
			} else {
				none = append(none, t+" in "+z)
			}
		}
	}
	if len(none) > 0 {
		f.say(providers.Finding{Fatal: pairs == 0, Spec: s.at, Attr: plural("instance_type", s.Types), Summary: "The zone does not offer the type", Detail: fmt.Sprintf(
			"EC2 does not offer %s.", strings.Join(none, ", "))})
	}
}

// judgeAccess looks for security groups and the key pair. What is missing is offered as a command; nothing is created.
func (f *preflight) judgeAccess(w *inventory, s *numbered) {
	for _, id := range s.SecurityGroupIDs {
		g, ok := w.groups[id]
		if w.groups == nil {
			break
		}
		if !ok {
			f.fatal(s, groupsAttr(&s.Spec), "No such security group", "There is no security group %s in %s.", id, f.p.region)
			continue
		}
		for _, net := range s.Subnets {
			if n, ok := w.subnets[net]; ok && aws.ToString(n.VpcId) != aws.ToString(g.VpcId) {
				f.fatal(s, groupsAttr(&s.Spec), "Security group and subnet are of two networks", "The group %s belongs to %s, the subnet %s to %s.", id, aws.ToString(g.VpcId), net, aws.ToString(n.VpcId))
			}
		}
	}
	for _, name := range s.SecurityGroups {
		if w.groupName == nil || w.groupName[name] {
			continue
		}
		f.fatal(s, groupsAttr(&s.Spec), "No such security group", "There is no security group named %q in %s, and nothing creates it silently. This would (workers dial their master, "+
			"so it needs no inbound rule): `%s`. Or name another one with security_name or security_group_ids.", name, f.p.region,
			f.p.command("create-security-group", "--group-name", name, "--description", "rouse workers"))
	}
	if k := s.KeyName; k != "" && w.keys != nil && !w.keys[k] {
		f.fatal(s, "keypair_name", "No such key pair", "There is no key pair named %q in %s, and nothing creates it silently. This would: `%s > %s`. "+
			"Or launch without one: keypair_name = \"\".", k, f.p.region,
			f.p.command("create-key-pair", "--key-name", k, "--query", "KeyMaterial", "--output", "text"), quoted(k+".pem"))
	}
}

// judgeDisks looks at volumes to attach, and whether a root volume holds its image.
func (f *preflight) judgeDisks(w *inventory, s *numbered) {
	im, _ := w.image(&s.Spec)
	for _, d := range s.BlockDevices {
		if d.Device == im.RootDevice && d.Size > 0 && d.Size < im.RootGiB {
			f.fatal(s, "block_device", "The root volume is smaller than the image", "The image %s needs %d GiB on %s, not %d.", im.ID, im.RootGiB, d.Device, d.Size)
		}
	}
	if w.volumes == nil {
		return
	}
	for _, v := range s.Volumes {
		vol, ok := w.volumes[v.ID]
		zone := aws.ToString(vol.AvailabilityZone)
		switch {
		case !ok:
			f.fatal(s, "volume", "No such volume", "There is no volume %s in %s.", v.ID, f.p.region)
		case !f.mayBeIn(w, &s.Spec, zone):
			f.fatal(s, "volume", "The volume is elsewhere", "The volume %s is in %s, where this worker's instances are never launched.", v.ID, zone)
		}
	}
}

// mayBeIn says whether a launch may take place in a zone.
func (f *preflight) mayBeIn(w *inventory, s *Spec, zone string) bool {
	if len(s.Zones) == 0 && len(s.Subnets) == 0 || zone == "" {
		return true
	}
	for _, z := range s.Zones {
		if wholeZone(f.p.region, z) == zone {
			return true
		}
	}
	for _, id := range s.Subnets {
		if n, ok := w.subnets[id]; !ok || aws.ToString(n.AvailabilityZone) == zone {
			return true
		}
	}
	return false
}

// judgeHibernation looks at what EC2's manual demands: a type that can, an encrypted root volume, and room on it for the memory.
func (f *preflight) judgeHibernation(w *inventory, s *numbered) {
	if !s.Hibernation {
		return
	}
	im, _ := w.image(&s.Spec)
	size, encrypted := im.RootGiB, im.RootEncrypted
	for _, d := range s.BlockDevices {
		if im.RootDevice != "" && d.Device == im.RootDevice {
			if d.Size > 0 {
				size = d.Size
			}
			if d.Encrypted != nil {
				encrypted = *d.Encrypted
			}
		}
	}
	if im.RootDevice != "" && !encrypted {
		f.warn(s, "hibernation", "The root volume may not be encrypted", "Hibernation needs it: say encrypted = true in a block_device block for %s, or let the account encrypt by default.", im.RootDevice)
	}
	for _, name := range s.Types {
		info, ok := w.types[name]
		if !ok {
			continue
		}
		if info.HibernationSupported != nil && !*info.HibernationSupported {
			f.fatal(s, "hibernation", "The type can not hibernate", "EC2 does not hibernate instances of %s.", name)
		}
		if m := info.MemoryInfo; m != nil && size > 0 && aws.ToInt64(m.SizeInMiB) > size*1024 {
			f.warn(s, "hibernation", "The memory does not fit on the root volume", "%s has %d MiB of memory, and the root volume %d GiB: it must hold both system and memory.", name, aws.ToInt64(m.SizeInMiB), size)
		}
	}
}

// addresses looks at elastic addresses: whether they are ours, and whether somebody else uses them.
func (f *preflight) addresses(ctx context.Context) {
	first := map[string]*numbered{}
	for i := range f.specs {
		s := &f.specs[i]
		if s.ElasticIP == "" {
			continue
		}
		if other := first[s.ElasticIP]; other != nil {
			f.fatal(s, "elastic_ip", "The address is used twice", "Another worker has %s, too; one address serves one instance at a time.", s.ElasticIP)
			continue
		}
		first[s.ElasticIP] = s
	}
	if len(first) == 0 || f.down {
		return
	}
	out, err := within(ctx, f.p.callTimeout(), f.p.api.DescribeAddresses, &ec2.DescribeAddressesInput{}) // all: a region has a handful, and there is no filter by either name
	if err != nil {
		f.unchecked("elastic addresses", err)
		return
	}
	taken := map[string]*numbered{} // by instance
	for i := range f.specs {
		s := &f.specs[i]
		if s.ElasticIP == "" || first[s.ElasticIP] != s {
			continue
		}
		at := slices.IndexFunc(out.Addresses, func(a types.Address) bool {
			return aws.ToString(a.PublicIp) == s.ElasticIP || aws.ToString(a.AllocationId) == s.ElasticIP
		})
		if at < 0 {
			f.fatal(s, "elastic_ip", "No such elastic address", "The account has no address %s in %s. `%s` makes one.", s.ElasticIP, f.p.region, f.p.command("allocate-address"))
			continue
		}
		a := out.Addresses[at]
		switch {
		case aws.ToString(a.InstanceId) != "":
			taken[aws.ToString(a.InstanceId)] = s
		case aws.ToString(a.NetworkInterfaceId) != "":
			f.fatal(s, "elastic_ip", "The address is taken", "The address %s belongs to the network interface %s.", s.ElasticIP, aws.ToString(a.NetworkInterfaceId))
		}
	}
	f.strangers(ctx, taken)
}

// strangers complains about addresses that instances have which are not this master's: those are never touched.
func (f *preflight) strangers(ctx context.Context, taken map[string]*numbered) {
	if len(taken) == 0 {
		return
	}
	ids := slices.Sorted(maps.Keys(taken))
	out, err := within(ctx, f.p.callTimeout(), f.p.api.DescribeInstances, &ec2.DescribeInstancesInput{InstanceIds: ids})
	if err != nil {
		f.unchecked("who has the elastic addresses", err)
		return
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if slices.ContainsFunc(i.Tags, func(t types.Tag) bool {
				return aws.ToString(t.Key) == tagOwner && aws.ToString(t.Value) == string(f.p.owner) && f.p.owner != ""
			}) {
				continue
			}
			if s := taken[aws.ToString(i.InstanceId)]; s != nil {
				f.fatal(s, "elastic_ip", "The address is taken", "The address %s belongs to the instance %s, which is not one of this master's.", s.ElasticIP, aws.ToString(i.InstanceId))
			}
		}
	}
}
