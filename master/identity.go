package master

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

const (
	keyName         = "token.key"
	logsName        = "logs"
	keySize         = 32
	takeoverTimeout = 90 * time.Second
)

// openStore opens the state. With Takeover a master that holds it is asked to end (it keeps instances and builds, unless its configuration says
// otherwise), and waited for.
func (m *master) openStore(ctx context.Context) (*sqlite.Store, error) {
	deadline := time.Now().Add(takeoverTimeout)
	asked := 0
	for {
		st, err := sqlite.Open(ctx, m.o.StateDir, sqlite.Options{Log: m.log, Traces: []string{logsName + "/[1-9]*"}})
		var held *sqlite.LockedError
		if !errors.As(err, &held) || !m.o.Takeover || held.PID <= 0 || time.Now().After(deadline) {
			if held != nil && held.PID > 0 && !m.o.Takeover {
				err = fmt.Errorf("%w; or let this one end it and go on with its builds: rouse master -takeover", err)
			}
			return st, err
		}
		if asked != held.PID {
			m.log.Info("master: taking over: asking the one that holds the state to end", "pid", held.PID)
			if err := syscall.Kill(held.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("take over from process %d: %w", held.PID, err)
			}
			asked = held.PID
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tokenKey reads the key that instances' tokens are derived from, and makes it the first time. If it is gone while instances live, their builds can be
// saved as long as no other one is made: that is for a person to decide.
func tokenKey(dir string, live int) ([]byte, error) {
	path := filepath.Join(dir, keyName)
	key, err := os.ReadFile(path)
	if err == nil && len(key) == keySize {
		return key, nil
	}
	if err == nil {
		return nil, fmt.Errorf("%s has %d bytes instead of %d: %s", path, len(key), keySize, withoutKey(path))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	if live > 0 {
		return nil, fmt.Errorf("%s is missing, and %d instances live that have tokens of it: %s", path, live, withoutKey(path))
	}
	key = make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the token key: %w", err)
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(dir) // instances are made with it at once: it must not be gone after a loss of power
	}
	if err != nil {
		return nil, fmt.Errorf("make the token key: %w", err)
	}
	return key, nil
}

// tokensOf counts the instances with tokens that may still be good for something. No agent of a doomed one is admitted.
func tokensOf(live []core.Instance) (n int) {
	for i := range live {
		if !live[i].Doomed {
			n++
		}
	}
	return n
}

func withoutKey(path string) string {
	return fmt.Sprintf("restore it from a copy; without it the agents of running instances cannot attach. To do without, and have their builds tried again on others, "+
		"make a new one: head -c %d /dev/urandom > %s", keySize, path)
}

// nextBuild is the number of the next build. Where the state was lost, or put back from a copy, logs of later builds are there, which no new build may
// go on with.
func (m *master) nextBuild(recorded model.BuildID) (model.BuildID, error) {
	last, err := m.logs.Last()
	if err != nil || last < recorded {
		return recorded, err
	}
	m.log.Warn("master: the records are older than the logs: builds are numbered on from those", "recorded", recorded, "next", last+1)
	return last + 1, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// workerOf reads the worker's name from a key of ours: "<owner>-<worker>-<n>". Whether the instance is live is for the core to say.
func (m *master) workerOf(inst model.InstanceKey) (string, bool) {
	rest, ours := strings.CutPrefix(string(inst), m.owner+"-")
	i := strings.LastIndexByte(rest, '-')
	if !ours || i <= 0 {
		return "", false
	}
	return rest[:i], true
}

// describe says how an instance of a worker is made.
func (m *master) describe(worker string, key model.InstanceKey) (any, providers.Agent, error) {
	c := m.current.Load()
	w := c.workers[worker]
	if w == nil {
		return nil, providers.Agent{}, fmt.Errorf("worker %s is not in the configuration any more", worker)
	}
	return w.Instance, providers.Agent{Master: m.url, Name: worker, Token: session.Token(m.key, key), Orphan: w.OrphanTimeout,
		TLSRoot: c.cfg.Master.TLSCa.PEM}, nil
}

func (m *master) keepalive(worker string) time.Duration {
	if w := m.current.Load().workers[worker]; w != nil {
		return w.KeepaliveInterval
	}
	return 0
}

// password reads a worker's password. It is not kept longer than secretLife, so that one that has changed is found.
func (m *master) password(worker string) (providers.Secret, bool) {
	w := m.current.Load().workers[worker]
	if w == nil || w.Password == nil {
		return "", false
	}
	v, err := m.secrets.recent(*w.Password)
	m.unreadable([]*hcl.Worker{w}, err)
	if err != nil {
		return "", false
	}
	return providers.Secret(v), true
}
