package ec2

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// choosing opens a provider in a world that has what a preflight looks for.
func choosing(t *testing.T, w *ec2test.World, change func(*Config)) *provider {
	t.Helper()
	cfg := worldConfig(w)
	cfg.PricingEndpoint = w.URL
	if change != nil {
		change(&cfg)
	}
	p, _ := openWorld(t, cfg, t.TempDir(), "me", slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = p.Close() })
	return p.(*provider)
}

const imagesOwner = "099720109477"

func newest() Spec {
	s := worldSpec()
	s.AMI, s.Image = "", &ImageFilter{Owners: []string{imagesOwner}, LocationRegex: `bucket/rouse-worker-(?:arm-)?(\d+)`, Filters: map[string][]string{"architecture": {"x86_64"}}}
	return s
}

func TestImagesOfARealServer(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p := choosing(t, w, nil)
	list, err := p.Images(t.Context(), newest())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, im := range list {
		got = append(got, strings.TrimLeft(im.ID, "ami-0")+" "+im.Why)
	}
	want := []string{
		"1 location_regex does not match at the start of its location",
		`11 its state is "pending", not "available"`,
		"9 earlier in order, by integer 9",
		"10 taken: last in order, by integer 10",
	}
	got = slices.DeleteFunc(got, func(s string) bool { return !slices.Contains(want, s) }) // the server has images of its own, too
	slices.Sort(got[:2])
	if !slices.Equal(got, want) || !list[len(list)-1].Taken {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
	resolved, err := p.Resolve(t.Context(), newest())
	if err != nil || len(resolved) != 1 || resolved[0] != (providers.Resolved{Attr: "ami", Value: "ami-00000000000000010", Detail: "rouse-worker-10 of 2026-03-01"}) {
		t.Errorf("%+v, %v", resolved, err)
	}
	none := newest()
	none.Image.Filters = map[string][]string{"architecture": {"arm64"}, "name": {"rouse-worker-1*"}}
	if _, err := p.Images(t.Context(), none); err == nil || !strings.Contains(err.Error(), `without the filter "name" there would be 1`) {
		t.Errorf("%v", err)
	}
}

// A filter's image must be in a request for a spot instance, too: Buildbot forgets it there.
func TestASpotLaunchTakesTheFiltersImageAndTheBid(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p := choosing(t, w, nil)
	var asked url.Values
	w.Handle("RunInstances", func(form url.Values) (int, string, bool) { asked = form; return 0, "", false })
	s := newest()
	// The server's spot prices are all 0.00001.
	s.Market = Market{Spot: true, PriceMultiplier: 20_000, MaxPrice: 0.15, Product: "Linux/UNIX"}
	in, err := p.Create(t.Context(), providers.CreateRequest{Key: "me-w-1", Owner: "me", Worker: "w", Spec: s, Agent: providers.Agent{Master: "ws://127.0.0.1:1", Name: "w", Token: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.Instances(context.Background())
	if err != nil || len(all) != 1 || all[0].ID != in.ID {
		t.Fatalf("%+v, %v", all, err)
	}
	if asked.Get("ImageId") != "ami-00000000000000010" || asked.Get("InstanceMarketOptions.MarketType") != "spot" || asked.Get("InstanceMarketOptions.SpotOptions.MaxPrice") != "0.1500" {
		t.Errorf("image %s, market %s, bid %s", asked.Get("ImageId"), asked.Get("InstanceMarketOptions.MarketType"), asked.Get("InstanceMarketOptions.SpotOptions.MaxPrice"))
	}
	if in.Facts["image"] != "ami-00000000000000010" {
		t.Errorf("%+v", in)
	}
}

func TestManyLaunchesAskARealServerOnceForImageAndPrice(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p := choosing(t, w, nil)
	comes(t, func() bool {
		return p.maxPrice(t.Context(), Market{Spot: true, PriceMultiplier: 1.2, Product: "Linux/UNIX"}, "t3.micro", "us-east-1a") != ""
	})
	for range 50 {
		if _, err := p.image(t.Context(), newest()); err != nil {
			t.Fatal(err)
		}
		if bid := p.maxPrice(t.Context(), Market{Spot: true, PriceMultiplier: 1.2, Product: "Linux/UNIX"}, "t3.micro", "us-east-1a"); bid == "" {
			t.Fatal("no bid")
		}
	}
	if c := w.Calls(); c["DescribeImages"] != 1 || c["DescribeSpotPriceHistory"] != 1 {
		t.Errorf("%v", c)
	}
}

// comes waits for a price that a busy server gives later than a plan waits for it.
func comes(t *testing.T, come func() bool) {
	t.Helper()
	for end := time.Now().Add(priceAsk); !come(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no price came")
		}
	}
}

func TestPricesOfAServer(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	w.Price("t3.micro", 0.0123)
	p := choosing(t, w, nil)
	comes(t, func() bool { got, _ := p.Price(t.Context(), worldSpec()); return got.Source == "on-demand list price" })
	for range 3 {
		if got, err := p.Price(t.Context(), worldSpec()); err != nil || got.Running != 0.0123 || got.Source != "on-demand list price" || got.Stopped <= 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	s := worldSpec()
	s.Market = Market{Spot: true, Product: "Linux/UNIX"}
	comes(t, func() bool { got, _ := p.Price(t.Context(), s); return got.Source == "spot, mean of 24 h" })
	if got, err := p.Price(t.Context(), s); err != nil || got.Running <= 0 || got.Source != "spot, mean of 24 h" {
		t.Errorf("%+v, %v", got, err)
	}
	s = worldSpec()
	s.Types = []string{"m5.large"}
	if got, err := p.Price(t.Context(), s); err != nil || got.Running != 0.096 || !strings.Contains(got.Source, "2026-07-06") {
		t.Errorf("a type that the list does not have: %+v, %v", got, err)
	}
}

func TestAPreflightOfARealServer(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p := choosing(t, w, nil)
	spec := func(change func(*Spec)) any {
		s := worldSpec()
		if change != nil {
			change(&s)
		}
		return s
	}
	buildbots := func(s *Spec) { s.SecurityGroups, s.KeyName = []string{defaultName}, defaultName }
	expect := func(t *testing.T, want string, specs ...any) {
		t.Helper()
		if got := shown(p.Check(t.Context(), specs)); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
	expect(t, "", spec(nil))
	expect(t, "!0 security_name: No such security group\n!0 keypair_name: No such key pair", spec(buildbots))
	for action, params := range map[string][]string{
		"CreateSecurityGroup": {"GroupName", defaultName, "GroupDescription", "x"}, "CreateKeyPair": {"KeyName", defaultName},
	} {
		if _, err := w.Direct().Call(t.Context(), action, params...); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "", spec(buildbots))
	expect(t, "!0 ami: No such image", spec(func(s *Spec) { s.AMI = "ami-0123456789abcdef0" }))
	expect(t, "!0 ami: The image is not available", spec(func(s *Spec) { s.AMI = "ami-00000000000000011" }))
	expect(t, "!0 instance_type: No such type of instance", spec(func(s *Spec) { s.Types = []string{"t3.misspelt"} }))
	expect(t, "!0 instance_type: The image does not run on this type", spec(func(s *Spec) { s.AMI = "ami-000000000000000a8" }))
	expect(t, "", spec(func(s *Spec) { s.AMI, s.Types = "ami-000000000000000a8", []string{"t4g.micro"} }))
	expect(t, "!0 placement: No such zone", spec(func(s *Spec) { s.Zones = []string{"z"} }))
	expect(t, "", spec(func(s *Spec) { s.Zones = []string{"a"} }))
	expect(t, "!0 subnet_id: No such subnet", spec(func(s *Spec) { s.Subnets = []string{"subnet-0123456789abcdef0"} }))
	expect(t, "!0 elastic_ip: No such elastic address", spec(func(s *Spec) { s.ElasticIP = "192.0.2.1" }))
	expect(t, "!0 ami.location_regex: No image is left", func() any {
		s := newest()
		s.Image.LocationRegex = "nothing"
		return s
	}())
	expect(t, "", newest(), spec(func(s *Spec) { s.Market = Market{Spot: true, MaxPrice: 1, Product: "Linux/UNIX"} }))
	if all, err := w.Instances(context.Background()); err != nil || len(all) != 0 {
		t.Errorf("a preflight has made %+v, %v", all, err)
	}

	w.Deny("RunInstances", "DescribeKeyPairs")
	found := p.Check(t.Context(), []any{spec(buildbots)})
	if got := shown(found); got != "?-1 : Not checked: key pairs\n!-1 : A launch is not permitted" || !strings.Contains(found[1].Detail, "ec2:RunInstances") {
		t.Errorf("%s\n%+v", got, found)
	}
	w.Deny("DescribeInstances")
	found = p.Check(t.Context(), []any{spec(buildbots), spec(nil)})
	if got := shown(found); !strings.Contains(got, "!-1 : A permission is missing") || !strings.Contains(found[0].Detail, "ec2:DescribeInstances") {
		t.Errorf("%s\n%+v", got, found)
	}
}

func TestNobodyAnswersAPreflight(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p := choosing(t, w, func(c *Config) { c.Endpoint = "http://127.0.0.1:1" })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got := shown(p.Check(ctx, []any{worldSpec(), newest()})); got != "!-1 endpoint: EC2 can not be reached" {
		t.Error(got)
	}
	if ctx.Err() != nil {
		t.Error("the answer came too late to be used")
	}
}

func TestCredentialsThatAreNotAcceptedAreOneFinding(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	sts := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>
			<Message>The security token included in the request is invalid.</Message></Error><RequestId>r</RequestId></ErrorResponse>`)
	}))
	t.Cleanup(sts.Close)
	p := choosing(t, w, func(c *Config) { c.STSEndpoint = sts.URL })
	found := p.Check(t.Context(), []any{worldSpec(), newest()})
	if got := shown(found); got != "!-1 identifier: The credentials were not accepted" || !strings.Contains(found[0].Detail, "access key") {
		t.Errorf("%s\n%+v", got, found)
	}
	if c := w.Calls(); c["DescribeImages"]+c["RunInstances"] != 0 {
		t.Errorf("EC2 was asked nevertheless: %v", c)
	}
}
