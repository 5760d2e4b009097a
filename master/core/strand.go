package core

import (
	"github.com/rouse-ci/rouse/master/model"
)

// A build is bound to one machine. Most of them end with it, but some are left when it is gone, because the configuration or the master has changed meanwhile. No agent
// that may ever attach knows them, so they go back to the queue.

// stranded ends the builds of a worker without a machine that nobody will come for.
func (s *State) stranded(w *worker) {
	if len(w.builds) == 0 || w.facts.Instance != nil || w.facts.Session != 0 {
		return
	}
	for _, b := range append([]*Build(nil), w.builds...) {
		switch {
		case b.Phase == model.BuildPreparing && w.facts.Retired:
			s.endByOrder(b, "its worker is no longer configured")
		case b.Phase == model.BuildPreparing && !w.cfg.Latent():
			s.endByOrder(b, "its worker makes no instances any more")
		case b.Phase == model.BuildRunning && w.cfg.Latent() && b.Instance == "":
			s.endByOrder(b, "its worker was started by somebody else, and is lost; now it makes its own instances")
		}
	}
}

// orphaned ends, after a restart, what ran on another machine than the one that the worker has now: a runner that took it over there would go on in the middle.
func (s *State) orphaned(w *worker) {
	var has model.InstanceKey
	if w.facts.Instance != nil {
		has = w.facts.Instance.Key
	}
	for _, b := range append([]*Build(nil), w.builds...) {
		if b.Phase == model.BuildRunning && b.Instance != has {
			s.stopBuild(b, verdict{result: model.Retry, text: "its instance is gone"})
		}
	}
}

// guest says whether the agent that is attached is not one of an instance, although the worker makes instances (by now). Its builds go on.
func (w *worker) guest() bool {
	return w.cfg.Latent() && w.facts.Instance == nil && w.facts.Session != 0
}
