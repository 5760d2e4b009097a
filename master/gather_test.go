package master

import (
	"slices"
	"testing"

	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/providers"
)

func TestAPreflightsReasonStandsAloneForWhatCannotBeResolved(t *testing.T) {
	t.Parallel()
	finding := func(provider, summary string, fatal bool) plan.Finding {
		return plan.Finding{Provider: provider, Finding: providers.Finding{Summary: summary, Fatal: fatal}}
	}
	s := &survey{findings: []plan.Finding{
		finding("a", unresolved, true), finding("a", "No image is left", true), finding("a", unresolved, true),
		finding("b", unresolved, true), finding("b", "An image of anybody may be taken", false),
	}}
	s.once()
	var got []string
	for _, f := range s.findings {
		got = append(got, f.Provider+": "+f.Summary)
	}
	if want := []string{"a: No image is left", "b: " + unresolved, "b: An image of anybody may be taken"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
