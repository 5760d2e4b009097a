package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/images"
)

func newImageCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Build images with rouse's agent, and test them",
		Long:  "Builds images of machines with rouse's agent inside, and tests them: an image that boots and stays silent costs hours.",
		Example: `  rouse image list
  rouse image build minimal -out images
  rouse image test minimal -dir images -listen 192.168.122.1:0`,
		Args: cobra.ArbitraryArgs,
		RunE: a.onlyCommands,
	}
	c.AddCommand(newImageListCmd(a), newImageBuildCmd(a), newImageTestCmd(a))
	return c
}

func newImageListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the images that can be built", Example: "  rouse image list", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			t := newTable(a)
			t.head("IMAGE", "WHAT IT IS")
			for _, r := range images.All() {
				t.row(r.Name, r.About)
			}
			return t.flush()
		},
	}
}

func imageNames(*cobra.Command, []string, string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, r := range images.All() {
		names = append(names, cobra.CompletionWithDesc(r.Name, r.About))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func recipe(name string) (images.Recipe, error) {
	r, ok := images.Named(name)
	if !ok {
		var names []string
		for _, o := range images.All() {
			names = append(names, o.Name)
		}
		msg := fmt.Sprintf("there is no image %q; there are %s", name, strings.Join(names, ", "))
		if near := hcl.Nearest(name, names); near != "" {
			msg += fmt.Sprintf(". Did you mean %q?", near)
		}
		return r, errors.New(msg)
	}
	return r, nil
}

func newImageBuildCmd(a *app) *cobra.Command {
	agent, out := "", "images"
	c := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Build an image",
		Long: `Builds an image from this machine's package sources. It needs no loop device and no mount; debian needs root. The packages that it needs are
named when they are missing.`,
		Example:           "  rouse image build minimal -out /var/lib/libvirt/images",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: imageNames,
		RunE: func(c *cobra.Command, given []string) error {
			r, err := recipe(given[0])
			if err != nil {
				return err
			}
			if agent == "" {
				agent = agentProgram()
			}
			if st, err := os.Stat(out); err == nil && !st.IsDir() {
				return fmt.Errorf("-out: %s is no directory", out)
			}
			if err := os.MkdirAll(out, 0o755); err != nil { // before there is something to put there
				return fmt.Errorf("-out: %w", err)
			}
			began := time.Now()
			if err := r.Build(c.Context(), agent, out, a.stderr); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "Image %s is built: %s (%s).\n", r.Name, filepath.Join(out, r.Boot.Image), human(time.Since(began).Seconds()))
			return err
		},
	}
	c.Flags().StringVar(&out, "out", out, "`DIR` for what is made")
	c.Flags().StringVar(&agent, "agent", "", "the static agent's `PROGRAM` (default: rouse-worker beside this program, or on PATH)")
	return c
}

// agentProgram is rouse-worker beside this program, or the one on PATH.
func agentProgram() string {
	const name = "rouse-worker"
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); exists(path) {
			return path
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newImageTestCmd(a *app) *cobra.Command {
	t := imageTest{a: a, dir: "images", uri: "qemu:///system", pool: "default", network: "default", worker: "guest", orphan: time.Minute}
	var given images.Boot
	c := &cobra.Command{
		Use:   "test [IMAGE]",
		Short: "Boot an image and see whether its worker does what it must",
		Long: `Boots the image as a guest of a host with libvirt and looks whether it does what a worker must:

  it boots, attaches and runs a probe
  it powers off when it is told to
  it powers off when its master is gone (after a minute, or what -orphan says)

The guest is thrown away, whatever happens. The guest must reach -listen: an address of this machine on the network that it boots in. A network that rouse
libvirt network has made knows the workers that it was made for: -worker names one of them.

Any image can be tested: -image, -identity and -memory say what rouse's own images are known by. One whose agent has the master's address, a password and
its name from elsewhere is booted with identity "dhcp" or "none", and the test takes the address (-listen), the name (-worker) and the password
(-password-file) that it has.`,
		Annotations: exits("0 it does", "1 it does not (the last lines of the guest's console are printed), or it could not be tried"),
		Example: `  rouse image test minimal -dir images -listen 192.168.122.1:0
  rouse image test minimal -dir images -network rouse-network -worker guest-1 -listen 192.168.201.1:0
  rouse image test -image /srv/worker.qcow2 -identity nocloud -memory 1GiB -listen 192.168.122.1:0`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: imageNames,
		RunE: func(c *cobra.Command, names []string) error {
			if err := t.choose(names, given); err != nil {
				return err
			}
			if t.listen == "" {
				return usagef("where do guests find this machine? Say -listen ADDRESS: its address in the network that they boot in, such as 192.168.122.1:0")
			}
			ctx, cancel := context.WithTimeout(c.Context(), t.limit)
			defer cancel()
			return t.run(ctx)
		},
	}
	c.Flags().StringVar(&t.dir, "dir", t.dir, "`DIR` of the image, on the host")
	c.Flags().StringVar(&t.uri, "uri", t.uri, "libvirt's `URI` of the host")
	c.Flags().StringVar(&t.pool, "pool", t.pool, "storage `POOL` for the guest's disk")
	c.Flags().StringVar(&t.network, "network", t.network, "`NETWORK` that the guest boots in")
	c.Flags().StringVar(&t.listen, "listen", "", "`ADDRESS` for the worker port, which the guest can reach")
	c.Flags().StringVar(&given.Image, "image", "", "the image's `FILE` on the host, instead of the one in -dir")
	c.Flags().StringVar(&given.Identity, "identity", "", "`HOW` the guest learns who it is: smbios, credential, nocloud, dhcp or none")
	c.Flags().StringVar(&given.Memory, "memory", "", "`SIZE` of the guest's memory, such as 512MiB")
	c.Flags().StringVar(&t.worker, "worker", t.worker, "the worker's `NAME`")
	c.Flags().StringVar(&t.password, "password-file", "", "`FILE` with the password that the image has")
	c.Flags().DurationVar(&t.orphan, "orphan", t.orphan, "the guest ends after this `DURATION` without a master, at least 1m; an image with a password knows that by itself")
	c.Flags().DurationVar(&t.limit, "timeout", 10*time.Minute, "`DURATION` of the whole test, at most")
	return c
}

// choose finds what to boot: a recipe's image, any other, or a recipe's with something else.
func (t *imageTest) choose(names []string, given images.Boot) (err error) {
	switch {
	case len(names) == 1:
		r, err := recipe(names[0])
		if err != nil {
			return err
		}
		t.boot = r.Boot
	case given.Image == "":
		return usagef("which image? Name one of rouse's (rouse image list), or say -image FILE")
	default:
		t.boot = images.Boot{Identity: "smbios", Memory: "1GiB"}
	}
	if given.Image != "" {
		if t.boot.Image, err = filepath.Abs(given.Image); err != nil {
			return err
		}
		t.boot.Kernel, t.boot.Initrd = "", ""
	}
	t.boot.Identity = cmp.Or(given.Identity, t.boot.Identity)
	t.boot.Memory = cmp.Or(given.Memory, t.boot.Memory)
	if t.password != "" {
		t.password, err = filepath.Abs(t.password)
	}
	return err
}
