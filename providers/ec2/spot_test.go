package ec2

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"

	"github.com/rouse-ci/rouse/providers"
)

func TestTheBidIsTheDocuments(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name            string
		multiplier, max float64
		history         []float64
		want            float64
	}{
		{"mean times multiplier", 1.2, 1.6, []float64{0.1, 0.2, 0.3}, 0.24},
		{"each entry counts once", 1, 0, []float64{0.1, 0.1, 0.4}, 0.2},
		{"not more than the limit", 1.2, 0.2, []float64{0.1, 0.2, 0.3}, 0.2},
		{"no data", 1.2, 1.6, nil, 0.02},
		{"no data, and a limit below that", 1.2, 0.01, nil, 0.01},
		{"no data and no limit", 1.2, 0, nil, 0.02},
		{"without a multiplier the limit is the bid", 0, 1.6, []float64{0.1}, 1.6},
		{"without a limit nothing holds it down", 10, 0, []float64{1}, 10},
		{"with neither, the on-demand price is the limit", 0, 0, []float64{1}, 0},
	} {
		if got := (Market{PriceMultiplier: tc.multiplier, MaxPrice: tc.max}).bid(tc.history); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s: %g, not %g", tc.name, got, tc.want)
		}
	}
}

// prices is a fake of both sources of prices.
type prices struct {
	history   []types.SpotPrice
	list      []string
	err       error
	page      int
	mu        sync.Mutex
	asked     int
	lastInput ec2.DescribeSpotPriceHistoryInput
}

func spotPrice(instanceType, zone, usd string) types.SpotPrice {
	return types.SpotPrice{InstanceType: types.InstanceType(instanceType), AvailabilityZone: aws.String(zone), SpotPrice: aws.String(usd)}
}

func (p *prices) chooser(images ...types.Image) *chooser {
	c := &cloud{images: images}
	return newChooser(&api{
		DescribeImages: c.describeImages,
		DescribeSpotPriceHistory: func(_ context.Context, in *ec2.DescribeSpotPriceHistoryInput) (*ec2.DescribeSpotPriceHistoryOutput, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.asked++
			p.lastInput = *in
			if p.err != nil {
				return nil, p.err
			}
			if in.NextToken == nil && p.page > 0 {
				return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: p.history[:p.page], NextToken: aws.String("x")}, nil
			}
			return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: p.history[p.page:]}, nil
		},
		GetProducts: func(context.Context, *pricing.GetProductsInput) (*pricing.GetProductsOutput, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.asked++
			return &pricing.GetProductsOutput{PriceList: p.list}, p.err
		},
	}, Config{}, "eu-central-1", "me", slog.New(slog.DiscardHandler))
}

func TestTheBidIsMadeFromTheHistoryOfTypeZoneAndProduct(t *testing.T) {
	t.Parallel()
	p := &prices{page: 1, history: []types.SpotPrice{
		spotPrice("m7i.large", "eu-central-1a", "0.05"), spotPrice("m7i.large", "eu-central-1a", "0.07"), spotPrice("m7i.large", "eu-central-1b", "9"),
		spotPrice("m7i.xlarge", "eu-central-1a", "9"), spotPrice("m7i.large", "eu-central-1a", "cheap"), spotPrice("m7i.large", "eu-central-1a", "NaN"),
	}}
	ch := p.chooser()
	m := Market{Spot: true, PriceMultiplier: 2, MaxPrice: 1, Product: "Linux/UNIX"}
	for range 3 {
		if got := ch.maxPrice(t.Context(), m, "m7i.large", "eu-central-1a"); got != "0.1200" {
			t.Errorf("bid %s", got)
		}
	}
	in := p.lastInput
	if p.asked != 2 || aws.ToString(in.AvailabilityZone) != "eu-central-1a" || in.ProductDescriptions[0] != "Linux/UNIX" || in.InstanceTypes[0] != "m7i.large" {
		t.Errorf("%d calls, the last %+v", p.asked, in)
	}
	if d := in.EndTime.Sub(*in.StartTime); d != 24*time.Hour {
		t.Errorf("the history of %s", d)
	}
	if got := ch.maxPrice(t.Context(), m, "m7i.large", ""); got != "1.0000" || p.lastInput.AvailabilityZone != nil {
		t.Errorf("in any zone: bid %s, %v", got, p.lastInput.AvailabilityZone)
	}
	if got := ch.maxPrice(t.Context(), Market{Spot: true, MaxPrice: 0.5}, "m7i.large", ""); got != "0.5000" {
		t.Errorf("without a multiplier: %s", got)
	}
	if got := ch.maxPrice(t.Context(), Market{Spot: true}, "m7i.large", ""); got != "" {
		t.Errorf("without any limit: %s", got)
	}
}

func TestAHistoryThatCannotBeReadStopsNoLaunch(t *testing.T) {
	t.Parallel()
	ch := (&prices{err: errors.New("down")}).chooser()
	if got := ch.maxPrice(t.Context(), Market{Spot: true, PriceMultiplier: 1.2, MaxPrice: 1.6}, "m7i.large", ""); got != "1.6000" {
		t.Errorf("with a limit: %s", got)
	}
	if got := ch.maxPrice(t.Context(), Market{Spot: true, PriceMultiplier: 1.2}, "m7i.large", ""); got != "" {
		t.Errorf("without a limit: %s", got)
	}
}

func TestThePriceOfASpec(t *testing.T) {
	t.Parallel()
	big := ami("ami-1", "ci", us, "available")
	big.RootDeviceName = aws.String("/dev/sda1")
	big.BlockDeviceMappings = []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(20)}},
		{DeviceName: aws.String("/dev/sdb"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(10)}},
		{DeviceName: aws.String("/dev/sdc"), VirtualName: aws.String("ephemeral0")},
	}
	list := []string{listed("m7i.large", "eu-central-1", "Hrs", "0.12")}
	history := []types.SpotPrice{spotPrice("m7i.large", "eu-central-1a", "0.05"), spotPrice("m7i.large", "eu-central-1b", "0.03")}
	spotMarket := Market{Spot: true, Product: "Linux/UNIX"}
	for _, tc := range []struct {
		name    string
		p       *prices
		spec    Spec
		running float64
		gib     float64
		source  string
	}{
		{"on demand", &prices{list: list}, Spec{AMI: "ami-1", Types: []string{"m7i.large", "x.y"}}, 0.12, 30, "on-demand list price"},
		{"spot", &prices{history: history}, Spec{AMI: "ami-1", Types: []string{"m7i.large"}, Market: spotMarket}, 0.04, 30, "spot, mean of 24 h"},
		{"spot in a zone", &prices{history: history}, Spec{AMI: "ami-1", Types: []string{"m7i.large"}, Zones: []string{"b"}, Market: spotMarket}, 0.03, 30, "spot, mean of 24 h"},
		{"spot without history", &prices{list: list}, Spec{AMI: "ami-1", Types: []string{"m7i.large"}, Market: spotMarket}, 0.12, 30, "upper bound"},
		{"not in the price list, but built in", &prices{}, Spec{AMI: "ami-1", Types: []string{"m5.large"}}, 0.096, 30, "us-east-1 on 2026-07-06"},
		{"the price list does not answer", &prices{err: errors.New("down")}, Spec{AMI: "ami-1", Types: []string{"m5.large"}}, 0.096, 30, "us-east-1 on 2026-07-06"},
		{"known to nobody", &prices{err: errors.New("down")}, Spec{AMI: "ami-1", Types: []string{"z9.large"}}, 0, 30, "unknown"},
		{"a launch template's type", &prices{list: list}, Spec{Template: LaunchTemplate{Name: "t"}}, 0, 0, "unknown"},
		{"a larger root volume and one more", &prices{list: list}, Spec{AMI: "ami-1", Types: []string{"m7i.large"},
			BlockDevices: []BlockDevice{{Device: "/dev/sda1", Size: 50}, {Device: "/dev/sdf", Size: 100}, {Device: "/dev/sdg", Virtual: "ephemeral1"}}}, 0.12, 160, "on-demand"},
		{"an image that is not known", &prices{list: list}, Spec{AMI: "ami-2", Types: []string{"m7i.large"}}, 0.12, usualRoot, "on-demand"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ch := tc.p.chooser(big)
			var first providers.Price
			for i := range 3 {
				got, err := ch.Price(t.Context(), tc.spec)
				if err != nil || math.Abs(got.Running-tc.running) > 1e-9 || math.Abs(got.Stopped-tc.gib*0.08/730) > 1e-9 || !strings.Contains(got.Source, tc.source) {
					t.Fatalf("%+v, %v; want %g, disks of %g GiB, %q", got, err, tc.running, tc.gib, tc.source)
				}
				if i == 0 {
					first = got
				} else if got.Source != first.Source {
					t.Errorf("first %q, then %q", first.Source, got.Source)
				}
			}
			if tc.p.asked > 2 {
				t.Errorf("three questions for a price made %d calls", tc.p.asked)
			}
		})
	}
	dearer := &prices{list: list, history: append([]types.SpotPrice{spotPrice("m7i.xlarge", "eu-central-1a", "0.09")}, history...)}
	for _, tc := range []struct {
		name  string
		types []string
		m     Market
		want  float64
	}{
		{"one type", []string{"m7i.large"}, spotMarket, 0.04},
		{"a dearer second type", []string{"m7i.large", "m7i.xlarge"}, spotMarket, 0.09},
		{"on demand at last", []string{"m7i.large"}, Market{Spot: true, Product: "Linux/UNIX", OnDemand: true}, 0.12},
		{"on demand", []string{"m7i.large"}, Market{}, 0.12},
	} {
		if got, err := dearer.chooser(big).Price(t.Context(), Spec{AMI: "ami-1", Types: tc.types, Market: tc.m}); err != nil || math.Abs(got.Most-tc.want) > 1e-9 {
			t.Errorf("%s: at most %g, %v; want %g", tc.name, got.Most, err, tc.want)
		}
	}
	if _, err := (&prices{}).chooser().Price(t.Context(), "nonsense"); providers.ClassOf(err) != providers.BadConfig {
		t.Error(err)
	}
}
