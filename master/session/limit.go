package session

import (
	"hash/maphash"
	"net"
	"sync"
	"time"
)

// A remote address may fail to authenticate as one worker failBurst times in a row and then once per failRefill. It is counted per name, so
// that a crowd of stale agents behind one address does not lock out their neighbours, and a single one that tries every 2 s never gets there.
const (
	failBurst   = 20
	failRefill  = time.Second
	failBuckets = 4096
)

// What is turned away is logged turnedBurst times in a row and then once per turnedRefill, whoever knocks under whatever name: the rest is counted. As many notices of
// one session are heard.
const (
	turnedBurst  = 20
	turnedRefill = 5 * time.Second
)

// sayer bounds how often something is said.
type sayer struct {
	mu    sync.Mutex
	full  time.Time // when it may say turnedBurst things in a row again
	quiet int       // things that were not said since the last one that was
}

// says returns whether to say one thing more, and how many were not said before it.
func (s *sayer) says(now time.Time) (ok bool, missed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full.Sub(now) > (turnedBurst-1)*turnedRefill {
		s.quiet++
		return false, 0
	}
	if s.full.Before(now) {
		s.full = now
	}
	s.full = s.full.Add(turnedRefill)
	missed, s.quiet = s.quiet, 0
	return true, missed
}

// limiter is a fixed table of token buckets: bounded memory, whoever knocks. Those who share a bucket share its tokens.
type limiter struct {
	seed maphash.Seed
	mu   sync.Mutex
	full [failBuckets]time.Time // when the bucket will be full again
}

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed()} }

func (l *limiter) bucket(remote, name string) *time.Time {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	return &l.full[maphash.Comparable(l.seed, [2]string{remote, name})%failBuckets]
}

// allowed says whether the address may try under this name.
func (l *limiter) allowed(remote, name string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bucket(remote, name).Sub(now) <= (failBurst-1)*failRefill
}

// failed takes a token.
func (l *limiter) failed(remote, name string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(remote, name)
	if b.Before(now) {
		*b = now
	}
	*b = b.Add(failRefill)
}
