package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Observed says that something has changed with instances, as their provider tells. It may come late, twice or not at all, and it proves nothing: it is a
// reason to look. Keys that are not known are ignored.
type Observed struct {
	Provider string
	Keys     []model.InstanceKey
}

func (Observed) event() {}

const (
	lookPause = time.Second      // between two looks at one instance, however much is told of it
	lookAgain = 10 * time.Second // after a look that failed
)

func (s *State) observed(ev Observed) {
	for _, key := range ev.Keys {
		w := s.instances[key]
		if w == nil || w.facts.Instance.Provider != ev.Provider {
			continue
		}
		w.facts.Look = true
		if w.facts.Instance.Doomed && w.facts.Op == 0 {
			s.hurry(w)
		}
		s.touch(w)
	}
}

// hurry lets a doomed instance be destroyed at once, and not when it would be time to ask once more: most likely it has just ended.
func (s *State) hurry(w *worker) {
	if !s.now.Before(w.facts.LookAfter) {
		w.facts.Look, w.facts.LookAfter, w.facts.NotBefore = false, s.now.Add(lookPause), s.now
	}
}

// looked takes in what a look has shown that was asked for because something had changed: unlike any other, it counts more than a connection that seems
// alive, if that was there before it was asked for.
func (s *State) looked(w *worker, in *latent.Instance, ref opRef, r OpResult) {
	again := func(pause time.Duration) {
		w.facts.Look, w.facts.LookAfter = true, s.now.Add(pause)
	}
	switch {
	case in.Doomed:
	case r.Class != OpOK && r.Class != OpNotFound:
		again(max(s.checkInterval(w), lookAgain))
	case w.facts.Session == 0 || !w.attachedAt.Before(ref.at):
	case r.Class == OpNotFound:
		if in.Proven(ref.at, ref.seen, s.policyOf(w)) {
			s.doom(w, "the instance is not there any more, says its provider, although its agent seemed to be", failVanished)
		}
	case r.State == SightStopping:
		again(lookPause)
	case r.State == SightGone || r.State == SightFailed || r.State == SightStopped:
		s.hangup(w, w.facts.Session, "the machine has ended", true)
		w.facts.Session, w.agent, in.LostAt = 0, "", s.now
	}
}
