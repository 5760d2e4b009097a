package ec2test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Price sets what an instance type costs on demand, in US dollars per hour; the price list has no other types.
func (w *World) Price(typ string, dollars float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prices[typ] = dollars
}

// servePrices answers the Pricing service's GetProducts, as far as it filters by instance type.
func (w *World) servePrices(rw http.ResponseWriter, action string, body []byte) {
	w.mu.Lock()
	w.calls["pricing:"+action]++
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
	var in struct {
		Filters []struct{ Field, Type, Value string }
	}
	if action != "GetProducts" || json.Unmarshal(body, &in) != nil {
		rw.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(rw, `{"__type": "InvalidParameterException", "Message": "only GetProducts"}`)
		return
	}
	want := map[string]string{}
	for _, f := range in.Filters {
		want[f.Field] = f.Value
	}
	list := []string{}
	w.mu.Lock()
	for typ, dollars := range w.prices {
		if want["instanceType"] == "" || want["instanceType"] == typ {
			list = append(list, product(typ, dollars))
		}
	}
	w.mu.Unlock()
	_ = json.NewEncoder(rw).Encode(map[string]any{"FormatVersion": "aws_v1", "PriceList": list})
}

// product is one entry of a price list, which is JSON in a string.
func product(typ string, dollars float64) string {
	type m = map[string]any
	b, err := json.Marshal(m{
		"product": m{"productFamily": "Compute Instance", "sku": "SKU" + typ, "attributes": m{"instanceType": typ, "regionCode": Region, "operatingSystem": "Linux",
			"preInstalledSw": "NA", "capacitystatus": "Used", "tenancy": "Shared", "marketoption": "OnDemand"}},
		"serviceCode": "AmazonEC2",
		"terms": m{"OnDemand": m{"T." + typ: m{"priceDimensions": m{"D." + typ: m{
			"unit": "Hrs", "pricePerUnit": m{"USD": fmt.Sprintf("%.10f", dollars)}, "beginRange": "0", "endRange": "Inf"}}}}},
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(b)
}
