package libvirt

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

func TestNetworkKnowsEveryWorkersGuest(t *testing.T) {
	t.Parallel()
	text, err := NetworkXML("ci", "ci0", netip.MustParsePrefix("192.168.201.0/24"), []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	var n libvirtxml.Network
	if err := n.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	ip := n.IPs[0]
	if ip.Address != "192.168.201.1" || ip.Netmask != "255.255.255.0" || len(ip.DHCP.Hosts) != 2 {
		t.Errorf("%s", text)
	}
	if h := ip.DHCP.Hosts[1]; h.Name != "b" || h.IP != "192.168.201.3" || h.MAC != WorkerMAC("b") {
		t.Errorf("the second host is %+v", h)
	}
	if r := ip.DHCP.Ranges[0]; r.Start != "192.168.201.4" || r.End != "192.168.201.254" {
		t.Errorf("the range is %+v", r)
	}
	if !strings.Contains(text, "no-ping") {
		t.Error("the DHCP server pings")
	}
}

func TestNetworkWithoutRoomIsRefused(t *testing.T) {
	t.Parallel()
	for prefix, workers := range map[string]int{"10.0.0.0/29": 6, "10.0.0.0/30": 1, "fd00::/64": 1, "0.0.0.0/4": 1} {
		names := make([]string, workers)
		for i := range names {
			names[i] = strings.Repeat("w", i+1)
		}
		if text, err := NetworkXML("n", "b", netip.MustParsePrefix(prefix), names); err == nil {
			t.Errorf("%d workers in %s: %s", workers, prefix, text)
		}
	}
}

func TestTheNetworkInContribIsWhatTheProgramPrints(t *testing.T) {
	t.Parallel()
	want, err := NetworkXML("rouse-network", "rouse0", netip.MustParsePrefix("192.168.201.0/24"), []string{"guest-1", "guest-2", "guest-3", "guest-4", "guest-5", "guest-6"})
	if err != nil {
		t.Fatal(err)
	}
	const name = "../../contrib/libvirt/network.xml"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(want+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != want+"\n" {
		t.Errorf("%v; got\n%s\nwant\n%s", err, got, want)
	}
}
