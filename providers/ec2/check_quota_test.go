package ec2

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

func TestEveryFamilyOfTypesHasItsQuota(t *testing.T) {
	t.Parallel()
	for typ, want := range map[string][2]string{
		"t3.small": {"L-1216C47A", "L-34B43A08"}, "m7i-flex.large": {"L-1216C47A", "L-34B43A08"}, "im4gn.large": {"L-1216C47A", "L-34B43A08"},
		"dl1.24xlarge": {"L-6E869C2A", "L-85EED4F7"}, "g5.xlarge": {"L-DB2E81BA", "L-3819A6DF"}, "vt1.3xlarge": {"L-DB2E81BA", "L-3819A6DF"},
		"inf2.xlarge": {"L-1945791B", "L-B5D1601B"}, "trn1.2xlarge": {"L-2C3B7624", "L-6B0D517C"}, "x2gd.medium": {"L-7295265B", "L-E3A00192"},
		"p4d.24xlarge": {"L-417A185B", "L-7212CCBC"}, "p5.48xlarge": {"L-417A185B", ""}, "hpc7g.4xlarge": {"L-F7808C92", ""}, "u-6tb1.metal": {"L-43DA4232", ""},
		"f1.2xlarge": {"L-74FC7D96", "L-88CF9481"}, "mac2.metal": {}, "": {}, "7": {},
	} {
		for i, market := range []string{onDemand, spot} {
			if q, ok := quotaOf(typ, market); q.code != want[i] || ok != (want[i] != "") {
				t.Errorf("%q, %s: %+v, %t; want %q", typ, market, q, ok, want[i])
			}
		}
	}
}

func TestAPlanSaysWhereAQuotaHasNoRoomForOneInstance(t *testing.T) {
	t.Parallel()
	const noRoom = "The account's quota has no room for the type"
	both := fine(func(s *Spec) { s.Market = Market{Spot: true, OnDemand: true} })
	for _, tc := range []struct {
		name   string
		specs  []any
		quotas map[string]float64
		err    error
		want   string
		detail string
		calls  int
	}{
		{"not known", []any{fine(nil)}, nil, nil, "", "", 1},
		{"room for one", []any{fine(nil)}, map[string]float64{"L-1216C47A": 2}, nil, "", "", 1},
		{"no room", []any{fine(nil)}, map[string]float64{"L-1216C47A": 1}, nil, "!0 instance_type: " + noRoom, "m7i.large has 2 vCPUs, and the account may use 1 in eu-central-1", 1},
		{"room on the other market", []any{both}, map[string]float64{"L-1216C47A": 5, "L-34B43A08": 0}, nil, "?0 instance_type: " + noRoom, "All Standard", 2},
		{"nowhere", []any{both}, map[string]float64{"L-1216C47A": 0, "L-34B43A08": 0}, nil, "!0 instance_type: " + noRoom, "may use 0", 2},
		{"asked once for many", []any{fine(nil), fine(func(s *Spec) { s.HopLimit = 2 })}, map[string]float64{"L-1216C47A": 9}, nil, "", "", 1},
		{"not permitted", []any{both}, nil, &callError{op: "GetServiceQuota", err: code("AccessDeniedException")}, "?-1 : Not checked: quotas", "servicequotas:GetServiceQuota", 1},
		{"no answer", []any{both}, nil, fmt.Errorf("no route"), "?-1 : Not checked: quotas", "No route", 1},
	} {
		a := &account{quotas: tc.quotas}
		if tc.err != nil {
			a.errs = map[string]error{"GetServiceQuota": tc.err}
		}
		found := a.provider(t, Config{}).Check(t.Context(), tc.specs)
		if got := shown(found); got != tc.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tc.name, got, tc.want)
		} else if tc.want != "" && !strings.Contains(found[0].Detail, tc.detail) {
			t.Errorf("%s: %q does not say %q", tc.name, found[0].Detail, tc.detail)
		}
		if n := a.calls["GetServiceQuota"]; n != tc.calls || a.calls["RunInstances"] == 0 {
			t.Errorf("%s: asked %d times, want %d; %d dry runs", tc.name, n, tc.calls, a.calls["RunInstances"])
		}
	}
}

// TestQuotasAreReadOverTheWire, with the SDK's own client.
func TestQuotasAreReadOverTheWire(t *testing.T) {
	t.Parallel()
	w := ec2test.Start(t)
	p, _ := openWorld(t, worldConfig(w), t.TempDir(), "me", slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = p.Close() })
	check := func() string { return shown(p.(providers.Checker).Check(t.Context(), []any{worldSpec()})) }
	w.Quota("L-1216C47A", 1)
	if got := check(); !strings.Contains(got, "!0 instance_type: The account's quota has no room for the type") {
		t.Errorf("one vCPU for a type that has two: %s", got)
	}
	w.Quota("L-1216C47A", 5)
	if got := check(); strings.Contains(got, "quota") {
		t.Errorf("five vCPUs: %s", got)
	}
	w.Deny("GetServiceQuota")
	if got := check(); !strings.Contains(got, "?-1 : Not checked: quotas") {
		t.Errorf("not permitted: %s", got)
	}
}
