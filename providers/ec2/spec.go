package ec2

import "github.com/rouse-ci/rouse/providers"

// Spec is a decoded instance block. It is comparable with reflect.DeepEqual. Where the block says nothing, the field is zero, unless a default is named.
type Spec struct {
	AMI   string       // ami = "ami-…"; exactly one of AMI and Image is set, or neither with a launch template
	Image *ImageFilter // ami block, or valid_ami_owners and valid_ami_location_regex

	Types   []string // instance_type, or instance_types in order of preference; empty only with a launch template
	Zones   []string // placement, or zones in order of preference: letters ("a") or whole names
	Subnets []string // subnet_id, or subnet_ids in order of preference; then Zones is empty

	SecurityGroupIDs []string // security_group_ids
	SecurityGroups   []string // security_name, security_groups: by name, in the default VPC; default latent_buildbot_slave, unless SecurityGroupIDs, Subnets or a template say otherwise
	KeyName          string   // keypair_name; default latent_buildbot_slave, unless a template is used; "" launches without a key
	InstanceProfile  string   // instance_profile_name: a name or an ARN
	PublicIP         *bool    // public_ip; nil: as the subnet says

	Market Market // spot_instance and its options, or the spot block

	ElasticIP    string         // elastic_ip: the address, or its allocation's ID
	Volumes      []Volume       // volumes, or volume blocks
	BlockDevices []BlockDevice  // block_device_map, or block_device blocks
	Template     LaunchTemplate // launch_template

	UserData       string            // user_data
	SecretUserData providers.Secret  // user_data, if it was made from a sensitive variable: then it is not shown, and a change of it is not seen
	Agent          bool              // agent: a cloud-init part that starts rouse-worker is added; default true
	Tags           map[string]string // tags
	Hibernation    bool              // hibernation: the instance can be hibernated; its root volume must be encrypted
	EBSOptimized   bool              // ebs_optimized
	Monitoring     bool              // monitoring: detailed
	HopLimit       int64             // metadata_hop_limit: of IMDSv2's answers; default 1; containers need 2
}

// ImageFilter chooses an image at each launch (see ami.go).
type ImageFilter struct {
	Owners        []string            // owners: 12-digit account numbers without hyphens, "self", "amazon", "aws-marketplace"
	LocationRegex string              // location_regex: anchored at the start of the image's location, not at the end
	Filters       map[string][]string // filters of DescribeImages, such as name, tag:Role, architecture
	NewestBy      string              // newest_by: "creation_date", or "" for the order by location
}

// Market says how the instance is paid for.
type Market struct {
	Spot            bool
	MaxPrice        float64 // max_spot_price or spot.max_price: US dollars per hour, the highest bid; 0 = the on-demand price is the limit
	PriceMultiplier float64 // price_multiplier: the bid is the mean of the last 24 h times this, at most MaxPrice; 0 = the bid is MaxPrice
	Product         string  // product_description of the price history; default "Linux/UNIX"
	OnDemand        bool    // spot.fallback = "on-demand": after all spot choices were refused
}

// Volume is an existing volume to attach once the instance runs.
type Volume struct {
	ID     string // id
	Device string // device, such as /dev/sdf
}

// BlockDevice is a volume made with the instance.
type BlockDevice struct {
	Device              string // device
	Virtual             string // virtual_name of an instance store volume
	None                bool   // no_device: the image's mapping of this device is suppressed
	Snapshot            string // snapshot_id
	Size                int64  // size, GiB
	Type                string // type: gp3, …
	IOPS                int64  // iops
	Throughput          int64  // throughput, MiB/s
	Encrypted           *bool  // encrypted; nil: as the account says
	KMSKey              string // kms_key_id
	DeleteOnTermination bool   // delete_on_termination; default true
}

// LaunchTemplate is where everything comes from that the block does not say.
type LaunchTemplate struct {
	ID      string // id
	Name    string // name
	Version string // version: a number, $Latest or $Default (the default)
}

// set says whether a template is used.
func (t LaunchTemplate) set() bool { return t.ID != "" || t.Name != "" }
