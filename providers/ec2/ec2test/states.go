package ec2test

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// state is an instance's state as EC2 says it.
type state struct {
	code int
	name string
}

var (
	pending      = state{0, "pending"}
	running16    = state{16, "running"}
	shuttingDown = state{32, "shutting-down"}
	terminated   = state{48, "terminated"}
	stopping     = state{64, "stopping"}
	stopped      = state{80, "stopped"}
)

// overlay is where an instance looks different from what moto says.
type overlay struct {
	hidden       time.Time // nobody sees it until then
	state        state     // is shown until then
	until        time.Time
	code, reason string // state reason, for ever
	older        time.Duration
}

// overlay is called with the lock.
func (w *World) overlay(id string) *overlay {
	o := w.overlays[id]
	if o == nil {
		o = &overlay{}
		w.overlays[id] = o
	}
	return o
}

// paint changes one instance's element to what is to be seen of it.
func (w *World) paint(in *Node, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.overlays[in.S("instanceId")]
	if o == nil {
		return
	}
	if s := in.child("instanceState"); s != nil && now.Before(o.until) {
		s.set("code", strconv.Itoa(o.state.code))
		s.set("name", o.state.name)
	}
	if at, err := time.Parse(time.RFC3339, in.S("launchTime")); err == nil && o.older > 0 {
		in.set("launchTime", at.Add(-o.older).UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	if o.code != "" {
		r := in.set("stateReason", "")
		r.set("code", o.code)
		r.set("message", o.code+": "+o.reason)
		in.set("reason", o.reason)
	}
}

// show is a list of instances as it is to be seen.
func (w *World) show(body []byte) ([]byte, error) {
	now := time.Now()
	w.mu.Lock()
	plain := true
	for _, o := range w.overlays {
		plain = plain && o.code == "" && o.older == 0 && !now.Before(o.hidden) && !now.Before(o.until)
	}
	w.mu.Unlock()
	if plain {
		return body, nil
	}
	n, err := parse(body)
	if err != nil {
		return nil, err
	}
	if set := n.child("reservationSet"); set != nil {
		var kept []*Node
		for _, r := range set.Kids {
			seen := true
			for _, in := range r.instances() {
				seen = seen && !w.hides(in.S("instanceId"), now)
				w.paint(in, now)
			}
			if seen {
				kept = append(kept, r)
			}
		}
		set.Kids = kept
	}
	return []byte(n.render()), nil
}

// Backdate lets an instance look as if it had been launched so much earlier.
func (w *World) Backdate(id string, by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overlay(id).older = by
}

func (w *World) hides(id string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.overlays[id]
	return o != nil && now.Before(o.hidden)
}

// shows is the state that is shown of an instance against moto's knowledge, if there is one.
func (w *World) shows(id string, now time.Time) (state, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.overlays[id]
	if o == nil || !now.Before(o.until) {
		return state{}, false
	}
	return o.state, true
}

// unseen is the answer to a call that names an instance which nobody sees yet, or which is not so far that this could be done.
func (w *World) unseen(form url.Values) (answer, bool) {
	ids := list(form, "InstanceId")
	if id := form.Get("InstanceId"); id != "" {
		ids = append(ids, id)
	}
	now := time.Now()
	for _, id := range ids {
		if w.hides(id, now) {
			return fail(http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id), true
		}
		switch form.Get("Action") {
		case "AssociateAddress", "AttachVolume", "StopInstances", "StartInstances":
			if s, ok := w.shows(id, now); ok && s != running16 && s != stopped {
				return fail(http.StatusBadRequest, "IncorrectInstanceState", "The instance '%s' is not in a state from which it can be changed: %s", id, s.name), true
			}
		}
	}
	return answer{}, false
}

// change terminates, stops or starts instances.
func (w *World) change(ctx context.Context, form url.Values, f Fault) answer {
	status, body, err := w.direct.post(ctx, form)
	if err != nil {
		return answer{drop: true}
	}
	n, err := parse(body)
	if status != http.StatusOK || err != nil {
		return answer{status: status, body: string(body)}
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range n.instances() {
		id := in.S("instanceId")
		o := w.overlay(id)
		code, _ := strconv.Atoi(in.S("previousState", "code"))
		was := state{code, in.S("previousState", "name")}
		switch form.Get("Action") {
		case "TerminateInstances":
			w.ended(id, now)
			if was == terminated {
				continue
			}
			o.until = time.Time{}
		case "StartInstances":
			o.until = time.Time{}
			if w.boot > 0 && was == stopped {
				o.state, o.until = pending, now.Add(w.boot)
			}
		}
		if f.Kind == Stale {
			w.faulted[Stale]++
			o.state, o.until = was, now.Add(f.For)
		}
	}
	return answer{status: status, body: string(body)}
}

// forget says that it has been done, and does nothing.
func (w *World) forget(ctx context.Context, form url.Values) answer {
	next := map[string]state{"TerminateInstances": shuttingDown, "StopInstances": stopping, "StartInstances": pending}[form.Get("Action")]
	ids := list(form, "InstanceId")
	out := &Node{Name: form.Get("Action") + "Response"}
	out.set("requestId", "ec2test")
	set := out.set("instancesSet", "")
	all, err := w.instances(ctx)
	if err != nil {
		return answer{drop: true}
	}
	for _, id := range ids {
		in, ok := all[id]
		if !ok {
			return fail(http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
		item := &Node{Name: "item"}
		item.set("instanceId", id)
		for name, s := range map[string]state{"currentState": next, "previousState": in.state} {
			k := item.set(name, "")
			k.set("code", strconv.Itoa(s.code))
			k.set("name", s.name)
		}
		set.Kids = append(set.Kids, item)
	}
	return answer{status: http.StatusOK, body: out.render()}
}
