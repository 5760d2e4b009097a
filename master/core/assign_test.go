package core_test

import (
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// TestAWorkerThatBacksOffNoMoreServesAllItsPools: an event may come between the end of a back-off and the timer for it. The build that it begins replaces the
// timer, so nothing else would tell the requests that were turned down meanwhile, before the machine has booted.
func TestAWorkerThatBacksOffNoMoreServesAllItsPools(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.run(`provider cloud
worker w1 provider=cloud max=2
worker w2 provider=cloud
worker w3 provider=cloud
builder first workers=w1
builder second workers=w1,w2
builder third workers=w1,w3
apply
pause w2 by hand
pause w3 by hand
submit first
fail create w1 transient
cancel request 1
submit second
`)
	if got := s.disk.requests[2].State; got != model.RequestWaiting {
		t.Fatalf("request 2 is %s while its worker backs off", got)
	}
	s.now = s.now.Add(core.MaxBackoff + time.Second) // no timer has fired yet
	s.run("submit third\n")
	for _, id := range []model.RequestID{2, 3} {
		if got := s.disk.requests[id].State; got != model.RequestClaimed {
			t.Errorf("request %d is %s; its worker has room for both", id, got)
		}
	}
}
