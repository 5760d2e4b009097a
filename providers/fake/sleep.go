package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// CanSleep implements providers.SleepKind.
func (*Kind) CanSleep(_, spec any, hibernate bool) error {
	if s, ok := spec.(Spec); ok && hibernate && s.NoHibernate {
		return errors.New("no_hibernate is set")
	}
	return nil
}

// Stop implements providers.Sleeper.
func (p *provider) Stop(ctx context.Context, key providers.Key, _ bool) error {
	const op = "stop"
	draw, err := p.begin(ctx, op, key)
	if err != nil {
		return err
	}
	if draw("error", p.cfg.StopErrorRate) {
		return providers.Errorf(providers.Transient, op, "stop_error_rate struck")
	}
	w, now := p.world, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	in := p.find(key, now)
	if in == nil {
		return providers.Errorf(providers.NotFound, op, "no instance %q", key)
	}
	if in.state(now) <= providers.Running && !draw("lose", p.cfg.LoseStopRate) {
		in.halted, in.off = now, now.Add(p.cfg.StopDelay)
		w.stop(in)
		p.log.Debug("fake instance stopped", "key", key)
	}
	if draw("after", p.cfg.FailAfterRate) {
		return providers.Errorf(providers.Unknown, op, "fail_after_rate struck: the reply is lost")
	}
	return nil
}

// Start implements providers.Sleeper.
func (p *provider) Start(ctx context.Context, key providers.Key, agent providers.Agent) (providers.Instance, error) {
	const op = "start"
	draw, err := p.begin(ctx, op, key)
	if err != nil {
		return providers.Instance{}, err
	}
	w, now := p.world, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	in := p.find(key, now)
	switch {
	case in == nil:
		return refuse(providers.NotFound, op, "no instance %q", key)
	case in.spec.StartError != "":
		return refuse(class(in.spec.StartError), op, "start_error is set")
	case draw("error", p.cfg.StartErrorRate):
		return refuse(class(p.cfg.StartErrorClass), op, "start_error_rate struck")
	case !in.halted.IsZero() && in.state(now) == providers.Stopping && in.destroyed.IsZero():
		return refuse(providers.Transient, op, "it is still being stopped")
	}
	if in.state(now) == providers.Stopped {
		delay := in.bootDelay(p.cfg)
		in.halted, in.off, in.running = time.Time{}, time.Time{}, now.Add(delay)
		if !in.spec.NoAgent {
			w.start(in, providers.CreateRequest{Key: in.key, Owner: in.owner, Worker: in.worker, Spec: in.spec, Agent: agent}, delay)
		}
		p.log.Debug("fake instance started", "key", key)
	}
	if draw("after", p.cfg.FailAfterRate) {
		return refuse(providers.Unknown, op, "fail_after_rate struck: the reply is lost")
	}
	return in.shown(now), nil
}

func (in *instance) bootDelay(c Config) time.Duration {
	if in.spec.BootDelay >= 0 {
		return in.spec.BootDelay
	}
	return c.BootDelay
}

// facts are what an instance really is.
func (in *instance) facts() map[string]string {
	f := map[string]string{"image": "fake", "type": in.spec.Type, "market": in.spec.Market}
	if in.place != "" {
		f["zone"] = in.place
	}
	maps.DeleteFunc(f, func(_, v string) bool { return v == "" })
	return f
}

// Console implements providers.ConsoleReader. A machine that was destroyed shows its last words for as long as it is on its way.
func (p *provider) Console(ctx context.Context, key providers.Key) ([]byte, error) {
	const op = "console"
	if _, err := p.begin(ctx, op, key); err != nil {
		return nil, err
	}
	now := time.Now()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	in := p.find(key, now)
	if in == nil {
		return nil, providers.Errorf(providers.NotFound, op, "no instance %q", key)
	}
	out := in.spec.Console
	if out == "" {
		out = fmt.Sprintf("fake machine %s for worker %s\nstate: %s\n", in.key, in.worker, in.state(now))
	}
	return []byte(out[max(0, len(out)-64<<10):]), nil
}
