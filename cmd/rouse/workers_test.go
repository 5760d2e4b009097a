package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

func TestNotesSayWhatAWorkerAndItsInstanceAre(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	note := workerNote(api.Worker{Tries: 3, FailClass: "no-capacity", BackoffUntil: until, LastError: "no such machine now"})
	if want := "3 failures (no-capacity), next try after 12:00:00: no such machine now"; note != want {
		t.Errorf("%q, want %q", note, want)
	}
	note = workerNote(api.Worker{Tries: 1, FailClass: "ended", LastError: "killed by SIGKILL"}) // the backoff is over: another try is under way
	if want := "1 failure (ended), the last: killed by SIGKILL"; note != want {
		t.Errorf("%q, want %q", note, want)
	}
	note = workerNote(api.Worker{AwaySince: until, AwayUntil: until.Add(2 * time.Minute)})
	if want := "its agent is away since 12:00:00, its builds wait until 12:02:00"; note != want {
		t.Errorf("%q, want %q", note, want)
	}
	in := api.Instance{Instance: model.Instance{Facts: map[string]string{"type": "m5.large", "zone": "eu-1a", "image": "ami-1", "market": "spot"}}}
	if got, want := machine(in), "m5.large, spot, eu-1a"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := machine(api.Instance{}); got != "" {
		t.Errorf("%q", got)
	}
}

func TestLogsOfAStepThatHasOnlyAConsoleShowThat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked, has, want string
	}{
		{"stdio", "stdio", "stdio"}, {"stdio", "console", "console"}, {"stdio", "stdio console", "stdio"}, {"console", "stdio console", "console"},
		{"console", "stdio", ""}, {"stdio", "", ""}, {"artifact", "console", ""},
	} {
		o := &logOptions{log: c.asked}
		if got := o.pick(api.Step{Logs: strings.Fields(c.has)}); got != c.want {
			t.Errorf("-log=%s of %q: %q, want %q", c.asked, c.has, got, c.want)
		}
	}
}
