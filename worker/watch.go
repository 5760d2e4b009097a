package worker

import (
	"context"
	"fmt"
	"slices"

	"github.com/rouse-ci/rouse/worker/imds"
	"github.com/rouse-ci/rouse/worker/proto"
)

// WatchEC2 is the Watch of a machine on EC2.
const WatchEC2 = "ec2"

// watcher makes what Config.Watch asks for, nil if it asks for nothing.
func (a *Agent) watcher() (*imds.Watcher, error) {
	switch a.cfg.Watch {
	case "":
		return nil, nil
	case WatchEC2:
		return imds.New(a.cfg.Metadata, a.cfg.WatchEvery, a.log)
	}
	return nil, fmt.Errorf("watch %q is not known; it can be %q", a.cfg.Watch, WatchEC2)
}

// watch tells the master what the machine's host announces, until ctx ends.
func (a *Agent) watch(ctx context.Context, w *imds.Watcher) {
	w.Run(ctx, func(list []imds.Notice) {
		a.mu.Lock()
		fresh := slices.DeleteFunc(slices.Clone(list), func(n imds.Notice) bool { return slices.Contains(a.notices, n) })
		a.notices = list
		s := a.admitted
		a.mu.Unlock()
		for _, n := range fresh {
			a.log.Warn("this machine's host says", "kind", n.Kind, "text", n.Text)
		}
		if s != nil {
			s.tell(fresh)
		}
	})
}

// enter makes the session the one that hears of notices and tells it what is announced already. Both happen under the lock under which watch looks
// for a session: every session hears of every announcement exactly once.
func (s *session) enter() {
	s.Agent.mu.Lock()
	s.admitted = s
	list := s.notices
	s.Agent.mu.Unlock()
	s.tell(list)
}

func (s *session) leave() {
	s.Agent.mu.Lock()
	defer s.Agent.mu.Unlock()
	if s.admitted == s {
		s.admitted = nil
	}
}

// tell sends notices. If that fails, the link is at its end, and the next one begins with them.
func (s *session) tell(list []imds.Notice) {
	for _, n := range list {
		if err := s.post(proto.OpNotice, "", map[string]any{"kind": string(n.Kind), "text": n.Text}); err != nil {
			s.fail(err)
			return
		}
	}
}
