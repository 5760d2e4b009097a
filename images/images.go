// Package images holds the recipes that put rouse's agent into images of machines, and runs them.
//
// A recipe is a directory with a program "build", called with the agent's program and the directory for what it makes. It knows nothing of
// providers or of the master: what it makes is booted by whoever is told to.
package images

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

//go:embed minimal debian
var recipes embed.FS

// Recipe is one image that can be built.
type Recipe struct {
	Name  string
	About string
	Files []string // that Build makes
	Boot  Boot     // how an instance block boots it
}

// Boot is the part of a libvirt worker's instance block that belongs to an image.
type Boot struct {
	Image    string // base_image
	Kernel   string // kernel and initrd, if it is booted directly
	Initrd   string
	Identity string
	Memory   string
	Probe    string // a command that succeeds in the image, and says that it has what it is for
}

var all = []Recipe{
	{Name: "minimal", About: "a kernel, a small userland and the agent: boots in a few seconds", Files: []string{"minimal.qcow2", "vmlinux", "initrd.img", "cmdline", "version"},
		Boot: Boot{Image: "minimal.qcow2", Kernel: "vmlinux", Initrd: "initrd.img", Identity: "smbios", Memory: "128MiB"}},
	{Name: "debian", About: "Debian with cloud-init, git and a compiler", Files: []string{"debian.qcow2", "version"},
		Boot: Boot{Image: "debian.qcow2", Identity: "nocloud", Memory: "512MiB",
			Probe: "git init -q r; printf 'int main(void) { return 0; }' | gcc -x c -o r/p - && r/p; getent hosts localhost > /dev/null"}},
}

// All returns the recipes.
func All() []Recipe { return slices.Clone(all) }

// Named returns a recipe.
func Named(name string) (Recipe, bool) {
	i := slices.IndexFunc(all, func(r Recipe) bool { return r.Name == name })
	if i < 0 {
		return Recipe{}, false
	}
	return all[i], true
}

// Build makes an image in a directory. agent is the static agent's program. What the recipe's programs say goes to log.
func (r Recipe) Build(ctx context.Context, agent, out string, log io.Writer) error {
	if _, err := os.Stat(agent); err != nil {
		return fmt.Errorf("the agent's program: %w", err)
	}
	dir, err := os.MkdirTemp("", "rouse-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // copies
	if err := unpack(r.Name, dir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, r.Name, "build"), agent, out)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("build image %s: %w", r.Name, err)
	}
	for _, f := range r.Files {
		if _, err := os.Stat(filepath.Join(out, f)); err != nil {
			return errors.New("build image " + r.Name + ": it has made no " + f)
		}
	}
	return nil
}

// unpack writes a recipe's files. All are programs or data that programs read; embedding keeps no modes.
func unpack(name, dir string) error {
	return fs.WalkDir(recipes, name, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(dir, path), 0o755)
		}
		b, err := recipes.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path), b, 0o755)
	})
}
