package schedule

import (
	"testing"
	"time"
)

var t0 = time.Unix(1e9, 0)

func TestMachineIsDueAfterItsPeriodAndNotWhileItIsBusy(t *testing.T) {
	t.Parallel()
	m := Machine{Calendar: Every(time.Hour), Last: t0}
	if got := m.Next(); !got.Equal(t0.Add(time.Hour)) {
		t.Errorf("due at %s", got)
	}
	m.Busy = true
	if got := m.Next(); !got.IsZero() {
		t.Errorf("due while busy, at %s", got)
	}
	m.Done(t0.Add(time.Hour), true)
	if got := m.Next(); !got.Equal(t0.Add(2 * time.Hour)) {
		t.Errorf("due at %s", got)
	}
}

func TestWhatWasMissedIsMadeUpForOnce(t *testing.T) {
	t.Parallel()
	m := Machine{Calendar: Every(time.Hour), Last: t0}
	now := t0.Add(10 * time.Hour)
	if at := m.Next(); at.After(now) {
		t.Fatalf("not due: %s", at)
	}
	m.Done(now, true)
	if at := m.Next(); !at.Equal(now.Add(time.Hour)) {
		t.Errorf("due again at %s", at)
	}
}

func TestAFailureIsTriedAgainAfterAPause(t *testing.T) {
	t.Parallel()
	m := Machine{Calendar: Every(time.Second), Last: t0, Busy: true}
	m.Done(t0.Add(time.Second), false)
	if at := m.Next(); !at.Equal(t0.Add(time.Second + Retry)) {
		t.Errorf("due at %s", at)
	}
}

func TestNeverIsNever(t *testing.T) {
	t.Parallel()
	for _, m := range []Machine{{Last: t0}, {Calendar: Every(0), Last: t0, NotBefore: t0.Add(time.Hour)}} {
		if at := m.Next(); !at.IsZero() {
			t.Errorf("due at %s", at)
		}
	}
}
