//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// provider is one handle on a StateDir.
type provider struct {
	providers.Limit
	cfg   Config
	owner providers.Owner
	state string // StateDir, absolute
	log   *slog.Logger

	readOnly bool // of Env

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	busy     map[providers.Key]bool // being destroyed by this handle
	creating map[providers.Key]bool
	watched  map[providers.Key]entry       // agents that watch waits for
	kin      map[providers.Key]map[id]bool // what was seen of an instance, by whoever looked last
}

// Open implements providers.Kind.
func (Kind) Open(_ context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	const op = "open"
	cfg, ok := env.Config.(Config)
	if !ok {
		return nil, limits, providers.Errorf(providers.BadConfig, op, "the configuration is a %T, not one of local's", env.Config)
	}
	state, err := filepath.Abs(env.StateDir)
	if err == nil && env.StateDir == "" {
		err = errors.New("no state directory")
	}
	for _, d := range []string{"instances", "gone", "tmp", "trash"} {
		if err == nil && !env.ReadOnly {
			err = os.MkdirAll(filepath.Join(state, d), 0o700)
		}
	}
	if err != nil {
		return nil, limits, providers.Errorf(providers.BadConfig, op, "%w", err)
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &provider{
		Limit: providers.Limit(cfg.MaxInstances), cfg: cfg, owner: env.Owner, state: state, log: log, readOnly: env.ReadOnly,
		busy: map[providers.Key]bool{}, creating: map[providers.Key]bool{}, watched: map[providers.Key]entry{}, kin: map[providers.Key]map[id]bool{},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if env.ReadOnly {
		return p, limits, nil
	}
	p.adopt()
	p.wg.Go(p.housekeep)
	if collectEvery > 0 {
		p.wg.Go(p.collect)
	}
	return p, limits, nil
}

// Close implements providers.Provider. Instances go on; what is being destroyed is left half done, for the next handle.
func (p *provider) Close() error {
	p.mu.Lock()
	p.stop()
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

func (p *provider) dir(key providers.Key) string {
	return filepath.Join(p.state, "instances", string(key))
}

// tombstone is the name of an empty file that says that a key was used and its instance is gone.
func (p *provider) tombstone(key providers.Key) string {
	return filepath.Join(p.state, "gone", string(key))
}

// adopt watches over the instances that earlier handles made.
func (p *provider) adopt() {
	names, err := os.ReadDir(filepath.Join(p.state, "instances"))
	if err != nil {
		p.log.Error("cannot look for instances", "error", err)
	}
	for _, n := range names {
		e, err := load(p.dir(providers.Key(n.Name())), providers.Key(n.Name()))
		if err != nil {
			p.log.Error("an instance's record is unreadable", "instance", n.Name(), "error", err)
		} else if p.ours(&e) && e.exit == nil && !e.doomed {
			p.background(func() { p.adoptOne(e) })
		}
	}
}

// adoptOne watches over an instance, and first records its process if the master that started it died before it could.
func (p *provider) adoptOne(e entry) {
	if e.process.PID == 0 {
		dir := p.dir(e.Key)
		unlock, err := durable.Lock(p.ctx, dir)
		if err != nil {
			return // gone, or closed
		}
		defer unlock()
		if e, err = load(dir, e.Key); err != nil || e.process.PID != 0 || e.doomed {
			return // another handle was at work
		}
		found, ok := e.find()
		if !ok {
			return // never started: Get says so, and Create starts it
		}
		e.process = found
		if err := writeJSON(dir, fileProcess, found, false); err != nil {
			p.log.Warn("cannot record a process", "key", e.Key, "pid", found.PID, "error", err)
		}
	}
	p.watch(e)
}

func (p *provider) ours(e *entry) bool { return p.owner == "" || e.Owner == p.owner }

// get loads an instance of ours. The error is classed.
func (p *provider) get(ctx context.Context, op string, key providers.Key) (entry, error) {
	if err := ctx.Err(); err != nil {
		return entry{}, providers.Errorf(providers.Unknown, op, "%w", err)
	}
	if !key.Valid() {
		return entry{}, providers.Errorf(providers.NotFound, op, "malformed key %q", key)
	}
	e, err := load(p.dir(key), key)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !p.ours(&e):
		return entry{}, providers.Errorf(providers.NotFound, op, "no instance %q", key)
	case err != nil:
		return entry{}, providers.Errorf(providers.Unknown, op, "%w", err)
	}
	return e, nil
}

// Get implements providers.Provider.
func (p *provider) Get(ctx context.Context, key providers.Key) (providers.Instance, error) {
	e, err := p.get(ctx, "get", key)
	if err != nil {
		return providers.Instance{}, err
	}
	in := p.show(&e)
	if in.Detail == neverStarted { // only its record is there: the caller may Create it, or Destroy the record
		return providers.Instance{}, providers.Errorf(providers.NotFound, "get", "instance %q was %s", key, neverStarted)
	}
	if in.Detail == beingStarted { // by a call that is under way; or by a master that was killed in a fork, and then nothing may come of it
		return providers.Instance{}, providers.Errorf(providers.Transient, "get", "instance %q %s: look again", key, beingStarted)
	}
	return in, nil
}

// neverStarted is said of an instance whose master ended between its record and its process.
const neverStarted = "never started: its master ended before it could"

// beingStarted is said of an instance that somebody holds the lock of, and that has no process yet.
const beingStarted = "is being started"

// List implements providers.Provider.
func (p *provider) List(ctx context.Context, owner providers.Owner) ([]providers.Instance, error) {
	const op = "list"
	if err := ctx.Err(); err != nil {
		return nil, providers.Errorf(providers.Unknown, op, "%w", err)
	}
	names, err := os.ReadDir(filepath.Join(p.state, "instances"))
	if p.readOnly && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, providers.Errorf(providers.Transient, op, "%w", err)
	}
	var list []providers.Instance
	for _, n := range names {
		key := providers.Key(n.Name())
		e, err := load(p.dir(key), key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since ReadDir
		case err != nil: // it may be anybody's: a list without it would be a short answer
			return nil, providers.Errorf(providers.Unknown, op, "%w", err)
		case e.Owner == owner:
			list = append(list, p.show(&e))
		}
	}
	return list, nil
}

// show derives an instance's state from its facts.
func (p *provider) show(e *entry) providers.Instance {
	in := providers.Instance{Key: e.Key, Worker: e.Worker, CreatedAt: e.Created, Place: p.Limit.Place()}
	if e.process.PID == 0 && !e.doomed && !durable.Locked(p.dir(e.Key)) {
		e.process, _ = e.find() // its master has died between start and record
	}
	if e.process.PID != 0 {
		in.ID = strconv.Itoa(e.process.PID)
		in.Detail = "pid " + in.ID
	}
	switch {
	case e.doomed:
		in.State = providers.Stopping
	case e.exit != nil:
		in.State, in.Detail = providers.Failed, e.exit.Text
	case e.process.alive():
		in.State = providers.Running
	case e.process.PID != 0:
		in.State, in.Detail = providers.Failed, p.epitaph(e.Key, cmp.Or(e.process.status(), unknownEnd)) // watch has not written it down yet
	case durable.Locked(p.dir(e.Key)):
		in.State, in.Detail = providers.Pending, beingStarted
	default:
		in.State, in.Detail = providers.Pending, neverStarted
		if again, err := load(p.dir(e.Key), e.Key); err == nil && again.process.alive() { // started since e was read
			in.State, in.ID = providers.Running, strconv.Itoa(again.process.PID)
			in.Detail = "pid " + in.ID
		}
	}
	return in
}

// Check implements providers.Checker.
func (p *provider) Check(_ context.Context, specs []any) (found []providers.Finding) {
	for i, spec := range specs {
		if _, ok := spec.(Spec); !ok {
			found = append(found, providers.Finding{Fatal: true, Spec: i, Summary: "Not a specification of this provider", Detail: fmt.Sprintf("It is a %T.", spec)})
		}
	}
	if _, err := p.binary("check"); err != nil {
		found = append(found, providers.Finding{Fatal: true, Spec: -1, Attr: "worker_binary", Summary: "The agent's program can not be run", Detail: err.Error()})
	}
	return found
}

// housekeep bounds what instances print, and removes what nobody needs any more.
func (p *provider) housekeep() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%720 == 0 { // at once and every hour
			p.clean()
		}
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
		names, _ := os.ReadDir(filepath.Join(p.state, "instances"))
		for _, n := range names {
			trim(p.dir(providers.Key(n.Name())))
		}
	}
}

// clean removes tombstones that no late Create can meet any more, and what a crash left in tmp and trash.
func (p *provider) clean() {
	for name, age := range map[string]time.Duration{"gone": 24 * time.Hour, "tmp": time.Hour, "trash": time.Hour} {
		dir := filepath.Join(p.state, name)
		names, _ := os.ReadDir(dir)
		for _, n := range names {
			info, err := n.Info()
			if err != nil || time.Since(info.ModTime()) < age {
				continue
			}
			path := filepath.Join(dir, n.Name())
			if info.IsDir() {
				_ = remove(path)
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				p.log.Warn("cannot clean up", "path", path, "error", err)
			}
		}
	}
}

// background runs f under the provider's context unless it is closed.
func (p *provider) background(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.wg.Go(f)
	}
}

// mistake is a classed error of a malformed request.
func mistake(format string, args ...any) error {
	return providers.Errorf(providers.BadConfig, "create", "%w", fmt.Errorf(format, args...))
}
