package ec2

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// inventory is what EC2 has of what the specs name. A nil map is not known, for want of a permission: then nothing is said of it.
type inventory struct {
	images    map[string]image     // by ID
	filtered  map[string]error     // by imageKey: why a filter gives none…
	emptied   map[string][]culprit // …and which conditions leave none
	types     map[string]types.InstanceTypeInfo
	offered   map[string][]string // zones by type
	zones     map[string]bool     // whole names
	subnets   map[string]types.Subnet
	groups    map[string]types.SecurityGroup // by ID
	groupName map[string]bool
	keys      map[string]bool
	volumes   map[string]types.Volume
	chosen    map[string]string // image IDs by imageKey
}

// maxValues is the most values that EC2 takes in one filter.
const maxValues = 200

// union is what any spec names, each once and in order.
func (f *preflight) union(of func(*Spec) []string) []string {
	var all []string
	for i := range f.specs {
		for _, v := range of(&f.specs[i].Spec) {
			if v != "" && !slices.Contains(all, v) {
				all = append(all, v)
			}
		}
	}
	return all
}

// gather asks for named things with one filter, in as few calls as EC2 allows. false means that they are not known.
func gather[I, O any](ctx context.Context, f *preflight, what string, names []string, do call[I, O], ask func(names []string, token *string) *I, got func(*O) (token *string)) bool {
	if f.down {
		return false
	}
	for part := range slices.Chunk(names, maxValues) {
		var token *string
		for range 100 { // pages
			out, err := within(ctx, f.p.callTimeout(), do, ask(part, token))
			if err != nil {
				f.unchecked(what, err)
				return false
			}
			if token = got(out); aws.ToString(token) == "" {
				break
			}
		}
	}
	return true
}

// within makes a call with a deadline of its own.
func within[I, O any](ctx context.Context, limit time.Duration, do call[I, O], in *I) (*O, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx, in)
}

// inventory asks for everything that the specs name: one call for each kind of thing.
func (f *preflight) inventory(ctx context.Context) *inventory {
	w := &inventory{}
	api := f.p.api
	f.askImages(ctx, w)
	named := f.union(func(s *Spec) []string { return s.Types })

	infos := map[string]types.InstanceTypeInfo{}
	if gather(ctx, f, "types of instances", named, api.DescribeInstanceTypes, func(n []string, token *string) *ec2.DescribeInstanceTypesInput {
		return &ec2.DescribeInstanceTypesInput{Filters: []types.Filter{filter("instance-type", n...)}, NextToken: token}
	}, func(out *ec2.DescribeInstanceTypesOutput) *string {
		for _, i := range out.InstanceTypes {
			infos[string(i.InstanceType)] = i
		}
		return out.NextToken
	}) {
		w.types = infos
	}

	offered := map[string][]string{}
	if gather(ctx, f, "which zones offer the types", named, api.DescribeInstanceTypeOfferings, func(n []string, token *string) *ec2.DescribeInstanceTypeOfferingsInput {
		return &ec2.DescribeInstanceTypeOfferingsInput{LocationType: types.LocationTypeAvailabilityZone, Filters: []types.Filter{filter("instance-type", n...)}, NextToken: token}
	}, func(out *ec2.DescribeInstanceTypeOfferingsOutput) *string {
		for _, o := range out.InstanceTypeOfferings {
			offered[string(o.InstanceType)] = append(offered[string(o.InstanceType)], aws.ToString(o.Location))
		}
		return out.NextToken
	}) {
		w.offered = offered
	}

	zones := map[string]bool{}
	if gather(ctx, f, "zones", f.one(func(s *Spec) []string { return s.Zones }), api.DescribeAvailabilityZones, func([]string, *string) *ec2.DescribeAvailabilityZonesInput {
		return &ec2.DescribeAvailabilityZonesInput{}
	}, func(out *ec2.DescribeAvailabilityZonesOutput) *string {
		for _, z := range out.AvailabilityZones {
			zones[aws.ToString(z.ZoneName)] = true
		}
		return nil
	}) {
		w.zones = zones
	}

	subnets := map[string]types.Subnet{}
	if gather(ctx, f, "subnets", f.union(func(s *Spec) []string { return s.Subnets }), api.DescribeSubnets, func(n []string, token *string) *ec2.DescribeSubnetsInput {
		return &ec2.DescribeSubnetsInput{Filters: []types.Filter{filter("subnet-id", n...)}, NextToken: token}
	}, func(out *ec2.DescribeSubnetsOutput) *string {
		for _, s := range out.Subnets {
			subnets[aws.ToString(s.SubnetId)] = s
		}
		return out.NextToken
	}) {
		w.subnets = subnets
	}
	f.askGroups(ctx, w)

	keys := map[string]bool{}
	if gather(ctx, f, "key pairs", f.union(func(s *Spec) []string { return []string{s.KeyName} }), api.DescribeKeyPairs, func(n []string, _ *string) *ec2.DescribeKeyPairsInput {
		return &ec2.DescribeKeyPairsInput{Filters: []types.Filter{filter("key-name", n...)}}
	}, func(out *ec2.DescribeKeyPairsOutput) *string {
		for _, k := range out.KeyPairs {
			keys[aws.ToString(k.KeyName)] = true
		}
		return nil
	}) {
		w.keys = keys
	}

	volumes := map[string]types.Volume{}
	ids := func(s *Spec) (all []string) {
		for _, v := range s.Volumes {
			all = append(all, v.ID)
		}
		return all
	}
	if gather(ctx, f, "volumes", f.union(ids), api.DescribeVolumes, func(n []string, token *string) *ec2.DescribeVolumesInput {
		return &ec2.DescribeVolumesInput{Filters: []types.Filter{filter("volume-id", n...)}, NextToken: token}
	}, func(out *ec2.DescribeVolumesOutput) *string {
		for _, v := range out.Volumes {
			volumes[aws.ToString(v.VolumeId)] = v
		}
		return out.NextToken
	}) {
		w.volumes = volumes
	}
	return w
}

// one is a single name if any spec has any, for what is asked for as a whole.
func (f *preflight) one(of func(*Spec) []string) []string {
	if len(f.union(of)) == 0 {
		return nil
	}
	return []string{""}
}

// askGroups asks for security groups by ID and by name: EC2 takes only one of them in a filter.
func (f *preflight) askGroups(ctx context.Context, w *inventory) {
	for _, name := range []string{"group-id", "group-name"} {
		of := func(s *Spec) []string { return s.SecurityGroups }
		if name == "group-id" {
			of = func(s *Spec) []string { return s.SecurityGroupIDs }
		}
		found := map[string]types.SecurityGroup{}
		ok := gather(ctx, f, "security groups", f.union(of), f.p.api.DescribeSecurityGroups, func(n []string, token *string) *ec2.DescribeSecurityGroupsInput {
			return &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{filter(name, n...)}, NextToken: token}
		}, func(out *ec2.DescribeSecurityGroupsOutput) *string {
			for _, g := range out.SecurityGroups {
				found[aws.ToString(g.GroupId)] = g
			}
			return out.NextToken
		})
		switch {
		case !ok:
		case name == "group-id":
			w.groups = found
		default:
			w.groupName = map[string]bool{}
			for _, g := range found {
				w.groupName[aws.ToString(g.GroupName)] = true
			}
		}
	}
}

// askImages asks for the images that are named, in one call, and for each filter.
func (f *preflight) askImages(ctx context.Context, w *inventory) {
	images := map[string]image{}
	known := gather(ctx, f, "images", f.union(func(s *Spec) []string { return []string{s.AMI} }), f.p.api.DescribeImages, func(n []string, token *string) *ec2.DescribeImagesInput {
		return &ec2.DescribeImagesInput{Filters: []types.Filter{filter("image-id", n...)}, NextToken: token}
	}, func(out *ec2.DescribeImagesOutput) *string {
		for i := range out.Images {
			im := imageOf(&out.Images[i])
			images[im.ID] = im
		}
		return out.NextToken
	})
	w.chosen, w.filtered, w.emptied = map[string]string{}, map[string]error{}, map[string][]culprit{}
	for i := range f.specs {
		s := &f.specs[i].Spec
		if s.Image == nil || f.down {
			continue
		}
		key := imageKey(s.Image)
		if _, done := w.chosen[key]; done {
			continue
		}
		im, err := f.p.image(ctx, *s)
		if err != nil && providers.ClassOf(err) == providers.BadConfig {
			w.emptied[key] = f.p.emptiedBy(ctx, s.Image)
		}
		w.chosen[key], w.filtered[key] = im.ID, err
		images[im.ID] = im
	}
	if known {
		w.images = images
	}
}

// image is the one that a spec is launched from; ok is false if there is none. Its ID is empty if a template says which.
func (w *inventory) image(s *Spec) (im image, ok bool) {
	id := s.AMI
	if s.Image != nil {
		key := imageKey(s.Image)
		if id = w.chosen[key]; id == "" {
			return image{}, false
		}
	}
	if im, ok = w.images[id]; ok {
		return im, true
	}
	return image{ID: id}, id == "" || w.images == nil
}
