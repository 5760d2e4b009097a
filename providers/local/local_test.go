//go:build linux

package local

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
	"github.com/rouse-ci/rouse/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Setup {
		state := t.TempDir()
		return providertest.Setup{
			Open: func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
				p, l, err := Kind{}.Open(t.Context(), providers.Env{Name: "l", Owner: owner, Config: config(t, ""), StateDir: state, Log: log})
				if err != nil {
					t.Fatal(err)
				}
				return p, l
			},
			Spec:  func() any { return spec(t, "") },
			Alive: func(key providers.Key) int { return len(bearing(key)) },
		}
	})
}

func TestAgentIsToldEverythingInAFileOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, "env = { FROM_PROVIDER = \"1\", BOTH = \"provider\" }")
	p := r.open()
	key := r.create(p, `env = { STANDIN = "environ", BOTH = "instance" }`)
	r.ready(p, key)
	got, err := os.ReadFile(filepath.Join(p.dir(key), dirWork, "attached"))
	if want := fmt.Sprintf("ws://127.0.0.1:9 w %s 60\n", key); string(got) != want || err != nil {
		t.Errorf("agent read %q, %v; want %q", got, err, want)
	}
	out, err := p.Console(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FROM_PROVIDER=1", "BOTH=instance", tagOwner + "=o", "PATH=", "TMPDIR=" + p.dir(key)} {
		if !strings.Contains(string(out), want) {
			t.Errorf("environment has no %s: %s", want, out)
		}
	}
	for _, pid := range bearing(key) {
		argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if bytes.Contains(append(argv, env...), []byte("t0ken")) {
			t.Errorf("the token is in the list of processes: %q", argv)
		}
	}
	if err := filepath.WalkDir(r.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 && !strings.Contains(path, dirWork) {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("t0ken")) {
			t.Errorf("%s holds the token after the agent has started", path)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestMasterSecretsAreNotInherited(t *testing.T) {
	t.Setenv("MASTER_PASSWORD", "hunter2")
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("environ"))
	r.ready(p, key)
	if out, _ := p.Console(context.Background(), key); bytes.Contains(out, []byte("hunter2")) || len(out) == 0 {
		t.Errorf("console: %s", out)
	}
}

func TestInstanceThatEndsByItselfIsFailedWithItsLastWords(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("exit"))
	r.until("failed with status", func() bool {
		in, err := p.Get(context.Background(), key)
		return err == nil && in.State == providers.Failed && in.Detail == "exit status 3: the disk[31m is on fire"
	})
	r.until("what it left behind is killed", func() bool { return len(bearing(key)) == 0 })
	if in, err := p.Create(context.Background(), r.request(key, "")); err != nil || in.State != providers.Failed {
		t.Errorf("Create again: %v %v, want the failed instance", in, err)
	}
}

func TestKilledAgentIsNotBlamedOnItsLastWords(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("spam"))
	r.ready(p, key)
	in, err := p.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(in.ID)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := durable.Lock(context.Background(), p.dir(key)) // so that nobody can write down how it ended
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		unlock()
		t.Fatal(err)
	}
	r.until("failed", func() bool {
		in, err = p.Get(context.Background(), key)
		return err == nil && in.State == providers.Failed
	})
	unlock()
	if in.Detail != "killed by SIGKILL" {
		t.Errorf("it ended so: %q", in.Detail)
	}
	r.until("the same is written down", func() bool {
		e, err := load(p.dir(key), key)
		return err == nil && e.exit != nil && e.exit.Text == "killed by SIGKILL"
	})
}

func TestConsoleIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, standin("spam"))
	r.ready(p, key)
	for range 2 { // before and after log and tail are cut
		out, err := p.Console(context.Background(), key)
		if err != nil || len(out) != consoleTail || !bytes.HasSuffix(out, []byte("spam \nthe last line\n")) {
			t.Errorf("%d bytes, %v", len(out), err)
		}
		trim(p.dir(key))
	}
	if info, err := os.Stat(filepath.Join(p.dir(key), fileConsole)); err != nil || info.Size() != 0 {
		t.Errorf("console.log was not cut: %v %v", info, err)
	}
}

func TestLimitsReachTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	key := r.create(p, `
nice           = 7
max_memory     = "512MiB"
max_processes  = 1000
max_open_files = 100
`)
	r.ready(p, key)
	e, err := load(p.dir(key), key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", e.process.PID))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{"Max data size 536870912 536870912", "Max processes 1000 1000", "Max open files 100 100"} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", e.process.PID))
	if err != nil || len(threads) == 0 {
		t.Fatal(err)
	}
	for _, name := range threads {
		line, _ := os.ReadFile(name)
		if f := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:])); f[16] != "7" {
			t.Errorf("nice of %s is %s, want 7", name, f[16])
		}
	}
}

func TestMaxInstancesIsOverQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t, "max_instances = 2")
	p := r.open()
	if rooms, err := p.Rooms(t.Context()); err != nil || len(rooms) != 1 || rooms[0] != (providers.Room{Name: providers.LimitRoom, Slots: 2}) {
		t.Errorf("rooms %+v, %v", rooms, err)
	}
	first := r.create(p, "")
	r.create(p, "")
	if in, err := p.Get(t.Context(), first); err != nil || in.Place != providers.LimitRoom {
		t.Errorf("%+v, %v", in, err)
	}
	_, err := p.Create(context.Background(), r.request("o-w-more", ""))
	if providers.ClassOf(err) != providers.OverQuota {
		t.Errorf("%v, want over-quota", err)
	}
	if _, err := p.Create(context.Background(), r.request(first, "")); err != nil {
		t.Errorf("Create of one that is there: %v", err)
	}
	r.destroy(p, first)
	r.create(p, "")
}

func TestUnusableBinaryIsBadConfigAndLeavesNothing(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/does/not/exist", t.TempDir(), text} {
		p, _, err := Kind{}.Open(t.Context(), providers.Env{Owner: "o", Config: Config{WorkerBinary: path}, StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Create(t.Context(), (&rig{TB: t}).request("o-w-1", ""))
		if providers.ClassOf(err) != providers.BadConfig {
			t.Errorf("%s: %v, want bad-config", path, err)
		}
		if list, err := p.List(t.Context(), "o"); err != nil || len(list) != 0 {
			t.Errorf("%s: %v %v", path, list, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedRecordIsAnErrorNotAShortList(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.open()
	good := r.create(p, "")
	for name, damage := range map[string]string{"empty": "", "cut": `{"key":"o-w-x`, "another": `{"key":"o-w-y","owner":"o"}`} {
		if err := os.MkdirAll(p.dir("o-w-x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.dir("o-w-x"), fileIntent), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if list, err := p.List(t.Context(), "o"); err == nil || !strings.Contains(err.Error(), fileIntent) {
			t.Errorf("%s: %v %v, want an error that names the file", name, list, err)
		}
	}
	if got := r.stateOf(p, good); got != "running" {
		t.Errorf("the instance beside it is %s", got)
	}
	if err := os.RemoveAll(p.dir("o-w-x")); err != nil {
		t.Fatal(err)
	}
}

func TestRemovalDoesNotFollowSymbolicLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := r.open()
	key := r.create(p, "")
	r.ready(p, key)
	for i, target := range []string{filepath.Dir(outside), outside, "../../.."} {
		if err := os.Symlink(target, filepath.Join(p.dir(key), dirWork, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(p.dir(key), dirTmp)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(p.dir(key), dirTmp)); err != nil {
		t.Fatal(err)
	}
	r.destroy(p, key)
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func TestMistakesInTheConfigurationHaveRanges(t *testing.T) {
	t.Parallel()
	_, diags := Kind{}.DecodeProvider(body(t, "grace = \"2h\"\nmax_instances = -1\nenv = { ROUSE_OWNER = \"x\" }\nworker_binry = \"x\""), nil)
	if len(diags) != 4 {
		t.Errorf("%d mistakes, want 4: %v", len(diags), diags)
	}
	_, more := Kind{}.DecodeInstance(nil, body(t, "nice = -5\nmax_memory = \"1KB\"\nmax_processes = 1\nmax_open_files = \"many\"\nenv = { \"A=B\" = 1 }"), nil)
	if len(more) != 5 {
		t.Errorf("%d mistakes, want 5: %v", len(more), more)
	}
	for _, d := range append(diags, more...) {
		if d.Subject == nil {
			t.Errorf("no range: %v", d)
		}
	}
	c, diags := Kind{}.DecodeProvider(body(t, ""), nil)
	if diff := cmp.Diff(Config{Grace: 2 * time.Second}, c); diff != "" || diags.HasErrors() {
		t.Error(diff, diags)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0"))
	f.Add([]byte("1 (a) b) ( S 2 3 4 0"))
	f.Add([]byte(")"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseStat(1, data); err == nil && s.pid != 1 {
			t.Error(s)
		}
	})
}

func BenchmarkCreate(b *testing.B) {
	r := newRig(b, "")
	r.log = slog.New(slog.DiscardHandler)
	p := r.open()
	var keys []providers.Key
	for b.Loop() {
		keys = append(keys, r.create(p, ""))
		if len(keys) == 50 {
			b.StopTimer()
			for _, k := range keys {
				r.destroy(p, k)
			}
			keys = nil
			b.StartTimer()
		}
	}
}
