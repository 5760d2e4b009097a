//go:build linux

package local

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rouse-ci/rouse/providers"
)

// escaped returns the process that a stand-in has let escape. It has ended when the test is over.
func (r *rig) escaped(p *provider, key providers.Key) process {
	r.Helper()
	r.ready(p, key)
	text, err := os.ReadFile(filepath.Join(p.dir(key), dirWork, "escaped"))
	if err != nil {
		r.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		r.Fatal(err)
	}
	e, err := load(p.dir(key), key)
	if err != nil {
		r.Fatal(err)
	}
	s, err := readStat(pid)
	if err != nil || s.ppid != e.process.PID || s.session != pid || tagged(pid, tagInstance+"="+string(key)) {
		r.Fatalf("%+v %v: it has not escaped to the agent %d", s, err, e.process.PID)
	}
	escaped := process{PID: pid, Start: s.start, Boot: bootID()}
	r.Cleanup(func() {
		if escaped.alive() {
			_ = s.signal(unix.SIGKILL)
		}
	})
	return escaped
}

func TestProcessThatHidesEndsWithItsInstance(t *testing.T) {
	t.Parallel()
	for how, restart := range map[string]bool{"escape": false, "escape ": true, "escape-ignore": false, "escape-ignore ": true} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, `grace = "300ms"`)
			p := r.open()
			key := r.create(p, standin(strings.TrimSpace(how)))
			escaped := r.escaped(p, key)
			if restart {
				_ = p.Close()
				p = r.open()
			}
			r.destroy(p, key)
			if escaped.alive() {
				t.Error("it lives when its instance is gone")
			}
		})
	}
}

func TestProcessThatHidesEndsWithAnAgentThatIsKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("escape"))
	escaped := r.escaped(p, key)
	_ = p.Close()
	p = r.open()
	r.until("it has been seen", func() bool { return p.seen(key)[id{escaped.PID, escaped.Start}] })
	e, err := load(p.dir(key), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("it is killed", func() bool { return !escaped.alive() })
	r.until("nothing is remembered", func() bool { return len(p.seen(key)) == 0 })
	r.destroy(p, key)
}
