//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// Create implements providers.Provider.
func (p *provider) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	const op = "create"
	in, err := p.create(ctx, req)
	if e := (*providers.Error)(nil); err != nil && !errors.As(err, &e) {
		err = providers.Errorf(providers.Unknown, op, "%w", err)
	}
	return in, err
}

func (p *provider) create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	var none providers.Instance
	spec, ok := req.Spec.(Spec)
	switch {
	case ctx.Err() != nil:
		return none, ctx.Err()
	case !req.Key.Valid():
		return none, mistake("malformed key %q", req.Key)
	case req.Owner == "" || strings.Contains(string(req.Owner), "\x00") || p.owner != "" && req.Owner != p.owner:
		return none, mistake("owner %q is not the one that this provider was opened for", req.Owner)
	case !ok:
		return none, mistake("the specification is a %T, not one of local's", req.Spec)
	}
	binary, err := p.binary("create")
	if err != nil {
		return none, err
	}
	for { // ends: each turn needs another handle's destroy to come in between
		if _, err := os.Lstat(p.tombstone(req.Key)); err == nil {
			return providers.Instance{Key: req.Key, Worker: req.Worker, State: providers.Gone, Detail: "destroyed before"}, nil
		}
		in, err := p.existing(ctx, req, spec, binary)
		if !errors.Is(err, fs.ErrNotExist) {
			return in, err
		}
		if in, err = p.fresh(req, spec, binary); !errors.Is(err, fs.ErrExist) {
			return in, err
		}
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
	}
}

// fresh makes a new instance. The error is fs.ErrExist when there is one already.
func (p *provider) fresh(req providers.CreateRequest, spec Spec, binary string) (none providers.Instance, err error) {
	if err := p.reserve(req.Key); err != nil {
		return none, err
	}
	defer func() {
		p.mu.Lock()
		delete(p.creating, req.Key)
		p.mu.Unlock()
	}()
	// The directory is filled under another name and then renamed, locked: it is never seen half made, and only one of many gets the name.
	tmp, err := os.MkdirTemp(filepath.Join(p.state, "tmp"), string(req.Key)+".")
	if err != nil {
		return none, disk(err)
	}
	unlock, err := durable.Lock(context.Background(), tmp)
	if err != nil {
		_ = os.Remove(tmp)
		return none, disk(err)
	}
	defer unlock()
	e := entry{record: record{Key: req.Key, Owner: req.Owner, Worker: req.Worker, Created: time.Now().UTC()}}
	err = writeJSON(tmp, fileIntent, e.record, true)
	for _, d := range []string{dirWork, dirTmp} {
		if err == nil {
			err = os.Mkdir(filepath.Join(tmp, d), 0o700)
		}
	}
	if err == nil {
		err = os.Rename(tmp, p.dir(req.Key))
	}
	if err != nil {
		_ = remove(tmp)
		_ = os.Remove(tmp)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			return none, fs.ErrExist
		}
		return none, disk(err)
	}
	if _, err := os.Lstat(p.tombstone(req.Key)); err == nil { // made and destroyed between our first look and the rename
		p.discard(req.Key)
		return none, fs.ErrExist
	}
	if err := p.start(&e, req, spec, binary); err != nil {
		if providers.ClassOf(err) != providers.Unknown {
			p.discard(req.Key) // certainly not done: nothing of it stays
		}
		return none, err
	}
	return p.show(&e), nil
}

// existing returns the instance that has the key already. It starts its agent if the master that made it died before it could.
func (p *provider) existing(ctx context.Context, req providers.CreateRequest, spec Spec, binary string) (none providers.Instance, err error) {
	dir := p.dir(req.Key)
	e, err := load(dir, req.Key)
	if err != nil {
		return none, err
	}
	if e.Owner != req.Owner {
		return none, mistake("key %q belongs to another owner", req.Key)
	}
	if e.process.PID != 0 || e.doomed {
		return p.show(&e), nil
	}
	unlock, err := durable.Lock(ctx, dir)
	if err != nil {
		return none, err
	}
	defer unlock()
	if e, err = load(dir, req.Key); err != nil || e.process.PID != 0 || e.doomed {
		return p.show(&e), err
	}
	if found, ok := e.find(); ok {
		e.process = found
		if err := writeJSON(dir, fileProcess, e.process, false); err != nil {
			return none, disk(err)
		}
		p.watch(e)
	} else if err := p.start(&e, req, spec, binary); err != nil {
		return none, err // the caller destroys what there is
	}
	return p.show(&e), nil
}

// reserve counts the instance that is about to be made.
func (p *provider) reserve(key providers.Key) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.MaxInstances > 0 {
		names, err := os.ReadDir(filepath.Join(p.state, "instances"))
		if err != nil {
			return disk(err)
		}
		all := maps.Clone(p.creating)
		for _, n := range names {
			all[providers.Key(n.Name())] = true
		}
		if delete(all, key); int64(len(all)) >= p.cfg.MaxInstances {
			return providers.Errorf(providers.OverQuota, "create", "max_instances = %d are there already", p.cfg.MaxInstances)
		}
	}
	p.creating[key] = true
	return nil
}

// binary returns the path of the agent's program.
func (p *provider) binary(op string) (string, error) {
	const name = "rouse-worker"
	path := p.cfg.WorkerBinary
	if path == "" {
		if self, err := os.Executable(); err == nil {
			path = filepath.Join(filepath.Dir(self), name)
		}
		if _, err := os.Stat(path); err != nil {
			path = name
		}
	}
	found, err := exec.LookPath(path)
	if err == nil {
		found, err = filepath.Abs(found) // the agent runs in another directory
	}
	if err != nil {
		return "", providers.Errorf(providers.BadConfig, op, "no agent to start: %w; put rouse-worker next to rouse or on PATH, or set worker_binary", err)
	}
	return found, nil
}

// agentConfig is the file given to `rouse-worker run -config`.
type agentConfig struct {
	Master        string `json:"master"`
	Name          string `json:"name"`
	Token         string `json:"token"` // revealed: this file is where it leaves, mode 0600
	Instance      string `json:"instance"`
	BaseDir       string `json:"basedir"`
	OrphanSeconds int64  `json:"orphan_seconds"`
	CA            string `json:"ca_pem,omitempty"`
	Remove        bool   `json:"remove"` // the agent removes the file when it has read it
}

// start starts the agent. The caller holds the instance's lock, and knows that no process of it is there.
func (p *provider) start(e *entry, req providers.CreateRequest, spec Spec, binary string) error {
	dir := p.dir(e.Key)
	cfg := agentConfig{
		Master: req.Agent.Master, Name: req.Agent.Name, Token: req.Agent.Token.Reveal(), Instance: string(e.Key),
		BaseDir: filepath.Join(dir, dirWork), OrphanSeconds: int64((req.Agent.Orphan + time.Second - 1) / time.Second), CA: string(req.Agent.TLSRoot), Remove: true,
	}
	if err := writeJSON(dir, fileAgent, cfg, false); err != nil {
		return disk(err)
	}
	out, err := os.OpenFile(filepath.Join(dir, fileConsole), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return disk(err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return disk(err)
	}
	defer null.Close()
	child, err := os.StartProcess(binary, []string{binary, "run", "-config", filepath.Join(dir, fileAgent)}, &os.ProcAttr{
		Dir:   dir,
		Env:   p.environ(e, spec),
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return startError(err)
	}
	// The child is waited for by watch alone, so its pid stays its own until then.
	e.process, err = identify(child.Pid)
	_ = child.Release()
	if err == nil {
		restrict(e.process.PID, spec, p.log)
		err = writeJSON(dir, fileProcess, e.process, false) // no sync: without power there is no process either
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if left := e.sweep(ctx); left != nil { // something lives: its directory must stay for whoever ends it
			return providers.Errorf(providers.Unknown, "create", "%w", errors.Join(err, left))
		}
		e.process.reap()
		return disk(err)
	}
	p.watch(*e)
	p.log.Info("instance started", "key", e.Key, "worker", e.Worker, "pid", e.process.PID)
	return nil
}

// inherited are the variables that instances get from the master. Others may hold secrets, so they are named in env or not given.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// environ returns the agent's environment.
func (p *provider) environ(e *entry, spec Spec) []string {
	env := map[string]string{"TMPDIR": filepath.Join(p.dir(e.Key), dirTmp)}
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); slices.Contains(inherited, k) || strings.HasPrefix(k, "LC_") {
			env[k] = v
		}
	}
	maps.Copy(env, p.cfg.Env)
	maps.Copy(env, spec.Env)
	list := []string{tagInstance + "=" + string(e.Key), tagOwner + "=" + string(e.Owner)}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k != tagInstance && k != tagOwner {
			list = append(list, k+"="+env[k])
		}
	}
	return list
}

// startError classifies why a process could not be started: by lack of something that may come back, or for good.
func startError(err error) error {
	for _, lack := range []error{unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ETXTBSY, unix.EINTR} {
		if errors.Is(err, lack) {
			return providers.Errorf(providers.Transient, "create", "start the agent: %w", err)
		}
	}
	return providers.Errorf(providers.BadConfig, "create", "start the agent: %w", err)
}

// disk classifies a failure of the file system, all of which are certainly before the deed or undone.
func disk(err error) error {
	return providers.Errorf(providers.Transient, "create", "%w", err)
}

// discard takes away the directory of an instance that has no process. The caller holds its lock.
func (p *provider) discard(key providers.Key) {
	if err := p.bury(key); err != nil {
		p.log.Error("cannot remove an instance's directory", "key", key, "error", err)
	}
}

// bury removes an instance's directory: first what fills the disk, then, at once, what makes it an instance.
func (p *provider) bury(key providers.Key) error {
	dir := p.dir(key)
	if err := remove(dir, fileIntent, fileProcess, fileDoomed); err != nil {
		return err
	}
	trash, err := os.MkdirTemp(filepath.Join(p.state, "trash"), string(key)+".")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(trash, string(key))); err != nil {
		_ = os.Remove(trash)
		return err
	}
	if err := remove(trash); err != nil {
		return fmt.Errorf("%s: %w", trash, err)
	}
	return os.Remove(trash)
}
