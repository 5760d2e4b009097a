package ec2

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// chooser answers what a launch must know before it asks for an instance: which image, which price. What it has learned is good for some minutes, so
// that 500 launches cost it one call each. It changes nothing at AWS.
type chooser struct {
	api    *api
	config Config
	region string
	owner  providers.Owner
	log    *slog.Logger

	images memo[image]
	spots  memo[[]float64]
	lists  memo[float64]

	spotPrices, listPrices *priceSource
}

// newChooser makes a chooser for one region. owner is whose instances are not strangers to a preflight.
func newChooser(a *api, config Config, region string, owner providers.Owner, log *slog.Logger) *chooser {
	return &chooser{
		api: a, config: config, region: region, owner: owner, log: log,
		images: memo[image]{keep: keepImage},
		spots:  memo[[]float64]{keep: keepFor[[]float64](10*time.Minute, time.Minute)},
		lists:  memo[float64]{keep: keepFor[float64](24*time.Hour, 10*time.Minute)},

		spotPrices: &priceSource{log: log, down: "ec2: the history of spot prices cannot be read: bids are max_price alone, and prices of spot instances are those on demand"},
		listPrices: &priceSource{log: log, down: "ec2: the price list cannot be read: prices are those built into rouse, or unknown"},
	}
}

// callTimeout is that of one call: the governor repeats what is lost for as long as it may.
func (c *chooser) callTimeout() time.Duration { return cmp.Or(c.config.CallTimeout, 30*time.Second) }

// keepImage keeps a choice for five minutes: a new image is used that soon. That there is no image is believed for a short while only, and
// what went wrong with the call not at all.
func keepImage(_ image, err error) time.Duration {
	switch {
	case err == nil:
		return 5 * time.Minute
	case providers.ClassOf(err) == providers.BadConfig:
		return 15 * time.Second
	}
	return 0
}

func keepFor[V any](good, bad time.Duration) func(V, error) time.Duration {
	return func(_ V, err error) time.Duration {
		if err != nil {
			return bad
		}
		return good
	}
}

const (
	imagePage = 1000
	maxImages = 20_000 // candidates of one filter; all public images are several times that
)

// image is the image that a launch of this spec takes now. Its ID is empty if the launch template says which. No image at all has class BadConfig.
func (c *chooser) image(ctx context.Context, s Spec) (image, error) {
	if s.Image == nil {
		return image{ID: s.AMI}, nil
	}
	return c.images.get(ctx, imageKey(s.Image), func(ctx context.Context) (image, error) {
		list, ok, err := c.candidates(ctx, s.Image, false)
		switch {
		case err != nil:
			return image{}, err
		case !ok:
			return image{}, providers.Errorf(providers.BadConfig, "images", "no image is left: %s. `rouse images` says why each was refused", lost(s.Image, len(list)))
		}
		c.log.Debug("image chosen", "image", list[len(list)-1].ID, "name", list[len(list)-1].Name, "why", list[len(list)-1].Why, "candidates", len(list))
		return list[len(list)-1].image, nil
	})
}

// forgetImage makes the next launch of this spec choose anew: EC2 says that the image which was chosen does not exist.
func (c *chooser) forgetImage(s Spec) {
	if s.Image != nil {
		c.images.drop(imageKey(s.Image))
	}
}

// imageKey is the same for filters that choose the same.
func imageKey(f *ImageFilter) string {
	b, err := json.Marshal(f) // sorts the keys of maps
	if err != nil {
		panic(fmt.Sprintf("ec2: a filter of images that is no JSON: %v", err))
	}
	return string(b)
}

// lost says in few words why nothing of n images is left.
func lost(f *ImageFilter, n int) string {
	if n > 0 {
		return fmt.Sprintf("location_regex refuses all %d that owners and filters leave", n)
	}
	return "EC2 names none that is available for " + criteria(f)
}

// criteria are a filter's conditions, for people.
func criteria(f *ImageFilter) string {
	var all []string
	if len(f.Owners) > 0 {
		all = append(all, "owners "+strings.Join(f.Owners, ", "))
	}
	for _, k := range slices.Sorted(maps.Keys(f.Filters)) {
		all = append(all, fmt.Sprintf("%s = %s", k, strings.Join(f.Filters[k], " or ")))
	}
	if len(all) == 0 {
		return "any owner"
	}
	return strings.Join(all, " and ")
}

// candidates asks for the images of a filter and orders them (see choose). With all, it asks also for those that are not available, to show them.
func (c *chooser) candidates(ctx context.Context, f *ImageFilter, all bool) (list []candidate, ok bool, err error) {
	re, err := location(f.LocationRegex)
	if err != nil {
		return nil, false, err
	}
	images, err := c.describeImages(ctx, f, all, maxImages)
	if err != nil {
		return nil, false, err
	}
	if len(images) > maxImages {
		return nil, false, providers.Errorf(providers.BadConfig, "images", "more than %d images fit %s: name the owners, or add a filter", maxImages, criteria(f))
	}
	list, ok = choose(images, re, f.NewestBy != "")
	return list, ok, nil
}

// describeImages asks for all images that EC2's side of a filter leaves. It stops when it has seen more than limit.
func (c *chooser) describeImages(ctx context.Context, f *ImageFilter, all bool, limit int) ([]image, error) {
	in := &ec2.DescribeImagesInput{Owners: f.Owners, MaxResults: aws.Int32(imagePage)}
	for _, k := range slices.Sorted(maps.Keys(f.Filters)) {
		in.Filters = append(in.Filters, filter(k, f.Filters[k]...))
	}
	if !all {
		in.Filters = append(in.Filters, filter("state", "available"))
	}
	var images []image
	for pages := 0; ; pages++ {
		out, err := within(ctx, c.callTimeout(), c.api.DescribeImages, in)
		if err != nil {
			return nil, fail("images", err, "look for images")
		}
		for i := range out.Images {
			images = append(images, imageOf(&out.Images[i]))
		}
		if aws.ToString(out.NextToken) == "" || len(images) > limit {
			return images, nil
		}
		if pages > 10*maxImages/imagePage { // pages may be shorter than what was asked for, but not for ever
			return nil, providers.Errorf(providers.Transient, "images", "the list of images does not end")
		}
		in.NextToken = out.NextToken
	}
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

func imageOf(i *types.Image) image {
	im := image{
		ID: aws.ToString(i.ImageId), Name: aws.ToString(i.Name), Location: aws.ToString(i.ImageLocation), State: string(i.State),
		Created: aws.ToString(i.CreationDate), Owner: aws.ToString(i.OwnerId), Architecture: string(i.Architecture), RootDevice: aws.ToString(i.RootDeviceName),
	}
	for _, d := range i.BlockDeviceMappings {
		if d.Ebs == nil {
			continue
		}
		gib := int64(aws.ToInt32(d.Ebs.VolumeSize))
		im.DiskGiB += gib
		if im.RootDevice != "" && aws.ToString(d.DeviceName) == im.RootDevice {
			im.RootGiB, im.RootEncrypted = gib, aws.ToBool(d.Ebs.Encrypted)
		}
	}
	return im
}

// Resolve implements providers.Resolver: what moves is an image that is chosen by a filter, and a launch template's newest version.
func (c *chooser) Resolve(ctx context.Context, spec any) ([]providers.Resolved, error) {
	s, err := checkSpec("resolve", spec)
	if err != nil {
		return nil, err
	}
	ctx = inHaste(ctx)
	var all []providers.Resolved
	if s.Image != nil {
		im, err := c.image(ctx, s)
		if err != nil {
			return nil, err
		}
		detail := im.Name
		if t := im.createdAt(); !t.IsZero() {
			detail = strings.TrimSpace(detail + " of " + t.Format(time.DateOnly))
		}
		all = append(all, providers.Resolved{Attr: "ami", Value: im.ID, Detail: detail})
	}
	if v := s.Template.Version; s.Template.set() && (v == "" || v[0] == '$') {
		version, err := c.templateVersion(ctx, s.Template)
		if err != nil {
			return nil, err
		}
		all = append(all, providers.Resolved{Attr: "launch_template", Value: version, Detail: "version " + version + " of " + s.Template.ID + s.Template.Name})
	}
	return all, nil
}

// templateVersion is the version that $Latest or $Default means now.
func (c *chooser) templateVersion(ctx context.Context, t LaunchTemplate) (string, error) {
	in := &ec2.DescribeLaunchTemplatesInput{}
	if t.ID != "" {
		in.LaunchTemplateIds = []string{t.ID}
	} else {
		in.LaunchTemplateNames = []string{t.Name}
	}
	out, err := within(ctx, c.callTimeout(), c.api.DescribeLaunchTemplates, in)
	if err != nil {
		return "", fail("resolve", err, "look up the launch template %s", t.ID+t.Name)
	}
	if len(out.LaunchTemplates) != 1 {
		return "", providers.Errorf(providers.BadConfig, "resolve", "there is no launch template %s", t.ID+t.Name)
	}
	n := out.LaunchTemplates[0].DefaultVersionNumber
	if t.Version == "$Latest" {
		n = out.LaunchTemplates[0].LatestVersionNumber
	}
	return fmt.Sprint(aws.ToInt64(n)), nil
}

// Images implements providers.ImageLister. That all candidates are refused is no error; that there is none is one, and says which condition
// leaves none.
func (c *chooser) Images(ctx context.Context, spec any) ([]providers.Image, error) {
	s, err := checkSpec("images", spec)
	if err != nil {
		return nil, err
	}
	ctx = inHaste(ctx)
	switch {
	case s.AMI != "":
		return c.fixedImage(ctx, s.AMI)
	case s.Image == nil:
		return nil, providers.Errorf(providers.BadConfig, "images", "the launch template %s says which image is used", s.Template.ID+s.Template.Name)
	}
	list, _, err := c.candidates(ctx, s.Image, true)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, providers.Errorf(providers.BadConfig, "images", "there is no image for %s. %s", criteria(s.Image), sentence(c.emptiedBy(ctx, s.Image)))
	}
	var all []providers.Image
	for _, k := range list {
		all = append(all, k.shown())
	}
	return all, nil
}

// fixedImage shows the one image that a spec names.
func (c *chooser) fixedImage(ctx context.Context, id string) ([]providers.Image, error) {
	images, err := c.describeImages(ctx, &ImageFilter{Filters: map[string][]string{"image-id": {id}}}, true, imagePage)
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, providers.Errorf(providers.BadConfig, "images", "there is no image %s in %s, or it is not shared with this account", id, c.region)
	}
	k := candidate{image: images[0], Taken: images[0].State == "available", Why: "taken: ami names it"}
	if !k.Taken {
		k.Refused, k.Why = true, refuse(&images[0], nil)
	}
	return []providers.Image{k.shown()}, nil
}

func (k candidate) shown() providers.Image {
	facts := map[string]string{}
	for name, v := range map[string]string{"owner": k.Owner, "architecture": k.Architecture, "state": k.State} {
		if v != "" {
			facts[name] = v
		}
	}
	return providers.Image{ID: k.ID, Name: k.Name, Location: k.Location, CreatedAt: k.createdAt(), Taken: k.Taken, Why: k.Why, Facts: facts}
}

// culprit is a condition without which there would be images.
type culprit struct {
	attr, name string // "ami.owners", "owners"
	left       int    // images without it; imagePage means that many or more
}

// emptiedBy asks once more without one condition at a time. It is for people who wait at a terminal, and only when nothing was found: it may cost
// a dozen calls. Errors make it say less.
func (c *chooser) emptiedBy(ctx context.Context, f *ImageFilter) (found []culprit) {
	re, err := location(f.LocationRegex)
	if err != nil {
		return nil
	}
	try := func(attr, name string, g ImageFilter) {
		if len(g.Owners) == 0 && len(g.Filters) == 0 {
			return // all public images: that there are some says nothing
		}
		images, err := c.describeImages(ctx, &g, false, 0)
		if err != nil {
			return
		}
		left := 0
		for i := range images {
			if refuse(&images[i], re) == "" {
				left++
			}
		}
		if left > 0 {
			found = append(found, culprit{attr, name, left})
		}
	}
	try("ami.owners", "owners", ImageFilter{Filters: f.Filters})
	names := slices.Sorted(maps.Keys(f.Filters))
	for _, k := range names[:min(len(names), 10)] {
		rest := maps.Clone(f.Filters)
		delete(rest, k)
		try("ami.filters", fmt.Sprintf("the filter %q", k), ImageFilter{Owners: f.Owners, Filters: rest})
	}
	if re != nil {
		re = nil
		try("ami.location_regex", "location_regex", *f)
	}
	return found
}

// sentence says what emptiedBy found.
func sentence(found []culprit) string {
	if len(found) == 0 {
		return "Leaving one condition away would not help: check the account and the region."
	}
	var all []string
	for _, k := range found {
		n := fmt.Sprint(k.left)
		if k.left >= imagePage {
			n += " or more"
		}
		all = append(all, fmt.Sprintf("without %s there would be %s", k.name, n))
	}
	s := strings.Join(all, ", ") + "."
	return strings.ToUpper(s[:1]) + s[1:]
}
