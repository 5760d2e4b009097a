package ec2test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"
)

// moto is the server's process.
type moto struct {
	url  string
	cmd  *exec.Cmd
	dir  string
	gone chan struct{}
}

var theServer struct {
	sync.Mutex
	m   *moto
	err error
}

var errNotInstalled = errors.New("moto is not installed; run: .ci/moto")

// server starts moto at the first call.
func server() (*moto, error) {
	theServer.Lock()
	defer theServer.Unlock()
	if theServer.m == nil && theServer.err == nil {
		theServer.m, theServer.err = startMoto()
	}
	return theServer.m, theServer.err
}

// Stop ends the server, if there is one. TestMain calls it after m.Run; without that the kernel ends the server with the test's process.
func Stop() {
	theServer.Lock()
	defer theServer.Unlock()
	if m := theServer.m; m != nil {
		_ = m.cmd.Process.Kill()
		<-m.gone
		_ = os.RemoveAll(m.dir)
	}
	theServer.m, theServer.err = nil, nil
}

func missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errNotInstalled) && os.Getenv("ROUSE_PEERS") != "require" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// program finds the server that .ci/moto has installed: from the test's directory upwards.
func program() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		p := filepath.Join(dir, ".cache", "moto", "bin", "moto_server")
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			return "", errNotInstalled
		}
		dir = filepath.Dir(dir)
	}
}

var running = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

func startMoto() (*moto, error) {
	path, err := program()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rouse-moto-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "images.json")
	list, err := imagesForMoto()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return nil, err
	}
	r, wr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	m := &moto{cmd: exec.Command(path, "-H", "127.0.0.1", "-p", "0"), dir: dir, gone: make(chan struct{})}
	m.cmd.Dir = dir
	m.cmd.Env = append(without(os.Environ(), "MOTO_ACCOUNT_ID="), "MOTO_AMIS_PATH="+file, "PYTHONUNBUFFERED=1",
		"MOTO_ENABLE_AMI_VALIDATION=true", "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION=true")
	m.cmd.Stdout, m.cmd.Stderr = wr, wr
	dieWithParent(m.cmd)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel's order to die is bound to the thread that made the process: it must not end before
		err := m.cmd.Start()
		started <- err
		if err == nil {
			_ = m.cmd.Wait()
		}
		close(m.gone)
	}()
	err = <-started
	_ = wr.Close()
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("start moto: %w", err)
	}
	found := make(chan string, 1)
	go func() { // until moto ends: it must never wait for a reader of its log
		defer r.Close()
		for in := bufio.NewScanner(r); in.Scan(); {
			if s := running.FindStringSubmatch(in.Text()); s != nil {
				select {
				case found <- s[1]:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, r) // after a line that is too long
	}()
	select {
	case m.url = <-found:
		return m, nil
	case <-m.gone:
		return nil, fmt.Errorf("moto ended at its start: %v", m.cmd.ProcessState)
	case <-time.After(2 * time.Minute):
		_ = m.cmd.Process.Kill()
		return nil, errors.New("moto does not come up")
	}
}

func without(env []string, entry string) []string {
	var kept []string
	for _, e := range env {
		if len(e) < len(entry) || e[:len(entry)] != entry {
			kept = append(kept, e)
		}
	}
	return kept
}
