package ec2

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"

	"github.com/rouse-ci/rouse/providers/decode"
)

var (
	elasticPattern = regexp.MustCompile(`^(eipalloc-[0-9a-f]{8,17}|\d{1,3}(\.\d{1,3}){3})$`)
	ownerPattern   = regexp.MustCompile(`^(\d{12}|self|amazon|aws-marketplace|aws-backup-vault)$`)
)

// image decodes which image: an ID, an ami block, or Buildbot's two filters. Exactly one of them.
func (s *Spec) image(a *decode.Attrs) {
	a.String("ami", &s.AMI)
	if s.AMI != "" && !amiPattern.MatchString(s.AMI) {
		a.Bad("ami", "%q is not an image's ID such as ami-0123456789abcdef0. To choose an image by a filter, write an ami block.", s.AMI)
	}
	b, old := a.Block("ami"), []string{}
	for _, name := range []string{"valid_ami_owners", "valid_ami_location_regex"} {
		if a.Has(name) {
			old = append(old, name)
		}
	}
	ways := 0
	for _, given := range []bool{a.Has("ami"), b != nil, len(old) > 0} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		for _, name := range append([]string{"ami"}, old...) {
			a.Bad(name, "The image is chosen in two ways: there must be exactly one of ami = \"ami-…\", an ami block, and valid_ami_owners with valid_ami_location_regex.")
		}
		if b != nil && !a.Has("ami") && len(old) == 0 {
			a.BadAt(b.DefRange, "Which image?", "The image is chosen in two ways.")
		}
	}
	if ways == 0 && !s.Template.set() {
		missing(a, "Which image?", "An instance block needs ami = \"ami-…\", or an ami block with owners, location_regex or filters, or a launch_template.")
	}
	switch {
	case b != nil:
		f := ImageFilter{}
		a.In(b, func(in *decode.Attrs) {
			f.decode(in, "owners", "location_regex")
			f.filters(in)
			in.OneOf("newest_by", &f.NewestBy, "creation_date")
			if !in.Has("owners") && !in.Has("location_regex") && !in.Has("filters") && !in.Diags.HasErrors() {
				in.BadAt(b.DefRange, "Which image?", "Without owners, location_regex or filters every public image would be a candidate.")
			}
		}, "owners", "location_regex", "filters", "newest_by")
		s.Image = &f
	case len(old) > 0:
		f := ImageFilter{}
		f.decode(a, "valid_ami_owners", "valid_ami_location_regex")
		s.Image = &f
	}
}

func (f *ImageFilter) decode(a *decode.Attrs, owners, regex string) {
	a.Strings(owners, &f.Owners)
	for i, o := range f.Owners {
		plain := strings.ReplaceAll(o, "-", "")
		if n := len(plain); n > 0 && n < 12 && strings.Trim(plain, "0123456789") == "" {
			plain = strings.Repeat("0", 12-n) + plain // a number in HCL has lost its leading zeros
		}
		if strings.Trim(plain, "0123456789") == "" {
			f.Owners[i] = plain
		}
		if !ownerPattern.MatchString(f.Owners[i]) {
			a.Bad(owners, "%q is not an owner of images: a 12-digit account number, self, amazon or aws-marketplace.", o)
		}
	}
	a.String(regex, &f.LocationRegex)
	if _, err := compileLocation(f.LocationRegex); err != nil {
		a.Bad(regex, "It is not a regular expression: %s.", err)
	}
}

// filters decodes a map of a value or a list of values each.
func (f *ImageFilter) filters(a *decode.Attrs) {
	v, _, ok := a.Value("filters", cty.DynamicPseudoType)
	if !ok {
		return
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		a.Bad("filters", "It must be an object such as { name = \"ci-*\", architecture = \"arm64\" }.")
		return
	}
	f.Filters = map[string][]string{}
	for name, e := range v.AsValueMap() {
		list, err := texts(e)
		switch {
		case err != nil:
			a.Bad("filters", "The filter %q: %s.", name, err)
		case len(list) == 0 || len(list) > 200:
			a.Bad("filters", "The filter %q has %d values; EC2 takes 1 to 200.", name, len(list))
		case name == "state":
			a.Bad("filters", "Only images in state available are considered; leave \"state\" away.")
		default:
			f.Filters[name] = list
		}
	}
}

// texts is a string, a number or a truth value, or a list of them.
func texts(v cty.Value) ([]string, error) {
	switch {
	case v.IsNull():
		return nil, fmt.Errorf("it is null")
	case v.Type() == cty.String:
		return []string{v.AsString()}, nil
	case v.Type() == cty.Number:
		return []string{v.AsBigFloat().Text('f', -1)}, nil
	case v.Type() == cty.Bool:
		return []string{fmt.Sprint(v.True())}, nil
	case v.CanIterateElements() && !v.Type().IsObjectType() && !v.Type().IsMapType():
		var all []string
		for _, e := range v.AsValueSlice() {
			one, err := texts(e)
			if err != nil || len(one) != 1 {
				return nil, fmt.Errorf("its list must hold strings")
			}
			all = append(all, one[0])
		}
		return all, nil
	}
	return nil, fmt.Errorf("it must be a string or a list of strings")
}

// disks decodes volumes and block devices, in Buildbot's form and as blocks.
func (s *Spec) disks(a *decode.Attrs) {
	s.oldVolumes(a)
	for _, b := range a.Blocks("volume") {
		a.In(b, func(in *decode.Attrs) {
			var v Volume
			in.String("id", &v.ID)
			in.String("device", &v.Device)
			if !in.Has("id") || !in.Has("device") {
				in.BadAt(b.DefRange, "Which volume?", "A volume block needs id and device.")
				return
			}
			s.addVolume(in, "id", v)
		}, "id", "device")
	}
	s.oldDevices(a)
	for _, b := range a.Blocks("block_device") {
		a.In(b, func(in *decode.Attrs) {
			d := BlockDevice{DeleteOnTermination: true}
			in.String("device", &d.Device)
			in.String("virtual_name", &d.Virtual)
			in.Bool("no_device", &d.None)
			in.String("snapshot_id", &d.Snapshot)
			in.Int("size", &d.Size, 1, 65_536)
			in.OneOf("type", &d.Type, "gp2", "gp3", "io1", "io2", "st1", "sc1", "standard")
			in.Int("iops", &d.IOPS, 1, 256_000)
			in.Int("throughput", &d.Throughput, 1, 10_000)
			if in.Has("encrypted") {
				var e bool
				in.Bool("encrypted", &e)
				d.Encrypted = &e
			}
			in.String("kms_key_id", &d.KMSKey)
			in.Bool("delete_on_termination", &d.DeleteOnTermination)
			if !in.Has("device") {
				in.BadAt(b.DefRange, "Which device?", "A block_device block needs device, such as /dev/sda1.")
				return
			}
			s.addDevice(in, "device", d)
		}, "device", "virtual_name", "no_device", "snapshot_id", "size", "type", "iops", "throughput", "encrypted", "kms_key_id", "delete_on_termination")
	}
}

func (s *Spec) addVolume(a *decode.Attrs, at string, v Volume) {
	switch {
	case !volumePattern.MatchString(v.ID):
		a.Bad(at, "%q is not a volume's ID such as vol-0123456789abcdef0.", v.ID)
	case v.Device == "":
		a.Bad(at, "The volume %s has no device.", v.ID)
	case slices.ContainsFunc(s.Volumes, func(o Volume) bool { return o.ID == v.ID || o.Device == v.Device }):
		a.Bad(at, "The volume %s or the device %s is there twice.", v.ID, v.Device)
	default:
		s.Volumes = append(s.Volumes, v)
	}
}

func (s *Spec) addDevice(a *decode.Attrs, at string, d BlockDevice) {
	if slices.ContainsFunc(s.BlockDevices, func(o BlockDevice) bool { return o.Device == d.Device }) {
		a.Bad(at, "The device %s is there twice.", d.Device)
		return
	}
	s.BlockDevices = append(s.BlockDevices, d)
}

// oldVolumes decodes volumes = [["vol-…", "/dev/sdf"]].
func (s *Spec) oldVolumes(a *decode.Attrs) {
	v, _, ok := a.Value("volumes", cty.DynamicPseudoType)
	if !ok {
		return
	}
	if !v.CanIterateElements() || v.Type().IsObjectType() || v.Type().IsMapType() {
		a.Bad("volumes", "It must be a list of pairs such as [[\"vol-0123456789abcdef0\", \"/dev/sdf\"]].")
		return
	}
	for _, e := range v.AsValueSlice() {
		pair, err := texts(e)
		if err != nil || len(pair) != 2 {
			a.Bad("volumes", "Each element must be a pair of a volume's ID and a device.")
			return
		}
		s.addVolume(a, "volumes", Volume{ID: pair[0], Device: pair[1]})
	}
}

// oldDevices decodes block_device_map with the names of the API, as Buildbot passes it through: [{ DeviceName = "/dev/sda1", Ebs = { VolumeSize = 20 } }].
func (s *Spec) oldDevices(a *decode.Attrs) {
	v, _, ok := a.Value("block_device_map", cty.DynamicPseudoType)
	if !ok {
		return
	}
	if !v.CanIterateElements() || v.Type().IsObjectType() || v.Type().IsMapType() {
		a.Bad("block_device_map", "It must be a list of objects such as [{ DeviceName = \"/dev/sda1\", Ebs = { VolumeSize = 20 } }].")
		return
	}
	for _, e := range v.AsValueSlice() {
		d := BlockDevice{DeleteOnTermination: true}
		err := fields(e, map[string]any{
			"DeviceName": &d.Device, "VirtualName": &d.Virtual,
			"NoDevice": func(cty.Value) error { d.None = true; return nil },
			"Ebs": func(e cty.Value) error {
				return fields(e, map[string]any{
					"SnapshotId": &d.Snapshot, "VolumeSize": &d.Size, "VolumeType": &d.Type, "Iops": &d.IOPS, "Throughput": &d.Throughput,
					"Encrypted": &d.Encrypted, "KmsKeyId": &d.KMSKey, "DeleteOnTermination": &d.DeleteOnTermination,
				})
			},
		})
		if err == nil && d.Device == "" {
			err = fmt.Errorf("an element has no DeviceName")
		}
		if err != nil {
			a.Bad("block_device_map", "%s.", err)
			return
		}
		s.addDevice(a, "block_device_map", d)
	}
}

// fields sets Go values from an object's attributes; others are mistakes.
func fields(v cty.Value, dst map[string]any) error {
	if v.IsNull() || !v.Type().IsObjectType() && !v.Type().IsMapType() {
		return fmt.Errorf("each element must be an object")
	}
	for name, e := range v.AsValueMap() {
		to, known := dst[name]
		if !known {
			return fmt.Errorf("%q is not known there", name)
		}
		if e.IsNull() {
			continue
		}
		if f, ok := to.(func(cty.Value) error); ok {
			if err := f(e); err != nil {
				return err
			}
			continue
		}
		if err := gocty.FromCtyValue(e, to); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
