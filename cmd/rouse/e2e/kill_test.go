package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// point is a moment at which a master is killed.
type point struct {
	line  string                                   // when its log says so
	nth   int                                      // for the nth time, from 1; 0 is 1
	event string                                   // because of this event, if not ""
	after time.Duration                            // and so long after that
	when  func(ctx context.Context, w *world) bool // instead of line: when this is true
}

// arm kills the master when its point has come. It returns the hook for its log.
func (p point) arm(ctx context.Context, w *world) func(*master, line) {
	seen := 0
	return func(m *master, l line) {
		if p.when != nil {
			if l.match("master started") || l.match("master restarted") {
				go func() {
					for ctx.Err() == nil && !m.isDead() {
						if p.when(ctx, w) {
							time.Sleep(p.after)
							m.kill()
							return
						}
						time.Sleep(time.Millisecond)
					}
				}()
			}
			return
		}
		// An agent on a busy machine may attach before its master has the answer to the create: then that is the moment.
		reached := l.match(p.line) || p.line == "instance booting" && l.match("worker attached")
		if !reached || p.event != "" && p.event != l.Event {
			return
		}
		if seen++; seen != max(p.nth, 1) {
			return
		}
		if p.after == 0 {
			m.kill() // before the pipe has room for another line
			return
		}
		time.AfterFunc(p.after, m.kill)
	}
}

// logged is true when a step's log, as the master keeps it on the disk, has so many bytes, or has ended and been compressed.
func logged(step int, size int) func(context.Context, *world) bool {
	return func(_ context.Context, w *world) bool {
		logs, _ := filepath.Glob(filepath.Join(w.state, "logs", "*", fmt.Sprintf("%d-stdio.*", step)))
		for _, l := range logs {
			if fi, err := os.Stat(l); err == nil && (fi.Size() >= int64(size) || filepath.Ext(l) != ".log") {
				return true
			}
		}
		return false
	}
}

// output is logged for a part of what the first command prints.
func output(percent int) func(context.Context, *world) bool {
	out, errs := talkText(killedBuild.one.Seed, killedBuild.one.Lines)
	return logged(0, (len(out)+len(errs))*percent/100)
}

// told is true when the steps' programs have said something.
func told(what string) func(context.Context, *world) bool {
	return func(_ context.Context, w *world) bool { return slices.Contains(w.witnessed(), what) }
}

// uploading is true when so many bytes of an artifact are there.
func uploading(size int64) func(context.Context, *world) bool {
	return func(_ context.Context, w *world) bool {
		parts, _ := filepath.Glob(filepath.Join(w.state, "artifacts", "*", "*", ".part-*"))
		for _, p := range parts {
			if fi, err := os.Stat(p); err == nil && fi.Size() >= size {
				return true
			}
		}
		return false
	}
}

// ladder are the points of a build's life, in their order. What is logged for one event is logged at once, after it is durable and before anything is
// done about it: a kill at such a line falls between commit and effect.
var ladder = []struct {
	name  string
	lives []point
}{
	{"while the master starts", []point{{line: "master started"}}},
	{"as it begins to serve", []point{{line: "master: serving"}}},
	{"request stored, not answered", []point{{line: "request waiting"}}},
	{"request claimed", []point{{line: "request claimed"}}},
	{"build preparing", []point{{line: "build preparing"}}},
	{"instance about to be asked for", []point{{line: "effect CreateInstance"}}},
	{"instance being made", []point{{line: "worker substantiating", after: time.Millisecond}}},
	{"instance there, not known", []point{{line: "instance started"}}},
	{"instance known, not attached", []point{{line: "instance booting"}}},
	{"agent on its way", []point{{line: "instance booting", after: 3 * time.Millisecond}}},
	{"attached, not admitted", []point{{line: "worker attached"}}},
	{"build stored as running, not started", []point{{line: "build running"}}},
	{"build about to start", []point{{line: "effect StartBuild"}}},
	{"admitted", []point{{line: "session: attached"}}},
	{"first command on its way", []point{{line: "session: attached", after: 2 * time.Millisecond}}},
	{"first command begun", []point{{when: told("begin one")}}},
	{"first output", []point{{when: output(1)}}},
	{"middle of the output", []point{{when: output(50)}}},
	{"late in the output", []point{{when: output(90)}}},
	{"first command ended", []point{{when: told("end one")}}},
	{"first command's end on its way", []point{{when: told("end one"), after: 20 * time.Millisecond}}},
	{"second command begun", []point{{when: told("begin two")}}},
	{"second command ended", []point{{when: told("end two"), after: time.Millisecond}}},
	{"captured output", []point{{when: logged(2, 10)}}},
	{"upload begun", []point{{when: uploading(0)}}},
	{"middle of the upload", []point{{when: uploading(4 << 20)}}},
	{"late in the upload", []point{{when: uploading(11 << 20)}}},
	{"build ended", []point{{line: "build success"}}},
	{"request ended", []point{{line: "request success"}}},
	{"instance doomed", []point{{line: "instance doomed"}}},
	{"about to hang up", []point{{line: "effect Hangup"}}},
	{"instance about to be destroyed", []point{{line: "effect DestroyInstance"}}},
	{"hung up", []point{{line: "session: detached"}}},
	{"destroy accepted", []point{{line: "effect DestroyInstance", nth: 2}}},
	{"instance gone", []point{{line: "instance gone"}}},
	{"worker free", []point{{line: "worker not-substantiated"}}},

	{"again while it recovers", []point{{when: output(20)}, {line: "master restarted"}, {line: "master: serving"}, {line: "worker attached"},
		{line: "session: attached"}}},
	{"five times in the output", []point{{when: output(10)}, {when: output(30)}, {when: output(50)}, {when: output(70)}, {when: output(90)}}},
	{"at each end of the life", []point{{line: "effect CreateInstance"}, {line: "instance started"}, {line: "build running"}, {when: told("end one")},
		{when: uploading(6 << 20)}, {line: "build success"}, {line: "instance gone"}}},
	{"twice in the upload", []point{{when: uploading(3 << 20)}, {when: uploading(9 << 20), after: time.Millisecond}}},
}

const artifactSize = 16 << 20

// killedBuild is the build that the ladder is climbed with.
var killedBuild = struct{ one, two talk }{
	talk{Name: "one", Seed: 1, Lines: 120, Artifact: artifactSize},
	talk{Name: "two", Seed: 2, Lines: 10, PaceMS: 5},
}

func killedBuilder(name string, pace int) string {
	one := killedBuild.one
	one.PaceMS = pace
	return builder(name, one.step(), killedBuild.two.step(), `
  step "set_property" "words" {
    property = "words"
    command  = "printf 'many  words'; echo \"begin prop\" >> $E2E_WITNESS"
  }
  step "upload" "artifact" {
    from = "artifact.bin"
  }
`)
}

// TestKillNineAtAnyPoint kills the master at every point of a build's life, and starts another one on the same state.
func TestKillNineAtAnyPoint(t *testing.T) {
	t.Parallel()
	for i, c := range ladder {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, i%2 == 0)
			w.configure(config{Builders: killedBuilder("b", 8)})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			acknowledged := false
			for n, p := range c.lives {
				m := w.start(p.arm(ctx, w))
				select {
				case <-m.ready:
					acknowledged = w.submitOnce("b", acknowledged)
				case <-m.dead:
				case <-time.After(30 * time.Second):
					t.Fatal("the master does not come up")
				}
				select {
				case <-m.dead:
				case <-time.After(20 * time.Second):
					t.Fatalf("point %d was never reached", n)
				}
				if code := m.cmd.ProcessState.ExitCode(); code != -1 {
					t.Fatalf("the master ended by itself, with code %d", code)
				}
			}
			w.up(nil)
			w.submitOnce("b", acknowledged)
			w.checkKilled(1, "b")
			w.checkOnce(1)
			w.clean()
		})
	}
}

// submitOnce asks for the build unless it is there already. It says whether a master has acknowledged it: from then on it must be there.
func (w *world) submitOnce(builder string, acknowledged bool) bool {
	w.t.Helper()
	_, err := try[api.Request](w, "/requests/1")
	var p *api.Problem
	switch {
	case err == nil:
		return true
	case errors.As(err, &p) && p.Status == 404 && acknowledged:
		w.t.Fatal("an acknowledged request is lost")
	case errors.As(err, &p) && p.Status == 404:
		_, err = post[api.Forced](w, "/force", api.Force{Builder: builder})
		return err == nil // an answer may get lost with the master that gives it
	}
	return acknowledged
}

// checkKilled says whether a request was served as if nothing had happened: once, at the first attempt, on one instance, with all its logs.
func (w *world) checkKilled(id model.RequestID, builder string) {
	w.t.Helper()
	r := w.done(id, 40*time.Second)
	if r.Result != model.Success || r.Attempts != 1 {
		w.t.Fatalf("got %s after %d attempts (%s), want success at once", r.Result, r.Attempts, r.Text)
	}
	ends := 0
	for _, e := range get[api.Trace](w, fmt.Sprintf("/requests/%d/trace", id)).Entries {
		if e.Kind == "request" && e.To == "success" {
			ends++
		}
	}
	if ends != 1 {
		w.t.Errorf("request %d ended %d times", id, ends)
	}
	b := get[api.BuildDetail](w, fmt.Sprintf("/builds/%d", r.Build))
	if v := b.Properties["words"].Value; v != "many  words" {
		w.t.Errorf("the property is %q", v)
	}
	for _, s := range b.Steps {
		if s.Result != model.Success || s.FinishedAt.IsZero() {
			w.t.Errorf("step %s: %s (%s)", s.Name, s.Result, s.Text)
		}
	}
	w.checkTalk(r.Build, 0, killedBuild.one)
	w.checkTalk(r.Build, 1, killedBuild.two)
	file := w.artifact(builder, r.Build, "artifact.bin")
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, artifactBytes(killedBuild.one.Seed, artifactSize)) {
		w.t.Errorf("the artifact is not whole: %d bytes, %v", len(got), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		w.t.Errorf("something is beside the artifact: %v", entries)
	}
	made := 0
	for _, in := range w.instances() {
		if in.Key == b.Instance {
			made++
		}
	}
	if all := len(w.instances()); made != 1 || all != len(get[api.BuildList](w, "/builds", "limit", "1000").Builds) {
		w.t.Errorf("%d instances for build %d, %d in all", made, b.ID, all)
	}
}

// checkOnce says whether each step's program of so many builds ran once.
func (w *world) checkOnce(builds int) {
	w.t.Helper()
	times := map[string]int{}
	for _, said := range w.witnessed() {
		times[said]++
	}
	for _, what := range []string{"begin one", "end one", "begin two", "end two", "begin prop"} {
		if times[what] != builds {
			w.t.Errorf("%d builds said %q %d times", builds, what, times[what])
		}
	}
}

// TestKillAnywhere kills masters at random moments of many builds, until it has killed as many as it is told to.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	kills := envInt("KILLS", 12)
	w := newWorld(t, true)
	w.configure(config{Builders: killedBuilder("b", 8), Count: 2})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var ids []model.RequestID
	var killed atomic.Int64
	for int(killed.Load()) < kills {
		m := w.start(nil)
		lives := time.Duration(rnd.Int64N(int64(1500 * time.Millisecond)))
		if rnd.IntN(4) == 0 { // in the middle of its start
			lives = time.Duration(rnd.Int64N(int64(60 * time.Millisecond)))
		}
		time.AfterFunc(lives, func() { m.kill(); killed.Add(1) })
		select {
		case <-m.ready:
			if live, err := try[api.RequestList](w, "/requests"); err == nil && live.Total < 3 {
				if made, err := post[api.Forced](w, "/force", api.Force{Builder: "b"}); err == nil {
					ids = append(ids, made.Requests...)
				}
			}
		case <-m.dead:
		}
		m.awaitDeath(30 * time.Second)
	}
	w.up(nil)
	if len(ids) == 0 {
		ids = append(ids, w.force("b"))
	}
	w.until("all requests are done", time.Minute+time.Duration(kills)*time.Second, func() bool {
		return get[api.RequestList](w, "/requests").Total == 0
	})
	for _, id := range ids {
		w.checkKilled(id, "b")
	}
	w.checkOnce(len(ids))
	t.Logf("%d builds under %d kills", len(ids), kills)
	w.clean()
}
