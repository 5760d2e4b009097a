package core_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

var update = flag.Bool("update", false, "write the golden scripts' output")

// TestScripts runs testdata/*.txt. A script is read by a person: lines that begin with a word are orders, what the core did follows, indented.
//
//	worker NAME [provider=P] [max=N] [wait=D] [missing=D] [lock=L] [spec=S] [idle=stop] [vcpus=N] [memory=MIB]     builder NAME workers=A,B [lock=L[!]] [collapse] [attempts=N]
//	lock NAME [max=N] [worker]                                                provider NAME [settle=D] [sweep=D] [firm]
//	apply | submit BUILDER [n=N] [priority=N] [key=K] [on=WORKER] | cancel request|build ID | pause W [REASON] | kill W [INTERRUPTED]
//	ok|fail|gone|lost create|check|destroy|stop|start W [STATE or CLASS] | attach W [as=A] [token=KEY] [plain] | detach W | end BUILD RESULT | advance D
//	leave W [KEY] | sweep [P] | reap KEY | strays | rooms P [NAME=VCPUS/MIB/SLOTS[/down]]… | observe P KEY… | taken
//	scheduler NAME every=D | scheduled NAME [no]
//	list P [KEY[:stopped]…] [age=D] | crash | stop POLICY | explain ID
//	remove NAME | builds | timers
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newScript(t).run(string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("the core behaves differently (-want +got):\n%s", diff)
			}
		})
	}
}

type script struct {
	t       *testing.T
	s       *core.State
	disk    *disk
	cfg     core.Config
	applied []core.Config
	now     time.Time
	timers  map[string]core.SetTimer
	ops     map[string]model.OpID // "create w1" -> in flight
	lists   map[string]model.OpID
	due     map[string]time.Time
	session map[string]model.SessionID
	nextSes model.SessionID
	nextReq model.RequestID
	out     strings.Builder
}

func newScript(t *testing.T) *script {
	s := &script{t: t, s: core.New("me"), disk: newDisk("me"), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s.forget()
	return s
}

func (s *script) forget() {
	s.timers, s.ops, s.lists, s.session = map[string]core.SetTimer{}, map[string]model.OpID{}, map[string]model.OpID{}, map[string]model.SessionID{}
	s.due = map[string]time.Time{}
}

func (s *script) run(text string) string {
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "    "):
		case strings.TrimSpace(line) == "" || line[0] == '#':
			fmt.Fprintln(&s.out, line)
		default:
			fmt.Fprintln(&s.out, line)
			words := strings.Fields(line)
			s.order(words[0], words[1:])
		}
	}
	return s.out.String()
}

func (s *script) order(verb string, args []string) {
	p, o := opts(args)
	switch verb {
	case "provider", "worker", "remove", "builder", "lock", "scheduler":
		s.define(verb, p, o)
	case "scheduled":
		ev := core.Scheduled{Scheduler: p[0], At: s.due[p[0]]}
		if len(p) > 1 {
			ev.Error = p[1]
		} else {
			s.disk.schedules[p[0]] = ev.At // stored with the requests
		}
		s.step(ev)
	case "apply":
		s.cfg.Generation++
		s.applied = append(s.applied, s.cfg)
		s.step(core.ConfigApplied{Config: s.cfg})
	case "submit":
		var reqs []core.Request
		for range num(o["n"], 1) {
			s.nextReq++
			reqs = append(reqs, core.Request{ID: s.nextReq, Builder: p[0], Priority: num(o["priority"], 0), SubmittedAt: s.now, SourceKey: o["key"], Worker: o["on"]})
		}
		s.step(core.Submitted{Requests: reqs})
	case "cancel":
		ev := core.CancelAsked{Reason: "not wanted"}
		if p[0] == "request" {
			ev.Request = model.RequestID(num(p[1], 0))
		} else {
			ev.Build = model.BuildID(num(p[1], 0))
		}
		s.step(ev)
	case "pause":
		s.step(core.PauseAsked{Worker: p[0], Reason: strings.Join(p[1:], " ")})
	case "kill":
		ev := core.EndAsked{Worker: p[0], Reason: "ordered"}
		if len(p) > 1 {
			ev = core.EndAsked{Worker: p[0], Reason: "interrupted: it is taken back", Interrupted: p[1]}
		}
		s.step(ev)
	case "leave":
		s.step(core.LeaveAsked{Worker: p[0], Reason: "likely to be taken back", Instance: model.InstanceKey(strings.Join(p[1:], ""))})
	case "ok", "fail", "gone", "lost":
		s.answer(verb, p)
	case "attach":
		s.nextSes++
		agent := o["as"]
		if agent == "" {
			agent = "agent-" + p[0]
		}
		s.step(core.Attached{Worker: p[0], Session: s.nextSes, Instance: model.InstanceKey(o["token"]), Agent: agent, Resumable: !slices.Contains(p, "plain")})
	case "detach":
		s.step(core.Detached{Worker: p[0], Session: s.session[p[0]]})
	case "end":
		r, err := model.ParseResult(p[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.step(core.BuildEnded{Build: model.BuildID(num(p[0], 0)), Result: r, Text: "the steps say so"})
	case "advance":
		s.advance(s.dur(p[0], 0))
	case "list":
		op, ok := s.lists[p[0]]
		if !ok {
			s.t.Fatalf("no list of %s in flight", p[0])
		}
		delete(s.lists, p[0])
		ev := core.Listed{Op: op, AskedAt: s.now}
		var made time.Time
		if o["age"] != "" {
			made = s.now.Add(-s.dur(o["age"], 0))
		}
		for _, key := range p[1:] {
			key, off := strings.CutSuffix(key, ":stopped")
			state := core.SightRunning
			if off {
				state = core.SightStopped
			}
			ev.Instances = append(ev.Instances, core.Sighting{Key: model.InstanceKey(key), State: state, CreatedAt: made})
		}
		s.step(ev)
	case "crash":
		s.forget()
		s.s = core.Restore(s.disk.saved())
		s.step(core.Restarted{})
		s.step(core.ConfigApplied{Config: s.withRetired()})
	case "builds":
		for _, b := range s.s.Snapshot(s.now).Builds {
			fmt.Fprintf(&s.out, "    build %d of %s: generation %d, requests %v, locks %v\n", b.ID, b.Builder, b.Generation, b.Requests, b.Locks)
		}
	case "timers":
		for _, tm := range s.s.Snapshot(s.now).Timers {
			fmt.Fprintf(&s.out, "    %s at %s\n", tm.Name, tm.At.Format(time.TimeOnly))
		}
	case "stop":
		s.step(core.Stopping{Policy: map[string]core.StopPolicy{"keep": core.StopKeep, "drain": core.StopDrain, "terminate": core.StopTerminate}[p[0]]})
	case "sweep":
		s.step(core.SweepAsked{Provider: strings.Join(p, "")})
	case "reap":
		s.step(core.ReapAsked{Key: model.InstanceKey(p[0])})
	case "rooms":
		ev := core.RoomsKnown{Provider: p[0]}
		for _, arg := range args[1:] {
			name, limits, _ := strings.Cut(arg, "=")
			n := append(strings.Split(limits, "/"), "", "", "")
			ev.Rooms = append(ev.Rooms, core.Room{Name: name, VCPUs: num(n[0], 0), Memory: int64(num(n[1], 0)) << 20, Slots: num(n[2], 0), Down: n[3] == "down"})
		}
		s.step(ev)
	case "observe":
		ev := core.Observed{Provider: p[0]}
		for _, k := range p[1:] {
			ev.Keys = append(ev.Keys, model.InstanceKey(k))
		}
		s.step(ev)
	case "taken":
		for _, pr := range s.s.Snapshot(s.now).Providers {
			for _, r := range pr.Rooms {
				fmt.Fprintf(&s.out, "    %s of %s: %d vcpus, %d MiB, %d instances\n", r.Name, pr.Name, r.TakenVCPUs, r.TakenMemory>>20, r.Instances)
			}
		}
	case "strays":
		for _, v := range s.s.Snapshot(s.now).Strays {
			fmt.Fprintf(&s.out, "    %s of %s: seen %d times, sure %v, ending %v\n", v.Key, v.Provider, v.Sightings, v.Sure, v.Ending)
		}
	case "explain":
		ex, ok := s.s.Explain(s.now, model.RequestID(num(p[0], 0)))
		fmt.Fprintf(&s.out, "    %v %s\n", ok, ex.Text)
		for _, c := range ex.Candidates {
			fmt.Fprintf(&s.out, "      %s (%s): %s\n", c.Worker, c.State, strings.Join(c.Blocks, "; "))
		}
	default:
		s.t.Fatalf("unknown order %q", verb)
	}
}

// withRetired is the configuration as a master that starts gives it to the core: with the builders of older ones that have something to do.
func (s *script) withRetired() core.Config {
	c := s.cfg
	for _, r := range s.disk.saved().Requests {
		has := func(b core.Builder) bool { return b.Name == r.Builder }
		if slices.ContainsFunc(c.Builders, has) || slices.ContainsFunc(c.Retired, has) {
			continue
		}
		for _, old := range slices.Backward(s.applied) {
			if i := slices.IndexFunc(old.Builders, has); i >= 0 {
				c.Retired, c.RetiredLocks = append(c.Retired, old.Builders[i]), append(c.RetiredLocks, old.Locks...)
				break
			}
		}
	}
	return c
}

func (s *script) answer(verb string, p []string) {
	op, ok := s.ops[p[0]+" "+p[1]]
	if !ok {
		s.t.Fatalf("no %s of %s in flight after\n%s", p[0], p[1], s.out.String())
	}
	delete(s.ops, p[0]+" "+p[1])
	r := core.OpResult{Class: core.OpOK, State: core.SightRunning, ProviderID: "id-" + p[1]}
	if p[0] == "stop" || p[0] == "start" {
		r.State = core.SightPending
	}
	if len(p) > 2 && verb == "ok" {
		r.State = map[string]core.SightState{"pending": core.SightPending, "running": core.SightRunning, "stopping": core.SightStopping, "failed": core.SightFailed,
			"stopped": core.SightStopped, "interrupted": core.SightFailed}[p[2]]
		r.Interrupted = p[2] == "interrupted"
	}
	switch verb {
	case "lost":
		r = core.OpResult{Class: core.OpUnknown, Detail: "no reply"}
	case "gone":
		r = core.OpResult{Class: core.OpNotFound}
	case "fail":
		r = core.OpResult{Class: core.OpNoCapacity, Detail: "no such machine now"}
		if len(p) > 2 {
			r = core.OpResult{Class: map[string]core.OpClass{"bad-config": core.OpBadConfig, "unauthorized": core.OpUnauthorized, "transient": core.OpTransient}[p[2]],
				Detail: "refused"}
		}
	}
	s.step(core.OpDone{Op: op, Result: r})
}

// advance fires timers in their order until the time has passed.
func (s *script) advance(d time.Duration) {
	end := s.now.Add(d)
	for {
		var next *core.SetTimer
		for _, tm := range s.timers {
			if !tm.At.After(end) && (next == nil || tm.At.Before(next.At) || tm.At.Equal(next.At) && tm.Timer.Name < next.Timer.Name) {
				next = &tm
			}
		}
		if next == nil {
			break
		}
		delete(s.timers, next.Timer.Name)
		if next.At.After(s.now) {
			s.now = next.At
		}
		s.step(core.TimerFired{Timer: next.Timer})
	}
	s.now = end
}

func (s *script) step(ev core.Event) {
	b := s.s.Step(s.now, ev)
	s.disk.write(b.Delta)
	if err := s.s.Check(); err != nil {
		s.t.Errorf("after %T: %v", ev, err)
	}
	for _, e := range b.Delta.Journal {
		fmt.Fprintf(&s.out, "    %s %s\n", s.now.Format(time.TimeOnly), show(e))
	}
	for _, e := range b.Effects {
		switch e := e.(type) {
		case core.Admit:
			s.session[e.Worker] = e.Session
		case core.Hangup:
			if e.End {
				fmt.Fprintf(&s.out, "    %s an agent of %s is told to end\n", s.now.Format(time.TimeOnly), e.Worker)
			}
		case core.SetTimer:
			s.timers[e.Timer.Name] = e
		case core.Due:
			s.due[e.Scheduler] = e.At
		case core.CreateInstance:
			s.ops["create "+e.Worker] = e.Op
			if e.Place != "" {
				fmt.Fprintf(&s.out, "    %s %s is placed on %s\n", s.now.Format(time.TimeOnly), e.Key, e.Place)
			}
		case core.CheckInstance:
			s.ops["check "+s.disk.instances[e.Key].Worker] = e.Op
			fmt.Fprintf(&s.out, "    %s effect CheckInstance %s\n", s.now.Format(time.TimeOnly), e.Key)
		case core.DestroyInstance:
			of := s.disk.instances[e.Key].Worker
			if of == "" {
				of = string(e.Key) // an orphan
			}
			s.ops["destroy "+of] = e.Op
		case core.StopInstance:
			s.ops["stop "+s.disk.instances[e.Key].Worker] = e.Op
		case core.StartInstance:
			s.ops["start "+e.Worker] = e.Op
		case core.ReadConsole:
			fmt.Fprintf(&s.out, "    %s effect ReadConsole %s for %d builds\n", s.now.Format(time.TimeOnly), e.Key, len(e.Builds))
		case core.ListInstances:
			s.lists[e.Provider] = e.Op
			fmt.Fprintf(&s.out, "    %s effect ListInstances %s\n", s.now.Format(time.TimeOnly), e.Provider)
		}
	}
}

func show(e core.Entry) string {
	var b strings.Builder
	b.WriteString(e.Kind)
	if e.Kind == "effect" {
		b.WriteString(" " + e.To)
	}
	if e.Request != 0 && e.Kind == "request" {
		fmt.Fprintf(&b, " %d", e.Request)
	}
	if e.Build != 0 {
		fmt.Fprintf(&b, " build=%d", e.Build)
	}
	if e.Worker != "" {
		b.WriteString(" " + e.Worker)
	}
	if e.Instance != "" {
		b.WriteString(" " + string(e.Instance))
	}
	if e.Kind != "effect" {
		fmt.Fprintf(&b, ": %s -> %s", e.From, e.To)
	}
	if e.Cause != "" {
		b.WriteString(" (" + e.Cause + ")")
	}
	return b.String()
}
