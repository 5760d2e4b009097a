package ec2

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// listed is a product of the price list as the API gives it, shortened.
func listed(instanceType, region, unit, usd string) string {
	return fmt.Sprintf(`{"product":{"productFamily":"Compute Instance","sku":"X","attributes":{"instanceType":%q,"regionCode":%q,"operatingSystem":"Linux",
		"preInstalledSw":"NA","capacitystatus":"Used","tenancy":"Shared","marketoption":"OnDemand","vcpu":"2"}},"serviceCode":"AmazonEC2","terms":{"OnDemand":{"X.J":{
		"priceDimensions":{"X.J.6":{"unit":%q,"beginRange":"0","endRange":"Inf","description":"per On Demand Linux","pricePerUnit":{"USD":%q}}},"effectiveDate":
		"2026-11-01T00:00:00Z"}}},"version":"1","publicationDate":"2026-11-01T00:00:00Z"}`, instanceType, region, unit, usd)
}

func TestThePriceListIsReadStrictly(t *testing.T) {
	t.Parallel()
	good := listed("m7i.large", "eu-central-1", "Hrs", "0.1207500000")
	for _, tc := range []struct {
		name     string
		products []string
		want     float64
		err      string
	}{
		{"one price", []string{good}, 0.12075, ""},
		{"the same price twice", []string{good, good}, 0.12075, ""},
		{"a price of zero does not count", []string{listed("m7i.large", "eu-central-1", "Hrs", "0"), good}, 0.12075, ""},
		{"another type does not count", []string{listed("m7i.xlarge", "eu-central-1", "Hrs", "0.24"), good}, 0.12075, ""},
		{"another region does not count", []string{listed("m7i.large", "us-east-1", "Hrs", "0.1"), good}, 0.12075, ""},
		{"Windows does not count", []string{strings.Replace(good, `"Linux"`, `"Windows"`, 1)}, 0, "no such type"},
		{"another unit does not count", []string{listed("m7i.large", "eu-central-1", "Quantity", "5"), good}, 0.12075, ""},
		{"two prices", []string{good, listed("m7i.large", "eu-central-1", "Hrs", "0.2")}, 0, "two prices"},
		{"nothing", nil, 0, "no such type"},
		{"only zero", []string{listed("m7i.large", "eu-central-1", "Hrs", "0.0000000000")}, 0, "no such type"},
		{"no terms", []string{`{"product":{"attributes":{"instanceType":"m7i.large"}}}`}, 0, "no such type"},
		{"no JSON", []string{"<html>"}, 0, "read the price list"},
		{"fields of another type", []string{`{"terms":{"OnDemand":[1]}}`}, 0, "read the price list"},
		{"no price", []string{listed("m7i.large", "eu-central-1", "Hrs", "much")}, 0, "no price in dollars"},
		{"no number", []string{listed("m7i.large", "eu-central-1", "Hrs", "NaN")}, 0, "no price in dollars"},
		{"less than nothing", []string{listed("m7i.large", "eu-central-1", "Hrs", "-1")}, 0, "no price in dollars"},
		{"a price that nobody could pay", []string{listed("m7i.large", "eu-central-1", "Hrs", "1e9")}, 0, "no price in dollars"},
		{"another currency", []string{strings.Replace(good, `"USD"`, `"CNY"`, 1)}, 0, "no price in dollars"},
		{"too long", []string{strings.Repeat(" ", maxProduct+1)}, 0, "bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := listPrice(tc.products, listFilters("eu-central-1", "m7i.large"))
			if math.Abs(got-tc.want) > 1e-12 || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%g, %v; want %g, %q", got, err, tc.want, tc.err)
			}
		})
	}
}

func FuzzListPrice(f *testing.F) {
	f.Add(listed("m7i.large", "eu-central-1", "Hrs", "0.12"))
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		usd, err := listPrice([]string{text}, listFilters("eu-central-1", "m7i.large"))
		if err == nil && (usd <= 0 || usd > maxUSD || math.IsNaN(usd)) {
			t.Fatalf("a price of %g", usd)
		}
	})
}

func TestBareMetalIsAskedForAsDedicated(t *testing.T) {
	t.Parallel()
	for instanceType, want := range map[string]string{"m7i.large": "Shared", "c7g.metal": "Dedicated", "m7i.metal-24xl": "Dedicated"} {
		if got := listFilters("eu-central-1", instanceType)["tenancy"]; got != want {
			t.Errorf("%s: tenancy %s", instanceType, got)
		}
	}
}

func TestTheBuiltInTableOfPricesIsSound(t *testing.T) {
	t.Parallel()
	if len(pricesJSON) > 20<<10 {
		t.Errorf("%d bytes", len(pricesJSON))
	}
	var head struct{ What, Source, Region, Date string }
	if err := json.Unmarshal(pricesJSON, &head); err != nil || head.What == "" || !strings.Contains(head.Source, "Apache") {
		t.Errorf("it does not say where it is from: %+v, %v", head, err)
	}
	if _, err := time.Parse(time.DateOnly, embedded().Date); err != nil || embedded().Region == "" {
		t.Error("it does not say when and where its prices were true:", err)
	}
	n := 0
	for family, sizes := range embedded().Prices {
		for size, usd := range sizes {
			n++
			if got, ok := embeddedPrice(family + "." + size); !ok || got != usd || usd < 0.001 || usd > 200 || !typePattern.MatchString(family+"."+size) {
				t.Errorf("%s.%s costs %g", family, size, usd)
			}
		}
	}
	if n < 400 {
		t.Errorf("only %d types", n)
	}
	for instanceType, want := range map[string]float64{"t3.micro": 0.0104, "m5.large": 0.096, "c7g.xlarge": 0.145} { // as Amazon's page says
		if got, _ := embeddedPrice(instanceType); got != want {
			t.Errorf("%s costs %g, not %g", instanceType, got, want)
		}
	}
	for _, no := range []string{"", "m5", "m5.", ".large", "z9.large"} {
		if usd, ok := embeddedPrice(no); ok {
			t.Errorf("%q costs %g", no, usd)
		}
	}
}
