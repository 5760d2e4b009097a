package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers/libvirt"
)

func newLibvirtCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "libvirt",
		Short:   "Prepare hosts with libvirt",
		Long:    "Helps to prepare hosts for workers of the provider libvirt.",
		Example: "  rouse libvirt network guest-1 guest-2 > network.xml",
		Args:    cobra.ArbitraryArgs,
		RunE:    a.onlyCommands,
	}
	c.AddCommand(newLibvirtNetworkCmd(a))
	return c
}

func newLibvirtNetworkCmd(a *app) *cobra.Command {
	var flags configFlags
	name, bridge, subnet, dir := "rouse-network", "rouse0", "192.168.201.0/24", ""
	c := &cobra.Command{
		Use:   "network [WORKER...]",
		Short: "Print a network whose DHCP server tells guests their names",
		Long: `Prints the definition of a network for libvirt. Its DHCP server knows the hardware address of each worker's guest, and gives it the worker's name and a
fixed address: that is how images without any other means learn who they are (identity = "dhcp" in a worker's instance block).

The workers are named, or taken from the configuration in the directory given with -config: all whose provider is of kind libvirt.`,
		Example: `  rouse libvirt network guest-1 guest-2 > network.xml
  virsh net-define network.xml && virsh net-start rouse-network && virsh net-autostart rouse-network`,
		RunE: func(_ *cobra.Command, workers []string) error {
			prefix, err := netip.ParsePrefix(subnet)
			if err != nil {
				return usagef("-subnet %s: write ADDRESS/BITS, such as 192.168.201.0/24", subnet)
			}
			if dir != "" {
				if workers, err = a.libvirtWorkers(&flags, dir, workers); err != nil {
					return err
				}
			}
			if len(workers) == 0 {
				return fmt.Errorf("which workers? Name them, or give -config DIR")
			}
			text, err := libvirt.NetworkXML(name, bridge, prefix, workers)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, text)
			return err
		},
	}
	c.Flags().StringVar(&name, "name", name, "`NAME` of the network")
	c.Flags().StringVar(&bridge, "bridge", bridge, "`NAME` of its bridge on the host")
	c.Flags().StringVar(&subnet, "subnet", subnet, "`PREFIX` of its addresses, of which the host has the first")
	c.Flags().StringVar(&dir, "config", "", "take the workers from the configuration in `DIR`")
	flags.register(c)
	return c
}

// libvirtWorkers are the configuration's workers of this kind, and those that were named besides.
func (a *app) libvirtWorkers(flags *configFlags, dir string, workers []string) ([]string, error) {
	o, err := flags.options(a)
	if err != nil {
		return nil, err
	}
	cfg, diags := hcl.Load(dir, o)
	if diags.HasErrors() {
		if err := cfg.WriteDiagnostics(a.stderr, cfg.Relocate(dir, diags), a.width(), a.colour(a.stderr)); err != nil {
			return nil, err
		}
		return nil, exit(1)
	}
	kinds := map[string]string{}
	for _, p := range cfg.Providers {
		kinds[p.Name] = p.Kind
	}
	for i := range cfg.Workers {
		if w := &cfg.Workers[i]; kinds[w.Provider] == "libvirt" && !slices.Contains(workers, w.Name) {
			workers = append(workers, w.Name)
		}
	}
	return workers, nil
}
