// Package schedule is the machine of one scheduler that goes by the clock. It knows when the scheduler was due last and says when it is due next. It knows
// nothing of builders or requests, and of calendars only that they can be asked.
package schedule

import "time"

// Calendar says when something is due next, strictly after a moment; the zero time means never. It is a function of its argument alone.
type Calendar interface {
	Next(after time.Time) time.Time
}

// Every is the calendar of what is due once in a period.
type Every time.Duration

// Next implements Calendar.
func (e Every) Next(after time.Time) time.Time {
	if e <= 0 {
		return time.Time{}
	}
	return after.Add(time.Duration(e))
}

// Retry is the pause after requests that could not be submitted.
const Retry = time.Minute

// Machine is one scheduler.
type Machine struct {
	Calendar  Calendar
	Last      time.Time // when it was last carried out, or first seen; stored with the requests
	Busy      bool      // its requests are being submitted
	NotBefore time.Time
}

// Next is when the machine is due: zero while it is busy, and if it is never due. What was missed while nobody looked is due at once, and once only,
// because the next time counts from when it was carried out.
func (m *Machine) Next() time.Time {
	if m.Busy || m.Calendar == nil {
		return time.Time{}
	}
	at := m.Calendar.Next(m.Last)
	if !at.IsZero() && at.Before(m.NotBefore) {
		return m.NotBefore
	}
	return at
}

// Done takes in that the requests were stored (or, if not ok, that they were not) at a moment.
func (m *Machine) Done(at time.Time, ok bool) {
	m.Busy = false
	if ok {
		m.Last = at
	} else {
		m.NotBefore = at.Add(Retry)
	}
}
