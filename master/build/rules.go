package build

import (
	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

// tally is what the results of the steps so far make of a build.
type tally struct {
	result model.Result
	halted bool // only steps with always_run are still to run
	ended  bool // no step is to run any more
}

// add counts the result of one step. The rules are Buildbot's (computeResultAndTermination in process/results.py), where flunk_on_failure
// wins over warn_on_failure. A skipped step changes nothing, and a Retry ends the build at once: there is no worker to clean up on.
func (t *tally) add(st *hcl.Step, r model.Result) {
	counts := r
	switch r {
	case model.Skipped:
		return
	case model.Failure:
		switch {
		case st.FlunkOnFailure:
		case st.WarnOnFailure:
			counts = model.Warnings
		default:
			counts = model.Success
		}
		t.halted = t.halted || st.HaltOnFailure
	case model.Warnings:
		switch {
		case st.FlunkOnWarnings:
			counts = model.Failure
		case !st.WarnOnWarnings:
			counts = model.Success
		}
	case model.Exception, model.Cancelled:
		t.halted = true
	case model.Retry:
		t.halted, t.ended = true, true
	}
	t.result = model.Worst(t.result, counts)
}

// wants says whether a step is still to run.
func (t *tally) wants(st *hcl.Step) bool { return !t.ended && (!t.halted || st.AlwaysRun) }
