// Package queue orders waiting build requests: highest priority first, then oldest, then lowest ID.
//
// Builders that may use the same workers and locks share a Pool. A pool orders its lanes (one builder each) by their best request, so
// finding the next request costs the same for a thousand builders as for one. The package knows nothing of workers or locks:
// the caller says which lanes are blocked.
package queue

import (
	"cmp"
	"container/heap"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Item is one waiting request.
type Item struct {
	ID       model.RequestID
	Priority int
	At       time.Time // when it was submitted; a retried request keeps its age
	Key      string    // requests of one lane with equal keys may be collapsed; "" = never

	lane *Lane
	pos  int // in lane.items
}

// Lane returns the lane that the item waits in, or nil.
func (it *Item) Lane() *Lane { return it.lane }

// Compare orders items: negative if a comes first.
func Compare(a, b *Item) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
}

// Lane holds the waiting requests of one builder (and, if they are pinned, for one worker).
type Lane struct {
	Builder string
	Worker  string // pinned to this worker, if not empty

	pool  *Pool
	pos   int // in pool.lanes, or -1 while empty or held
	items items
	keys  map[string][]*Item
}

// Pool holds lanes whose builders may use the same workers.
type Pool struct {
	Name  string
	lanes lanes
	byKey map[laneKey]*Lane
	held  []*Lane
	size  int
}

type laneKey struct{ builder, worker string }

// NewPool makes an empty pool.
func NewPool(name string) *Pool { return &Pool{Name: name, byKey: map[laneKey]*Lane{}} }

// Len is the number of waiting requests.
func (p *Pool) Len() int { return p.size }

// Push adds an item to the lane of a builder.
func (p *Pool) Push(builder, worker string, it *Item) {
	k := laneKey{builder, worker}
	l := p.byKey[k]
	if l == nil {
		l = &Lane{Builder: builder, Worker: worker, pool: p, pos: -1}
		p.byKey[k] = l
	}
	it.lane = l
	heap.Push(&l.items, it)
	if it.Key != "" {
		if l.keys == nil {
			l.keys = map[string][]*Item{}
		}
		l.keys[it.Key] = append(l.keys[it.Key], it)
	}
	p.size++
	p.fix(l)
}

// Remove takes an item out, wherever in its lane it waits.
func (p *Pool) Remove(it *Item) {
	l := it.lane
	heap.Remove(&l.items, it.pos)
	if it.Key != "" {
		same := l.keys[it.Key]
		for i, other := range same {
			if other == it {
				same[i] = same[len(same)-1]
				same[len(same)-1] = nil
				same = same[:len(same)-1]
				break
			}
		}
		if len(same) == 0 {
			delete(l.keys, it.Key)
		} else {
			l.keys[it.Key] = same
		}
	}
	it.lane = nil
	p.size--
	p.fix(l)
	if len(l.items) == 0 && l.pos < 0 {
		delete(p.byKey, laneKey{l.Builder, l.Worker})
	}
}

// Same returns the items of the lane that may be collapsed with it, itself not included, in no order.
func (l *Lane) Same(it *Item) []*Item {
	if it.Key == "" {
		return nil
	}
	var out []*Item
	for _, other := range l.keys[it.Key] {
		if other != it {
			out = append(out, other)
		}
	}
	return out
}

// Len is the number of items in the lane.
func (l *Lane) Len() int { return len(l.items) }

// Top is the lane's best item.
func (l *Lane) Top() *Item { return l.items[0] }

// Best returns the lane with the best item among those that are not held, or nil.
func (p *Pool) Best() *Lane {
	if len(p.lanes) == 0 {
		return nil
	}
	return p.lanes[0]
}

// Hold sets a lane aside until Release, so that Best finds the next one.
func (p *Pool) Hold(l *Lane) {
	heap.Remove(&p.lanes, l.pos)
	l.pos = -1
	p.held = append(p.held, l)
}

// Release brings the held lanes back.
func (p *Pool) Release() {
	for i, l := range p.held {
		p.held[i] = nil
		if l.pos < 0 && len(l.items) > 0 {
			heap.Push(&p.lanes, l)
		}
	}
	p.held = p.held[:0]
}

// Each calls f for every item, in no order, until f returns false.
func (p *Pool) Each(f func(*Item) bool) {
	for _, l := range p.byKey {
		for _, it := range l.items {
			if !f(it) {
				return
			}
		}
	}
}

// Tops returns the best item of each lane, held or not, in no order.
func (p *Pool) Tops() (out []*Item) {
	for _, l := range p.byKey {
		if len(l.items) > 0 {
			out = append(out, l.items[0])
		}
	}
	return out
}

// fix puts the lane where its best item says.
func (p *Pool) fix(l *Lane) {
	switch {
	case l.pos >= 0 && len(l.items) == 0:
		heap.Remove(&p.lanes, l.pos)
		l.pos = -1
	case l.pos >= 0:
		heap.Fix(&p.lanes, l.pos)
	case len(l.items) > 0 && !p.isHeld(l):
		heap.Push(&p.lanes, l)
	}
}

func (p *Pool) isHeld(l *Lane) bool {
	for _, h := range p.held {
		if h == l {
			return true
		}
	}
	return false
}

type items []*Item

func (h items) Len() int           { return len(h) }
func (h items) Less(i, j int) bool { return Compare(h[i], h[j]) < 0 }
func (h items) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].pos, h[j].pos = i, j }
func (h *items) Push(x any)        { it := x.(*Item); it.pos = len(*h); *h = append(*h, it) }
func (h *items) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

type lanes []*Lane

func (h lanes) Len() int           { return len(h) }
func (h lanes) Less(i, j int) bool { return Compare(h[i].items[0], h[j].items[0]) < 0 }
func (h lanes) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].pos, h[j].pos = i, j }
func (h *lanes) Push(x any)        { l := x.(*Lane); l.pos = len(*h); *h = append(*h, l) }
func (h *lanes) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
