package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/imds/imdstest"
)

// watched is a world whose one worker takes two builds at once, and whose agents ask a metadata service that has something to say of the first machine from
// the beginning: its agent hears of it while its first build begins.
func watched(t *testing.T, path, text string) *world {
	t.Helper()
	w := newWorld(t, false)
	service := imdstest.New(t)
	service.AnnounceToFirst(path, text)
	w.configure(config{OnStop: "terminate", Wait: "10m", Builders: builder("b", long.step()) + builder("c", talk{Name: "short", Seed: 4, Lines: 2}.step())})
	w.rewrite("{ E2E_MARK", `{ ROUSE_WORKER_WATCH = "ec2", AWS_EC2_METADATA_SERVICE_ENDPOINT = "`+service.URL+`", E2E_MARK`, "max_builds         = 1", "max_builds         = 2")
	w.up(nil)
	return w
}

// hears waits until the master has heard what is announced.
func (w *world) hears(what string) {
	w.t.Helper()
	w.until("the master hears of it", 20*time.Second, func() bool { return strings.Contains(w.said(), what) })
}

// On EC2 it is free (TestEC2SpotInterruptionCostsNoAttempt); of a provider that takes nothing back only the end is believed.
func TestANoticeCostsAnAttemptWhereNothingIsTakenBack(t *testing.T) {
	t.Parallel()
	w := watched(t, imdstest.Action, `{"action": "terminate", "time": "2026-09-18T08:22:00Z"}`)
	id := w.force("b")
	w.hears("the provider takes the instance back (spot-interruption): terminate at 2026-09-18T08:22:00Z")
	r := w.done(id, 40*time.Second)
	if r.Result != model.Success || r.Attempts != 2 {
		t.Errorf("got %s after %d attempts (%s)", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, long)
	if n := len(w.instances()); n != 2 || r.Build != 2 {
		t.Errorf("%d instances were made and build %d succeeded; want the second build on the second instance", n, r.Build)
	}
	if b := get[api.Build](w, "/builds/1"); b.Result != model.Retry || !strings.Contains(b.Text, "takes the instance back") {
		t.Errorf("the first build: %s (%s)", b.Result, b.Text)
	}
	w.cleanNow()
}

func TestARebalanceLetsTheBuildEndAndBeginsNoOther(t *testing.T) {
	t.Parallel()
	w := watched(t, imdstest.Rebalance, `{"noticeTime": "2026-09-18T08:20:00Z"}`)
	id := w.force("b")
	w.hears("the provider may take the instance back")
	second := w.force("c")
	r := w.done(id, 40*time.Second)
	if r.Result != model.Success || r.Attempts != 1 {
		t.Errorf("got %s after %d attempts (%s)", r.Result, r.Attempts, r.Text)
	}
	w.checkTalk(r.Build, 0, long)
	if r := w.done(second, 20*time.Second); r.Result != model.Success {
		t.Errorf("got %s: %s", r.Result, r.Text)
	}
	if got := strings.Join(w.witnessed(), ", "); got != "begin long, end long, begin short, end short" {
		t.Errorf("the steps' programs said %q", got)
	}
	if n := len(w.instances()); n != 2 {
		t.Errorf("%d instances were made, want 2", n)
	}
	w.cleanNow()
}
