//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// Names in an instance's directory.
const (
	fileIntent  = "instance.json" // record; never changed
	fileProcess = "process.json"  // process; written once the agent was started
	fileDoomed  = "doomed"        // empty; a Destroy was accepted
	fileExit    = "exit.json"     // exit; the agent has ended by itself
	fileAgent   = "agent.json"    // what the agent is told, its token included; the agent removes it
	fileConsole = "console.log"
	fileOlder   = "console.old" // what was cut off console.log
	dirWork     = "work"
	dirTmp      = "tmp"
)

// record is the intent: what is known before anything is started.
type record struct {
	Key     providers.Key   `json:"key"`
	Owner   providers.Owner `json:"owner"`
	Worker  string          `json:"worker"`
	Created time.Time       `json:"created"`
}

// process names one process for ever: a pid is used again, but not with the same start time in the same boot.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in units of the system since its boot or epoch
	Boot  string `json:"boot"`  // boot and pid namespace
}

// exit says how an agent ended.
type exit struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// entry is everything that a directory says.
type entry struct {
	record
	process process // zero PID: not started, or not recorded
	exit    *exit
	doomed  bool

	kin map[id]bool // members seen at the last look; in memory only, never changed once it is set
}

// load reads an instance's directory. The error is fs.ErrNotExist when there is none.
func load(dir string, key providers.Key) (entry, error) {
	var e entry
	if err := readJSON(filepath.Join(dir, fileIntent), &e.record); err != nil {
		if _, dirErr := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && dirErr == nil {
			// A destroyer may have taken the directory away between the two looks; else somebody has damaged it.
			if _, again := os.Lstat(dir); again == nil {
				return e, fmt.Errorf("%s has no %s: if none of its processes lives, remove it", dir, fileIntent)
			}
		}
		return e, err
	}
	if e.Key != key {
		return e, fmt.Errorf("%s/%s is about %q: it was copied or damaged", dir, fileIntent, e.Key)
	}
	if err := readJSON(filepath.Join(dir, fileProcess), &e.process); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	var x exit
	switch err := readJSON(filepath.Join(dir, fileExit), &x); {
	case err == nil:
		e.exit = &x
	case !errors.Is(err, fs.ErrNotExist):
		return e, err
	}
	_, err := os.Lstat(filepath.Join(dir, fileDoomed))
	e.doomed = err == nil
	return e, nil
}

func readJSON(name string, into any) error {
	data, err := durable.Read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// writeJSON replaces a file at once; with sync, a loss of power leaves it whole, too.
func writeJSON(dir, name string, v any, sync bool) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.Replace(dir, name, data, sync)
}

// remove deletes a directory's entries but those to keep, without following a symbolic link out of it. Directories that nobody may
// write to (Go's module cache makes such) are opened up first.
func remove(dir string, keep ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, k := range keep {
		kept[k] = true
	}
	for _, n := range names {
		if kept[n.Name()] {
			continue
		}
		if root.RemoveAll(n.Name()) == nil {
			continue
		}
		_ = fs.WalkDir(root.FS(), n.Name(), func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() && err == nil {
				_ = root.Chmod(path, 0o700)
			}
			return nil
		})
		if err := root.RemoveAll(n.Name()); err != nil {
			return err
		}
	}
	return nil
}
