package ec2

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// Config is a decoded provider block: one account and region.
type Config struct {
	Region          string // region; default: the environment's or the profile's, else us-east-1
	Endpoint        string // endpoint: base URL of the EC2 API instead of Amazon's
	STSEndpoint     string // sts_endpoint: of the STS API; default: Endpoint, if that is set
	PricingEndpoint string // pricing_endpoint: of the price list API

	Identifier       string           // identifier: access key
	SecretIdentifier providers.Secret // secret_identifier
	SessionToken     providers.Secret // session_token: of temporary credentials
	AWSIDFile        string           // aws_id_file: two lines, access key and secret; default ~/.ec2/aws_id where it exists and nothing else is set
	Profile          string           // profile of the shared configuration
	Role             *Role            // role: assumed with the credentials above, refreshed before it expires

	MaxInstances int64             // max_instances: that are not switched off; class over-quota beyond; 0 = no limit
	Tags         map[string]string // tags of every instance, under those of the instance block
	PollInterval time.Duration     // poll_interval: instances are not described more often; default 2 s
	CallTimeout  time.Duration     // call_timeout of one call; default 30 s
	Settle       time.Duration     // settle: how long a new instance may stay invisible; default 2 min
	RateFactor   float64           // rate_factor: by how much AWS has raised the account's request limits; default 1
}

// Role is a role to assume.
type Role struct {
	ARN         string        // arn
	ExternalID  string        // external_id
	SessionName string        // session_name; default "rouse"
	Duration    time.Duration // duration of one session; default 1 h
}

var (
	regionPattern = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-\d{1,2}$`)
	rolePattern   = regexp.MustCompile(`^arn:aws[a-z-]*:iam::\d{12}:role/.+$`)
)

// DecodeProvider implements providers.Kind.
func (Kind) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	c := Config{PollInterval: 2 * time.Second, CallTimeout: 30 * time.Second, Settle: 2 * time.Minute, RateFactor: 1}
	a := decode.BodyBlocks(body, ctx, []string{
		"region", "endpoint", "sts_endpoint", "pricing_endpoint", "identifier", "secret_identifier", "session_token", "aws_id_file", "aws_id_file_path",
		"profile", "max_instances", "tags", "poll_interval", "call_timeout", "settle", "rate_factor",
	}, []string{"role"})
	a.String("region", &c.Region)
	if c.Region != "" && !regionPattern.MatchString(c.Region) {
		hint := ""
		if last := c.Region[len(c.Region)-1]; regionPattern.MatchString(c.Region[:len(c.Region)-1]) && last >= 'a' && last <= 'z' {
			hint = " This looks like a zone: write region = \"" + c.Region[:len(c.Region)-1] + "\" here and placement = \"" + string(last) + "\" in the instance block."
		}
		a.Bad("region", "%q does not look like a region such as eu-central-1.%s", c.Region, hint)
	}
	endpoint(a, "endpoint", &c.Endpoint)
	endpoint(a, "sts_endpoint", &c.STSEndpoint)
	endpoint(a, "pricing_endpoint", &c.PricingEndpoint)
	a.Int("max_instances", &c.MaxInstances, 0, 100_000)
	a.StringMap("tags", &c.Tags)
	tagRules(a, "tags", c.Tags)
	a.Duration("poll_interval", &c.PollInterval)
	between(a, "poll_interval", c.PollInterval, 10*time.Millisecond, time.Minute)
	a.Duration("call_timeout", &c.CallTimeout)
	between(a, "call_timeout", c.CallTimeout, time.Second, 5*time.Minute)
	a.Duration("settle", &c.Settle)
	between(a, "settle", c.Settle, 2*time.Second, time.Hour)
	a.Float("rate_factor", &c.RateFactor, 0.1, 1000)
	c.credentials(a)
	return c, a.Diags
}

// credentials decodes where credentials come from. Nothing is read now.
func (c *Config) credentials(a *decode.Attrs) {
	a.String("identifier", &c.Identifier)
	a.Secret("secret_identifier", &c.SecretIdentifier)
	a.Secret("session_token", &c.SessionToken)
	a.String("profile", &c.Profile)
	a.String("aws_id_file_path", &c.AWSIDFile)
	a.String("aws_id_file", &c.AWSIDFile)
	if a.Has("aws_id_file") && a.Has("aws_id_file_path") {
		a.Bad("aws_id_file_path", "It is another name of aws_id_file; give one of them.")
	}
	file := "aws_id_file"
	if !a.Has(file) {
		file = "aws_id_file_path"
	}
	switch {
	case a.Has("identifier") && !a.Has("secret_identifier"):
		a.Bad("identifier", "An identifier needs its secret_identifier. Leave both away to use the credentials of the environment, of a profile or of this machine's role.")
	case a.Has("secret_identifier") && !a.Has("identifier"):
		a.Bad("secret_identifier", "A secret_identifier needs its identifier.")
	}
	if a.Has("session_token") && !a.Has("identifier") {
		a.Bad("session_token", "A session_token belongs to an identifier and its secret_identifier.")
	}
	for _, other := range []string{file, "profile"} {
		if a.Has(other) && a.Has("identifier") {
			a.Bad(other, "There is an identifier, too; credentials come from one place.")
		}
	}
	if a.Has(file) && a.Has("profile") {
		a.Bad("profile", "There is an aws_id_file, too; credentials come from one place.")
	}
	b := a.Block("role")
	if b == nil {
		return
	}
	r := Role{SessionName: "rouse", Duration: time.Hour}
	a.In(b, func(in *decode.Attrs) {
		in.String("arn", &r.ARN)
		in.String("external_id", &r.ExternalID)
		in.String("session_name", &r.SessionName)
		in.Duration("duration", &r.Duration)
		between(in, "duration", r.Duration, 15*time.Minute, 12*time.Hour)
		if !in.Has("arn") {
			in.BadAt(b.DefRange, "Which role?", "A role block needs arn, such as arn:aws:iam::123456789012:role/rouse.")
		} else if r.ARN != "" && !rolePattern.MatchString(r.ARN) {
			in.Bad("arn", "%q is not the ARN of a role, such as arn:aws:iam::123456789012:role/rouse.", r.ARN)
		}
	}, "arn", "external_id", "session_name", "duration")
	c.Role = &r
}

// Place implements providers.PlaceKind: the region, the API's address, and whatever decides which account is meant. Credentials of the
// environment and of this machine's role count as one place.
func (Kind) Place(config any) string {
	c, ok := config.(Config)
	if !ok {
		return ""
	}
	parts := []string{c.Region, c.Endpoint, c.Identifier, c.AWSIDFile, c.Profile}
	if c.Role != nil {
		parts = append(parts, c.Role.ARN)
	}
	return strings.Join(parts, "|")
}

// Exclusive implements providers.ExclusiveKind: an address and a volume are attached to one instance at a time.
func (Kind) Exclusive(_, spec any) []string {
	s, ok := spec.(Spec)
	if !ok {
		return nil
	}
	var all []string
	if s.ElasticIP != "" {
		all = append(all, "elastic_ip "+s.ElasticIP)
	}
	for _, v := range s.Volumes {
		all = append(all, "volume "+v.ID)
	}
	return all
}

func between(a *decode.Attrs, name string, d, low, high time.Duration) {
	if d < low || d > high {
		a.Bad(name, "It is %s; it must be between %s and %s.", d, low, high)
	}
}

// endpoint decodes the base URL of a service.
func endpoint(a *decode.Attrs, name string, dst *string) {
	a.String(name, dst)
	if *dst == "" {
		return
	}
	u, err := url.Parse(*dst)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		a.Bad(name, "%q is not a URL such as https://ec2.eu-central-1.amazonaws.com.", *dst)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		a.Bad(name, "The URL of a service has no user, query or fragment.")
	}
}

// tagRules are EC2's: at most 50 tags on a resource (eight are kept for rouse), keys up to 128 characters and values up to 256, no prefix "aws:".
func tagRules(a *decode.Attrs, name string, tags map[string]string) {
	if len(tags) > maxUserTags {
		a.Bad(name, "There are %d tags; EC2 allows 50 on a resource, and rouse needs some itself: use at most %d.", len(tags), maxUserTags)
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		switch low := strings.ToLower(k); {
		case k == "" || len([]rune(k)) > 128 || len([]rune(tags[k])) > 256:
			a.Bad(name, "The tag %.140q is too long or empty: EC2 allows 1 to 128 characters of key and 256 of value.", k)
		case strings.HasPrefix(low, "aws:"):
			a.Bad(name, "The tag %q begins with aws:, which Amazon keeps for itself.", k)
		case strings.HasPrefix(low, tagPrefix):
			a.Bad(name, "The tag %q begins with %s: instances are found and destroyed by such tags.", k, tagPrefix)
		}
	}
}
