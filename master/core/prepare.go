package core

import "slices"

// Prepared is what can be known of a configuration before the loop has it. It never changes, so one may be made on any goroutine.
type Prepared struct {
	workers  map[string]int // index in Config.Workers
	builders map[string]int // index in Config.Builders
	pools    []poolSpec     // what differs
	poolOf   []int          // of each builder
	naming   map[string][]int
}

// poolSpec is what builders have in common that share a pool.
type poolSpec struct {
	hash    uint64
	workers []string
	locks   []Access
}

func (a *poolSpec) equal(b *poolSpec) bool {
	return a.hash == b.hash && slices.Equal(a.workers, b.workers) && slices.Equal(a.locks, b.locks)
}

// Prepare indexes a configuration. It is the part of ConfigApplied that grows with the whole fleet, and is done outside of the loop.
func Prepare(c Config) *Prepared {
	p := &Prepared{workers: make(map[string]int, len(c.Workers)), builders: make(map[string]int, len(c.Builders)), poolOf: make([]int, len(c.Builders)),
		naming: make(map[string][]int, len(c.Workers))}
	for i := range c.Workers {
		p.workers[c.Workers[i].Name] = i
	}
	byHash := map[uint64][]int{}
	for i := range c.Builders {
		p.builders[c.Builders[i].Name] = i
		spec := specOf(c.Builders[i])
		at := slices.IndexFunc(byHash[spec.hash], func(j int) bool { return p.pools[j].equal(&spec) })
		if at >= 0 {
			p.poolOf[i] = byHash[spec.hash][at]
			continue
		}
		n := len(p.pools)
		p.pools, p.poolOf[i] = append(p.pools, spec), n
		byHash[spec.hash] = append(byHash[spec.hash], n)
		for _, name := range spec.workers {
			if list := p.naming[name]; len(list) == 0 || list[len(list)-1] != n {
				p.naming[name] = append(list, n)
			}
		}
	}
	return p
}

// specOf hashes with FNV-1a: equal specs have equal hashes, and nothing else depends on the values.
func specOf(b Builder) poolSpec {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	mix := func(s string, end byte) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
		h = (h ^ uint64(end)) * prime
	}
	for _, w := range b.Workers {
		mix(w, 0)
	}
	for _, a := range b.Locks {
		if a.Exclusive {
			mix(a.Lock, 1)
		} else {
			mix(a.Lock, 2)
		}
	}
	return poolSpec{hash: h, workers: b.Workers, locks: b.Locks}
}

// equal compares all fields (a test holds it to that).
func (w *Worker) equal(o *Worker) bool {
	return w.Name == o.Name && w.Provider == o.Provider && w.MaxBuilds == o.MaxBuilds && w.MissingTimeout == o.MissingTimeout &&
		w.BuildWaitTimeout == o.BuildWaitTimeout && w.Spec == o.Spec && w.Price == o.Price && w.StoppedPrice == o.StoppedPrice && w.Idle == o.Idle &&
		w.VCPUs == o.VCPUs && w.Memory == o.Memory &&
		slices.Equal(w.Locks, o.Locks)
}
