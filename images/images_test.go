package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRecipesAreComplete holds that each recipe has all that it is known by, and programs that their interpreter can read.
func TestRecipesAreComplete(t *testing.T) {
	t.Parallel()
	if len(All()) < 2 {
		t.Fatal("recipes are missing")
	}
	for _, r := range All() {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := unpack(r.Name, dir); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, r.Name, "*"))
			if err != nil || len(files) < 3 {
				t.Fatalf("it consists of %v (%v)", files, err)
			}
			for _, f := range files {
				text, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if st, err := os.Stat(f); err != nil || st.Mode().Perm()&0o500 != 0o500 {
					t.Errorf("%s cannot be run: %v, %v", f, st.Mode(), err)
				}
				if line, _, _ := bytes.Cut(text, []byte("\n")); bytes.HasSuffix(line, []byte("sh")) {
					if out, err := exec.Command("bash", "-n", f).CombinedOutput(); err != nil {
						t.Errorf("%s: %s", f, out)
					}
				}
			}
			for _, f := range []string{r.Boot.Image, r.Boot.Kernel, r.Boot.Initrd, "version"} {
				if f != "" && !slices.Contains(r.Files, f) {
					t.Errorf("%s is booted, or says what the image is made of, and is not among what is made: %v", f, r.Files)
				}
			}
			if r.About == "" || r.Boot.Identity == "" || r.Boot.Memory == "" {
				t.Errorf("%+v", r)
			}
			if got, ok := Named(r.Name); !ok || got.Name != r.Name {
				t.Errorf("it is not found by its name: %+v", got)
			}
		})
	}
}

// tools makes a directory with the named programs of this machine and no others, and makes it the PATH.
func tools(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, n := range names {
		path, err := exec.LookPath(n)
		if err != nil {
			t.Skip("this machine has no ", n)
		}
		if err := os.Symlink(path, filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

// agent is a file that stands for the agent's program.
func agent(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(name, []byte("an agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestABuildNamesThePackagesThatAreMissing runs each recipe where there is next to nothing.
func TestABuildNamesThePackagesThatAreMissing(t *testing.T) {
	tools(t, "bash", "readlink", "dirname", "id", "mkdir", "sed")
	for _, r := range All() {
		t.Run(r.Name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			var log bytes.Buffer
			err := r.Build(t.Context(), agent(t), out, &log)
			if err == nil || !strings.Contains(err.Error(), r.Name) {
				t.Errorf("the error: %v", err)
			}
			// Whatever this machine has in /usr/sbin is found; no machine has mtools there.
			if !strings.Contains(log.String(), "apt-get install") || !strings.Contains(log.String(), " mtools") {
				t.Errorf("it says %q", &log)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("it has made the directory for what it could not make")
			}
		})
	}
}

func TestABuildWantsTheAgentsProgram(t *testing.T) {
	t.Parallel()
	r, _ := Named("minimal")
	if err := r.Build(t.Context(), "/nonexistent/agent", t.TempDir(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "/nonexistent/agent") {
		t.Error(err)
	}
}

// TestACancelledBuildLeavesNothing cancels a build while one of its programs, which holds files, would run for ever.
func TestACancelledBuildLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the recipe needs root")
	}
	dir := tools(t, "bash", "sh", "readlink", "dirname", "id", "mkdir", "sed", "rm", "mktemp", "date", "tr", "awk", "sort", "cat", "chmod", "sleep", "touch", "echo", "mke2fs", "sfdisk", "syslinux",
		"busybox")
	tmp, out, started := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "started")
	t.Setenv("TMPDIR", tmp)
	fake := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"mkfs.fat", "mcopy", "qemu-img", "cpio"} {
		fake(name, "exit 1\n")
	}
	fake("apt-get", ". /etc/os-release; echo http://mirror.example $VERSION_CODENAME main\n")
	fake("mmdebstrap", "touch \"$TMPDIR\"/tmp.*/half '"+started+"'; sleep 600\n")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := Named("debian")
	var log bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- r.Build(ctx, agent(t), out, &log) }()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended at once: %v\n%s", err, &log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled build says %v", err)
	}
	for _, d := range []string{tmp, out} {
		if left, err := os.ReadDir(d); err != nil || len(left) > 0 {
			t.Errorf("it has left %v (%v)", left, err)
		}
	}
}

// TestVMBuilderRefusesWhatItCannotUse runs the documents' script with what nobody should give it: it says why, and makes nothing.
func TestVMBuilderRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password, empty := filepath.Join(dir, "password"), filepath.Join(dir, "empty")
	for name, text := range map[string]string{password: "s3cret", empty: ""} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		args, want string
	}{
		"nothing":           {"", "where is the master?"},
		"another protocol":  {"-master http://m:9989 -password-file " + password, "it is ws://HOST:PORT or wss://HOST:PORT"},
		"a command":         {"-master ws://m:$(reboot) -password-file " + password, "is no URL of a master"},
		"no password":       {"-master ws://m:9989", "a file with the workers' password is needed"},
		"an empty password": {"-master ws://m:9989 -password-file " + empty, "a file with the workers' password is needed"},
		"no value":          {"-master", "-master needs a value"},
		"no agent there":    {"-master ws://m:9989 -password-file " + password + " -worker " + dir + "/none", "there is no such program"},
		"an unknown option": {"-slaves 3", "there is no option -slaves"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(dir, name)
			cmd := exec.Command("bash", append([]string{"../contrib/libvirt/vmbuilder", "-out", out}, strings.Fields(c.args)...)...)
			said, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("%v", err)
			}
			if !strings.Contains(string(said), c.want) || strings.Contains(string(said), "s3cret") {
				t.Errorf("it says %q", said)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("it has made something")
			}
		})
	}
}
