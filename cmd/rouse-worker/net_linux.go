package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The network of a machine that has no other program for it. Every program that is started in an emulated machine costs tens of milliseconds, and
// somebody waits for this one; so the agent does itself what it takes: an address of hardware, an address by DHCP, a route.

const (
	dhcpPatience = 20 * time.Second
	firstAgain   = 250 * time.Millisecond // before a question that was not answered is asked again; grows
	lastAgain    = 2 * time.Second
	leastRest    = 30 * time.Second
	cardPatience = 2 * time.Second
	afterwards   = time.Second // what nobody waits for
	resolvConf   = "/run/resolv.conf"
)

// connect brings up the machine's own network, and its first card unless that has to wait: a machine that will be restored many times has no address.
func connect(waits bool) error {
	nl, err := openNetlink()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer unix.Close(int(nl)) //nolint:errcheck // nothing is lost
	if lo, err := cardIndex(int(nl), "lo"); err == nil {
		if err := nl.linkUp(lo, nil); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
	}
	if waits {
		return nl.raise()
	}
	return bringUp(nil, true)
}

// raise brings up the first card of a machine that will be restored many times, which takes long, and sees to it that nothing is sent there: IPv6 would
// begin to look around at once, from an address that all copies had.
func (nl netlink) raise() error {
	card, err := firstCard()
	if err != nil {
		return err
	}
	index, err := cardIndex(int(nl), card)
	if err != nil {
		return fmt.Errorf("network card %s: %w", card, err)
	}
	setIPv6(card, false)
	if err := nl.linkUp(index, nil); err != nil {
		return fmt.Errorf("bring %s up: %w", card, err)
	}
	return nil
}

// setIPv6 turns it on or off for a card, if the kernel has it.
func setIPv6(card string, on bool) {
	text := map[bool]string{true: "0", false: "1"}[on]
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+card+"/disable_ipv6", []byte(text), 0o644) //nolint:gosec // a file of the kernel's; the mode is not used
}

// bringUp sets up the first card, and says on the console what came of it.
func bringUp(mac net.HardwareAddr, named bool) error {
	card, err := firstCard()
	if err != nil {
		return err
	}
	l, err := setUpNetwork(card, mac, named)
	if err != nil {
		return err
	}
	say := func() {
		fmt.Fprintf(os.Stderr, "rouse: address %s, name %s, router %s\n", l.Address.Addr(), cmp.Or(l.Host, "none"), l.Router)
	}
	if mac == nil {
		say()
		return nil
	}
	time.AfterFunc(afterwards, func() { // a copy is in a hurry
		say()
		setIPv6(card, true)
	})
	return nil
}

// setUpNetwork gives a card a hardware address, if one is given, and an address by DHCP. The name that the network has for this machine becomes the
// machine's if named says so.
func setUpNetwork(card string, mac net.HardwareAddr, named bool) (*lease, error) {
	nl, err := openNetlink()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer unix.Close(int(nl)) //nolint:errcheck // nothing is lost
	index, err := cardIndex(int(nl), card)
	if err != nil {
		return nil, fmt.Errorf("network card %s: %w", card, err)
	}
	if len(mac) == 0 {
		b, _ := os.ReadFile("/sys/class/net/" + card + "/address")
		mac, _ = net.ParseMAC(strings.TrimSpace(string(b)))
	}
	if len(mac) != 6 {
		return nil, fmt.Errorf("network card %s is no Ethernet card", card)
	}
	if err := nl.linkUp(index, mac); err != nil {
		return nil, fmt.Errorf("bring %s up: %w", card, err)
	}
	l, err := dhcp(index, [6]byte(mac), nil)
	if err != nil {
		return nil, fmt.Errorf("no address by DHCP on %s: %w", card, err)
	}
	if err := nl.address(index, l.Address); err != nil {
		return nil, fmt.Errorf("give %s the address %s: %w", card, l.Address, err)
	}
	if l.Router.IsValid() {
		if err := nl.route(index, l.Router); err != nil {
			return nil, fmt.Errorf("route by %s: %w", l.Router, err)
		}
	}
	var text []byte
	for _, a := range l.DNS {
		text = fmt.Appendf(text, "nameserver %s\n", a)
	}
	if err := os.WriteFile(resolvConf, text, 0o644); err != nil { //nolint:gosec // everybody may read it
		return nil, err
	}
	if named && l.Host != "" {
		if err := unix.Sethostname([]byte(l.Host)); err != nil {
			return nil, fmt.Errorf("set the host name: %w", err)
		}
	}
	go keep(index, [6]byte(mac), l)
	return l, nil
}

// keep asks for the lease again and again, for as long as the agent lives: the address must not become somebody else's.
func keep(index int, mac [6]byte, l *lease) {
	for l.Lasts > 0 {
		time.Sleep(max(l.Lasts/2, leastRest))
		if again, err := dhcp(index, mac, l); err == nil && again.Address == l.Address {
			l = again
		}
	}
}

// firstCard is the name of the network card that there is; drivers may still be looking for it.
func firstCard() (string, error) {
	for limit := time.Now().Add(cardPatience); ; time.Sleep(10 * time.Millisecond) {
		all, err := os.ReadDir("/sys/class/net")
		for _, e := range all {
			if e.Name() != "lo" {
				return e.Name(), nil
			}
		}
		if time.Now().After(limit) {
			return "", errors.Join(errors.New("this machine has no network card"), err)
		}
	}
}

// cardIndex is the kernel's number of a card: netdevice(7).
func cardIndex(fd int, card string) (int, error) {
	r, err := unix.NewIfreq(card)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// dhcp asks for an address until it has one, for a while: for the one that was offered, if one was. An offer that is not confirmed is forgotten.
func dhcp(index int, mac [6]byte, offer *lease) (*lease, error) {
	proto := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})) // in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is lost
	at := &unix.SockaddrLinklayer{Ifindex: index, Protocol: uint16(proto), Halen: 6}
	if err := unix.Bind(fd, at); err != nil {
		return nil, fmt.Errorf("bind a packet socket: %w", err)
	}
	copy(at.Addr[:], []byte{255, 255, 255, 255, 255, 255})
	buf := make([]byte, 2048)
	wait := firstAgain
	for limit := time.Now().Add(dhcpPatience); time.Now().Before(limit); wait = min(2*wait, lastAgain) {
		xid := rand.Uint32() // that it is nobody else's is for the hardware address to say
		if err := unix.Sendto(fd, dhcpMessage(mac, xid, offer), 0, at); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
		l, err := answer(fd, buf, mac, xid, time.Now().Add(wait))
		switch {
		case errors.Is(err, errNotForUs) || errors.Is(err, errDHCPRefuse): // ask from the beginning
			offer = nil
		case err != nil:
			return nil, err
		case l.offer:
			offer, wait = l, firstAgain/2
		default:
			return l, nil
		}
	}
	return nil, errors.New("nobody answers")
}

// answer waits for a server's answer.
func answer(fd int, buf []byte, mac [6]byte, xid uint32, until time.Time) (*lease, error) {
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil, errNotForUs
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		if err == nil && n > 0 {
			n, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		}
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENETDOWN) || err == nil && n == 0:
			continue
		case err != nil:
			return nil, fmt.Errorf("receive: %w", err)
		}
		if l, err := parseDHCP(buf[:n], mac, xid); err == nil || errors.Is(err, errDHCPRefuse) {
			return l, err
		}
	}
}

// netlink is a socket to the kernel's network configuration: rtnetlink(7).
type netlink int

func openNetlink() (netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	return netlink(fd), err
}

// do sends one order, and returns what the kernel says.
func (nl netlink) do(kind, flags uint16, body []byte) error {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if err := unix.Sendto(int(nl), append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(int(nl), answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: an answer that was not expected")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// attr appends an attribute. All of ours have a multiple of four bytes, but for the hardware address.
func attr(b []byte, kind uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// linkUp sets a card's hardware address, if there is one to set, and brings it up.
func (nl netlink) linkUp(index int, mac net.HardwareAddr) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	if len(mac) > 0 {
		err := nl.do(unix.RTM_SETLINK, 0, attr(b, unix.IFLA_ADDRESS, mac))
		if errors.Is(err, unix.EBUSY) { // a card that cannot be given one while it is up
			binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
			if err = nl.do(unix.RTM_SETLINK, 0, b); err == nil {
				binary.NativeEndian.PutUint32(b[12:], 0)
				err = nl.do(unix.RTM_SETLINK, 0, attr(b, unix.IFLA_ADDRESS, mac))
			}
		}
		if err != nil {
			return err
		}
	}
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	return nl.do(unix.RTM_SETLINK, 0, b)
}

func (nl netlink) address(index int, a netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = unix.AF_INET, byte(a.Bits())
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	addr := a.Addr().As4()
	all := addr
	for i := a.Bits(); i < 32; i++ {
		all[i/8] |= 0x80 >> (i % 8)
	}
	b = attr(attr(attr(b, unix.IFA_LOCAL, addr[:]), unix.IFA_ADDRESS, addr[:]), unix.IFA_BROADCAST, all[:])
	return nl.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}

// route makes a router the way to everybody.
func (nl netlink) route(index int, router netip.Addr) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[4], b[5], b[6], b[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	via := router.As4()
	b = attr(attr(b, unix.RTA_GATEWAY, via[:]), unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return nl.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}
