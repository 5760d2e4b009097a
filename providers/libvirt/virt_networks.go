//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"

	virt "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

func (l *conn) Network(ctx context.Context, name string) (network, error) {
	return do(ctx, l, func() (network, error) {
		n, err := l.c.LookupNetworkByName(name)
		if err != nil {
			return network{}, err
		}
		defer n.Free() //nolint:errcheck // a reference of ours
		out := network{Name: name}
		if out.Active, err = n.IsActive(); err != nil {
			return out, err
		}
		out.XML, err = n.GetXMLDesc(0)
		return out, err
	})
}

func (l *conn) NetworkHost(ctx context.Context, name string, add bool, mac, host, ip string) error {
	entry := &libvirtxml.NetworkDHCPHost{MAC: mac, Name: host, IP: ip}
	text, err := entry.Marshal()
	if err != nil {
		return err
	}
	return run(ctx, l, func() error {
		n, err := l.c.LookupNetworkByName(name)
		if err != nil {
			return err
		}
		defer n.Free() //nolint:errcheck // a reference of ours
		cmd := virt.NETWORK_UPDATE_COMMAND_DELETE
		if add {
			cmd = virt.NETWORK_UPDATE_COMMAND_ADD_LAST
		}
		return n.Update(cmd, virt.NETWORK_SECTION_IP_DHCP_HOST, -1, text, virt.NETWORK_UPDATE_AFFECT_LIVE)
	})
}
