package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/core/schedule"
)

// Scheduler is one that goes by the clock. The others (force, triggerable) need no decision: somebody asks, and that is all.
type Scheduler struct {
	Name     string
	Calendar schedule.Calendar
}

// ScheduleState is what is stored of a scheduler.
type ScheduleState struct {
	Name string
	Last time.Time // when its requests were last stored, or when it was first seen
}

// due records when a scheduler was carried out last.
func (s *State) due(name string, m *schedule.Machine) {
	s.lastDue[name] = m.Last
	s.batch.Delta.Schedules = append(s.batch.Delta.Schedules, ScheduleState{Name: name, Last: m.Last})
}

// scheduleDue asks for the requests of a scheduler whose time has come.
func (s *State) scheduleDue(name string) {
	m := s.schedulers[name]
	if m == nil || m.Busy || s.stopping {
		return
	}
	if at := m.Next(); at.IsZero() || at.After(s.now) { // the calendar has changed since the timer was set
		s.arm(scheduleTimer+name, at)
		return
	}
	m.Busy = true
	s.ordered("Due", Entry{Cause: "scheduler " + name})
	s.effect(Due{Scheduler: name, At: s.now})
}

func (s *State) scheduled(ev Scheduled) {
	m := s.schedulers[ev.Scheduler]
	gone := m == nil
	if gone {
		m = s.resting[ev.Scheduler]
		delete(s.resting, ev.Scheduler)
	}
	if m == nil || !m.Busy {
		return
	}
	m.Done(ev.At, ev.Error == "")
	if ev.Error == "" {
		s.due(ev.Scheduler, m)
	} else {
		m.NotBefore = s.now.Add(schedule.Retry)
	}
	if gone {
		return
	}
	s.arm(scheduleTimer+ev.Scheduler, m.Next())
}
