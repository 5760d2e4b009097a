package ec2

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// fallbackBid is what Buildbot bids when the history of prices is empty, in dollars per hour.
const fallbackBid = 0.02

// bid is the most that a spot instance may cost per hour; 0 is no limit but the on-demand price, which EC2 sets itself. With a multiplier it is
// Buildbot's: the mean of the last day's prices times the multiplier, but not more than MaxPrice if that is set. The mean is that of the entries of
// the history, however long each price was in force.
func (m Market) bid(history []float64) float64 {
	if m.PriceMultiplier == 0 {
		return m.MaxPrice
	}
	b := fallbackBid
	if avg, ok := mean(history); ok {
		b = avg * m.PriceMultiplier
	}
	if m.MaxPrice > 0 {
		b = min(b, m.MaxPrice)
	}
	return b
}

// mean of prices; false if there are none.
func mean(prices []float64) (float64, bool) {
	sum := 0.0
	for _, p := range prices {
		sum += p
	}
	if len(prices) == 0 {
		return 0, false
	}
	return sum / float64(len(prices)), true
}

// maxPrice is what the request for a spot instance of this type in this zone ("": any) says as its MaxPrice; "" is no limit but the on-demand
// price. It never stands in the way of a launch: without the history of prices, or if it does not come soon, the limit is MaxPrice alone.
func (c *chooser) maxPrice(ctx context.Context, m Market, instanceType, zone string) string {
	var history []float64
	if m.PriceMultiplier > 0 {
		ctx, leave := c.patiently(ctx)
		defer leave()
		var err error
		if history, err = c.spotHistory(ctx, m.Product, instanceType, zone); err != nil {
			c.log.Debug("no history of spot prices, so the bid is max_price alone", "type", instanceType, "zone", zone, "error", err)
			m.PriceMultiplier = 0
		}
	}
	b := m.bid(history)
	if b == 0 {
		return ""
	}
	return strconv.FormatFloat(max(b, 0.0001), 'f', 4, 64)
}

// maxHistory bounds the entries of one history. A day of one type in all zones of a region has some dozens.
const maxHistory = 10_000

// spotHistory are the prices of the last 24 h of a type in a zone ("": in all), for a product such as "Linux/UNIX".
func (c *chooser) spotHistory(ctx context.Context, product, instanceType, zone string) ([]float64, error) {
	key := fmt.Sprintf("%q %q %q", product, instanceType, zone)
	return askPrice(ctx, c.spotPrices, &c.spots, key, func(ctx context.Context) ([]float64, error) {
		now := time.Now()
		in := &ec2.DescribeSpotPriceHistoryInput{
			InstanceTypes: []types.InstanceType{types.InstanceType(instanceType)}, ProductDescriptions: []string{product},
			StartTime: aws.Time(now.Add(-24 * time.Hour)), EndTime: aws.Time(now), MaxResults: aws.Int32(1000),
		}
		if zone != "" {
			in.AvailabilityZone = aws.String(zone)
		}
		var prices []float64
		for range maxHistory / 100 {
			out, err := c.api.DescribeSpotPriceHistory(ctx, in)
			c.spotPrices.heard(err)
			if err != nil {
				return nil, fail("price", err, "read the history of spot prices of %s", instanceType)
			}
			for _, p := range out.SpotPriceHistory {
				if p.InstanceType != "" && string(p.InstanceType) != instanceType || zone != "" && aws.ToString(p.AvailabilityZone) != zone {
					continue
				}
				if usd, err := dollars(aws.ToString(p.SpotPrice)); err == nil && usd > 0 {
					prices = append(prices, usd)
				}
			}
			if aws.ToString(out.NextToken) == "" || len(prices) >= maxHistory {
				return prices, nil
			}
			in.NextToken = out.NextToken
		}
		return nil, providers.Errorf(providers.Transient, "price", "the history of spot prices of %s does not end", instanceType)
	})
}
