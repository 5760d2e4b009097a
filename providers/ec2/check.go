package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rouse-ci/rouse/providers"
)

// This file and its neighbours (check_world.go, check_spec.go, check_quota.go) are the preflight of a plan. It reads, and it tries launches with DryRun; it
// changes nothing. What many specs need is asked for in one call, and what is true of many is said once.

// maxDryRuns bounds the launches that are tried: EC2 lets an account make two in a second.
const maxDryRuns = 25

// hello is the deadline of the first call to each service, which says whether there is one.
const hello = 15 * time.Second

// preflight is one run of Check.
type preflight struct {
	p     *provider
	specs []numbered
	found []providers.Finding
	said  map[string]bool
	bad   map[string]bool // index and attribute of what is fatal already
	down  bool            // EC2 does not answer: there is no sense in asking on

	quotaDown bool // Service Quotas does not answer
}

// numbered is a spec and its index in Check's argument.
type numbered struct {
	Spec
	at int
}

// Check implements providers.Checker.
func (p *provider) Check(ctx context.Context, specs []any) []providers.Finding {
	if end, ok := ctx.Deadline(); ok { // what was found by then is worth more than an answer that comes too late
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-min(2*time.Second, time.Until(end)/10)))
		defer cancel()
	}
	ctx = inHaste(ctx)
	f := &preflight{p: p, said: map[string]bool{}, bad: map[string]bool{}}
	f.distinct(specs)
	if !f.enter(ctx) || len(f.specs) == 0 {
		return f.found
	}
	w := f.inventory(ctx)
	for i := range f.specs {
		if f.down {
			break
		}
		f.judge(w, &f.specs[i])
	}
	f.addresses(ctx)
	f.quotas(ctx, w)
	f.dryRuns(ctx, w)
	return f.found
}

// distinct keeps one of the specs that are the same.
func (f *preflight) distinct(specs []any) {
	seen := map[string]bool{}
	for i, any := range specs {
		s, err := checkSpec("check", any)
		if err != nil {
			f.say(providers.Finding{Fatal: true, Spec: i, Summary: "Not an instance of EC2", Detail: err.Error()})
			continue
		}
		key, err := json.Marshal(s)
		if err == nil && seen[string(key)] {
			continue
		}
		seen[string(key)] = true
		f.specs = append(f.specs, numbered{s, i})
	}
}

// say adds a finding, unless the same was said of another spec.
func (f *preflight) say(one providers.Finding) {
	if one.Fatal {
		f.bad[fmt.Sprint(one.Spec, one.Attr)] = true
	}
	key := fmt.Sprintf("%t %q %q %q", one.Spec < 0, one.Attr, one.Summary, one.Detail)
	if !f.said[key] {
		f.said[key] = true
		f.found = append(f.found, one)
	}
}

func (f *preflight) fatal(s *numbered, attr, summary, format string, args ...any) {
	f.say(providers.Finding{Fatal: true, Spec: s.at, Attr: attr, Summary: summary, Detail: fmt.Sprintf(format, args...)})
}

func (f *preflight) warn(s *numbered, attr, summary, format string, args ...any) {
	f.say(providers.Finding{Spec: s.at, Attr: attr, Summary: summary, Detail: fmt.Sprintf(format, args...)})
}

// enter finds out whether there is anybody to ask: the credentials are accepted and the region answers. If not, that is the one finding.
func (f *preflight) enter(ctx context.Context) bool {
	var sure, err error
	var both sync.WaitGroup
	both.Go(func() { _, sure = within(ctx, hello, f.p.api.GetCallerIdentity, &sts.GetCallerIdentityInput{}) })
	both.Go(func() {
		_, err = within(ctx, hello, f.p.api.DescribeInstances, &ec2.DescribeInstancesInput{DryRun: aws.Bool(true), MaxResults: aws.Int32(5)})
	})
	both.Wait()
	// STS may be out of reach of a network that reaches EC2, and is not needed for launches; but it is sure of credentials.
	if sure != nil && classOfAnswer(sure) == providers.Unauthorized {
		f.say(providers.Finding{Fatal: true, Spec: -1, Attr: f.p.cfg.credentialsAttr(sure), Summary: "The credentials were not accepted", Detail: describe(sure) + ": " + permission(sure) + "."})
		return false
	}
	switch code, class := codeOf(err), classOfAnswer(err); {
	case err == nil || code == "DryRunOperation":
		return true
	case missingPermission(code):
		f.say(providers.Finding{Fatal: true, Spec: -1, Summary: "A permission is missing", Detail: capital(permission(err)) + ": without it no instance can be watched, or found again."})
		return true
	case class == providers.Unauthorized:
		attr := f.p.cfg.credentialsAttr(err)
		if sure == nil || code == "OptInRequired" { // STS has accepted them
			attr = "region"
		}
		f.say(providers.Finding{Fatal: true, Spec: -1, Attr: attr, Summary: fmt.Sprintf("The region %s does not accept the credentials", f.p.region), Detail: describe(err) + ": " + permission(err) + "."})
	case unsent(err):
		attr, hint := "region", fmt.Sprintf("Is there a region %q? `aws ec2 describe-regions` lists them. Otherwise look at this machine's network.", f.p.region)
		if f.p.cfg.Endpoint != "" {
			attr, hint = "endpoint", "Look at the address and at this machine's network."
		}
		f.say(providers.Finding{Fatal: true, Spec: -1, Attr: attr, Summary: "EC2 can not be reached", Detail: ended(describe(err)) + " " + hint})
	default:
		f.say(providers.Finding{Fatal: true, Spec: -1, Summary: "EC2 gives no usable answer", Detail: ended(describe(err))})
	}
	return false
}

// missingPermission says whether a code means that the credentials are good, but not for this.
func missingPermission(code string) bool {
	return slices.Contains([]string{"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}, code)
}

// credentialsAttr is the attribute that the credentials come from, "" for the SDK's chain.
func (c Config) credentialsAttr(err error) string {
	var e *callError
	switch {
	case c.Role != nil && (err == nil || !errors.As(err, &e) || strings.Contains(err.Error(), "AssumeRole")):
		return "role"
	case c.Identifier != "":
		return "identifier"
	case c.AWSIDFile != "":
		return "aws_id_file"
	case c.Profile != "":
		return "profile"
	}
	return ""
}

// unchecked says that a call of the preflight did not succeed, so that something stays unknown.
func (f *preflight) unchecked(what string, err error) {
	detail := ended(describe(err))
	if missingPermission(codeOf(err)) {
		detail = ended(permission(err))
	}
	f.say(providers.Finding{Spec: -1, Summary: "Not checked: " + what, Detail: detail})
	switch classOfAnswer(err) {
	case providers.Unknown, providers.Transient:
		f.down = true
	}
}

// dryRuns tries one launch for each spec, without launching.
func (f *preflight) dryRuns(ctx context.Context, w *inventory) {
	for i := range f.specs {
		s := &f.specs[i]
		im, ok := w.image(&s.Spec)
		if f.down || !ok {
			continue // why there is no image is said
		}
		if i >= maxDryRuns {
			f.say(providers.Finding{Spec: -1, Summary: "Not every launch was tried", Detail: fmt.Sprintf(
				"There are %d different instance blocks; a dry run was made for the first %d.", len(f.specs), maxDryRuns)})
			return
		}
		in, err := f.p.rehearsal(ctx, s.Spec, im)
		if err != nil {
			f.fatal(s, "", "The launch can not be put together", "%s", ended(describe(err)))
			continue
		}
		in.DryRun = aws.Bool(true)
		out, err := within(ctx, f.p.callTimeout(), f.p.api.RunInstances, in)
		if err == nil {
			f.undo(out)
			return
		}
		f.refused(s, err)
	}
}

// undo ends what an endpoint launched although it was told not to, whatever has become of who asked.
func (f *preflight) undo(out *ec2.RunInstancesOutput) {
	ctx, cancel := context.WithTimeout(context.Background(), f.p.callTimeout())
	defer cancel()
	var ids []string
	for _, i := range out.Instances {
		ids = append(ids, aws.ToString(i.InstanceId))
	}
	if len(ids) == 0 {
		return
	}
	detail := "They were terminated at once."
	if _, err := f.p.api.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids}); err != nil {
		detail = "Terminate them: " + describe(err) + "."
	}
	f.say(providers.Finding{Fatal: true, Spec: -1, Attr: "endpoint", Summary: "The endpoint launches where it is told only to check", Detail: fmt.Sprintf(
		"It ignores DryRun and has made %s. %s", strings.Join(ids, ", "), detail)})
}

// refused makes a finding of what a dry run was answered, unless the attribute is known to be wrong.
func (f *preflight) refused(s *numbered, err error) {
	code := codeOf(err)
	attr := attrOf(&s.Spec, code, err)
	if code == "DryRunOperation" || attr != "" && f.bad[fmt.Sprint(s.at, attr)] {
		return
	}
	switch classOfAnswer(err) {
	case providers.Unauthorized:
		f.say(providers.Finding{Fatal: true, Spec: -1, Summary: "A launch is not permitted", Detail: capital(permission(err)) + ". EC2 says: " + describe(err)})
	case providers.BadConfig, providers.NotFound:
		f.fatal(s, attr, "EC2 would refuse the launch", "%s", ended(describe(err)))
	case providers.NoCapacity, providers.OverQuota:
		f.warn(s, attr, "EC2 would refuse the launch now", "%s", ended(describe(err)))
	default:
		f.unchecked("whether instances can be launched", err)
	}
}

// attrOf is the attribute that an error code of RunInstances speaks of. The message is looked at only for the name of a parameter, and only to
// point at the attribute.
func attrOf(s *Spec, code string, err error) string {
	text := describe(err)
	switch {
	case strings.HasPrefix(code, "InvalidAMI"):
		return "ami"
	case strings.HasPrefix(code, "InvalidSubnet"):
		return plural("subnet_id", s.Subnets)
	case strings.HasPrefix(code, "InvalidKeyPair"):
		return "keypair_name"
	case strings.HasPrefix(code, "InvalidGroup"), strings.HasPrefix(code, "InvalidSecurityGroup"), code == "VPCIdNotSpecified", code == "DefaultVpcDoesNotExist":
		return groupsAttr(s)
	case strings.HasPrefix(code, "InvalidLaunchTemplate"):
		return "launch_template"
	case strings.HasPrefix(code, "InvalidSnapshot"), code == "InvalidBlockDeviceMapping":
		return "block_device"
	case strings.Contains(code, "Hibernation"):
		return "hibernation"
	case strings.Contains(text, "iamInstanceProfile"):
		return "instance_profile_name"
	case strings.Contains(text, "instanceType"), strings.Contains(text, "instance type"), code == "InvalidInstanceType":
		return plural("instance_type", s.Types)
	case strings.Contains(text, "availabilityZone"):
		return placesAttr(s)
	}
	return ""
}

// plural is the attribute's name for one value or for several.
func plural(name string, values []string) string {
	if len(values) > 1 {
		return name + "s"
	}
	return name
}

func placesAttr(s *Spec) string {
	switch {
	case len(s.Subnets) > 0:
		return plural("subnet_id", s.Subnets)
	case len(s.Zones) == 1:
		return "placement"
	case len(s.Zones) > 1:
		return "zones"
	}
	return ""
}

func groupsAttr(s *Spec) string {
	switch {
	case len(s.SecurityGroupIDs) > 0:
		return "security_group_ids"
	case len(s.SecurityGroups) > 1:
		return "security_groups"
	}
	return "security_name"
}

// command is a call of Amazon's own program that a person may make. Nothing here makes it.
func (p *provider) command(words ...string) string {
	all := []string{"aws", "ec2", words[0], "--region", p.region}
	if p.cfg.Endpoint != "" {
		all = append(all, "--endpoint-url", p.cfg.Endpoint)
	}
	if p.cfg.Profile != "" {
		all = append(all, "--profile", p.cfg.Profile)
	}
	all = append(all, words[1:]...)
	for i := range all {
		all[i] = quoted(all[i])
	}
	return strings.Join(all, " ")
}

// quoted is a word as a shell reads it.
func quoted(w string) string {
	if w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=") == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// ended makes a sentence of a text that may be one already.
func ended(s string) string { return strings.TrimRight(capital(s), ".?! ") + "." }

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// rehearsal is the request of a launch that nobody will make: the spec's first choice.
func (p *provider) rehearsal(ctx context.Context, s Spec, im image) (*ec2.RunInstancesInput, error) {
	c := s.choices(p.region)[0]
	c.Image = im.ID
	if c.Market == spot {
		c.MaxPrice = p.maxPrice(ctx, s.Market, c.Type, c.Zone)
	}
	req := providers.CreateRequest{Key: "preflight", Owner: p.owner, Worker: "preflight", Spec: s, Agent: providers.Agent{Master: "ws://127.0.0.1:9989", Name: "preflight"}}
	in, err := p.launchInput(req, s, &record{Key: req.Key, Worker: req.Worker, Since: time.Now(), Choice: c, Attempt: 1})
	if err != nil {
		return nil, err
	}
	in.ClientToken = nil
	return in, nil
}
