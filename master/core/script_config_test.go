package core_test

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/schedule"
)

// define changes the configuration that the next apply puts into force.
func (s *script) define(verb string, p []string, o map[string]string) {
	switch verb {
	case "provider":
		s.cfg.Providers = append(s.cfg.Providers, core.Provider{Name: p[0], Settle: s.dur(o["settle"], 5*time.Second), CheckInterval: 10 * time.Second,
			DestroyBackoff: time.Second, SweepInterval: s.dur(o["sweep"], 0), SweepGrace: 2 * time.Minute, Interruptible: !slices.Contains(p, "firm")})
	case "worker":
		w := core.Worker{Name: p[0], Provider: o["provider"], MaxBuilds: num(o["max"], 0), MissingTimeout: s.dur(o["missing"], 20*time.Minute),
			BuildWaitTimeout: s.dur(o["wait"], 10*time.Minute), Locks: accesses(o["lock"]), Spec: o["spec"], Idle: o["idle"],
			VCPUs: num(o["vcpus"], 0), Memory: int64(num(o["memory"], 0)) << 20}
		if i := slices.IndexFunc(s.cfg.Workers, func(x core.Worker) bool { return x.Name == w.Name }); i >= 0 {
			s.cfg.Workers = slices.Clone(s.cfg.Workers)
			s.cfg.Workers[i] = w
		} else {
			s.cfg.Workers = append(s.cfg.Workers, w)
		}
	case "remove":
		s.cfg.Workers = slices.DeleteFunc(slices.Clone(s.cfg.Workers), func(x core.Worker) bool { return x.Name == p[0] })
		s.cfg.Builders = slices.DeleteFunc(slices.Clone(s.cfg.Builders), func(x core.Builder) bool { return x.Name == p[0] })
		s.cfg.Locks = slices.DeleteFunc(slices.Clone(s.cfg.Locks), func(x core.Lock) bool { return x.Name == p[0] })
		s.cfg.Schedulers = slices.DeleteFunc(slices.Clone(s.cfg.Schedulers), func(x core.Scheduler) bool { return x.Name == p[0] })
		s.cfg.Providers = slices.DeleteFunc(slices.Clone(s.cfg.Providers), func(x core.Provider) bool { return x.Name == p[0] })
	case "builder":
		s.cfg.Builders = append(slices.DeleteFunc(slices.Clone(s.cfg.Builders), func(x core.Builder) bool { return x.Name == p[0] }), core.Builder{Name: p[0], Workers: strings.Split(o["workers"], ","), Locks: accesses(o["lock"]),
			Collapse: slices.Contains(p, "collapse"), MaxAttempts: num(o["attempts"], 5)})
	case "lock":
		s.cfg.Locks = append(s.cfg.Locks, core.Lock{Name: p[0], Max: num(o["max"], 1), PerWorker: slices.Contains(p, "worker")})
	case "scheduler":
		s.cfg.Schedulers = append(s.cfg.Schedulers, core.Scheduler{Name: p[0], Calendar: schedule.Every(s.dur(o["every"], 0))})
	}
}

// opts splits "a=b" words from plain ones.
func opts(args []string) (plain []string, named map[string]string) {
	named = map[string]string{}
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			named[k] = v
		} else {
			plain = append(plain, a)
		}
	}
	return plain, named
}

func (s *script) dur(v string, def time.Duration) time.Duration {
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func num(v string, def int) int {
	if v == "" {
		return def
	}
	n, _ := strconv.Atoi(v)
	return n
}

func accesses(v string) (out []core.Access) {
	for _, l := range strings.Split(v, ",") {
		if l != "" {
			out = append(out, core.Access{Lock: strings.TrimSuffix(l, "!"), Exclusive: strings.HasSuffix(l, "!")})
		}
	}
	return out
}
