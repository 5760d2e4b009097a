package latent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	now    = time.Unix(1e9, 0)
	policy = Policy{Missing: 20 * time.Minute, BuildWait: 10 * time.Minute, Grace: 2 * time.Minute, Settle: 5 * time.Second, StopLimit: 15 * time.Minute, CheckInterval: 10 * time.Second, DestroyBackoff: time.Second}
)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// booting, up and lost are instances at three ages of their lives.
func booting() *Instance {
	return &Instance{Key: "k", AskedAt: ago(time.Minute), Resolved: true, UnresolvedAt: ago(time.Minute)}
}
func up() *Instance {
	return &Instance{Key: "k", AskedAt: ago(time.Hour), Resolved: true, BootedAt: ago(time.Hour), AttachedAt: ago(time.Hour)}
}
func lost(d time.Duration) *Instance { in := up(); in.LostAt = ago(d); return in }

// power is an instance that was stopped or woken so long ago; woken one that runs again and whose agent is not there yet.
func power(p Power, d time.Duration) *Instance {
	in := up()
	if in.Power, in.PowerAt = p, ago(d); p == Waking {
		in.AttachedAt = time.Time{}
	}
	return in
}

func woken(d time.Duration) *Instance {
	in := power(Waking, d)
	in.Power = On
	return in
}

func doomed(in *Instance) *Instance { in.Doomed, in.DoomedAt = true, ago(time.Second); return in }

func TestNextDecides(t *testing.T) {
	t.Parallel()
	zero, keep, sleepy := policy, policy, policy
	zero.BuildWait, keep.BuildWait, sleepy.Sleep = 0, -1, true
	sleepyZero := sleepy
	sleepyZero.BuildWait = 0
	for _, c := range []struct {
		name string
		f    Facts
		p    *Policy
		want Action
		why  string
	}{
		{"nothing wanted, nothing there", Facts{}, nil, Wait, ""},
		{"a build waits", Facts{Builds: 1}, nil, DoCreate, ""},
		{"a build waits, but the worker backs off", Facts{Builds: 1, BackoffUntil: now.Add(1)}, nil, Wait, ""},
		{"a build waits, but the worker is retired", Facts{Builds: 1, Retired: true}, nil, Wait, ""},
		{"a build waits, but the master stops", Facts{Builds: 1, Frozen: true}, nil, Wait, ""},
		{"it boots: look from time to time", Facts{Builds: 1, Instance: booting(), Certain: true}, nil, DoCheck, ""},
		{"it boots: not yet time to look", Facts{Builds: 1, Instance: booting(), Certain: true, NotBefore: now.Add(1)}, nil, Wait, ""},
		{"a call is in flight", Facts{Builds: 1, Instance: booting(), Op: 7, OpKind: Create}, nil, Wait, ""},
		{"the answer to the create is not known, and it was not there", Facts{Builds: 1, Instance: &Instance{AskedAt: ago(1)}, Missed: true}, nil, DoCreate, ""},
		{"the same while the master stops: only look", Facts{Builds: 1, Instance: &Instance{AskedAt: ago(1)}, Missed: true, Frozen: true}, nil, DoCheck, ""},
		{"nobody needs the booting one", Facts{Instance: booting(), Certain: true}, nil, Doom, "no build needs it"},
		{"nobody needs it, and the create is still in flight: decide, do not wait", Facts{Instance: booting(), Op: 7, OpKind: Create}, nil, Doom, "no build needs it"},
		{"missing_timeout", Facts{Builds: 1, Instance: &Instance{AskedAt: ago(20 * time.Minute), Resolved: true}}, nil, Doom, "missing_timeout"},
		{"busy", Facts{Builds: 1, Running: 1, Instance: up(), Session: 3, IdleSince: ago(time.Hour)}, nil, Wait, ""},
		{"idle, not long enough", Facts{Instance: up(), Session: 3, IdleSince: ago(10*time.Minute - 1)}, nil, Wait, ""},
		{"idle long enough", Facts{Instance: up(), Session: 3, IdleSince: ago(10 * time.Minute)}, nil, Doom, "build_wait_timeout"},
		{"build_wait_timeout = 0", Facts{Instance: up(), Session: 3, IdleSince: now}, &zero, Doom, "build_wait_timeout = 0"},
		{"build_wait_timeout < 0", Facts{Instance: up(), Session: 3, IdleSince: ago(time.Hour)}, &keep, Wait, ""},
		{"retired and idle", Facts{Instance: up(), Session: 3, Retired: true, IdleSince: now}, nil, Doom, "no longer configured"},
		{"retired and busy", Facts{Builds: 1, Running: 1, Instance: up(), Session: 3, Retired: true}, nil, Wait, ""},
		{"outdated and idle", Facts{Instance: up(), Session: 3, Outdated: true, IdleSince: now}, nil, Doom, "configuration has changed"},
		{"draining and idle", Facts{Instance: up(), Session: 3, Frozen: true, Draining: true, IdleSince: now}, nil, Doom, "stopping"},
		{"keeping and idle", Facts{Instance: up(), Session: 3, Frozen: true, IdleSince: ago(time.Hour)}, nil, Wait, ""},
		{"lost: look", Facts{Builds: 1, Running: 1, Instance: lost(time.Second)}, nil, DoCheck, ""},
		{"lost, seen since: give it time", Facts{Builds: 1, Running: 1, Instance: lost(time.Second), Certain: true}, nil, Wait, ""},
		{"lost too long", Facts{Builds: 1, Running: 1, Instance: lost(2 * time.Minute), Certain: true}, nil, Doom, "did not come back"},
		{"doomed", Facts{Instance: doomed(up())}, nil, DoDestroy, ""},
		{"doomed, but its builds still run", Facts{Builds: 1, Running: 1, Instance: doomed(up())}, nil, Wait, ""},
		{"doomed, paused between two destroys", Facts{Instance: doomed(up()), NotBefore: now.Add(1)}, nil, Wait, ""},
		{"doomed while it is being stopped: end it", Facts{Instance: doomed(power(Stopping, time.Minute)), Certain: true}, nil, DoDestroy, ""},
		{"doomed while it sleeps: it is not started for that", Facts{Builds: 1, Instance: doomed(power(Stopped, time.Minute)), Certain: true}, &sleepy, DoDestroy, ""},
		{"idle long enough, to be stopped", Facts{Instance: up(), Session: 3, IdleSince: ago(10 * time.Minute)}, &sleepy, Sleep, "build_wait_timeout"},
		{"idle, not long enough to be stopped", Facts{Instance: up(), Session: 3, IdleSince: ago(time.Minute)}, &sleepy, Wait, ""},
		{"to be stopped after every build", Facts{Instance: up(), Session: 3, IdleSince: now}, &sleepyZero, Sleep, "build_wait_timeout = 0"},
		{"to be stopped, but it never had an agent: end it", Facts{Instance: booting(), Certain: true}, &sleepy, Doom, "no build needs it"},
		{"nobody needs the one that wakes: back to sleep", Facts{Instance: power(Waking, time.Second), Certain: true}, &sleepy, Sleep, "no build needs it"},
		{"the same once it runs", Facts{Instance: woken(time.Second), Certain: true}, &sleepy, Sleep, "no build needs it"},
		{"retired and idle: not worth a stop", Facts{Instance: up(), Session: 3, Retired: true, IdleSince: now}, &sleepy, Doom, "no longer configured"},
		{"to be stopped", Facts{Instance: power(Stopping, time.Second), Certain: true}, &sleepy, DoStop, ""},
		{"to be stopped, the last order's effect is not known: look", Facts{Instance: power(Stopping, time.Second)}, &sleepy, DoCheck, ""},
		{"to be stopped, and not yet time for the next order", Facts{Instance: power(Stopping, time.Second), Certain: true, NotBefore: now.Add(1)}, &sleepy, Wait, ""},
		{"to be stopped, and the master stops, too", Facts{Instance: power(Stopping, time.Second), Certain: true, Frozen: true}, &sleepy, DoStop, ""},
		{"to be stopped for too long", Facts{Instance: power(Stopping, 15*time.Minute), Certain: true}, &sleepy, Doom, "had no effect"},
		{"to be stopped, and the master drains", Facts{Instance: power(Stopping, time.Second), Certain: true, Frozen: true, Draining: true}, &sleepy, Doom, "stopping"},
		{"it sleeps: nothing is waited for", Facts{Instance: power(Stopped, 24*time.Hour), Certain: true}, &sleepy, Wait, ""},
		{"it sleeps, as far as is known: look", Facts{Instance: power(Stopped, 24*time.Hour)}, &sleepy, DoCheck, ""},
		{"it sleeps, and a build waits", Facts{Builds: 1, Instance: power(Stopped, time.Hour)}, &sleepy, Wake, ""},
		{"it sleeps, a build waits, but the worker backs off", Facts{Builds: 1, Instance: power(Stopped, time.Hour), Certain: true, BackoffUntil: now.Add(1)}, &sleepy, Wait, ""},
		{"it sleeps, a build waits, but the master stops", Facts{Builds: 1, Instance: power(Stopped, time.Hour), Certain: true, Frozen: true}, &sleepy, Wait, ""},
		{"somebody stopped it under its builds: let them end first", Facts{Builds: 2, Running: 1, Instance: power(Stopped, time.Second), Certain: true}, &sleepy, Wait, ""},
		{"it sleeps and is outdated", Facts{Instance: power(Stopped, time.Hour), Certain: true, Outdated: true}, &sleepy, Doom, "configuration has changed"},
		{"it sleeps and is outdated, whatever waits", Facts{Builds: 1, Instance: power(Stopped, time.Hour), Certain: true, Outdated: true}, &sleepy, Doom, "configuration has changed"},
		{"it sleeps and is retired", Facts{Instance: power(Stopped, time.Hour), Certain: true, Retired: true}, &sleepy, Doom, "no longer configured"},
		{"it sleeps and is to leave", Facts{Instance: power(Stopped, time.Hour), Certain: true, Leaving: "it must"}, &sleepy, Doom, "it must"},
		{"it sleeps, and idle = terminate now", Facts{Instance: power(Stopped, time.Hour), Certain: true}, nil, Doom, "not kept switched off"},
		{"it sleeps while the master keeps everything", Facts{Instance: power(Stopped, time.Hour), Certain: true, Frozen: true}, nil, Wait, ""},
		{"to be started", Facts{Builds: 1, Instance: power(Waking, time.Second), Certain: true}, &sleepy, DoStart, ""},
		{"to be started, the last order's effect is not known: look", Facts{Builds: 1, Instance: power(Waking, time.Second)}, &sleepy, DoCheck, ""},
		{"to be started, a call is in flight", Facts{Builds: 1, Instance: power(Waking, time.Second), Op: 7, OpKind: Stop}, &sleepy, Wait, ""},
		{"to be started, but the master stops: only look", Facts{Builds: 1, Instance: power(Waking, time.Second), Certain: true, Frozen: true}, &sleepy, DoCheck, ""},
		{"missing_timeout counts from the wake", Facts{Builds: 1, Instance: power(Waking, 20*time.Minute), Certain: true}, &sleepy, Doom, "missing_timeout"},
		{"missing_timeout goes on counting from there", Facts{Builds: 1, Instance: woken(20 * time.Minute), Certain: true}, &sleepy, Doom, "missing_timeout"},
		{"it boots again: look from time to time", Facts{Builds: 1, Instance: woken(time.Minute), Certain: true}, &sleepy, DoCheck, ""},
		{"doomed while the master stops", Facts{Instance: doomed(up()), Frozen: true}, nil, DoDestroy, ""},
	} {
		p := policy
		if c.p != nil {
			p = *c.p
		}
		d := c.f.Next(now, p)
		if d.Action != c.want || !strings.Contains(d.Why, c.why) {
			t.Errorf("%s: got %d %q, want %d %q", c.name, d.Action, d.Why, c.want, c.why)
		}
	}
}

// facts draws any combination at all: whatever happened before, the machine must know what to do.
func facts(t *rapid.T) Facts {
	when := func(label string) time.Time {
		return rapid.SampledFrom([]time.Time{{}, ago(time.Hour), ago(3 * time.Second), now, now.Add(time.Minute)}).Draw(t, label)
	}
	f := Facts{Running: rapid.IntRange(0, 2).Draw(t, "running"), Retired: rapid.Bool().Draw(t, "retired"), Outdated: rapid.Bool().Draw(t, "outdated"),
		Frozen: rapid.Bool().Draw(t, "frozen"), Certain: rapid.Bool().Draw(t, "certain"), Missed: rapid.Bool().Draw(t, "missed"),
		BackoffUntil: when("backoff"), IdleSince: when("idle"), NotBefore: when("not before")}
	f.Draining = f.Frozen && rapid.Bool().Draw(t, "draining")
	f.Builds = f.Running + rapid.IntRange(0, 2).Draw(t, "preparing")
	if rapid.Bool().Draw(t, "instance") {
		f.Instance = &Instance{Key: "k", AskedAt: ago(time.Hour), Resolved: rapid.Bool().Draw(t, "resolved"), UnresolvedAt: when("unresolved"),
			BootedAt: when("booted"), AttachedAt: when("attached"), LostAt: when("lost"), Doomed: rapid.Bool().Draw(t, "doomed")}
		if f.Instance.Power = Power(rapid.IntRange(0, 3).Draw(t, "power")); f.Instance.Power != On {
			f.Instance.PowerAt = when("power at")
		}
		if !f.Instance.Doomed && !f.Instance.Power.Off() && rapid.Bool().Draw(t, "session") {
			f.Session, f.Instance.LostAt = 1, time.Time{}
		}
	}
	if rapid.Bool().Draw(t, "op") {
		f.Op, f.OpKind = 9, Check
	}
	return f
}

func TestNextIsSafeWhateverTheFacts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := facts(t)
		p := policy
		p.BuildWait = rapid.SampledFrom([]time.Duration{-1, 0, time.Minute}).Draw(t, "build wait")
		p.Sleep = rapid.Bool().Draw(t, "sleep")
		before := fmt.Sprintf("%+v", f)
		d := f.Next(now, p)
		in := f.Instance
		switch {
		case fmt.Sprintf("%+v", f) != before:
			t.Fatal("Next changed the facts")
		case f.Op != 0 && d.Action >= DoCreate && d.Action <= DoStart:
			t.Fatal("two calls at once")
		case d.Action == DoDestroy && (f.Running > 0 || !in.Doomed):
			t.Fatal("destroys what is busy or not doomed")
		case d.Action == DoCreate && (f.Frozen || in == nil && (f.Builds == 0 || f.Retired) || in != nil && in.Doomed):
			t.Fatal("makes what nobody needs")
		case d.Action == Doom && (in == nil || in.Doomed || d.Why == ""):
			t.Fatal("dooms nothing, twice or without a reason")
		case d.Action == Doom && f.Running > 0 && f.Session != 0:
			t.Fatal("dooms a busy instance whose agent is there")
		case d.Action == DoStop && (in.Power != Stopping || !f.Certain || f.Session != 0):
			t.Fatal("stops what nobody decided to stop, or without having looked")
		case d.Action == DoStart && (in.Power != Waking || !f.Certain || f.Frozen):
			t.Fatal("starts what nobody decided to wake, or without having looked")
		case d.Action == Sleep && (f.Builds > 0 || !p.Sleep || in.Power.Off() || in.Doomed || f.Frozen || f.Retired || f.Outdated || d.Why == ""):
			t.Fatal("lets sleep what is needed, or must end")
		case d.Action == Wake && (in.Power != Stopped || f.Running > 0 || f.Builds == 0 || !p.Sleep || in.Doomed || f.Frozen || f.Retired || f.Outdated || now.Before(f.BackoffUntil)):
			t.Fatal("wakes what nobody needs, or what must end")
		case d.Action == Wait && !d.Wake.IsZero() && !d.Wake.After(now):
			t.Fatal("a wake-up time that has passed: a busy loop")
		case d.Action == Wait && in != nil && f.Op == 0 && f.Session == 0 && f.Running == 0 && !f.Frozen && in.Power != Stopped && d.Wake.IsZero() && in.LostAt.IsZero() == in.AttachedAt.IsZero() && p.Missing > 0:
			t.Fatal("waits for an agent without a deadline")
		}
	})
}

func TestStateIsDerived(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    Facts
		want State
	}{
		{Facts{}, NotSubstantiated},
		{Facts{Builds: 1}, Substantiating},
		{Facts{Builds: 1, Instance: booting()}, Substantiating},
		{Facts{Instance: up(), Session: 1}, Substantiated},
		{Facts{Instance: lost(1)}, Substantiated},
		{Facts{Instance: doomed(up())}, Insubstantiating},
		{Facts{Instance: power(Stopping, 1)}, Insubstantiating},
		{Facts{Instance: power(Stopped, 1)}, Asleep},
		{Facts{Builds: 1, Running: 1, Instance: power(Stopped, 1)}, Asleep},
		{Facts{Builds: 1, Instance: power(Stopped, 1), Frozen: true}, Asleep},
		{Facts{Builds: 1, Instance: power(Stopped, 1)}, Substantiating},
		{Facts{Builds: 1, Instance: power(Waking, 1)}, Substantiating},
		{Facts{Builds: 1, Instance: woken(1)}, Substantiating},
		{Facts{Instance: doomed(power(Stopped, 1))}, Insubstantiating},
		{Facts{Retired: true, Instance: doomed(up())}, Insubstantiating},
		{Facts{Retired: true}, ShutDown},
	} {
		if got := c.f.State(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.f, got, c.want)
		}
	}
}

func TestNotFoundProvesNothingUntilTheSettleTimeHasPassed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   Instance
		seen bool
		want bool
	}{
		{Instance{}, false, false}, // the create is still in flight
		{Instance{UnresolvedAt: ago(4 * time.Second)}, false, false},
		{Instance{UnresolvedAt: ago(5 * time.Second)}, false, true},
		{Instance{UnresolvedAt: now, BootedAt: ago(1)}, true, true}, // it was seen, and is not there now
		{Instance{UnresolvedAt: now, BootedAt: now}, false, false},  // it was seen after the question
	} {
		if got := c.in.Proven(now, c.seen, policy); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{0: 10 * time.Second, 1: 20 * time.Second, 8: 2560 * time.Second, 9: time.Hour, 1000: time.Hour} {
		if got := Backoff(10*time.Second, time.Hour, n); got != want {
			t.Errorf("after %d: %s, want %s", n, got, want)
		}
	}
}

func TestTimeThatItSleptIsCountedOnce(t *testing.T) {
	t.Parallel()
	in := power(Stopped, time.Hour)
	in.Slept = time.Minute
	if got := in.SleptBy(now); got != time.Hour+time.Minute {
		t.Errorf("while it sleeps: %s", got)
	}
	if got := in.SleptBy(ago(2 * time.Hour)); got != time.Minute {
		t.Errorf("with a clock that was set back: %s", got)
	}
	in.Slept, in.GoneAt = in.SleptBy(now), now
	if got := in.SleptBy(now.Add(time.Hour)); got != time.Hour+time.Minute {
		t.Errorf("after its end: %s", got)
	}
}
