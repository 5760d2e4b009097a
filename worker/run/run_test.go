package run

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record is a Sink that keeps everything.
type record struct {
	mu      sync.Mutex
	out     map[proto.Stream][]byte
	updates map[string]any
	grew    chan struct{}
	gate    chan struct{} // Output waits until it is closed, if not nil
}

func newRecord() *record {
	return &record{out: map[proto.Stream][]byte{}, updates: map[string]any{}, grew: make(chan struct{}, 1)}
}

func (r *record) Output(s proto.Stream, p []byte) {
	if r.gate != nil && s != proto.Header {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[s] = append(r.out[s], p...)
	select {
	case r.grew <- struct{}{}:
	default:
	}
}

func (r *record) Update(key string, value any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updates[key] = value
}

func (r *record) text(s proto.Stream) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.out[s])
}

func (r *record) waitFor(t *testing.T, s proto.Stream, want string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for !strings.Contains(r.text(s), want) {
		select {
		case <-r.grew:
		case <-limit:
			t.Fatalf("no %q in %q", want, r.text(s))
		}
	}
}

func do(t *testing.T, name string, args map[string]any) *record {
	t.Helper()
	r := newRecord()
	doWith(t, t.Context(), r, Command{Name: name, Args: args})
	return r
}

func doWith(t *testing.T, ctx context.Context, r *record, c Command) {
	t.Helper()
	if c.Basedir == "" {
		c.Basedir = t.TempDir()
	}
	if c.Name == "shell" && c.Args["workdir"] == nil {
		c.Args["workdir"] = "build"
	}
	if err := Run(ctx, c, r); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

func (r *record) want(t *testing.T, key string, v any) {
	t.Helper()
	if d := cmp.Diff(v, r.updates[key]); d != "" {
		t.Errorf("%s (-want +got):\n%s\nheader: %s\nstderr: %s", key, d, r.text(proto.Header), r.text(proto.Stderr))
	}
}

func TestShellSeparatesStreamsAndReportsTheExitCode(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "echo out; echo err >&2; exit 3"})
	r.want(t, "rc", int64(3))
	if r.text(proto.Stdout) != "out\n" || r.text(proto.Stderr) != "err\n" {
		t.Errorf("stdout %q stderr %q", r.text(proto.Stdout), r.text(proto.Stderr))
	}
	if _, ok := r.updates["elapsed"].(float64); !ok {
		t.Error("no elapsed")
	}
}

func TestShellExecutesAListWithoutAShell(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": []any{"printf", "%s|", "a b", "$HOME", int64(7)}})
	if got := r.text(proto.Stdout); got != "a b|$HOME|7|" {
		t.Errorf("got %q", got)
	}
}

func TestShellReportsAProgramThatDoesNotExist(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": []any{"no-such-program"}})
	r.want(t, "rc", int64(1))
	if !strings.Contains(r.text(proto.Stderr), "no-such-program") {
		t.Errorf("stderr %q", r.text(proto.Stderr))
	}
}

func TestShellReportsASignalAsMinusOne(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "kill -TERM $$"})
	r.want(t, "rc", int64(-1))
	if !strings.Contains(r.text(proto.Header), "process killed by signal 15") {
		t.Errorf("header %q", r.text(proto.Header))
	}
}

func TestShellClosesStdinAndPassesInitialStdin(t *testing.T) {
	t.Parallel()
	if got := do(t, "shell", map[string]any{"command": "cat; echo end"}).text(proto.Stdout); got != "end\n" {
		t.Errorf("without stdin: %q", got)
	}
	big := strings.Repeat("x", 300_000)
	if got := do(t, "shell", map[string]any{"command": []any{"cat"}, "initial_stdin": big}).text(proto.Stdout); got != big {
		t.Errorf("with stdin: %d bytes", len(got))
	}
	do(t, "shell", map[string]any{"command": "true", "initial_stdin": big}).want(t, "rc", int64(0)) // not read
}

func TestShellEndsACommandWithoutOutput(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "echo a; sleep 60", "timeout": 0.3})
	r.want(t, "rc", int64(-1))
	r.want(t, "failure_reason", "timeout_without_output")
}

func TestShellEndsACommandThatTakesTooLong(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "while :; do echo a; sleep 0.05; done", "maxTime": 0.4, "timeout": int64(10)})
	r.want(t, "rc", int64(-1))
	r.want(t, "failure_reason", "timeout")
}

func TestShellEndsACommandThatPrintsTooManyLines(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": []any{"yes"}, "max_lines": int64(1000)})
	r.want(t, "rc", int64(-1))
	r.want(t, "failure_reason", "max_lines_failure")
}

func TestInterruptClimbsTheLadder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		script, header string
		args           map[string]any
	}{
		{"trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.05; done", "killed by signal 9", map[string]any{"sigtermTime": 0.2}},
		{"echo ready; exec sleep 60", "killed by signal 15", map[string]any{"sigtermTime": 5.0}},
		{"echo ready; exec sleep 60", "killed by signal 2", map[string]any{"interruptSignal": "INT"}},
		{"echo ready; exec sleep 60", "killed by signal 9", map[string]any{}},
		{"trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done", "attempting to kill", map[string]any{"sigtermTime": 5.0}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRecord()
		c.args["command"] = c.script
		go func() { // not a failure if it never comes: the command would not end
			r.waitFor(t, proto.Stdout, "ready")
			cancel()
		}()
		doWith(t, ctx, r, Command{Name: "shell", Args: c.args})
		r.want(t, "rc", int64(-1))
		if !strings.Contains(r.text(proto.Header), c.header) {
			t.Errorf("%s: header %q", c.script, r.text(proto.Header))
		}
	}
}

func TestTheWholeProcessGroupIsKilled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := newRecord()
	go func() {
		r.waitFor(t, proto.Stdout, "child ")
		cancel()
	}()
	doWith(t, ctx, r, Command{Name: "shell", Args: map[string]any{"command": "sleep 60 & echo child $!; wait"}})
	var pid int
	if _, err := fmt.Sscanf(r.text(proto.Stdout), "child %d", &pid); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
}

func TestTheLadderIsForTheWholeProcessGroup(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := newRecord()
	go func() {
		r.waitFor(t, proto.Stdout, "ready")
		cancel()
	}()
	doWith(t, ctx, r, Command{Name: "shell", Args: map[string]any{"sigtermTime": 10.0,
		"command": "(trap 'sleep 0.3; echo child got TERM; exit' TERM; echo ready; while :; do sleep 0.05; done) & wait"}})
	if got := r.text(proto.Stdout); !strings.Contains(got, "child got TERM") {
		t.Errorf("got %q", got)
	}
}

// waitGone waits until a process is dead. A zombie that nobody has reaped yet counts as dead.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d lives", pid)
		}
	}
}

func TestDescendantsThatHoldThePipeDoNotHangTheCommand(t *testing.T) {
	t.Parallel()
	start := time.Now()
	r := do(t, "shell", map[string]any{"command": "sleep 60 & echo child $!"})
	r.want(t, "rc", int64(0))
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
	var pid int
	if _, err := fmt.Sscanf(r.text(proto.Stdout), "child %d", &pid); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
}

func TestADaemonInItsOwnSessionDoesNotHangTheCommand(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "setsid sh -c 'echo child $$; exec sleep 60' & sleep 0.3"})
	r.want(t, "rc", int64(0))
	var pid int
	if _, err := fmt.Sscanf(r.text(proto.Stdout), "child %d", &pid); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestOutputIsCompleteWhenTheSinkBlocks(t *testing.T) {
	t.Parallel()
	r := newRecord()
	r.gate = make(chan struct{})
	time.AfterFunc(600*time.Millisecond, func() { close(r.gate) }) // longer than the timeout without output
	doWith(t, t.Context(), r, Command{Name: "shell", Args: map[string]any{"command": "head -c 300000 /dev/zero | tr '\\0' x", "timeout": 0.2}})
	r.want(t, "rc", int64(0))
	if n := len(r.text(proto.Stdout)); n != 300000 {
		t.Errorf("%d bytes", n)
	}
}

func TestPTY(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "test -t 0 && test -t 1 && echo terminal; echo err >&2", "usePTY": true})
	r.want(t, "rc", int64(0))
	if got := r.text(proto.Stdout); got != "terminal\r\nerr\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestPTYDescendantsDoNotHangTheCommand(t *testing.T) {
	t.Parallel()
	r := do(t, "shell", map[string]any{"command": "trap '' HUP; setsid sleep 60 & echo child $!; sleep 0.2", "usePTY": true})
	r.want(t, "rc", int64(0))
	var pid int
	if _, err := fmt.Sscanf(r.text(proto.Stdout), "child %d", &pid); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestEnvironmentRules(t *testing.T) {
	t.Parallel()
	own := []string{"PATH=/bin", "HOME=/h", "GONE=1", "PYTHONPATH=/own"}
	got, err := environ(own, map[string]any{"GONE": nil, "PATH": []any{"/x", "${PATH}", "${NONE}"}, "N": int64(3), "PYTHONPATH": "/m",
		"LIT": "$HOME", "PWD": "wrong"}, "/w", []string{"ROUSE_WORKER=w1"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"HOME=/h", "LIT=$HOME", "N=3", "PATH=/x:/bin:", "PWD=/w", "PYTHONPATH=/m:/own", "ROUSE_WORKER=w1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []any{"x", map[string]any{"A=B": "x"}, map[string]any{"A": "\x00"}, map[string]any{"": "x"}} {
		if _, err := environ(nil, bad, "/", nil); err == nil {
			t.Errorf("no error for %v", bad)
		}
	}
}

func TestBadArgumentsAreErrorsBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	for _, c := range []Command{
		{Name: "nonsense"},
		{Name: "shell", Args: map[string]any{"workdir": "x"}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": int64(1)}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": []any{}}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": []any{[]any{"obfuscated", "a", "b"}}}},
		{Name: "shell", Args: map[string]any{"workdir": "x\x00", "command": "true"}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": "true\x00"}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": "true", "timeout": "soon"}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": "true", "timeout": -1.0}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": "true", "usePTY": "slave-config"}},
		{Name: "shell", Args: map[string]any{"workdir": "x", "command": "true", "interruptSignal": "NOPE"}},
		{Name: "mkdir", Args: map[string]any{"paths": []any{int64(1)}}},
	} {
		r := newRecord()
		c.Basedir = t.TempDir()
		if err := Run(t.Context(), c, r); err == nil || len(r.updates) > 0 {
			t.Errorf("%s %v: error %v, updates %v", c.Name, c.Args, err, r.updates)
		}
	}
}

func TestFileSystemCommands(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	call := func(name string, args map[string]any) *record {
		r := newRecord()
		doWith(t, t.Context(), r, Command{Name: name, Args: args, Basedir: base})
		return r
	}
	call("mkdir", map[string]any{"paths": []any{"a/b", filepath.Join(base, "a/.hidden"), "a/b/c"}}).want(t, "rc", int64(0))
	for _, f := range []string{"a/b/x.txt", "a/b/c/y.txt", "a/z.log"} {
		if err := os.WriteFile(filepath.Join(base, f), []byte("1234"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	st := call("stat", map[string]any{"path": "a/z.log"})
	st.want(t, "rc", int64(0))
	if s := st.updates["stat"].([]any); s[0] != int64(0o100640) || s[6] != int64(4) || len(s) != 10 {
		t.Errorf("stat %v", s)
	}
	call("stat", map[string]any{"path": "none"}).want(t, "rc", int64(syscall.ENOENT))
	call("rmfile", map[string]any{"path": "a/z.log"}).want(t, "rc", int64(0))
	call("rmfile", map[string]any{"path": "a/z.log"}).want(t, "rc", int64(syscall.ENOENT))
	call("listdir", map[string]any{"path": "none"}).want(t, "rc", int64(syscall.ENOENT))
	call("listdir", map[string]any{"path": "a/b/c"}).want(t, "files", []any{"y.txt"})
	call("glob", map[string]any{"path": "**/*.txt"}).want(t, "files", []any{filepath.Join(base, "a/b/x.txt"), filepath.Join(base, "a/b/c/y.txt")})
	call("glob", map[string]any{"path": "a/*"}).want(t, "files", []any{filepath.Join(base, "a/b")})
	call("glob", map[string]any{"path": "nothing*"}).want(t, "files", []any{})
	call("cpdir", map[string]any{"from_path": "a", "to_path": "new/copy"}).want(t, "rc", int64(0))
	call("glob", map[string]any{"path": "new/copy/b/[!y].txt"}).want(t, "files", []any{filepath.Join(base, "new/copy/b/x.txt")})
	if err := os.Chmod(filepath.Join(base, "new/copy/b"), 0); err != nil {
		t.Fatal(err)
	}
	call("rmdir", map[string]any{"paths": []any{"new", "a", "never-was"}}).want(t, "rc", int64(0))
	call("listdir", map[string]any{"path": "."}).want(t, "files", []any{})
}
