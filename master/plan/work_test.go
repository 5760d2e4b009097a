package plan

import (
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/model"
)

func TestARequestOfARemovedBuilderIsStillBuiltIfAnyOfItsWorkersStays(t *testing.T) {
	t.Parallel()
	const removed = `
worker "old" { password = secret.p }
secret "p" { env = "P" }
builder "doc" {
  workers = [worker.old, worker.linux]
  step "shell" "build" { command = "make doc" }
}
scheduler "triggerable" "doc" { builders = [builder.doc] }
`
	for _, tc := range []struct{ old, text, warning string }{
		{removed, "is built with the definition of generation 2 all the same", "What waits is still built"},
		{strings.Replace(removed, ", worker.linux", "", 1), "waits: its builder is removed, and so are all its workers", "Its workers, old, are removed, too"},
	} {
		in := input(t, load(t, small+tc.old, "password=x"), load(t, small, "password=x"))
		in.Queued = []model.Request{{ID: 9, Builder: "doc", Generation: 2}}
		p := Compute(in)
		if len(p.Work) != 1 || p.Work[0].Effect != "builder-removed" || !strings.Contains(p.Work[0].Text, tc.text) {
			t.Errorf("work: %+v, want %q", p.Work, tc.text)
		}
		if len(p.Diagnostics) != 1 || !strings.Contains(p.Diagnostics[0].Detail, tc.warning) {
			t.Errorf("diagnostics: %+v, want %q", p.Diagnostics, tc.warning)
		}
	}
}
