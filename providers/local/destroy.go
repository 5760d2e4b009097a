//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// killTimeout bounds one attempt to kill everything; the next Destroy tries again.
const killTimeout = 20 * time.Second

// Destroy implements providers.Provider. The end is marked on disk before it returns, so a master that comes later ends what this one
// does not.
func (p *provider) Destroy(ctx context.Context, key providers.Key) error {
	const op = "destroy"
	e, err := p.get(ctx, op, key)
	if err != nil {
		return err
	}
	if !e.doomed {
		f, err := os.OpenFile(filepath.Join(p.dir(key), fileDoomed), os.O_CREATE|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return providers.Errorf(providers.NotFound, op, "no instance %q", key)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil { // a full disk must not keep a process alive: the end goes on without the mark
			p.log.Warn("cannot mark an instance as doomed", "key", key, "error", err)
		}
	}
	p.mu.Lock()
	begin := !p.busy[key]
	p.busy[key] = true
	p.mu.Unlock()
	if begin {
		p.background(func() {
			start := time.Now()
			err := p.end(key)
			p.mu.Lock()
			delete(p.busy, key)
			p.mu.Unlock()
			if err != nil && p.ctx.Err() == nil {
				p.log.Error("instance does not end", "key", key, "error", err)
			} else if err == nil {
				p.log.Info("instance ended", "key", key, "took", time.Since(start))
			}
		})
	}
	return nil
}

// end ends an instance whole and returns when nothing of it is left.
func (p *provider) end(key providers.Key) error {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Grace+killTimeout)
	defer cancel()
	unlock, err := durable.Lock(ctx, p.dir(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	e, err := load(p.dir(key), key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another handle was quicker
	}
	if err != nil {
		return err
	}
	if e.process.PID == 0 {
		e.process, _ = e.find()
	}
	e.kin = p.seen(key)
	e.terminate(ctx, p.cfg.Grace)
	if err := e.sweep(ctx); err != nil {
		p.see(key, e.kin) // for the next attempt
		return err
	}
	p.see(key, nil)
	e.process.reap()
	tomb, err := os.OpenFile(p.tombstone(key), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = tomb.Close()
	}
	if err != nil { // only a late Create could tell, and there is none from a caller that has seen the end
		p.log.Warn("cannot write a tombstone", "key", key, "error", err)
	}
	return p.bury(key)
}

// watch waits for the end of an agent that nobody destroyed, kills what it left behind and writes down how it ended.
func (p *provider) watch(e entry) {
	p.mu.Lock()
	p.watched[e.Key] = e
	p.mu.Unlock()
	p.background(func() {
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.watched, e.Key)
		}()
		if !e.process.awaitExit(p.ctx) {
			return // closed
		}
		dir := p.dir(e.Key)
		unlock, err := durable.Lock(p.ctx, dir)
		if err != nil {
			return // gone, or closed
		}
		defer unlock()
		now, err := load(dir, e.Key)
		switch {
		case err != nil: // gone
			p.see(e.Key, nil)
			e.process.reap()
			return
		case now.doomed || now.exit != nil || now.process != e.process:
			return // whoever destroys it does the rest, and waits for the agent last
		}
		// Its agent is not waited for yet if it is our child, so its session is still known to be its own.
		e.kin = p.seen(e.Key)
		ctx, cancel := context.WithTimeout(p.ctx, killTimeout)
		defer cancel()
		if err := e.sweep(ctx); err != nil {
			p.log.Error("an instance that ended has left processes", "key", e.Key, "error", err)
		}
		p.see(e.Key, e.kin)
		how := e.process.status()
		if how == "" {
			how, _ = e.process.reap()
		}
		_ = os.Remove(filepath.Join(dir, fileAgent))
		text := p.epitaph(e.Key, cmp.Or(how, unknownEnd))
		if err := writeJSON(dir, fileExit, exit{Text: text, At: time.Now().UTC()}, false); err != nil {
			p.log.Warn("cannot write down how an instance ended", "key", e.Key, "error", err)
		}
		e.process.reap() // last, so that whoever looks meanwhile can see its status
		p.log.Warn("instance ended by itself", "key", e.Key, "worker", e.Worker, "how", text)
	})
}
