package session

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

// buildbotWorkers are the unmodified programs that .ci/buildbot-peers installs.
var buildbotWorkers = map[string]string{
	"pypi":   "../../.cache/peers/pypi/bin/buildbot-worker",
	"debian": "/usr/bin/buildbot-worker",
}

// startBuildbotWorker starts a real worker for m under the name "bb".
func startBuildbotWorker(t *testing.T, m *master, program string) (base string) {
	t.Helper()
	u, err := url.Parse(m.url)
	if err != nil {
		t.Fatal(err)
	}
	base = filepath.Join(t.TempDir(), "worker")
	create := exec.Command(program, "create-worker", "--protocol=msgpack_experimental_v7", base, u.Host, "bb", "pw-bb")
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("create-worker: %v\n%s", err, out)
	}
	var out bytes.Buffer
	run := exec.Command(program, "start", "--nodaemon", base)
	run.Stdout, run.Stderr = &out, &out
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL)
		_ = run.Wait()
		if t.Failed() {
			twistd, _ := os.ReadFile(filepath.Join(base, "twistd.log"))
			t.Logf("the worker said:\n%s\n%s", out.String(), twistd)
		}
	})
	return base
}

func TestUnmodifiedBuildbotWorkerRunsAShellStep(t *testing.T) {
	t.Parallel()
	for name, program := range buildbotWorkers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, err := filepath.Abs(program)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(program); err != nil {
				if os.Getenv("ROUSE_PEERS") == "require" {
					t.Fatalf("%v; install it with .ci/buildbot-peers", err)
				}
				t.Skipf("%v; install it with .ci/buildbot-peers", err)
			}
			m := newMaster(t, Options{})
			base := startBuildbotWorker(t, m, program)
			var at core.Attached
			select {
			case ev := <-m.events:
				at = ev.(core.Attached)
			case <-time.After(60 * time.Second):
				t.Fatal("the worker does not attach")
			}
			if at.Worker != "bb" || at.Resumable || at.Agent != "" {
				t.Errorf("got %+v", at)
			}
			t.Logf("worker version %v", m.Info("bb")["version"])
			if got := m.Info("bb")["basedir"]; got != base {
				t.Errorf("basedir: got %v, want %s", got, base)
			}
			testShell(t, m)
			testTransfers(t, m)
			testInterrupt(t, m)
		})
	}
}

func testShell(t *testing.T, m *master) {
	texts := make(map[proto.Stream]string)
	dir := m.Abs("bb", "shell1", "build")
	out, err := m.Run(t.Context(), "bb", Command{ID: "b1.s0.0", Name: "shell", Args: map[string]any{
		"workdir": dir, "command": []string{"sh", "-c", "echo grüße; echo oops >&2; printf partial; exit 3"},
		"env": map[string]any{}, "timeout": 60, "usePTY": false, "logEnviron": false,
	}, Output: func(s proto.Stream, p []byte, _ int64) error { texts[s] += string(p); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	// The worker ends every partial line with a newline.
	if out.RC != 3 || out.Text != "" || texts[proto.Stdout] != "grüße\npartial\n" || texts[proto.Stderr] != "oops\n" || out.Elapsed <= 0 {
		t.Errorf("got %+v, output %q", out, texts)
	}
	if !strings.Contains(texts[proto.Header], "in dir "+dir) {
		t.Errorf("header: %q", texts[proto.Header])
	}
}

func testTransfers(t *testing.T, m *master) {
	content := bytes.Repeat([]byte("0123456789abcde\n"), 20_000)
	file := m.Abs("bb", "shell1", "build/file")
	run := func(c Command) Outcome {
		t.Helper()
		out, err := m.Run(t.Context(), "bb", c)
		if err != nil || out.RC != 0 || out.Text != "" {
			t.Fatalf("%s: %v %+v", c.Name, err, out)
		}
		return out
	}
	run(Command{ID: "d1", Name: "download_file", Download: bytes.NewReader(content),
		Args: map[string]any{"path": file, "maxsize": nil, "blocksize": 16 << 10, "mode": 0o640}})
	var up bytes.Buffer
	run(Command{ID: "u1", Name: "upload_file", Upload: &up, Args: map[string]any{"path": file, "maxsize": nil, "blocksize": 64 << 10, "keepstamp": true,
		"workdir": filepath.Dir(file), "workersrc": "file"}})
	if !bytes.Equal(up.Bytes(), content) {
		t.Errorf("%d bytes came back, want %d", up.Len(), len(content))
	}
	up.Reset()
	run(Command{ID: "u2", Name: "upload_directory", Upload: &up, Args: map[string]any{"path": filepath.Dir(file), "maxsize": nil, "blocksize": 64 << 10,
		"compress": nil, "workdir": filepath.Dir(file), "workersrc": "."}})
	if !bytes.Contains(up.Bytes(), content) {
		t.Errorf("a tar stream of %d bytes does not hold the file", up.Len())
	}
	out := run(Command{ID: "l1", Name: "listdir", Args: map[string]any{"path": filepath.Dir(file)}}) // completes before its start is answered
	if len(out.Updates["files"]) != 1 {
		t.Errorf("got %+v", out)
	}
	if _, err := m.Run(t.Context(), "bb", Command{ID: "u3", Name: "upload_file", Upload: io.Discard, MaxUpload: 1000,
		Args: map[string]any{"path": file, "maxsize": nil, "blocksize": 64 << 10, "keepstamp": false, "workdir": "/", "workersrc": "file"}}); err == nil ||
		!strings.Contains(err.Error(), "larger than the limit of 1000 bytes") {
		t.Errorf("got %v", err)
	}
}

func testInterrupt(t *testing.T, m *master) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{}, 10)
	run := m.start(ctx, "bb", Command{ID: "i1", Name: "shell", Args: map[string]any{
		"workdir": m.Abs("bb", "shell1", "build"), "command": "echo begun; sleep 600", "usePTY": false, "logEnviron": false,
	}, Output: func(s proto.Stream, _ []byte, _ int64) error {
		if s == proto.Header {
			begun <- struct{}{}
		}
		return nil
	}})
	<-begun
	cancel()
	if r := await(t, run); r.err != nil || r.out.RC != -1 {
		t.Errorf("got %+v", r)
	}
}
