package api

import (
	"testing"

	"github.com/rouse-ci/rouse/master/model"
)

func TestAResultIsSaidOnce(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "failure",
		"failure: 'make' failed": "failure: 'make' failed",
		"lost its worker.":       "failure, lost its worker",
	} {
		if got := outcome(model.Failure, text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
