package ec2test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// record is what the world has seen of one instance's life.
type record struct {
	key, worker, owner string
	began, ended       time.Time
	data               []byte   // user data
	beside             []string // instances of the same worker and owner that lived when this one was launched
}

// launched and ended are called with the lock.
func (w *World) launched(id string, form url.Values, now time.Time) {
	tags := tagsOf(form)
	r := &record{key: tags[TagKey], worker: tags[TagWorker], owner: tags[TagOwner], began: now}
	r.data, _ = base64.StdEncoding.DecodeString(form.Get("UserData")) // EC2 has taken it
	for other, o := range w.ledger {
		if o.ended.IsZero() && r.worker != "" && o.worker == r.worker && o.owner == r.owner {
			r.beside = append(r.beside, other)
		}
	}
	w.ledger[id] = r
}

func (w *World) ended(id string, now time.Time) {
	if r := w.ledger[id]; r != nil && r.ended.IsZero() {
		r.ended = now
	}
}

// Instance is one instance as moto has it.
type Instance struct {
	ID, State, Image, Type, Zone, Market, Address string
	ClientToken                                   string
	Tags                                          map[string]string

	state state
}

// Live says whether the instance costs something.
func (in Instance) Live() bool { return in.State != terminated.name }

// Instances are all instances of the account, ended ones included, as moto has them.
func (w *World) Instances(ctx context.Context) ([]Instance, error) {
	all, err := w.instances(ctx)
	return slices.SortedFunc(maps.Values(all), func(a, b Instance) int { return strings.Compare(a.ID, b.ID) }), err
}

// Up are the instances that were launched through the proxy and have not ended, with their user data, by the proxy's own books: for those who would
// ask the server too often.
func (w *World) Up() map[string][]byte {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	up := map[string][]byte{}
	for id, r := range w.ledger {
		if o := w.overlays[id]; r.ended.IsZero() && (o == nil || !now.Before(o.until)) {
			up[id] = r.data
		}
	}
	return up
}

// powered are the instances that moto runs, by their IDs.
func (w *World) powered(ctx context.Context) (map[string]Instance, error) {
	return w.instances(ctx, "Filter.1.Name", "instance-state-name", "Filter.1.Value.1", "running")
}

// booting says whether an instance that moto runs is shown as pending.
func (w *World) booting(id string) bool {
	s, ok := w.shows(id, time.Now())
	return ok && s == pending
}

func (w *World) instances(ctx context.Context, params ...string) (map[string]Instance, error) {
	all := map[string]Instance{}
	params = append([]string{"MaxResults", "1000"}, params...)
	first := params
	for {
		n, err := w.direct.Call(ctx, "DescribeInstances", params...)
		if err != nil {
			return nil, err
		}
		for _, in := range n.instances() {
			i := Instance{ID: in.S("instanceId"), State: in.S("instanceState", "name"), Image: in.S("imageId"), Type: in.S("instanceType"),
				Zone: in.S("placement", "availabilityZone"), Market: "on-demand", Address: in.S("ipAddress"), ClientToken: in.S("clientToken"), Tags: map[string]string{}}
			if in.S("instanceLifecycle") == "spot" {
				i.Market = "spot"
			}
			i.state.name = i.State
			i.state.code, _ = strconv.Atoi(in.S("instanceState", "code"))
			for _, tag := range in.Get("tagSet").kids() {
				i.Tags[tag.S("key")] = tag.S("value")
			}
			all[i.ID] = i
		}
		next := n.S("nextToken")
		if next == "" {
			return all, nil
		}
		params = append(first[:len(first):len(first)], "NextToken", next)
	}
}

// Audit is the account's books at the end.
type Audit struct {
	Launched   int      // instances that were ever made
	Keys       int      // different keys among them
	Duplicates []string // instances beyond the first of a key, or without a key
	Beside     []string // instances that were launched while another one of the same worker lived
	Leaked     []string // instances that are not terminated
}

// String is the line that a run ends with.
func (a Audit) String() string {
	return fmt.Sprintf("launched=%d duplicates=%d leaked=%d", a.Launched, len(a.Duplicates)+len(a.Beside), len(a.Leaked))
}

// Clean says whether there is nothing to complain of.
func (a Audit) Clean() bool {
	return len(a.Duplicates) == 0 && len(a.Beside) == 0 && len(a.Leaked) == 0
}

// Audit counts in moto.
func (w *World) Audit(ctx context.Context) (Audit, error) {
	all, err := w.Instances(ctx)
	if err != nil {
		return Audit{}, err
	}
	a := Audit{Launched: len(all)}
	keys := map[string]bool{}
	for _, in := range all {
		key := in.Tags[TagKey]
		what := fmt.Sprintf("%s (%s, %s)", in.ID, key, in.State)
		if key == "" || keys[key] {
			a.Duplicates = append(a.Duplicates, what)
		}
		keys[key] = true
		if in.Live() {
			a.Leaked = append(a.Leaked, what)
		}
	}
	delete(keys, "")
	a.Keys = len(keys)
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, r := range w.ledger {
		if len(r.beside) > 0 {
			a.Beside = append(a.Beside, fmt.Sprintf("%s (%s) beside %s", id, r.key, strings.Join(r.beside, ", ")))
		}
	}
	slices.Sort(a.Beside)
	return a, nil
}

// Terminate ends an instance from outside, as its own shutdown, a spot interruption or another person does.
func (w *World) Terminate(ctx context.Context, id, code, reason string) error {
	if _, err := w.direct.Call(ctx, "TerminateInstances", "InstanceId.1", id); err != nil {
		return fmt.Errorf("terminate %s: %w", id, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended(id, time.Now())
	o := w.overlay(id)
	o.until, o.code, o.reason = time.Time{}, code, reason
	return nil
}

// Interrupt takes a spot instance back: its metadata says so at once, and after the notice's time it is terminated.
func (w *World) Interrupt(id string, after time.Duration) {
	w.mu.Lock()
	w.notices[id] = notice{action: "terminate", at: time.Now().Add(after)}
	w.mu.Unlock()
	go func() {
		select {
		case <-w.hung:
		case <-time.After(after):
			ctx, cancel := background()
			defer cancel()
			_ = w.Terminate(ctx, id, "Server.SpotInstanceTermination", "Spot instance termination")
		}
	}()
}
