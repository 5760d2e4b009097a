package ec2

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	pricingtypes "github.com/aws/aws-sdk-go-v2/service/pricing/types"

	"github.com/rouse-ci/rouse/providers"
)

// Price implements providers.Pricer. It is the price of the spec's first choice (its first type, in its first place and market); instances that a
// shortage has put elsewhere cost something else, at most Most, which is that of the dearest choice. What stopped instances cost is an estimate: all their disks as gp3 volumes at the price of
// us-east-1. It is never an error that a price is not known, and it is not waited for long: then it is 0, and Source says so.
func (c *chooser) Price(ctx context.Context, spec any) (providers.Price, error) {
	ctx = inHaste(ctx)
	s, err := checkSpec("price", spec)
	if err != nil {
		return providers.Price{}, err
	}
	if len(s.Types) == 0 {
		return providers.Price{Source: "unknown: the launch template says which type it is"}, nil
	}
	zone := ""
	if len(s.Zones) > 0 && len(s.Subnets) == 0 {
		zone = wholeZone(c.region, s.Zones[0])
	}
	patient, leave := c.patiently(ctx)
	defer leave()
	p := c.runningPrice(patient, s.Market, s.Types[0], zone)
	p.Most = max(p.Running, c.mostPrice(patient, s, zone))
	p.Stopped = diskPrice(c.diskGiB(ctx, s))
	return p, nil
}

// mostPrice is the greatest price of the spec's choices, as far as they are known: of each type, and on demand where that is the last resort of spot.
func (c *chooser) mostPrice(ctx context.Context, s Spec, zone string) float64 {
	if len(s.Zones) > 1 {
		zone = "" // any
	}
	prices := make([]float64, len(s.Types))
	var all sync.WaitGroup
	for i, t := range s.Types {
		all.Go(func() { // at once: a price list that does not answer is waited for once
			prices[i] = c.runningPrice(ctx, s.Market, t, zone).Running
			if s.Market.Spot && s.Market.OnDemand {
				prices[i] = max(prices[i], c.listPrice(ctx, t).Running)
			}
		})
	}
	all.Wait()
	return slices.Max(prices)
}

// runningPrice is the price of a type in a zone ("": any) while it runs.
func (c *chooser) runningPrice(ctx context.Context, m Market, instanceType, zone string) providers.Price {
	if m.Spot {
		history, err := c.spotHistory(ctx, m.Product, instanceType, zone)
		if avg, ok := mean(history); ok {
			return providers.Price{Running: avg, Source: "spot, mean of 24 h", At: time.Now().UTC()}
		}
		p := c.listPrice(ctx, instanceType)
		if p.Running > 0 {
			p.Source = "an upper bound, since no spot price is known: " + p.Source
		}
		if err != nil {
			c.log.Debug("no spot price", "type", instanceType, "error", err)
		}
		return p
	}
	return c.listPrice(ctx, instanceType)
}

// listPrice is the on-demand price: that of the price list API, or else that of the table in this program.
func (c *chooser) listPrice(ctx context.Context, instanceType string) providers.Price {
	usd, err := askPrice(ctx, c.listPrices, &c.lists, instanceType, func(ctx context.Context) (float64, error) {
		return c.askListPrice(ctx, instanceType)
	})
	if err == nil {
		return providers.Price{Running: usd, Source: "on-demand list price", At: time.Now().UTC()}
	}
	c.log.Debug("no price of the price list API", "type", instanceType, "error", err)
	usd, ok := embeddedPrice(instanceType)
	if !ok {
		return providers.Price{Source: "unknown"}
	}
	t := embedded()
	at, _ := time.Parse(time.DateOnly, t.Date)
	return providers.Price{Running: usd, Source: fmt.Sprintf("on-demand list price of %s on %s (built in: the price list API gave none)", t.Region, t.Date), At: at}
}

func (c *chooser) askListPrice(ctx context.Context, instanceType string) (float64, error) {
	want := listFilters(c.region, instanceType)
	in := &pricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), FormatVersion: aws.String("aws_v1"), MaxResults: aws.Int32(100)}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		in.Filters = append(in.Filters, pricingtypes.Filter{Type: pricingtypes.FilterTypeTermMatch, Field: aws.String(k), Value: aws.String(want[k])})
	}
	var products []string
	for range 5 { // a type has a handful of products that fit
		out, err := c.api.GetProducts(ctx, in)
		c.listPrices.heard(err)
		if err != nil {
			return 0, fail("price", err, "read the price list for %s", instanceType)
		}
		products = append(products, out.PriceList...)
		if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
			return listPrice(products, want)
		}
	}
	return 0, fmt.Errorf("the price list has too many products for %s", instanceType)
}

// usualRoot is the size of a root volume in GiB where the image's is not known: that of Amazon's own images.
const usualRoot = 8

// diskGiB is the size of all volumes that an instance of this spec makes, as far as it is known without asking for more than the image.
func (c *chooser) diskGiB(ctx context.Context, s Spec) int64 {
	im, err := c.imageDisks(ctx, s)
	if err != nil {
		c.log.Debug("the size of the image's disks is not known", "error", err)
	}
	total, root := im.DiskGiB, false
	for _, d := range s.BlockDevices {
		total += d.Size
		if d.Size > 0 && d.Device == im.RootDevice {
			total -= im.RootGiB // it is made larger, not twice
			root = true
		}
	}
	if im.DiskGiB == 0 && !root {
		total += usualRoot
	}
	return total
}

// imageDisks is the image with its disks, also where the spec names it.
func (c *chooser) imageDisks(ctx context.Context, s Spec) (image, error) {
	if s.AMI == "" {
		return c.image(ctx, s)
	}
	return c.images.get(ctx, s.AMI, func(ctx context.Context) (image, error) {
		images, err := c.describeImages(ctx, &ImageFilter{Filters: map[string][]string{"image-id": {s.AMI}}}, true, imagePage)
		if err == nil && len(images) == 0 {
			err = providers.Errorf(providers.BadConfig, "images", "there is no image %s in %s", s.AMI, c.region)
		}
		if err != nil {
			return image{ID: s.AMI}, err
		}
		return images[0], nil
	})
}
