package ec2

import (
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// memory is what this process knows of instances beyond what a list says at the moment: lists are late, and now and then older than the one before.
type memory struct {
	mu        sync.Mutex
	m         map[providers.Key]*known
	launching map[providers.Key]bool // admitted, and not launched or refused yet

	impaired map[string]string // what is wrong with instances, by ID; replaced as a whole
	healthAt time.Time         // when to ask next
}

type known struct {
	seen  seen
	at    time.Time // when it was seen last, by the end of its launch or by a list
	asked time.Time // when a terminate was accepted; zero if none was
	note  string    // for people: what could not be attached
	assoc string    // association of its elastic IP
}

// launched notes an instance that RunInstances has answered with.
func (m *memory) launched(s seen, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.get(s.Key).update(s, now)
}

// saw notes what a list says.
func (m *memory) saw(s seen) { m.launched(s, time.Now()) }

func (m *memory) get(key providers.Key) *known {
	if m.m == nil {
		m.m = map[providers.Key]*known{}
	}
	k := m.m[key]
	if k == nil {
		k = &known{}
		m.m[key] = k
	}
	return k
}

// update never goes back: what has ended does not live again.
func (k *known) update(s seen, now time.Time) {
	switch {
	case k.seen.ID == s.ID && rank(s.State) < rank(k.seen.State):
		return
	case k.seen.ID != "" && k.seen.ID != s.ID && s.leaving():
		return
	}
	k.seen, k.at = s, now
}

// rank orders the states from which there is no way back.
func rank(s types.InstanceStateName) int {
	switch s {
	case types.InstanceStateNameTerminated:
		return 3
	case types.InstanceStateNameShuttingDown:
		return 2
	case types.InstanceStateNamePending:
		return 0
	}
	return 1
}

// find returns what is known of a key.
func (m *memory) find(key providers.Key) (known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.m[key]
	if k == nil {
		return known{}, false
	}
	return *k, true
}

// notes are what people should know of an instance.
func (m *memory) notes(s seen) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	if text := m.impaired[s.ID]; text != "" && !s.leaving() {
		list = append(list, text)
	}
	if k := m.m[s.Key]; k != nil && k.note != "" {
		list = append(list, k.note)
	}
	return strings.Join(list, "; ")
}

// change changes what is known of a key, if anything is.
func (m *memory) change(key providers.Key, f func(*known)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.m[key]; k != nil {
		f(k)
	}
}

// merge makes a list whole: it puts in what was launched or seen lately and is missing, corrects what is behind, and takes out doubles: of two
// instances with one key the living one counts. It forgets what has not been seen for longer than the settle time.
func (m *memory) merge(list []seen, now time.Time, settle time.Duration) []seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.merged(list, now, settle)
}

// merged is merge with the lock held.
func (m *memory) merged(list []seen, now time.Time, settle time.Duration) []seen {
	best := make(map[providers.Key]seen, len(list))
	order := make([]providers.Key, 0, len(list))
	for _, s := range list {
		b, there := best[s.Key]
		if !there {
			order = append(order, s.Key)
		}
		if !there || b.leaving() && !s.leaving() {
			best[s.Key] = s
		}
	}
	for key, s := range best {
		k := m.get(key)
		k.update(s, now)
		best[key] = k.seen
	}
	for key, k := range m.m {
		if _, there := best[key]; there {
			continue
		}
		if now.Sub(k.at) > settle {
			delete(m.m, key)
		} else if k.seen.ID != "" {
			best[key] = k.seen
			order = append(order, key)
		}
	}
	whole := make([]seen, 0, len(order))
	for _, key := range order {
		whole = append(whole, best[key])
	}
	return whole
}

// admit takes a place for a key below a number of instances, if there is one. One that is switched off takes none (see providers.LimitRoom). A launch that is under way counts once, whether the list has its
// instance already or not.
func (m *memory) admit(key providers.Key, list []seen, limit int64, now time.Time, settle time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	counted := map[providers.Key]bool{}
	for _, s := range m.merged(list, now, settle) {
		if !s.leaving() && s.State != types.InstanceStateNameStopped {
			counted[s.Key] = true
		}
	}
	for k := range m.launching {
		counted[k] = true
	}
	if int64(len(counted)) >= limit {
		return false
	}
	if m.launching == nil {
		m.launching = map[providers.Key]bool{}
	}
	m.launching[key] = true
	return true
}

// admitted gives back the place of a launch, which is counted as an instance from now on, or not at all.
func (m *memory) admitted(key providers.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.launching, key)
}
