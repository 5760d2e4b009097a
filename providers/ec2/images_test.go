package ec2

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/rouse-ci/rouse/providers"
)

// cloud answers DescribeImages as EC2 does, as far as the tests need it, from a list.
type cloud struct {
	images []types.Image
	page   int // images of one answer; 0 = all

	mu    sync.Mutex
	calls int
	err   error
}

func ami(id, name, owner, state string, tags ...string) types.Image {
	im := types.Image{ImageId: &id, Name: &name, OwnerId: &owner, ImageLocation: aws.String(owner + "/" + name), State: types.ImageState(state), Architecture: "x86_64"}
	for _, t := range tags {
		k, v, _ := strings.Cut(t, "=")
		im.Tags = append(im.Tags, types.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return im
}

func (c *cloud) describeImages(_ context.Context, in *ec2.DescribeImagesInput) (*ec2.DescribeImagesOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.err != nil {
		return nil, c.err
	}
	var fit []types.Image
	for _, im := range c.images {
		ok := len(in.Owners) == 0 || slices.Contains(in.Owners, *im.OwnerId)
		for _, f := range in.Filters {
			ok = ok && slices.ContainsFunc(f.Values, func(v string) bool { return glob(v, property(im, *f.Name)) })
		}
		if ok {
			fit = append(fit, im)
		}
	}
	start, _ := strconv.Atoi(aws.ToString(in.NextToken))
	out := &ec2.DescribeImagesOutput{Images: fit[start:]}
	if c.page > 0 && start+c.page < len(fit) {
		out.Images, out.NextToken = fit[start:start+c.page], aws.String(strconv.Itoa(start+c.page))
	}
	return out, nil
}

func property(im types.Image, name string) string {
	switch name {
	case "state":
		return string(im.State)
	case "name":
		return *im.Name
	case "image-id":
		return *im.ImageId
	case "architecture":
		return string(im.Architecture)
	}
	for _, t := range im.Tags {
		if "tag:"+*t.Key == name {
			return *t.Value
		}
	}
	return ""
}

func glob(pattern, s string) bool {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(s)
}

func (c *cloud) chooser() *chooser {
	return newChooser(&api{DescribeImages: c.describeImages}, Config{}, "eu-central-1", "me", slog.New(slog.DiscardHandler))
}

func (c *cloud) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

const us, them = "111111111111", "222222222222"

func someImages() []types.Image {
	return []types.Image{
		ami("ami-1", "ci-9", us, "available", "Role=ci"), ami("ami-2", "ci-10", us, "available", "Role=ci"), ami("ami-3", "ci-11", us, "pending", "Role=ci"),
		ami("ami-4", "ci-99", them, "available", "Role=ci"), ami("ami-5", "web-1", us, "available", "Role=web"),
	}
}

func TestAnImageIsChosenByOwnersFiltersAndExpression(t *testing.T) {
	t.Parallel()
	for _, page := range []int{0, 1, 2} {
		c := &cloud{images: someImages(), page: page}
		for _, tc := range []struct {
			filter ImageFilter
			want   string
		}{
			{ImageFilter{Owners: []string{us}, LocationRegex: us + `/ci-(\d+)`}, "ami-2"},
			{ImageFilter{Owners: []string{us, them}, LocationRegex: `\d+/ci-(\d+)`}, "ami-4"},
			{ImageFilter{Owners: []string{us}}, "ami-5"},
			{ImageFilter{Owners: []string{us}, Filters: map[string][]string{"tag:Role": {"ci"}}}, "ami-1"},
			{ImageFilter{Owners: []string{us}, Filters: map[string][]string{"name": {"ci-1?", "ci-1*"}}}, "ami-2"},
		} {
			im, err := c.chooser().image(t.Context(), Spec{Image: &tc.filter})
			if err != nil || im.ID != tc.want {
				t.Errorf("pages of %d: %+v chooses %s, %v; want %s", page, tc.filter, im.ID, err, tc.want)
			}
		}
	}
}

func TestAFixedImageOrATemplatesCostsNoCall(t *testing.T) {
	t.Parallel()
	c := &cloud{}
	ch := c.chooser()
	for _, s := range []Spec{{AMI: "ami-1"}, {Template: LaunchTemplate{Name: "t"}}} {
		if im, err := ch.image(t.Context(), s); err != nil || im.ID != s.AMI {
			t.Errorf("%q, %v", im.ID, err)
		}
	}
	if c.asked() != 0 {
		t.Errorf("%d calls", c.asked())
	}
}

func TestManyLaunchesAskForTheirImageOnceUntilItIsGone(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages()}
	ch := c.chooser()
	s := Spec{Image: &ImageFilter{Owners: []string{us}, LocationRegex: `.*/ci-(\d+)`}}
	launch := func(want string) {
		t.Helper()
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				if im, err := ch.image(t.Context(), s); err != nil || im.ID != want {
					t.Errorf("%s, %v; want %s", im.ID, err, want)
				}
			})
		}
		all.Wait()
	}
	launch("ami-2")
	c.images = slices.Delete(c.images, 1, 2) // deregistered, which a launch is told
	launch("ami-2")
	if c.asked() != 1 {
		t.Errorf("%d calls", c.asked())
	}
	ch.forgetImage(s)
	launch("ami-1")
	if c.asked() != 2 {
		t.Errorf("%d calls", c.asked())
	}
}

func TestNoImageIsAMistakeOfTheConfiguration(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages()}
	for want, f := range map[string]ImageFilter{
		"refuses all 3":                 {Owners: []string{us}, LocationRegex: "x"},
		"owners 333333333333":           {Owners: []string{"333333333333"}},
		"name = none or nil":            {Owners: []string{us}, Filters: map[string][]string{"name": {"none", "nil"}}},
		"location_regex: missing closi": {Owners: []string{us}, LocationRegex: "("},
	} {
		_, err := c.chooser().image(t.Context(), Spec{Image: &f})
		if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want class bad-config and %q", err, want)
		}
	}
}

func TestACallThatFailsIsNotBelievedForLong(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages(), err: &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "no"}}
	ch := c.chooser()
	s := Spec{Image: &ImageFilter{Owners: []string{us}}}
	if _, err := ch.image(t.Context(), s); providers.ClassOf(err) != providers.Unauthorized {
		t.Errorf("%v", err)
	}
	c.err = nil
	if im, err := ch.image(t.Context(), s); err != nil || im.ID != "ami-5" {
		t.Errorf("%s, %v", im.ID, err)
	}
}

func TestAListThatIsTooLongIsNoChoice(t *testing.T) {
	t.Parallel()
	pages := 0
	answer := func(size int) call[ec2.DescribeImagesInput, ec2.DescribeImagesOutput] {
		return func(context.Context, *ec2.DescribeImagesInput) (*ec2.DescribeImagesOutput, error) {
			pages++
			return &ec2.DescribeImagesOutput{Images: make([]types.Image, size), NextToken: aws.String("more")}, nil
		}
	}
	for size, want := range map[int]string{imagePage: "more than 20000 images", 0: "does not end"} {
		pages = 0
		ch := newChooser(&api{DescribeImages: answer(size)}, Config{}, "eu-central-1", "me", slog.New(slog.DiscardHandler))
		if _, err := ch.image(t.Context(), Spec{Image: &ImageFilter{Owners: []string{"amazon"}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pages of %d: %v after %d pages", size, err, pages)
		}
	}
}

func TestWhatEmptiesTheSetIsNamed(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages()}
	for _, tc := range []struct {
		filter ImageFilter
		want   string
	}{
		{ImageFilter{Owners: []string{us}, Filters: map[string][]string{"name": {"ci-*"}, "architecture": {"arm64"}}}, `Without the filter "architecture" there would be 2.`},
		{ImageFilter{Owners: []string{"333333333333"}, Filters: map[string][]string{"name": {"ci-*"}}}, "Without owners there would be 3."},
		{ImageFilter{Owners: []string{us}, Filters: map[string][]string{"name": {"ci-*"}, "tag:Role": {"web"}}}, `Without the filter "name" there would be 1, without the filter "tag:Role" there would be 2.`},
		{ImageFilter{Owners: []string{us}, Filters: map[string][]string{"name": {"x"}, "tag:Role": {"y"}}}, "Leaving one condition away would not help: check the account and the region."},
		{ImageFilter{Owners: []string{"333333333333"}}, "Leaving one condition away would not help"},
	} {
		_, err := c.chooser().Images(t.Context(), Spec{Image: &tc.filter})
		if providers.ClassOf(err) != providers.BadConfig || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v; want it to say %s", err, tc.want)
		}
	}
	found := c.chooser().emptiedBy(t.Context(), &ImageFilter{Owners: []string{us}, LocationRegex: "x", Filters: map[string][]string{"name": {"ci-*"}}})
	if want := []culprit{{"ami.location_regex", "location_regex", 2}}; !slices.Equal(found, want) {
		t.Errorf("%+v", found)
	}
}

func TestPeopleSeeEveryCandidateAndWhy(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages()}
	c.images[1].CreationDate = aws.String("2026-11-20T10:11:12.000Z")
	list, err := c.chooser().Images(t.Context(), Spec{Image: &ImageFilter{Owners: []string{us}, LocationRegex: us + `/ci-(\d+)`}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, im := range list {
		got = append(got, fmt.Sprint(im.ID, " ", im.Taken, " ", im.Why))
	}
	want := []string{
		`ami-3 false its state is "pending", not "available"`,
		`ami-5 false location_regex does not match at the start of its location`,
		`ami-1 false earlier in order, by integer 9`,
		`ami-2 true taken: last in order, by integer 10`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	last := list[len(list)-1]
	if !last.CreatedAt.Equal(time.Date(2026, 11, 20, 10, 11, 12, 0, time.UTC)) || !maps.Equal(last.Facts, map[string]string{"owner": us, "architecture": "x86_64", "state": "available"}) {
		t.Errorf("%+v", last)
	}
	list, err = c.chooser().Images(t.Context(), Spec{AMI: "ami-1"})
	if err != nil || len(list) != 1 || !list[0].Taken {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = c.chooser().Images(t.Context(), Spec{AMI: "ami-3"}); err != nil || len(list) != 1 || list[0].Taken || !strings.Contains(list[0].Why, "pending") {
		t.Errorf("%+v, %v", list, err)
	}
	for _, s := range []any{Spec{AMI: "ami-9"}, Spec{Template: LaunchTemplate{Name: "t"}}, "nonsense"} {
		if _, err := c.chooser().Images(t.Context(), s); providers.ClassOf(err) != providers.BadConfig {
			t.Errorf("%v: %v", s, err)
		}
	}
}

func TestWhatMovesIsResolved(t *testing.T) {
	t.Parallel()
	c := &cloud{images: someImages()}
	ch := c.chooser()
	ch.api.DescribeLaunchTemplates = func(_ context.Context, in *ec2.DescribeLaunchTemplatesInput) (*ec2.DescribeLaunchTemplatesOutput, error) {
		if !slices.Equal(in.LaunchTemplateNames, []string{"t"}) && !slices.Equal(in.LaunchTemplateIds, []string{"lt-1"}) {
			return &ec2.DescribeLaunchTemplatesOutput{}, nil
		}
		return &ec2.DescribeLaunchTemplatesOutput{LaunchTemplates: []types.LaunchTemplate{{DefaultVersionNumber: aws.Int64(3), LatestVersionNumber: aws.Int64(5)}}}, nil
	}
	filter := &ImageFilter{Owners: []string{us}, LocationRegex: `.*/ci-(\d+)`}
	c.images[1].CreationDate = aws.String("2026-11-20T10:11:12.000Z")
	for _, tc := range []struct {
		spec Spec
		want []providers.Resolved
	}{
		{Spec{AMI: "ami-1"}, nil},
		{Spec{Image: filter}, []providers.Resolved{{Attr: "ami", Value: "ami-2", Detail: "ci-10 of 2026-11-20"}}},
		{Spec{AMI: "ami-1", Template: LaunchTemplate{Name: "t"}}, []providers.Resolved{{Attr: "launch_template", Value: "3", Detail: "version 3 of t"}}},
		{Spec{Template: LaunchTemplate{ID: "lt-1", Version: "$Latest"}}, []providers.Resolved{{Attr: "launch_template", Value: "5", Detail: "version 5 of lt-1"}}},
		{Spec{Template: LaunchTemplate{ID: "lt-1", Version: "4"}}, nil},
	} {
		got, err := ch.Resolve(t.Context(), tc.spec)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %+v, %v", tc.spec, got, err)
		}
	}
	for _, s := range []any{Spec{Image: &ImageFilter{Owners: []string{"3"}}}, Spec{Template: LaunchTemplate{Name: "other"}}, 7} {
		if _, err := ch.Resolve(t.Context(), s); providers.ClassOf(err) != providers.BadConfig {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
