package fake

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// provider is one handle on a world.
type provider struct {
	world *world
	cfg   Config
	owner providers.Owner
	log   *slog.Logger
}

// Create implements providers.Provider.
func (p *provider) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	const op = "create"
	draw, err := p.begin(ctx, op, req.Key)
	if err != nil {
		return providers.Instance{}, err
	}
	spec, ok := req.Spec.(Spec)
	switch {
	case !req.Key.Valid():
		return refuse(providers.BadConfig, op, "malformed key %q", req.Key)
	case req.Owner == "" || p.owner != "" && req.Owner != p.owner:
		return refuse(providers.BadConfig, op, "owner %q is not the one that this provider was opened for", req.Owner)
	case !ok:
		return refuse(providers.BadConfig, op, "the specification is a %T, not one of fake's", req.Spec)
	case spec.CreateError != "":
		return refuse(class(spec.CreateError), op, "create_error is set")
	case draw("error", p.cfg.CreateErrorRate):
		return refuse(class(p.cfg.CreateErrorClass), op, "create_error_rate struck")
	}
	in, err := p.make(req, spec, draw("boot", p.cfg.BootFailureRate))
	if err != nil {
		return providers.Instance{}, err
	}
	if draw("after", p.cfg.FailAfterRate) {
		return refuse(providers.Unknown, op, "fail_after_rate struck: the reply is lost")
	}
	return in, nil
}

func refuse(c providers.Class, op, format string, args ...any) (providers.Instance, error) {
	return providers.Instance{}, providers.Errorf(c, op, format, args...)
}

func (p *provider) make(req providers.CreateRequest, spec Spec, dud bool) (providers.Instance, error) {
	const op = "create"
	w, now := p.world, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if in := w.instances[req.Key]; in != nil {
		if in.owner != req.Owner {
			return refuse(providers.BadConfig, op, "key %q belongs to another owner", req.Key)
		}
		return in.shown(now), nil
	}
	var all, own int64
	for _, in := range w.instances {
		if in.state(now) != providers.Gone {
			all++
			if in.owner == req.Owner {
				own++
			}
		}
	}
	switch {
	case p.cfg.Capacity > 0 && all >= p.cfg.Capacity:
		return refuse(providers.NoCapacity, op, "all %d machines are in use", p.cfg.Capacity)
	case p.cfg.Quota > 0 && own >= p.cfg.Quota:
		return refuse(providers.OverQuota, op, "all %d machines of this owner are in use", p.cfg.Quota)
	}
	w.forget(now)
	room, ok := p.room(req.Place, spec, now)
	if !ok {
		return refuse(providers.NoCapacity, op, "no host has room")
	}
	in := &instance{key: req.Key, owner: req.Owner, worker: req.Worker, created: now, detail: spec.Detail, place: p.cfg.Place, room: room, spec: spec}
	delay := in.bootDelay(p.cfg)
	switch {
	case dud || spec.BootFailure:
		in.failed, in.detail = now.Add(delay), "boot failure"
	case !spec.NeverRuns:
		in.running = now.Add(delay)
		if !spec.NoAgent {
			w.start(in, req, delay)
		}
	}
	w.instances[req.Key] = in
	p.log.Debug("fake instance made", "key", req.Key, "worker", req.Worker)
	return in.shown(now), nil
}

// Destroy implements providers.Provider.
func (p *provider) Destroy(ctx context.Context, key providers.Key) error {
	const op = "destroy"
	draw, err := p.begin(ctx, op, key)
	if err != nil {
		return err
	}
	if draw("error", p.cfg.DestroyErrorRate) {
		return providers.Errorf(providers.Transient, op, "destroy_error_rate struck")
	}
	w, now := p.world, time.Now()
	w.mu.Lock()
	in := p.find(key, now)
	if in != nil && in.destroyed.IsZero() && !draw("lose", p.cfg.LoseDestroyRate) {
		in.destroyed, in.gone = now, now.Add(p.cfg.DestroyDelay)
		w.stop(in)
		p.log.Debug("fake instance destroyed", "key", key)
	}
	w.mu.Unlock()
	switch {
	case in == nil:
		return providers.Errorf(providers.NotFound, op, "no instance %q", key)
	case draw("after", p.cfg.FailAfterRate):
		return providers.Errorf(providers.Unknown, op, "fail_after_rate struck: the reply is lost")
	}
	return nil
}

// Get implements providers.Provider.
func (p *provider) Get(ctx context.Context, key providers.Key) (providers.Instance, error) {
	const op = "get"
	draw, err := p.begin(ctx, op, key)
	if err != nil {
		return providers.Instance{}, err
	}
	if draw("error", p.cfg.GetErrorRate) {
		return refuse(providers.Transient, op, "get_error_rate struck")
	}
	now := time.Now()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	in := p.find(key, now)
	if in == nil {
		return refuse(providers.NotFound, op, "no instance %q", key)
	}
	return in.shown(now), nil
}

// find returns an instance of ours that is not gone. The caller holds the world's mu.
func (p *provider) find(key providers.Key, now time.Time) *instance {
	in := p.world.instances[key]
	if in == nil || in.state(now) == providers.Gone || p.owner != "" && in.owner != p.owner {
		return nil
	}
	return in
}

// List implements providers.Provider.
func (p *provider) List(ctx context.Context, owner providers.Owner) ([]providers.Instance, error) {
	const op = "list"
	draw, err := p.begin(ctx, op, "")
	if err != nil {
		return nil, err
	}
	if draw("error", p.cfg.ListErrorRate) {
		return nil, providers.Errorf(providers.Transient, op, "list_error_rate struck")
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	list := p.world.list(time.Now().Add(-p.cfg.ListStale), func(in *instance) bool { return in.owner == owner })
	if draw("double", p.cfg.ListDoubleRate) {
		list = append(list, slices.Clone(list)...)
	}
	return list, nil
}

// Check implements providers.Checker.
func (p *provider) Check(_ context.Context, specs []any) (found []providers.Finding) {
	for i, spec := range specs {
		switch s, ok := spec.(Spec); {
		case !ok:
			found = append(found, providers.Finding{Fatal: true, Spec: i, Summary: "Not a specification of this provider", Detail: fmt.Sprintf("It is a %T.", spec)})
		case s.CreateError == providers.BadConfig.String():
			found = append(found, providers.Finding{Fatal: true, Spec: i, Attr: "create_error", Summary: "This instance can not be created",
				Detail: `Its create_error is "bad-config": every create would be refused.`})
		}
	}
	return found
}

// Close implements providers.Provider.
func (p *provider) Close() error { return nil }

// begin waits as long as a call takes, or hangs, and returns the faults of this call.
func (p *provider) begin(ctx context.Context, op string, key providers.Key) (draw func(fault string, rate float64) bool, err error) {
	p.world.mu.Lock()
	n := p.world.calls[call{op, key}]
	p.world.calls[call{op, key}] = n + 1
	p.world.mu.Unlock()
	draw = func(fault string, rate float64) bool {
		return rate > 0 && dice(p.cfg.Seed, op, string(key), n, fault) < rate
	}
	var after <-chan time.Time
	switch {
	case draw("hang", p.cfg.HangRate): // after stays nil: for ever
	case p.cfg.CallDelay > 0:
		t := time.NewTimer(p.cfg.CallDelay)
		defer t.Stop()
		after = t.C
	default:
		if ctx.Err() == nil {
			return draw, nil
		}
	}
	select {
	case <-after:
		return draw, nil
	case <-ctx.Done():
		return nil, providers.Errorf(providers.Unknown, op, "no answer: %w", ctx.Err())
	}
}

// dice returns a number in [0,1) that depends on nothing but its arguments.
func dice(seed int64, op, key string, n uint64, fault string) float64 {
	h := fnv.New64a()
	var buf [16]byte
	binary.LittleEndian.PutUint64(buf[:], uint64(seed))
	binary.LittleEndian.PutUint64(buf[8:], n)
	for _, part := range [][]byte{buf[:], []byte(op), {0}, []byte(key), {0}, []byte(fault)} {
		_, _ = h.Write(part)
	}
	return rand.New(rand.NewPCG(h.Sum64(), uint64(seed))).Float64()
}

func sortedKeys[V any](m map[string]V) iter.Seq[string] {
	return slices.Values(slices.Sorted(maps.Keys(m)))
}
