package master

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

// ErrNoState says that there is no state to compare with.
var ErrNoState = errors.New("there is no state")

// ReapOptions say where to look for instances that no record knows while no master runs.
type ReapOptions struct {
	StateDir  string
	ConfigDir string // its provider blocks say where to look; "" = those of the configuration that the state remembers
	Hcl       hcl.Options
	Log       *slog.Logger

	// Owner is for a state that is lost: everything with its tag is a stray. It must not be the owner of the state in StateDir.
	Owner string
}

// Reaper compares what the providers hold with the records of a state that no master uses. It holds that state until Close, so that no master can
// begin meanwhile: an instance that a record knows is never touched, and none can become known.
type Reaper struct {
	house   house
	store   *sqlite.Store // nil: the state is lost
	temp    string        // stands in for a state directory
	known   map[model.InstanceKey]bool
	blocks  []hcl.Provider
	opened  map[string]engine.Opened // by name
	seen    map[model.InstanceKey]*sighted
	ordered map[model.InstanceKey]bool
}

// sighted is what several looks have shown of one stray.
type sighted struct {
	provider    string
	first, last time.Time
	times       int
	sure        bool // at the last look
}

// OpenReaper takes the state and opens the providers. A directory without a state is ErrNoState; one that a master uses is a *sqlite.LockedError.
func OpenReaper(ctx context.Context, o ReapOptions) (_ *Reaper, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reaper{house: house{kinds: o.Hcl.Kinds, owner: providers.Owner(o.Owner), stateDir: o.StateDir, log: o.Log}, known: map[model.InstanceKey]bool{},
		opened: map[string]engine.Opened{}, seen: map[model.InstanceKey]*sighted{}, ordered: map[model.InstanceKey]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if o.Owner == "" {
		err = r.takeState(ctx, o)
	} else {
		err = r.withoutState(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	for i := range r.blocks {
		b := &r.blocks[i]
		if r.opened[b.Name], err = r.house.openWithin(ctx, b, false); err != nil {
			delete(r.opened, b.Name)
			return nil, err
		}
	}
	return r, nil
}

// takeState locks the state and reads the records and, if no directory is given, the configuration that it remembers.
func (r *Reaper) takeState(ctx context.Context, o ReapOptions) error {
	reader, err := sqlite.OpenReader(ctx, o.StateDir) // first: opening makes a state where there is none
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w in %s", ErrNoState, o.StateDir)
	}
	if err != nil {
		return err
	}
	if err := reader.Close(); err != nil {
		return err
	}
	if r.store, err = sqlite.Open(ctx, o.StateDir, sqlite.Options{Log: o.Log}); err != nil {
		return err
	}
	saved, _, err := r.store.Load(ctx)
	if err != nil {
		return err
	}
	r.house.owner = providers.Owner(saved.Owner)
	for _, in := range saved.Instances {
		r.known[in.Key] = true
	}
	if o.ConfigDir != "" {
		return r.readBlocks(o)
	}
	snap, err := r.store.LatestConfig(ctx)
	if err != nil {
		return fmt.Errorf("the state remembers no configuration (name its directory with -config): %w", err)
	}
	h := o.Hcl
	h.Accepted = true
	if h.Stored, h.Dir = snap.Variables, snap.Directory; h.Stored == nil {
		h.Stored = map[string]string{}
	}
	cfg, diags := hcl.LoadFiles(snap.Files, h)
	if diags.HasErrors() {
		return fmt.Errorf("the configuration that the state remembers (name another one with -config): %w", diags)
	}
	r.blocks = cfg.Providers
	return nil
}

// withoutState looks for the instances of an owner whose state is lost, and makes sure that it is.
func (r *Reaper) withoutState(ctx context.Context, o ReapOptions) error {
	reader, err := sqlite.OpenReader(ctx, o.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(o.StateDir); errors.Is(err, fs.ErrNotExist) {
			if r.temp, err = os.MkdirTemp("", "rouse-reap-"); err != nil {
				return err
			}
			r.house.stateDir = r.temp
		}
	case err != nil:
		return fmt.Errorf("whose state is in %s cannot be read; if it is lost, move it away: %w", o.StateDir, err)
	default:
		saved, _, err := reader.Load(ctx)
		if err = errors.Join(err, reader.Close()); err != nil {
			return err
		}
		if saved.Owner == o.Owner {
			return fmt.Errorf("the state of owner %s is not lost, it is in %s: without -owner, its records are spared", o.Owner, o.StateDir)
		}
	}
	return r.readBlocks(o)
}

func (r *Reaper) readBlocks(o ReapOptions) error {
	cfg, diags := hcl.Load(o.ConfigDir, o.Hcl)
	if diags.HasErrors() {
		return fmt.Errorf("the configuration in %s (`rouse validate` says more): %w", o.ConfigDir, diags)
	}
	r.blocks = cfg.Providers
	return nil
}

// Owner is whose instances are looked for.
func (r *Reaper) Owner() string { return string(r.house.owner) }

// Close gives the state back. It destroys nothing.
func (r *Reaper) Close() error {
	var errs []error
	for _, o := range r.opened {
		errs = append(errs, o.Provider.Close())
	}
	if r.store != nil {
		errs = append(errs, r.store.Close())
	}
	if r.temp != "" {
		errs = append(errs, os.RemoveAll(r.temp))
	}
	return errors.Join(errs...)
}

// Look lists the instances of one provider ("": of all) and returns those that no record knows.
func (r *Reaper) Look(ctx context.Context, provider string) (api.StrayList, error) {
	out := api.StrayList{Providers: []api.StrayProvider{}, Strays: []api.Stray{}}
	var names []string
	for i := range r.blocks {
		if n := r.blocks[i].Name; provider == "" || n == provider {
			names = append(names, n)
		}
	}
	if len(names) == 0 && provider != "" {
		return out, fmt.Errorf("there is no provider %q in the configuration", provider)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range names {
		o := r.opened[name]
		all.Go(func() {
			list, err := within(ctx, o.Limits.CallTimeout, func(ctx context.Context) ([]providers.Instance, error) { return o.Provider.List(ctx, r.house.owner) })
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			p := api.StrayProvider{Name: name}
			if err != nil {
				p.Error = err.Error()
			} else {
				p.ListedAt = now
			}
			out.Providers = append(out.Providers, p)
			for _, in := range list {
				if st, ok := r.stray(now, name, o.Limits, in); ok && err == nil {
					out.Strays = append(out.Strays, st)
				}
			}
		})
	}
	all.Wait()
	slices.SortFunc(out.Providers, func(a, b api.StrayProvider) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Strays, func(a, b api.Stray) int {
		return strings.Compare(a.Provider+"\x00"+string(a.Instance), b.Provider+"\x00"+string(b.Instance))
	})
	out.Strays = slices.CompactFunc(out.Strays, func(a, b api.Stray) bool { return a.Instance == b.Instance && a.Provider == b.Provider })
	return out, ctx.Err()
}

// stray judges one sighting as the core does: see core.StrayView.
func (r *Reaper) stray(now time.Time, provider string, limits providers.Limits, in providers.Instance) (api.Stray, bool) {
	key := model.InstanceKey(in.Key)
	if r.known[key] || in.State == providers.Gone || in.State == providers.Stopping {
		return api.Stray{}, false
	}
	s := r.seen[key]
	if s == nil {
		s = &sighted{provider: provider, first: now}
		r.seen[key] = s
	}
	if s.last.IsZero() || now.Sub(s.last) >= core.ReapApart {
		s.times, s.last = s.times+1, now
	}
	born := in.CreatedAt
	if born.IsZero() {
		born = s.first
	}
	grace := sweepGrace(limits)
	st := api.Stray{Provider: provider, Instance: key, ID: in.ID, State: in.State.String(), Detail: in.Detail, CreatedAt: in.CreatedAt, FirstSeen: s.first,
		Age: now.Sub(born).Seconds(), Sure: s.times >= 2 && now.Sub(born) >= grace, Ending: r.ordered[key]}
	switch s.sure = st.Sure; {
	case st.Sure:
	case now.Sub(born) < grace:
		st.Why = fmt.Sprintf("it must be %s old: a call that is still on its way may have made it", grace)
	default:
		st.Why = "seen once so far"
	}
	return st, true
}

// Destroy calls for the end of a stray that the last look found sure. gone says that nothing is left of it; else it is to be repeated, unless err
// says that this makes no sense.
func (r *Reaper) Destroy(ctx context.Context, key model.InstanceKey) (gone bool, err error) {
	s := r.seen[key]
	if s == nil || !s.sure || r.known[key] {
		return false, fmt.Errorf("instance %s is not surely a stray; nothing was done", key)
	}
	o := r.opened[s.provider]
	r.ordered[key] = true
	_, err = within(ctx, o.Limits.CallTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, o.Provider.Destroy(ctx, providers.Key(key))
	})
	switch providers.ClassOf(err) {
	case providers.NotFound:
		return true, nil
	case providers.Unauthorized, providers.BadConfig:
		return false, err
	}
	return false, ctx.Err()
}
