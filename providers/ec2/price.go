package ec2

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
)

// This file reads prices: Amazon's price list as its API gives it, and the small table that stands in for it. It is pure.

// A product of the price list is a JSON text of some kilobytes; these are the few fields that matter. Amazon documents none of them as required,
// so everything is checked, and what does not fit is no price.
type product struct {
	Product struct {
		Attributes map[string]string `json:"attributes"`
	} `json:"product"`
	Terms struct {
		OnDemand map[string]struct {
			PriceDimensions map[string]struct {
				Unit         string            `json:"unit"`
				PricePerUnit map[string]string `json:"pricePerUnit"`
			} `json:"priceDimensions"`
		} `json:"OnDemand"`
	} `json:"terms"`
}

const (
	maxProduct = 256 << 10 // bytes of one product
	maxUSD     = 10_000    // dollars per hour: no instance costs a tenth of it
)

// listFilters are the attributes of the one product in the price list that is this type on demand in this region: with Linux, nothing installed,
// and no reservation.
func listFilters(region, instanceType string) map[string]string {
	tenancy := "Shared"
	if _, size, _ := strings.Cut(instanceType, "."); strings.HasPrefix(size, "metal") {
		tenancy = "Dedicated"
	}
	return map[string]string{
		"regionCode": region, "instanceType": instanceType, "operatingSystem": "Linux", "preInstalledSw": "NA", "capacitystatus": "Used",
		"marketoption": "OnDemand", "tenancy": tenancy,
	}
}

// listPrice finds the hourly price in products of the price list. Products that say of themselves that they are something else do not count, nor do
// prices of zero; two prices are an error, since neither is better.
func listPrice(products []string, want map[string]string) (float64, error) {
	price := 0.0
	for _, text := range products {
		if len(text) > maxProduct {
			return 0, fmt.Errorf("a product of the price list has %d bytes", len(text))
		}
		var p product
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return 0, fmt.Errorf("read the price list: %w", err)
		}
		if !fits(p.Product.Attributes, want) {
			continue
		}
		for _, term := range p.Terms.OnDemand {
			for _, d := range term.PriceDimensions {
				if d.Unit != "Hrs" {
					continue
				}
				usd, err := dollars(d.PricePerUnit["USD"])
				switch {
				case err != nil:
					return 0, fmt.Errorf("read the price list: %w", err)
				case usd != 0 && price != 0 && usd != price:
					return 0, fmt.Errorf("the price list names two prices, %g and %g", price, usd)
				case usd != 0:
					price = usd
				}
			}
		}
	}
	if price == 0 {
		return 0, errNoPrice
	}
	return price, nil
}

var errNoPrice = errors.New("the price list has no such type in this region")

// fits says whether a product may be the wanted one; attributes that it does not name were the server's to check.
func fits(has, want map[string]string) bool {
	for k, v := range want {
		if h, ok := has[k]; ok && h != v {
			return false
		}
	}
	return true
}

// dollars reads a price per hour.
func dollars(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > maxUSD {
		return 0, fmt.Errorf("%.40q is no price in dollars", s)
	}
	return f, nil
}

//go:embed prices.json
var pricesJSON []byte

// table is the content of prices.json: what common types cost in one region on one day.
type table struct {
	Region string
	Date   string
	Prices map[string]map[string]float64 // by family, then size
}

var embedded = sync.OnceValue(func() (t table) {
	if err := json.Unmarshal(pricesJSON, &t); err != nil {
		panic(fmt.Sprintf("prices.json: %v", err)) // a test reads it
	}
	return t
})

// embeddedPrice is the price of the table; false if the type is not in it.
func embeddedPrice(instanceType string) (float64, bool) {
	family, size, _ := strings.Cut(instanceType, ".")
	usd, ok := embedded().Prices[family][size]
	return usd, ok
}

// gp3 is Amazon's list price of a gp3 volume in us-east-1 in dollars for a GiB and month; a month has 730 hours. Other regions and kinds of
// volume cost up to some times as much: what a stopped instance costs is an estimate.
const gp3 = 0.08 / 730

// diskPrice is what volumes of that many GiB cost per hour.
func diskPrice(gib int64) float64 { return float64(gib) * gp3 }
