package build

import (
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

func TestTallyFollowsBuildbot(t *testing.T) {
	t.Parallel()
	type is = hcl.Step
	flunk := is{FlunkOnFailure: true, HaltOnFailure: true, WarnOnWarnings: true} // Buildbot's defaults, but for halt
	for _, c := range []struct {
		name   string
		step   is
		before model.Result
		result model.Result
		want   model.Result
		halted bool
		ended  bool
	}{
		{"success keeps success", flunk, model.Success, model.Success, model.Success, false, false},
		{"success keeps warnings", flunk, model.Warnings, model.Success, model.Warnings, false, false},
		{"failure flunks and halts", flunk, model.Success, model.Failure, model.Failure, true, false},
		{"failure that need not halt", is{FlunkOnFailure: true}, model.Success, model.Failure, model.Failure, false, false},
		{"failure that warns", is{WarnOnFailure: true}, model.Success, model.Failure, model.Warnings, false, false},
		{"flunk wins over warn", is{FlunkOnFailure: true, WarnOnFailure: true}, model.Success, model.Failure, model.Failure, false, false},
		{"failure that does not count", is{}, model.Success, model.Failure, model.Success, false, false},
		{"failure that does not count but halts", is{HaltOnFailure: true}, model.Success, model.Failure, model.Success, true, false},
		{"warnings warn", flunk, model.Success, model.Warnings, model.Warnings, false, false},
		{"warnings flunk, but do not halt", is{FlunkOnWarnings: true, HaltOnFailure: true}, model.Success, model.Warnings, model.Failure, false, false},
		{"warnings that do not count", is{}, model.Success, model.Warnings, model.Success, false, false},
		{"warnings do not mend a failure", flunk, model.Failure, model.Warnings, model.Failure, false, false},
		{"skipped does not count", flunk, model.Success, model.Skipped, model.Success, false, false},
		{"skipped keeps warnings", flunk, model.Warnings, model.Skipped, model.Warnings, false, false},
		{"exception halts", is{}, model.Success, model.Exception, model.Exception, true, false},
		{"exception is worse than failure", is{}, model.Failure, model.Exception, model.Exception, true, false},
		{"retry ends", is{}, model.Exception, model.Retry, model.Retry, true, true},
		{"cancelled halts and is the worst", is{}, model.Exception, model.Cancelled, model.Cancelled, true, false},
	} {
		tally := tally{result: c.before}
		tally.add(&c.step, c.result)
		if tally.result != c.want || tally.halted != c.halted || tally.ended != c.ended {
			t.Errorf("%s: %+v", c.name, tally)
		}
	}
}

// TestTallyExhaustively holds properties that any rule set worth having has, for every combination of options, state and result.
func TestTallyExhaustively(t *testing.T) {
	t.Parallel()
	order := []model.Result{model.Success, model.Warnings, model.Failure, model.Exception, model.Retry, model.Cancelled}
	rank := map[model.Result]int{}
	for i, r := range order {
		rank[r] = i
	}
	all := append(order, model.Skipped)
	for bits := range 64 {
		st := hcl.Step{HaltOnFailure: bits&1 != 0, FlunkOnFailure: bits&2 != 0, WarnOnFailure: bits&4 != 0, FlunkOnWarnings: bits&8 != 0,
			WarnOnWarnings: bits&16 != 0, AlwaysRun: bits&32 != 0}
		for _, before := range order {
			for _, halted := range []bool{false, true} {
				for _, r := range all {
					got := tally{result: before, halted: halted}
					got.add(&st, r)
					switch {
					case rank[got.result] < rank[before]:
						t.Errorf("%+v: %s mends %s to %s", st, r, before, got.result)
					case halted && !got.halted:
						t.Errorf("%+v: %s lifts a halt", st, r)
					case got.ended != (r == model.Retry):
						t.Errorf("%+v: %s: ended %v", st, r, got.ended)
					case (r == model.Success || r == model.Skipped) && got != (tally{result: before, halted: halted}):
						t.Errorf("%+v: %s changes %s to %+v", st, r, before, got)
					case r >= model.Exception && rank[got.result] < rank[r]:
						t.Errorf("%+v: %s counts as %s", st, r, got.result)
					case r == model.Failure && !st.FlunkOnFailure && before == model.Success && got.result == model.Failure:
						t.Errorf("%+v: a failure counts", st)
					case got.wants(&st) != (!got.ended && (!got.halted || st.AlwaysRun)):
						t.Errorf("%+v after %+v: wanted %v", st, got, got.wants(&st))
					}
				}
			}
		}
	}
}
