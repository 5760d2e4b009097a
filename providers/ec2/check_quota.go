package ec2

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"

	"github.com/rouse-ci/rouse/providers"
)

// A dry run does not count: how many vCPUs an account may use at once, by family of types and market, only Service Quotas knows. In a new account most
// families have none at all.

// quota is one of those quotas.
type quota struct{ code, name string }

// quotaOf is the quota that instances of a type count against; false if it is not known. The codes are those of "On-Demand Instance quotas" and "Spot
// Instance quotas" in the EC2 user guide. P5 has had a spot quota of its own, and high-memory and HPC types are not sold as spot: they are left out there.
func quotaOf(instanceType, market string) (quota, bool) {
	family, _, _ := strings.Cut(instanceType, ".")
	letters := family[:len(family)-len(strings.TrimLeft(family, "abcdefghijklmnopqrstuvwxyz"))]
	if strings.HasPrefix(family, "p5") && market == spot {
		return quota{}, false
	}
	for _, q := range []struct{ letters, onDemand, spot, name string }{
		{"a c d h i is im m r t z", "L-1216C47A", "L-34B43A08", "Standard (A, C, D, H, I, M, R, T, Z)"},
		{"f", "L-74FC7D96", "L-88CF9481", "F"},
		{"g gr vt", "L-DB2E81BA", "L-3819A6DF", "G and VT"},
		{"p", "L-417A185B", "L-7212CCBC", "P"},
		{"x", "L-7295265B", "L-E3A00192", "X"},
		{"inf", "L-1945791B", "L-B5D1601B", "Inf"},
		{"trn", "L-2C3B7624", "L-6B0D517C", "Trn"},
		{"dl", "L-6E869C2A", "L-85EED4F7", "DL"},
		{"hpc", "L-F7808C92", "", "HPC"},
		{"u", "L-43DA4232", "", "High Memory"},
	} {
		if !slices.Contains(strings.Fields(q.letters), letters) {
			continue
		}
		if market == spot {
			return quota{q.spot, "All " + q.name + " Spot Instance Requests"}, q.spot != ""
		}
		return quota{q.onDemand, "Running On-Demand " + q.name + " instances"}, true
	}
	return quota{}, false
}

// quotas looks whether the account's quotas have room for a single instance of each type. One choice that fits is enough for a launch; what does not fit
// beside it is a warning. How many fit is not said: others in the account may use the same quota.
func (f *preflight) quotas(ctx context.Context, w *inventory) {
	known := map[string]float64{}
	for i := range f.specs {
		s := &f.specs[i]
		var wrong []string
		fits, said := false, map[string]bool{}
		for _, c := range s.choices(f.p.region) {
			q, ok := quotaOf(c.Type, c.Market)
			info, there := w.types[c.Type]
			if !ok || !there || info.VCpuInfo == nil || aws.ToInt32(info.VCpuInfo.DefaultVCpus) == 0 {
				fits = true // as far as anybody knows
				continue
			}
			if _, asked := known[q.code]; !asked {
				limit, ok := f.quota(ctx, q)
				if f.quotaDown {
					return
				}
				if !ok {
					limit = -1
				}
				known[q.code] = limit
			}
			need, limit := float64(*info.VCpuInfo.DefaultVCpus), known[q.code]
			if limit < 0 || need <= limit {
				fits = true
			} else if text := fmt.Sprintf("%s has %g vCPUs, and the account may use %g in %s (%s, %s).", c.Type, need, limit, f.p.region, q.name, q.code); !said[text] {
				said[text] = true
				wrong = append(wrong, text)
			}
		}
		if len(wrong) > 0 {
			f.say(providers.Finding{Fatal: !fits, Spec: s.at, Attr: plural("instance_type", s.Types), Summary: "The account's quota has no room for the type", Detail: strings.Join(wrong, " ") +
				" Service Quotas takes requests for more."})
		}
	}
}

// quota asks for one value; false if nobody knows it. If it cannot be asked, f.quotaDown is set, and that is said once.
func (f *preflight) quota(ctx context.Context, q quota) (float64, bool) {
	out, err := within(ctx, hello, f.p.api.GetServiceQuota, &servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: aws.String(q.code)})
	switch code := codeOf(err); {
	case err == nil:
		if out.Quota == nil || out.Quota.Value == nil {
			return 0, false
		}
		return *out.Quota.Value, true
	case code == "NoSuchResourceException":
		return 0, false
	case missingPermission(code):
		f.say(providers.Finding{Spec: -1, Summary: "Not checked: quotas", Detail: ended(permission(err))})
	case f.p.cfg.Endpoint == "": // another endpoint need not have this service
		f.say(providers.Finding{Spec: -1, Summary: "Not checked: quotas", Detail: ended(describe(err))})
	}
	f.quotaDown = true
	return 0, false
}
