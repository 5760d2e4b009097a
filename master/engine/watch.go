package engine

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

const (
	watchBatch = 20 * time.Millisecond // what a provider tells within this time becomes one event
	watchKeys  = 4096                  // instances in one event; more of them are dropped, and the sweep finds what has become of them
	watchRest  = time.Second           // before a watch that has ended is begun again; doubles
	watchLimit = time.Minute

	maxRooms = 4096
	maxPlace = 64 // bytes of a room's name
)

// watch hears what a provider tells of its instances until the caller is retired or the engine ends.
func (c *caller) watch() {
	w, ok := c.opened.Provider.(providers.Watcher)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || c.closing || c.unwatch != nil {
		return
	}
	ctx, cancel := context.WithCancel(c.e.calling)
	c.unwatch = cancel
	c.inside++
	told := &tidings{keys: map[model.InstanceKey]bool{}, news: make(chan struct{}, 1)}
	c.e.work.Go(func() { c.tell(ctx, told) })
	go func() { // not waited for when the engine ends: it may never return
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.inside--
			c.mayClose()
		}()
		for pause := watchRest; ctx.Err() == nil; pause = min(2*pause, watchLimit) {
			began := time.Now()
			err := c.watchOnce(ctx, w, told)
			if ctx.Err() != nil {
				return
			}
			c.e.log.Warn("engine: the watch of a provider has ended; it is begun again", "provider", c.name, "error", err)
			if time.Since(began) > watchLimit {
				pause = watchRest
			}
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}()
}

func (c *caller) watchOnce(ctx context.Context, w providers.Watcher, told *tidings) (err error) {
	defer c.e.survive("watch of provider "+c.name, nil)
	return w.Watch(ctx, told.changed)
}

// tidings gathers what a provider tells.
type tidings struct {
	mu    sync.Mutex
	keys  map[model.InstanceKey]bool
	rooms bool
	news  chan struct{}
}

func (t *tidings) changed(k providers.Key) {
	t.mu.Lock()
	switch {
	case k == "":
		t.rooms = true
	case k.Valid() && len(t.keys) < watchKeys:
		t.keys[model.InstanceKey(k)] = true
	}
	t.mu.Unlock()
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// tell passes it on, a little later.
func (c *caller) tell(ctx context.Context, t *tidings) {
	for {
		select {
		case <-t.news:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(watchBatch)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		t.mu.Lock()
		keys, rooms := slices.Sorted(maps.Keys(t.keys)), t.rooms
		clear(t.keys)
		t.rooms = false
		t.mu.Unlock()
		if rooms {
			c.askRooms()
		}
		if len(keys) > 0 {
			_ = c.e.send(ctx, item{event: core.Observed{Provider: c.name, Keys: keys}})
		}
	}
}

// askRooms asks what rooms a provider has, if it has any.
func (c *caller) askRooms() {
	r, ok := c.opened.Provider.(providers.Roomer)
	if !ok {
		return
	}
	c.add(&call{kind: "rooms", run: func(ctx context.Context) answer {
		list, err := r.Rooms(ctx)
		a := sighted(providers.Instance{}, err)
		a.rooms = coreRooms(list)
		return a
	}, deliver: func(a answer, _ time.Time) core.Event {
		ev := core.RoomsKnown{Provider: c.name, Rooms: a.rooms}
		if a.result.Class != core.OpOK {
			ev.Error, ev.Rooms = a.result.Class.String()+": "+clip(a.result.Detail), nil
		}
		if c.retired() { // another one has been asked, and may have answered
			ev.Error, ev.Rooms = "the provider was replaced", nil
		}
		return ev
	}})
}

// coreRooms takes over what can be one: a name of bounded length, and limits that are not negative.
func coreRooms(list []providers.Room) (rooms []core.Room) {
	for _, r := range list[:min(len(list), maxRooms)] {
		if r.Name != "" && len(r.Name) <= maxPlace {
			rooms = append(rooms, core.Room{Name: r.Name, VCPUs: max(r.VCPUs, 0), Memory: max(r.Memory, 0), Slots: max(r.Slots, 0), Down: r.Down})
		}
	}
	return rooms
}

func place(name string) string {
	if len(name) > maxPlace {
		return ""
	}
	return name
}
