package core_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

// listing says whether a provider is being listed.
func (s *script) listing(provider string) bool {
	_, asked := s.lists[provider]
	return asked
}

// fires lets the timers fire that are due.
func (s *script) fires() { s.advance(0) }

// TestALeapOfTheClockForgetsNoProvider: a machine that is suspended for a day has not looked for strays meanwhile.
func TestALeapOfTheClockForgetsNoProvider(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.run("provider p sweep=1m\napply\nadvance 0s\nlist p\nremove p\napply\nadvance 1m\nlist p\n")
	s.now = s.now.Add(core.FormerGiveUp)
	s.fires()
	if !s.listing("p") {
		t.Fatal("a provider is forgotten that has not been looked at for a day")
	}
	s.run("list p\nadvance 1m\n")
	if s.listing("p") {
		t.Error("a provider is listed although it was seen without strays")
	}
}

// TestAStrayThatIsHardToEndIsNotForgotten: as long as the provider shows it, its end is asked for.
func TestAStrayThatIsHardToEndIsNotForgotten(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.run("provider p sweep=30m\napply\nadvance 0s\nlist p\nremove p\napply\n")
	for range 60 {
		s.run("advance 30m\n")
		if !s.listing("p") {
			t.Fatalf("at %s a provider is forgotten that still shows a stray", s.now.Format(time.DateTime))
		}
		s.run("list p x\n")
	}
}

// TestTheHourBeginsWhenTheLastRecordIsClosed, however long before that the provider was last looked at.
func TestTheHourBeginsWhenTheLastRecordIsClosed(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.run("provider p sweep=30m\nworker w1 provider=p\nbuilder b workers=w1\napply\nadvance 0s\nlist p\nsubmit b\nok create w1\nattach w1\nend 1 success\n" +
		"remove p\nremove w1\nremove b\napply\nadvance 29m\ngone destroy w1\n")
	for _, next := range []string{"31m", "30m"} { // at 60 and 90 minutes, of which the second is an hour later
		s.run("advance " + next + "\n")
		if !s.listing("p") {
			t.Fatalf("at %s strays are not looked for any more", s.now.Format(time.TimeOnly))
		}
		s.run("list p\n")
	}
	s.run("advance 30m\n")
	if s.listing("p") {
		t.Error("the provider is listed for ever")
	}
}

// TestAProviderThatNeverAnswersIsForgottenInTheEnd, but not before a day of asking is over.
func TestAProviderThatNeverAnswersIsForgottenInTheEnd(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.run("provider p sweep=30m\napply\nadvance 0s\nlist p\nremove p\napply\n")
	asked := 0
	for s.run("advance 30m\n"); s.listing("p") && asked < 1000; asked++ {
		op := s.lists["p"]
		delete(s.lists, "p")
		s.step(core.Listed{Op: op, AskedAt: s.now, Error: "unknown: no answer"})
		s.advance(30 * time.Minute)
	}
	if asked < 47 || asked > 49 {
		t.Errorf("it was asked %d times in a day", asked)
	}
}

// TestAProviderThatMovesOftenLeavesNothing: each of its old places is listed for a while, and then there is no timer and no call for it any more.
func TestAProviderThatMovesOftenLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	answers := func(d string) (asked int) {
		s.run("advance " + d + "\n")
		for _, name := range slices.Sorted(maps.Keys(s.lists)) {
			s.run("list " + name + "\n")
			asked++
		}
		return asked
	}
	const moves = 200
	for i := range moves {
		if i > 0 {
			s.run(fmt.Sprintf("remove p%d\n", i-1))
		}
		s.run(fmt.Sprintf("provider p%d sweep=1m\napply\n", i))
		if i%40 == 7 { // and some come back at once
			s.run(fmt.Sprintf("remove p%d\nprovider q sweep=1m\napply\nremove q\nprovider p%d sweep=1m\napply\n", i, i))
		}
		answers("1m")
	}
	for range 61 {
		answers("1m")
	}
	if n := answers("1m"); n != 1 {
		t.Errorf("%d providers are listed, want the one that is configured", n)
	}
	s.advance(time.Minute)
	if timers := s.s.Snapshot(s.now).Timers; len(s.lists) != 1 || len(timers) > 1 {
		t.Errorf("%d lists, timers %+v", len(s.lists), timers)
	}
}
