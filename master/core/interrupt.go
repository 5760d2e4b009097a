package core

import "strconv"

// FreeInterruptions is how often a request may lose its instance to the provider without being charged an attempt. A machine that is taken back is not the build's
// fault; but a build that is longer than such machines live, or one that lets its agent claim that it is taken back, would be retried, and paid for, without end.
const FreeInterruptions = 10

// free says whether the retry of a request charges it no attempt.
func (s *State) free(b *Build, r *request, v verdict) bool {
	if !b.taken {
		return v.free
	}
	r.Interrupted++
	if r.Interrupted == FreeInterruptions {
		w := s.workers[b.Worker]
		s.notify(NoticeInterrupted, w, "request "+strconv.FormatInt(int64(r.ID), 10)+" of builder "+r.Builder+" was interrupted "+strconv.Itoa(r.Interrupted)+
			" times, at last on worker "+w.cfg.Name+": from now on each one is charged as an attempt. Its builds may take longer than such instances live.")
	}
	return v.free && r.Interrupted <= FreeInterruptions
}

// interruptions says how often the request was interrupted, after what else there is to say of it.
func (r *request) interruptions() string {
	switch {
	case r.Interrupted == 0:
		return ""
	case r.Interrupted == 1:
		return "; it was interrupted once"
	case r.Interrupted < FreeInterruptions:
		return "; it was interrupted " + strconv.Itoa(r.Interrupted) + " times"
	}
	return "; it was interrupted " + strconv.Itoa(r.Interrupted) + " times; from number " + strconv.Itoa(FreeInterruptions+1) + " on that is charged as an attempt"
}

// spotMarket is what a provider says of an instance that was lent for a lower price (its facts' "market").
const spotMarket = "spot"

// interruptible says whether its provider may take the worker's instance back, as far as is known. A build runs as its agent, and can make it say what it likes.
func (s *State) interruptible(w *worker) bool {
	in := w.facts.Instance
	p := s.providers[in.Provider]
	if p != nil && !p.cfg.Interruptible {
		return false
	}
	market := in.Facts["market"]
	return market == "" || market == spotMarket
}
