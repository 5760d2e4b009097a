package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

func (l *loop) stopInstance(ef core.StopInstance) {
	l.op(ef.Provider, ef.Key, ef.Op, "stop", func(ctx context.Context, p providers.Provider) answer {
		s, ok := p.(providers.Sleeper)
		if !ok {
			return cannotSleep(ef.Provider)
		}
		return sighted(providers.Instance{}, s.Stop(ctx, providers.Key(ef.Key), ef.Hibernate))
	})
}

func (l *loop) startInstance(ef core.StartInstance) {
	l.op(ef.Provider, ef.Key, ef.Op, "start", func(ctx context.Context, p providers.Provider) answer {
		s, ok := p.(providers.Sleeper)
		if !ok {
			return cannotSleep(ef.Provider)
		}
		_, agent, err := l.e.o.Describe(ef.Worker, ef.Key)
		if err != nil {
			return answer{result: core.OpResult{Class: core.OpTransient, Detail: clip(err.Error())}}
		}
		return sighted(s.Start(ctx, providers.Key(ef.Key), agent))
	})
}

func cannotSleep(provider string) answer {
	return answer{result: core.OpResult{Class: core.OpBadConfig, Detail: "instances of provider " + provider + " can not be stopped and started"}}
}

const (
	consoleTimeout = 5 * time.Second  // for which a destroy waits
	consoleAgain   = 30 * time.Second // after which an empty console is read once more: some providers show it late
	consoleMax     = 64 << 10         // bytes that are kept: the last ones
)

var errNoConsole = errors.New("this provider can not show what an instance has printed")

// readConsole keeps what an instance has printed. It is not one of the provider's counted calls: it is rare, short and never repeated, and must not wait
// behind them.
func (l *loop) readConsole(ef core.ReadConsole) {
	e := l.e
	c := l.callers[ef.Provider]
	if e.o.Console == nil || c == nil || l.consoles[ef.Key] != nil {
		return
	}
	read := make(chan struct{})
	l.consoles[ef.Key] = read
	e.work.Go(func() {
		defer e.survive("console of provider "+c.name, nil)
		out, err := c.console(ef.Key)
		close(read)
		_ = e.send(context.Background(), item{after: func() { delete(l.consoles, ef.Key) }})
		if len(out) == 0 && !errors.Is(err, errNoConsole) {
			t := time.NewTimer(consoleAgain)
			defer t.Stop()
			select {
			case <-t.C:
				if again, err2 := c.console(ef.Key); len(again) > 0 || err2 == nil {
					out, err = again, err2
				}
			case <-e.calling.Done():
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.calling), consoleTimeout) // what was read is kept, even if the master stops now
		defer cancel()
		e.o.Console(ctx, ef, out, err)
	})
}

// console makes one call, and returns at its deadline whether or not the provider heeds it.
func (c *caller) console(key model.InstanceKey) ([]byte, error) {
	r, ok := c.opened.Provider.(providers.ConsoleReader)
	if !ok {
		return nil, errNoConsole
	}
	c.mu.Lock()
	if c.closed || c.abandoned >= maxAbandoned {
		c.mu.Unlock()
		return nil, errors.New("the provider is closed, or does not answer")
	}
	k := &call{kind: "console"}
	c.inside++
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.e.calling, consoleTimeout)
	defer cancel()
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() { // not waited for when the engine ends: it may never return
		res := result{err: errors.New("internal error")}
		defer func() {
			c.returned(k)
			done <- res
		}()
		defer c.e.survive("console of provider "+c.name, nil)
		res.out, res.err = r.Console(ctx, providers.Key(key))
	}()
	select {
	case res := <-done:
		return res.out[max(0, len(res.out)-consoleMax):], res.err
	case <-ctx.Done():
		c.abandon(k)
		return nil, fmt.Errorf("no answer within %s", consoleTimeout)
	}
}

// tellInterrupted tells a provider what it has taken back, if that wants to hear it.
func (l *loop) tellInterrupted(ef core.TellInterrupted) {
	c := l.callers[ef.Provider]
	if c == nil {
		return
	}
	if p, ok := c.opened.Provider.(providers.Interruptee); ok {
		l.e.work.Go(func() {
			defer l.e.survive("interruption told to provider "+c.name, nil)
			p.Interrupted(providers.Key(ef.Key))
		})
	}
}

// What a provider tells of an instance is bounded before it gets into the state.
const (
	maxFacts    = 20
	maxFactName = 64
	maxFact     = 256
)

func bounded(facts map[string]string) map[string]string {
	good := len(facts) <= maxFacts
	for k, v := range facts {
		good = good && len(k) <= maxFactName && len(v) <= maxFact
	}
	if good {
		return maps.Clone(facts)
	}
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		if len(out) < maxFacts && len(k) <= maxFactName && len(facts[k]) <= maxFact {
			out[k] = facts[k]
		}
	}
	return out
}
