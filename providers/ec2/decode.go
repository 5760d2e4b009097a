package ec2

import (
	"fmt"
	"regexp"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// defaultName is the key pair and the security group that Buildbot's documents name. Nothing creates them: preflight says what is missing.
const defaultName = "latent_buildbot_slave"

var (
	amiPattern    = regexp.MustCompile(`^ami-[0-9a-f]{8,17}$`)
	subnetPattern = regexp.MustCompile(`^subnet-[0-9a-f]{8,17}$`)
	groupPattern  = regexp.MustCompile(`^sg-[0-9a-f]{8,17}$`)
	volumePattern = regexp.MustCompile(`^vol-[0-9a-f]{8,17}$`)
	typePattern   = regexp.MustCompile(`^[a-z0-9-]{1,20}\.[a-z0-9-]{1,20}$`)
	zonePattern   = regexp.MustCompile(`^([a-z]|[a-z]{2,4}(-[a-z]+)+-\d{1,2}[a-z]|[a-z]{2,4}(-[a-z0-9]+)+[a-z])$`)
)

var instanceAttributes = []string{
	"ami", "valid_ami_owners", "valid_ami_location_regex",
	"instance_type", "instance_types", "placement", "zones", "subnet_id", "subnet_ids",
	"security_name", "security_groups", "security_group_ids", "keypair_name", "instance_profile_name", "public_ip",
	"spot_instance", "max_spot_price", "price_multiplier", "product_description",
	"elastic_ip", "volumes", "block_device_map", "launch_template",
	"user_data", "agent", "tags", "hibernation", "ebs_optimized", "monitoring", "metadata_hop_limit",
}

var instanceBlocks = []string{"ami", "spot", "volume", "block_device", "launch_template"}

// DecodeInstance implements providers.Kind.
func (Kind) DecodeInstance(config any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	s := Spec{Agent: true, HopLimit: 1}
	a := decode.BodyBlocks(body, ctx, append(elsewhere, instanceAttributes...), instanceBlocks)
	for _, name := range elsewhere {
		a.Bad(name, "%s belongs into the provider block: one provider is one account and region.", name)
	}
	s.template(a)
	s.image(a)
	s.place(a)
	s.access(a)
	s.market(a)
	s.disks(a)
	a.String("elastic_ip", &s.ElasticIP)
	elasticIPRule(a, s.ElasticIP)
	if v, secret, ok := a.Value("user_data", cty.String); ok && secret {
		s.SecretUserData = providers.Secret(v.AsString())
	} else if ok {
		s.UserData = v.AsString()
	}
	if n := len(s.UserData) + len(s.SecretUserData); n > maxUserText {
		a.Bad("user_data", "It has %d bytes; EC2 takes 16 KiB, compressed, with what rouse adds.", n)
	}
	a.Bool("agent", &s.Agent)
	a.StringMap("tags", &s.Tags)
	tagRules(a, "tags", s.Tags)
	if c, ok := config.(Config); ok && len(merged(c.Tags, s.Tags)) > maxUserTags {
		a.Bad("tags", "With those of the provider there are more than %d tags.", maxUserTags)
	}
	a.Bool("hibernation", &s.Hibernation)
	a.Bool("ebs_optimized", &s.EBSOptimized)
	a.Bool("monitoring", &s.Monitoring)
	a.Int("metadata_hop_limit", &s.HopLimit, 1, 64)
	if s.Hibernation && s.Market.Spot {
		a.Bad("hibernation", "A one-time spot instance can not be hibernated and started again.")
	}
	return s, a.Diags
}

// template decodes launch_template: a name or an ID, or a block.
func (s *Spec) template(a *decode.Attrs) {
	var name string
	a.String("launch_template", &name)
	if strings.HasPrefix(name, "lt-") {
		s.Template.ID = name
	} else {
		s.Template.Name = name
	}
	if b := a.Block("launch_template"); b != nil {
		if a.Has("launch_template") {
			a.Bad("launch_template", "There is a launch_template block, too; give one of them.")
		}
		a.In(b, func(in *decode.Attrs) {
			in.String("id", &s.Template.ID)
			in.String("name", &s.Template.Name)
			in.String("version", &s.Template.Version)
			if in.Has("id") == in.Has("name") {
				in.BadAt(b.DefRange, "Which launch template?", "A launch_template block has either id or name.")
			}
		}, "id", "name", "version")
	}
}

// place decodes the types and where they may be launched.
func (s *Spec) place(a *decode.Attrs) {
	old := func(one, many string, dst *[]string) string {
		a.Strings(many, dst)
		a.Strings(one, dst)
		if a.Has(one) && a.Has(many) {
			a.Bad(one, "There is %s, too; give one of them.", many)
		}
		if a.Has(one) {
			return one
		}
		return many
	}
	name := old("instance_type", "instance_types", &s.Types)
	each(a, name, s.Types, typePattern, "a type of instance such as m7i.large")
	if len(s.Types) == 0 && !s.Template.set() && !a.Has(name) {
		missing(a, "Which type?", "An instance block needs instance_type, such as \"m7i.large\", or instance_types, in order of preference.")
	}
	name = old("placement", "zones", &s.Zones)
	each(a, name, s.Zones, zonePattern, "a zone: its letter, such as \"a\", or its whole name, such as \"eu-central-1a\"")
	subnets := old("subnet_id", "subnet_ids", &s.Subnets)
	each(a, subnets, s.Subnets, subnetPattern, "a subnet's ID such as subnet-0123456789abcdef0")
	if len(s.Subnets) > 0 && len(s.Zones) > 0 {
		a.Bad(name, "A subnet lies in one zone; leave %s away where there is %s.", name, subnets)
	}
	if n := len(s.Types) * max(len(s.Subnets), len(s.Zones), 1); n > maxChoices {
		a.Bad("instance_types", "With %d places these are %d choices; at most %d are tried for one launch.", max(len(s.Subnets), len(s.Zones)), n, maxChoices)
	}
}

// access decodes who may reach the instance and what it may do.
func (s *Spec) access(a *decode.Attrs) {
	a.Strings("security_group_ids", &s.SecurityGroupIDs)
	each(a, "security_group_ids", s.SecurityGroupIDs, groupPattern, "a security group's ID such as sg-0123456789abcdef0")
	a.Strings("security_groups", &s.SecurityGroups)
	name := "security_groups"
	if a.Has("security_name") {
		var one string
		a.String("security_name", &one)
		if a.Has("security_groups") {
			a.Bad("security_name", "There is security_groups, too; give one of them.")
		}
		name, s.SecurityGroups = "security_name", []string{one}
		if one == "" {
			s.SecurityGroups = nil
		}
	}
	if len(s.SecurityGroups) > 0 && len(s.Subnets) > 0 {
		a.Bad(name, "Names of security groups mean those of the default VPC; with a subnet, give security_group_ids.")
	}
	if !a.Has("security_name") && !a.Has("security_groups") && len(s.SecurityGroupIDs) == 0 && !a.Has("security_group_ids") && len(s.Subnets) == 0 && !s.Template.set() {
		s.SecurityGroups = []string{defaultName}
	}
	if !s.Template.set() {
		s.KeyName = defaultName
	}
	a.String("keypair_name", &s.KeyName)
	a.String("instance_profile_name", &s.InstanceProfile)
	if a.Has("public_ip") {
		var b bool
		a.Bool("public_ip", &b)
		s.PublicIP = &b
		if len(s.SecurityGroups) > 0 {
			a.Bad("public_ip", "It makes rouse describe the network interface itself, which takes security_group_ids, not names.")
		}
	}
}

// market decodes the old options and the spot block.
func (s *Spec) market(a *decode.Attrs) {
	m := &s.Market
	a.Bool("spot_instance", &m.Spot)
	old := []string{"max_spot_price", "price_multiplier", "product_description"}
	b := a.Block("spot")
	if b != nil {
		for _, name := range append(old, "spot_instance") {
			if a.Has(name) {
				a.Bad(name, "There is a spot block at line %d, too; say it there.", b.DefRange.Start.Line)
			}
		}
		*m = Market{Spot: true, Product: "Linux/UNIX"}
		fallback := "none"
		a.In(b, func(in *decode.Attrs) {
			in.Float("max_price", &m.MaxPrice, 0.0001, 1000)
			in.Float("price_multiplier", &m.PriceMultiplier, 0.01, 100)
			in.String("product_description", &m.Product)
			in.OneOf("fallback", &fallback, "none", onDemand)
		}, "max_price", "price_multiplier", "product_description", "fallback")
		m.OnDemand = fallback == onDemand
		return
	}
	if !m.Spot {
		for _, name := range old {
			a.Warn(name, "It has no effect", "%s belongs to spot_instance = true.", name)
		}
		*m = Market{}
		return
	}
	// Buildbot's defaults and rules: null means no cap, or that the cap is the bid; both null is a mistake.
	m.MaxPrice, m.PriceMultiplier, m.Product = 1.6, 1.2, "Linux/UNIX"
	for name, dst := range map[string]*float64{"max_spot_price": &m.MaxPrice, "price_multiplier": &m.PriceMultiplier} {
		if a.Has(name) {
			if a.Null(name) {
				*dst = 0
			}
			a.Float(name, dst, 0.0001, 1000)
		}
	}
	if m.MaxPrice == 0 && m.PriceMultiplier == 0 {
		a.Bad("price_multiplier", "max_spot_price and price_multiplier are both null, so there is nothing to bid. Leave one of them, or use a spot block, whose limit is the on-demand price.")
	}
	a.String("product_description", &m.Product)
}

func elasticIPRule(a *decode.Attrs, ip string) {
	if ip != "" && !elasticPattern.MatchString(ip) {
		a.Bad("elastic_ip", "%q is neither an IPv4 address nor the ID of an allocation such as eipalloc-0123456789abcdef0.", ip)
	}
}

// each checks every element of a list.
func each(a *decode.Attrs, name string, list []string, pattern *regexp.Regexp, what string) {
	seen := map[string]bool{}
	for _, s := range list {
		switch {
		case !pattern.MatchString(s):
			a.Bad(name, "%q is not %s.", s, what)
		case seen[s]:
			a.Bad(name, "%q is there twice.", s)
		}
		seen[s] = true
	}
	if a.Has(name) && list != nil && len(list) == 0 {
		a.Bad(name, "The list is empty; leave the attribute away instead.")
	}
}

// missing is a mistake of the whole block: the loader gives it the block's range. Beside a misspelt name nothing can be said to be missing.
func missing(a *decode.Attrs, summary, format string, args ...any) {
	for _, d := range a.Diags {
		if strings.HasPrefix(d.Summary, "Unsupported") {
			return
		}
	}
	a.BadAt(a.Whole(), summary, "%s", fmt.Sprintf(format, args...))
}

// elsewhere are Buildbot's options of a worker that belong to the provider block here.
var elsewhere = []string{"region", "identifier", "secret_identifier", "aws_id_file", "aws_id_file_path"}
