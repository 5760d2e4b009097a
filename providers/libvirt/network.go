package libvirt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"

	"libvirt.org/go/libvirtxml"
)

// WorkerMAC is the hardware address that every instance of a worker has with identity = "dhcp", so that a network's DHCP server can know it
// beforehand.
func WorkerMAC(worker string) string {
	h := sha256.Sum256([]byte("worker " + worker))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// NetworkXML defines a network whose DHCP server tells each worker's guest its name and a fixed address: Buildbot's network.xml for any number of
// workers. The first address is the host's; guests get those after it. It fails if they do not fit, or two workers' hardware addresses meet.
func NetworkXML(name, bridge string, subnet netip.Prefix, workers []string) (string, error) {
	if !subnet.Addr().Is4() || subnet.Bits() > 29 || subnet.Bits() < 8 {
		return "", errors.New("the subnet must be one of IPv4 with room for guests, such as 192.168.201.0/24")
	}
	subnet = subnet.Masked()
	host := subnet.Addr().Next()
	dhcp := &libvirtxml.NetworkDHCP{}
	at, seen := host, map[string]string{}
	for _, w := range workers {
		at = at.Next()
		mac := WorkerMAC(w)
		if other, ok := seen[mac]; ok {
			return "", fmt.Errorf("workers %s and %s would have the same hardware address %s: rename one", other, w, mac)
		}
		if !subnet.Contains(at.Next()) {
			return "", fmt.Errorf("%s has no room for %d workers", subnet, len(workers))
		}
		seen[mac] = w
		dhcp.Hosts = append(dhcp.Hosts, libvirtxml.NetworkDHCPHost{MAC: mac, Name: w, IP: at.String()})
	}
	if first, last := at.Next(), lastGuest(subnet); first.Compare(last) < 0 { // for guests that are known otherwise
		dhcp.Ranges = []libvirtxml.NetworkDHCPRange{{Start: first.String(), End: last.String()}}
	}
	n := &libvirtxml.Network{Name: name, Forward: &libvirtxml.NetworkForward{Mode: "nat"},
		Bridge: &libvirtxml.NetworkBridge{Name: bridge, STP: "off", Delay: "0"}, // else the first seconds of every guest are lost
		IPs:    []libvirtxml.NetworkIP{{Address: host.String(), Netmask: mask(subnet), DHCP: dhcp}},
		// Without it the server pings each address before it gives it away, which takes every guest three seconds.
		DnsmasqOptions: &libvirtxml.NetworkDnsmasqOptions{Option: []libvirtxml.NetworkDnsmasqOption{{Value: "no-ping"}}}}
	return n.Marshal()
}

func mask(p netip.Prefix) string {
	m := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
}

// lastGuest is the address before the broadcast address.
func lastGuest(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n |= ^uint32(0)>>p.Bits() - 1
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
