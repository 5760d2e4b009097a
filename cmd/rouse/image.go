package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/images"
)

func newImageCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Build images with rouse's agent, and test them",
		Long:  "Builds images of machines with rouse's agent inside, and tests them: an image that boots and stays silent costs hours.",
		Example: `  rouse image list
  rouse image build minimal -out images
  rouse image test minimal -dir images`,
	}
	c.AddCommand(newImageListCmd(a), newImageBuildCmd(a), newImageTestCmd(a))
	return c
}

func newImageListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the images that can be built", Args: args(cobra.NoArgs),
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
		if near := nearest(name, names); near != "" {
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
	t := imageTest{a: a, dir: "images", uri: "qemu:///system", pool: "default", network: "default", listen: ""}
	c := &cobra.Command{
		Use:   "test IMAGE",
		Short: "Boot an image and see whether its worker does what it must",
		Long: `Boots the image as a guest of a host with libvirt and looks whether it does what a worker must:

  it boots, attaches and runs a probe
  it powers off when it is told to
  it powers off when its master is gone (after a minute)

The guest is thrown away, whatever happens. The guest must reach -listen: an address of this machine on the network that it boots in.

Exit codes: 0 it does, 1 it does not.`,
		Example:           "  rouse image test minimal -dir images -listen 192.168.122.1:0",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: imageNames,
		RunE: func(c *cobra.Command, given []string) error {
			r, err := recipe(given[0])
			if err != nil {
				return err
			}
			t.recipe = r
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
	c.Flags().DurationVar(&t.limit, "timeout", 10*time.Minute, "of the whole test")
	_ = c.MarkFlagRequired("listen")
	return c
}
