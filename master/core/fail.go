package core

import (
	"strconv"
	"time"

	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
)

// Classes of failure that no provider's answer names. The others are OpClass's names.
const (
	failMissing  = "missing"  // no agent attached in time
	failLost     = "lost"     // its agent was lost and did not come back
	failEnded    = "ended"    // the instance ended by itself
	failVanished = "vanished" // the provider has it no more
)

// refusedBackoff is the first pause after a failure that trying again does not cure: somebody must change something first.
const refusedBackoff = time.Minute

func (w *worker) faultClass(d latent.Decision) string {
	switch {
	case !d.Fault:
		return ""
	case w.facts.Instance.AttachedAt.IsZero():
		return failMissing
	}
	return failLost
}

// fail counts a failure against the worker, lets it back off, and gives its builds back to the queue. Only builds whose instance can never be
// made, as it is configured, end: to try that again would be a loop. (In Buildbot that is LatentWorkerCannotSubstantiate.)
func (s *State) fail(w *worker, class, why string) {
	first := FirstBackoff
	if class == OpBadConfig.String() || class == OpUnauthorized.String() {
		first = refusedBackoff
	}
	w.facts.Tries++
	w.facts.BackoffUntil = s.now.Add(latent.Backoff(first, MaxBackoff, w.facts.Tries-1))
	if w.st.FailClass != class {
		w.st.FailClass, w.st.ClassTries = class, 0
	}
	w.st.ClassTries++
	w.st.LastError = why
	s.dirtyWorker(w)
	s.entry(Entry{Kind: "worker", Worker: w.cfg.Name, From: class, To: "backoff", Cause: why})
	// Once for each row of the same class; and once for a row of which no class makes three.
	if w.st.ClassTries == NoticeTries || w.facts.Tries == 2*NoticeTries && w.st.ClassTries < NoticeTries {
		s.notify(NoticeBackoff, w, strconv.Itoa(w.facts.Tries)+" failures in a row ("+class+"); the last: "+why)
	}
	if endsBuilds(class, w.facts.Instance) {
		for _, b := range w.preparing() {
			s.endBuild(b, verdict{result: model.Exception, text: why})
		}
	}
	s.giveUp(w, verdict{result: model.Retry, text: why, free: refusedForNow(class)})
	s.touch(w)
}

// refusedForNow says whether a provider had no room for an instance, or wants to be asked later. Nothing was made and nothing tried, so no attempt is charged: else
// a shortage of some seconds would end all that waits, as soon as a pool has more workers than a request has attempts.
func refusedForNow(class string) bool {
	return class == OpNoCapacity.String() || class == OpOverQuota.String() || class == OpThrottled.String()
}

// endsBuilds says whether a failure shows that no instance can ever be made as it is configured. One that was made and cannot be started again does not.
func endsBuilds(class string, in *latent.Instance) bool {
	return class == OpBadConfig.String() && (in == nil || in.Power == latent.On)
}

// readConsole asks for what the instance printed, for the builds that it fails.
func (s *State) readConsole(w *worker, why string) {
	in := w.facts.Instance
	e := ReadConsole{Provider: in.Provider, Worker: w.cfg.Name, Key: in.Key, Why: why, Detail: in.Detail}
	for _, b := range w.builds {
		e.Builds = append(e.Builds, b.copy())
	}
	if len(e.Builds) > 0 {
		s.effect(e)
	}
}
