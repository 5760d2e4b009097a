package engine

import (
	"container/heap"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

// timers holds every deadline: one for each name, the newest.
type timers struct {
	heap   deadlines
	byName map[string]*deadline
}

type deadline struct {
	timer core.Timer
	at    time.Time
	index int
}

func (t *timers) set(timer core.Timer, at time.Time) {
	if t.byName == nil {
		t.byName = map[string]*deadline{}
	}
	if d := t.byName[timer.Name]; d != nil {
		d.timer, d.at = timer, at
		heap.Fix(&t.heap, d.index)
		return
	}
	d := &deadline{timer: timer, at: at}
	t.byName[timer.Name] = d
	heap.Push(&t.heap, d)
}

// next is the earliest deadline; false if there is none.
func (t *timers) next() (time.Time, bool) {
	if len(t.heap) == 0 {
		return time.Time{}, false
	}
	return t.heap[0].at, true
}

// due takes out one deadline that has come.
func (t *timers) due(now time.Time) (core.Timer, bool) {
	if at, ok := t.next(); !ok || at.After(now) {
		return core.Timer{}, false
	}
	d := heap.Pop(&t.heap).(*deadline)
	delete(t.byName, d.timer.Name)
	return d.timer, true
}

type deadlines []*deadline

func (h deadlines) Len() int           { return len(h) }
func (h deadlines) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *deadlines) Push(x any) {
	d := x.(*deadline)
	d.index = len(*h)
	*h = append(*h, d)
}
func (h *deadlines) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return d
}
