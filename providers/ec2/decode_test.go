package ec2

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

func body(t *testing.T, src string) hcl2.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(src), "ci.hcl", hcl2.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

func evalContext() *hcl2.EvalContext {
	return &hcl2.EvalContext{Variables: map[string]cty.Value{"secret": cty.StringVal("s3cr3t").Mark("secret")}}
}

func TestInstanceBlockIsDecoded(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	base := func(change func(*Spec)) Spec {
		s := Spec{AMI: "ami-01234567", Types: []string{"m1.large"}, SecurityGroups: []string{defaultName}, KeyName: defaultName, Agent: true, HopLimit: 1}
		change(&s)
		return s
	}
	const short = "ami = \"ami-01234567\"\ninstance_type = \"m1.large\"\n"
	for name, tc := range map[string]struct {
		src  string
		want Spec
	}{
		"the documents' defaults": {short, base(func(*Spec) {})},
		"Buildbot's options": {`
			instance_type = "m1.large"
			valid_ami_owners = [123456789012, 1234]
			valid_ami_location_regex = "bucket/img-([0-9]+)"
			keypair_name = "k"
			security_name = "g"
			placement = "a"
			instance_profile_name = "worker"
			elastic_ip = "192.0.2.7"
			user_data = "#!/bin/sh\n"
			tags = { Team = "ci" }
			volumes = [["vol-01234567", "/dev/sdf"]]
			block_device_map = [{ DeviceName = "/dev/sda1", Ebs = { VolumeSize = 20, VolumeType = "gp3" } }, { DeviceName = "/dev/sdb", VirtualName = "ephemeral0" }]
			spot_instance = true
			product_description = "Linux/UNIX (Amazon VPC)"
		`, base(func(s *Spec) {
			s.AMI, s.Image = "", &ImageFilter{Owners: []string{"123456789012", "000000001234"}, LocationRegex: "bucket/img-([0-9]+)"}
			s.KeyName, s.SecurityGroups, s.Zones, s.InstanceProfile, s.ElasticIP = "k", []string{"g"}, []string{"a"}, "worker", "192.0.2.7"
			s.UserData, s.Tags, s.Volumes = "#!/bin/sh\n", map[string]string{"Team": "ci"}, []Volume{{"vol-01234567", "/dev/sdf"}}
			s.BlockDevices = []BlockDevice{{Device: "/dev/sda1", Size: 20, Type: "gp3", DeleteOnTermination: true}, {Device: "/dev/sdb", Virtual: "ephemeral0", DeleteOnTermination: true}}
			s.Market = Market{Spot: true, MaxPrice: 1.6, PriceMultiplier: 1.2, Product: "Linux/UNIX (Amazon VPC)"}
		})},
		"spot prices of null": {short + "spot_instance = true\nmax_spot_price = null", base(func(s *Spec) {
			s.Market = Market{Spot: true, PriceMultiplier: 1.2, Product: "Linux/UNIX"}
		})},
		"blocks": {`
			ami {
				owners     = ["1234-5678-9012", "self"]
				filters    = { name = "ci-*", architecture = ["arm64", "x86_64"] }
				newest_by  = "creation_date"
			}
			instance_types = ["m7i.large", "m6i.large"]
			subnet_ids = ["subnet-01234567", "subnet-89abcdef"]
			security_group_ids = ["sg-01234567"]
			keypair_name = ""
			public_ip = false
			spot {
				max_price = 0.05
				fallback = "on-demand"
			}
			volume {
				id = "vol-01234567"
				device = "/dev/sdf"
			}
			block_device {
				device = "/dev/sda1"
				size = 40
				encrypted = true
				delete_on_termination = false
			}
			metadata_hop_limit = 2
			agent = false
		`, base(func(s *Spec) {
			s.AMI, s.Image = "", &ImageFilter{Owners: []string{"123456789012", "self"}, Filters: map[string][]string{"name": {"ci-*"}, "architecture": {"arm64", "x86_64"}}, NewestBy: "creation_date"}
			s.Types, s.Subnets, s.SecurityGroupIDs, s.SecurityGroups, s.KeyName, s.PublicIP = []string{"m7i.large", "m6i.large"}, []string{"subnet-01234567", "subnet-89abcdef"}, []string{"sg-01234567"}, nil, "", &no
			s.Market = Market{Spot: true, MaxPrice: 0.05, Product: "Linux/UNIX", OnDemand: true}
			s.Volumes, s.BlockDevices = []Volume{{"vol-01234567", "/dev/sdf"}}, []BlockDevice{{Device: "/dev/sda1", Size: 40, Encrypted: &yes}}
			s.HopLimit, s.Agent = 2, false
		})},
		"a launch template says it all": {`launch_template = "lt-01234567"`, Spec{Template: LaunchTemplate{ID: "lt-01234567"}, Agent: true, HopLimit: 1}},
		"a launch template's version":   {"launch_template {\n name = \"ci\"\n version = \"$Latest\"\n}", Spec{Template: LaunchTemplate{Name: "ci", Version: "$Latest"}, Agent: true, HopLimit: 1}},
		"user data made from a secret":  {short + `user_data = "pw=${secret}"`, base(func(s *Spec) { s.SecretUserData = "pw=s3cr3t" })},
	} {
		got, diags := Kind{}.DecodeInstance(Config{}, body(t, tc.src), evalContext())
		if diags.HasErrors() || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s:\n got %+v\nwant %+v\n%v", name, got, tc.want, diags)
		}
	}
}

// Every mistake has the range of its attribute, and all are found at once.
func TestMistakesHaveTheirPlaces(t *testing.T) {
	t.Parallel()
	const short = "ami = \"ami-01234567\"\ninstance_type = \"m1.large\"\n"
	for _, tc := range []struct {
		provider bool
		src      string
		want     []string // "line: part of the text"
	}{
		{false, short + "valid_ami_owners = [1]", []string{"1: chosen in two ways", "3: chosen in two ways"}},
		{false, short + "ami {\n owners = [\"self\"]\n}", []string{"1: chosen in two ways"}},
		{false, "", []string{"1: needs ami =", "1: needs instance_type"}},
		{false, short + "subnet = \"x\"", []string{"3: not expected here"}},
		{false, "instance_type = \"m1.large\"", []string{"1: needs ami ="}},
		{false, "ami = \"ami-01234567\"", []string{"1: needs instance_type"}},
		{false, "ami {\n}\ninstance_type = \"m1.large\"", []string{"1: every public image"}},
		{false, "ami = \"ubuntu\"\ninstance_type = \"large\"\nplacement = \"eu\"",
			[]string{"1: not an image's ID", "2: not a type of instance", "3: not a zone"}},
		{false, short + "subnet_id = \"net\"", []string{"3: not a subnet's ID"}},
		{false, short + "zones = [\"a\"]\nsubnet_id = \"subnet-01234567\"", []string{"3: lies in one zone"}},
		{false, short + "security_name = \"x\"\nsubnet_id = \"subnet-01234567\"", []string{"3: give security_group_ids"}},
		{false, short + "instance_types = [\"m1.large\"]", []string{"2: give one of them"}},
		{false, short + "spot_instance = true\nspot {\n}", []string{"3: say it there"}},
		{false, short + "spot_instance = true\nmax_spot_price = null\nprice_multiplier = null", []string{"5: nothing to bid"}},
		{false, short + "spot_instance = true\nmax_spot_price = -1", []string{"4: between 0.0001"}},
		{false, short + "elastic_ip = \"my address\"", []string{"3: neither an IPv4 address"}},
		{false, short + "volumes = [[\"vol-01234567\"]]", []string{"3: a pair"}},
		{false, short + "volume {\n id = \"x\"\n device = \"/dev/sdf\"\n}", []string{"4: not a volume's ID"}},
		{false, short + "block_device_map = [{ DeviceName = \"/dev/sda1\", Ebs = { Size = 1 } }]", []string{"3: \"Size\" is not known"}},
		{false, short + "tags = { \"aws:x\" = \"1\", \"rouse:owner\" = \"you\" }", []string{"3: Amazon keeps", "3: found and destroyed"}},
		{false, "ami {\n owners = [\"me\"]\n location_regex = \"(\"\n filters = { state = \"pending\" }\n newest_by = \"name\"\n}\ninstance_type = \"m1.large\"",
			[]string{"2: not an owner", "3: not a regular expression", "4: leave \"state\" away", "5: must be one of"}},
		{false, short + "user_data = \"" + strings.Repeat("x", maxUserText+1) + "\"", []string{"3: 16 KiB"}},
		{false, short + "region = \"eu-central-1\"", []string{"3: belongs into the provider block"}},
		{false, short + "spot {\n}\nhibernation = true", []string{"5: one-time spot"}},

		{true, "identifier = \"AKIA\"", []string{"1: needs its secret_identifier"}},
		{true, "secret_identifier = secret", []string{"1: needs its identifier"}},
		{true, "identifier = \"AKIA\"\nsecret_identifier = secret\naws_id_file_path = \"x\"", []string{"3: from one place"}},
		{true, "aws_id_file = \"x\"\naws_id_file_path = \"y\"", []string{"2: another name"}},
		{true, "region = \"eu-central-1a\"", []string{"1: placement = \"a\""}},
		{true, "region = \"moon\"\nendpoint = \"localhost\"\npoll_interval = \"1h\"\nrate_factor = 0",
			[]string{"1: does not look like a region", "2: not a URL", "3: between", "4: between"}},
		{true, "role {\n arn = \"arn:aws:iam::1:user/x\"\n duration = \"1m\"\n}", []string{"2: not the ARN of a role", "3: between"}},
		{true, "role {\n}", []string{"1: needs arn"}},
	} {
		decode := func(b hcl2.Body) (any, hcl2.Diagnostics) { return Kind{}.DecodeInstance(Config{}, b, evalContext()) }
		if tc.provider {
			decode = func(b hcl2.Body) (any, hcl2.Diagnostics) { return Kind{}.DecodeProvider(b, evalContext()) }
		}
		_, diags := decode(body(t, tc.src))
		for _, w := range tc.want {
			line, text, _ := strings.Cut(w, ": ")
			found := false
			for _, d := range diags {
				found = found || d.Severity == hcl2.DiagError && d.Subject != nil && string('0'+rune(d.Subject.Start.Line)) == line && strings.Contains(d.Detail, text)
			}
			if !found {
				t.Errorf("%.200s\nno mistake %q among:\n%v", tc.src, w, diags)
			}
		}
		if errs := diags.Errs(); len(errs) != len(tc.want) && !strings.Contains(tc.src, "ami {\n owners = [\"self\"]") {
			t.Errorf("%.200s\n%d mistakes, want %d: %v", tc.src, len(errs), len(tc.want), diags)
		}
		for _, d := range diags {
			if strings.Contains(d.Error()+d.Detail, "s3cr3t") {
				t.Errorf("a secret is in %v", d)
			}
		}
	}
}

func TestProviderBlockIsDecoded(t *testing.T) {
	t.Parallel()
	got, diags := Kind{}.DecodeProvider(body(t, `
		region = "eu-central-1"
		identifier = "AKIA"
		secret_identifier = secret
		max_instances = 50
		role {
			arn = "arn:aws:iam::123456789012:role/ci"
			external_id = "x"
		}
	`), evalContext())
	want := Config{Region: "eu-central-1", Identifier: "AKIA", SecretIdentifier: "s3cr3t", MaxInstances: 50, PollInterval: 2 * time.Second, CallTimeout: 30 * time.Second,
		Settle: 2 * time.Minute, RateFactor: 1, Role: &Role{ARN: "arn:aws:iam::123456789012:role/ci", ExternalID: "x", SessionName: "rouse", Duration: time.Hour}}
	if diags.HasErrors() || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v\n%v", got, want, diags)
	}
	if strings.Contains(Kind{}.Place(got), "s3cr3t") {
		t.Error("the place holds a secret")
	}
	other := want
	other.Role = nil
	if (Kind{}).Place(other) == (Kind{}).Place(want) {
		t.Error("two accounts are one place")
	}
}

func TestDecodingReadsNoCredential(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	if err := os.MkdirAll(filepath.Join(dir, ".ec2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".ec2", "aws_id"), []byte("broken"), 0o000); err != nil {
		t.Fatal(err)
	}
	if _, diags := (Kind{}).DecodeProvider(body(t, `aws_id_file = "/nonexistent"`), nil); diags.HasErrors() {
		t.Error(diags)
	}
}

func TestWhatOnlyOneWorkerCanHaveIsNamed(t *testing.T) {
	t.Parallel()
	s := Spec{ElasticIP: "192.0.2.7", Volumes: []Volume{{"vol-01234567", "/dev/sdf"}}}
	if got := (Kind{}).Exclusive(Config{}, s); !reflect.DeepEqual(got, []string{"elastic_ip 192.0.2.7", "volume vol-01234567"}) {
		t.Errorf("%q", got)
	}
	if got := (Kind{}).Exclusive(Config{}, Spec{}); got != nil {
		t.Errorf("%q", got)
	}
}

func TestSleepDependsOnTheSpec(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s         Spec
		hibernate bool
		ok        bool
	}{{Spec{}, false, true}, {Spec{}, true, false}, {Spec{Hibernation: true}, true, true}, {Spec{Market: Market{Spot: true}}, false, false}} {
		if err := (Kind{}).CanSleep(Config{}, tc.s, tc.hibernate); (err == nil) != tc.ok {
			t.Errorf("%+v, hibernate %t: %v", tc.s, tc.hibernate, err)
		}
	}
}
