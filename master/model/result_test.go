package model

import (
	"encoding/json"
	"testing"
)

func TestResultsHaveBuildbotsNumbersAndNames(t *testing.T) {
	t.Parallel()
	for n, name := range []string{"success", "warnings", "failure", "skipped", "exception", "retry", "cancelled"} {
		if got := Result(n).String(); got != name {
			t.Errorf("%d is %q, want %q", n, got, name)
		}
		if r, err := ParseResult(name); err != nil || r != Result(n) {
			t.Errorf("%q is %d (%v), want %d", name, r, err, n)
		}
	}
	if _, err := ParseResult("fine"); err == nil {
		t.Error("an unknown name is accepted")
	}
}

func TestWorstOrdersResultsAsBuildbotDoes(t *testing.T) {
	t.Parallel()
	order := []Result{NoResult, Skipped, Success, Warnings, Failure, Exception, Retry, Cancelled}
	for i, a := range order {
		for j, b := range order {
			if got, want := Worst(a, b), order[max(i, j)]; got != want {
				t.Errorf("worst of %s and %s is %s, want %s", a, b, got, want)
			}
		}
	}
}

func TestEnumsSurviveJSON(t *testing.T) {
	t.Parallel()
	in := struct {
		R Result
		S RequestState
		P BuildPhase
		I InstanceState
	}{Cancelled, RequestDone, BuildRunning, InstanceDoomed}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `{"R":"cancelled","S":"done","P":"running","I":"doomed"}` {
		t.Fatalf("%s, %v", b, err)
	}
	out := in
	out.R, out.S, out.P, out.I = 0, 0, 0, 0
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
}
