package master

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
)

// portName is the file of the state directory that holds the worker port which the system has chosen.
const portName = "worker.port"

// listenTCP opens the worker port. One that the system chooses (":0") is asked for again by every later master of this state, because the agents
// of an earlier one look for their master there, with the builds that they run.
func (m *master) listenTCP(c hcl.Master) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("listen for workers (master.listen = %q): %w%s", c.Listen, err, api.ListenHint(err))
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fail(err)
	}
	file := filepath.Join(m.o.StateDir, portName)
	if port == "0" {
		if last, err := os.ReadFile(file); err == nil {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strings.TrimSpace(string(last))))
			if err == nil {
				return l, nil
			}
			m.log.Warn("master: the worker port of before is not free; agents of an earlier master will not find this one", "err", err)
		}
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fail(err)
	}
	if port != "0" {
		return l, nil
	}
	if _, port, err = net.SplitHostPort(l.Addr().String()); err == nil {
		err = os.WriteFile(file, []byte(port+"\n"), 0o600)
	}
	if err != nil {
		_ = l.Close()
		return fail(err)
	}
	return l, nil
}
