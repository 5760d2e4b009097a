package master

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/build"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
)

const (
	secretLife    = 30 * time.Second // how long a secret's value counts as recent
	secretTimeout = 10 * time.Second
	filesTimeout  = 5 * time.Second // how long a step waits until all secrets in files are read
	maxOlder      = 8               // values of one secret, after rotations, that stay hidden
	maxNews       = 64              // values that Since can tell without telling all
	forgetAfter   = time.Minute     // how long a build's values are remembered after its end: its instance's console is read then, which takes seconds
)

// vault reads all secrets that the master itself uses, and remembers, in memory only, what no log may show: a secret that is no business of a build may be in
// the environment that its worker was started with. It is safe for concurrent use.
type vault struct {
	log  *slog.Logger
	turn chan struct{} // has an element while the files are read

	mu      sync.Mutex
	recents map[string]*recent  // by source
	seen    map[string][][]byte // values of each secret by its name, the latest last
	builds  map[model.BuildID]*readings
	short   map[string]bool // names of secrets that were warned of
	news    [][]byte        // the values that came last
	came    atomic.Uint64   // how many came until now
}

// readings are what a build has read.
type readings struct {
	values [][]byte
	ended  time.Time // zero while it runs
}

// over says whether they are to be forgotten.
func (r *readings) over() bool { return !r.ended.IsZero() && time.Since(r.ended) > forgetAfter }

// recent is one secret. Its lock is held while it is read, which may take long: only those wait who want the same one.
type recent struct {
	mu    sync.Mutex
	value []byte
	err   error
	until time.Time
}

func newVault(log *slog.Logger) *vault {
	return &vault{log: log, turn: make(chan struct{}, 1), recents: map[string]*recent{}, seen: map[string][][]byte{}, builds: map[model.BuildID]*readings{},
		short: map[string]bool{}}
}

// now reads a secret.
func (v *vault) now(ctx context.Context, s hcl.Secret) ([]byte, error) {
	value, err := s.Read(ctx)
	if err == nil {
		v.note(s.Name, value)
	}
	return value, err
}

func (v *vault) reader(s *hcl.Secret) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) { return v.now(ctx, *s) }
}

// recent reads a secret unless that was done not long ago, so that whoever tries passwords does not run its command each time, and one that has changed is found.
func (v *vault) recent(s hcl.Secret) ([]byte, error) {
	source := fmt.Sprintf("%q %q %q", s.Env, s.File, s.Command)
	v.mu.Lock()
	r := v.recents[source]
	if r == nil {
		r = &recent{}
		v.recents[source] = r
	}
	v.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.until) {
		return r.value, r.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), secretTimeout)
	defer cancel()
	r.value, r.err = v.now(ctx, s)
	r.until = time.Now().Add(secretLife)
	return r.value, r.err
}

// note remembers a value.
func (v *vault) note(name string, value []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.warnShort(name, len(value))
	v.tell(value)
	all := slices.DeleteFunc(v.seen[name], func(old []byte) bool { return bytes.Equal(old, value) })
	all = append(all, bytes.Clone(value))
	v.seen[name] = all[max(0, len(all)-maxOlder):]
}

// tell lets Since tell of a value, unless it is remembered already. mu is held.
func (v *vault) tell(value []byte) {
	same := func(have []byte) bool { return bytes.Equal(have, value) }
	for _, all := range v.seen {
		if slices.ContainsFunc(all, same) {
			return
		}
	}
	for _, r := range v.builds {
		if !r.over() && slices.ContainsFunc(r.values, same) {
			return
		}
	}
	v.news = append(v.news, bytes.Clone(value))
	v.news = v.news[max(0, len(v.news)-maxNews):]
	v.came.Add(1)
}

// Since implements build.Vault.
func (v *vault) Since(heard uint64) (values [][]byte, now uint64) {
	if now = v.came.Load(); now == heard {
		return nil, now
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if now = v.came.Load(); now-heard > uint64(len(v.news)) {
		return v.remembered(), now
	}
	return slices.Clone(v.news[len(v.news)-int(now-heard):]), now
}

// warnShort warns once. mu is held.
func (v *vault) warnShort(name string, length int) {
	if length >= hcl.Masked || v.short[name] {
		return
	}
	v.short[name] = true
	v.log.Warn("master: a secret is too short to be masked in logs: that would mask everything; take a longer one, or do not print it", "secret", name, "bytes_needed", hcl.Masked)
}

// refresh reads what can be read without running anything. A disk that does not answer is not waited for.
func (v *vault) refresh(ctx context.Context, declared []hcl.Secret) {
	late := time.NewTimer(filesTimeout)
	defer late.Stop()
	done := make(chan struct{})
	select {
	case v.turn <- struct{}{}:
		go func() {
			defer func() { <-v.turn; close(done) }()
			for i := range declared {
				if len(declared[i].Command) == 0 {
					_, _ = v.recent(declared[i]) // one that cannot be read is known to nobody, or by an older value
				}
			}
		}()
	case <-ctx.Done():
		return
	case <-late.C:
		v.log.Warn("master: the files of secrets cannot be read in time; what is new in them is not masked where only a worker's environment has it")
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-late.C:
		v.log.Warn("master: the files of secrets cannot be read in time; what is new in them is not masked where only a worker's environment has it")
	}
}

// values are all that is remembered.
func (v *vault) values() [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.remembered()
}

// remembered is values. mu is held.
func (v *vault) remembered() (out [][]byte) {
	for _, all := range v.seen {
		out = append(out, all...)
	}
	for b, r := range v.builds {
		if r.over() {
			delete(v.builds, b)
			continue
		}
		out = append(out, r.values...)
	}
	return out
}

// Learn implements build.Vault. The values of other secrets than commands' are known already, or will be; those of commands are known as long as the build runs, and a little longer.
func (v *vault) Learn(b model.BuildID, values [][]byte, lengths map[string]int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, n := range lengths {
		v.warnShort(name, n)
	}
	r := v.builds[b]
	if r == nil {
		r = &readings{}
		v.builds[b] = r
	}
	r.ended = time.Time{}
	for _, value := range values {
		if !slices.ContainsFunc(r.values, func(have []byte) bool { return bytes.Equal(have, value) }) {
			v.tell(value)
			r.values = append(r.values, value)
		}
	}
}

// Forget implements build.Vault.
func (v *vault) Forget(b model.BuildID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.builds[b]; r != nil {
		r.ended = time.Now()
	}
	v.remembered() // drops those whose time is over
}

// hidden is the vault as builds see it.
type hidden struct {
	*vault
	m *master
}

var _ build.Vault = hidden{}

// mask hides what the console of an instance may not show, by the rules of logs.
func (m *master) mask(ctx context.Context, worker string, key model.InstanceKey, w io.Writer) (out io.Writer, flush func() error) {
	_, heard := m.secrets.Since(0)
	hide := hidden{m.secrets, m}.Hidden(ctx, core.Build{Worker: worker, Instance: key, Generation: model.Generation(m.current.Load().gen)})
	c := &heeding{steplog.NewMasker(hide).Stream(w), m.secrets, heard}
	return c, c.Flush
}

// heeding is a stream that hides, too, what comes to be known while somebody follows it.
type heeding struct {
	*steplog.Stream
	vault *vault
	heard uint64
}

func (c *heeding) Write(p []byte) (int, error) {
	var values [][]byte
	if values, c.heard = c.vault.Since(c.heard); len(values) > 0 {
		c.Hide(values)
	}
	return c.Stream.Write(p)
}

// Hidden implements build.Vault: what the configuration in force, the build's own, and earlier ones know, for the instance may be as old; all secrets; and the
// token of the build's instance.
func (h hidden) Hidden(ctx context.Context, b core.Build) (out [][]byte) {
	var cfgs []*hcl.Config
	if a := h.m.current.Load(); a != nil {
		cfgs = append(cfgs, a.cfg)
	}
	cfg, err := h.m.catalog.Config(ctx, b.Generation)
	switch {
	case err != nil: // the build fails for that
	case !slices.Contains(cfgs, cfg):
		cfgs = append(cfgs, cfg)
	}
	for _, cfg := range cfgs {
		h.refresh(ctx, cfg.Secrets)
	}
	for _, cfg := range h.m.catalog.Kept() {
		if !slices.Contains(cfgs, cfg) {
			cfgs = append(cfgs, cfg)
		}
	}
	for _, cfg := range cfgs {
		out = append(out, cfg.Hidden(b.Worker)...)
	}
	if b.Instance != "" {
		out = append(out, []byte(session.Token(h.m.key, b.Instance).Reveal()))
	}
	return append(out, h.values()...)
}
