package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// What a client says to a DHCP server and what it is told (RFC 2131, 2132), as far as a machine needs it that lives for one build. The packets are whole
// IP packets, since a card without an address can only send and receive those.

const (
	dhcpRequest, dhcpReply                             = 1, 2          // op
	dhcpDiscover, dhcpOffer, dhcpAsk, dhcpAck, dhcpNak = 1, 2, 3, 5, 6 // option 53
	dhcpFixed                                          = 240           // bytes before the options
	dhcpMagic                                          = 0x63825363
	dhcpServerPort, dhcpClientPort                     = 67, 68
	ipHeader, udpHeader                                = 20, 8
	maxLease                                           = 7 * 24 * time.Hour
)

// lease is what a server gives.
type lease struct {
	Address   netip.Prefix
	Router    netip.Addr // invalid: none
	DNS       []netip.Addr
	Host      string // the name that the network knows the machine by, or ""
	Server    netip.Addr
	Lasts     time.Duration
	offer     bool // it must be asked for
	requested [4]byte
}

// dhcpMessage makes a packet that asks: for any address (of is nil), or for the one that was offered.
func dhcpMessage(mac [6]byte, xid uint32, of *lease) []byte {
	b := make([]byte, ipHeader+udpHeader+dhcpFixed, 400)
	m := b[ipHeader+udpHeader:]
	m[0], m[1], m[2] = dhcpRequest, 1, 6 // Ethernet, with addresses of 6 bytes
	binary.BigEndian.PutUint32(m[4:], xid)
	copy(m[28:], mac[:])
	binary.BigEndian.PutUint32(m[236:], dhcpMagic)
	if of == nil {
		b = append(b, 53, 1, dhcpDiscover, 80, 0) // 80: an address at once, please (RFC 4039); most servers offer one first
	} else {
		server := of.Server.As4()
		b = append(b, 53, 1, dhcpAsk, 50, 4)
		b = append(b, of.requested[:]...)
		b = append(b, 54, 4)
		b = append(b, server[:]...)
	}
	b = append(b, 55, 5, 1, 3, 6, 12, 51) // mask, router, DNS, name, how long
	b = append(b, 61, 7, 1)               // who asks
	b = append(b, mac[:]...)
	b = append(b, 255)
	for len(b) < ipHeader+udpHeader+300 { // what old relays want at least (RFC 1542, 2.1)
		b = append(b, 0)
	}
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp, dhcpClientPort)
	binary.BigEndian.PutUint16(udp[2:], dhcpServerPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp))) // no checksum: there need not be one in IPv4
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipHeader]))
	return b
}

// checksum is that of an IP header (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

var (
	errNotForUs   = errors.New("no answer to our question")
	errDHCPRefuse = errors.New("the server takes its offer back")
)

// parseDHCP reads a packet from the network: an offer or a lease for this card in this conversation, or an error. The checksum of UDP is not looked at: a
// virtual network leaves it to the card that sends, which is none.
func parseDHCP(b []byte, mac [6]byte, xid uint32) (*lease, error) {
	if len(b) < ipHeader || b[0]>>4 != 4 || b[9] != 17 {
		return nil, errNotForUs
	}
	head := int(b[0]&15) * 4
	if head < ipHeader || len(b) < head+udpHeader+dhcpFixed || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // a fragment
		return nil, errNotForUs
	}
	if binary.BigEndian.Uint16(b[head:]) != dhcpServerPort || binary.BigEndian.Uint16(b[head+2:]) != dhcpClientPort {
		return nil, errNotForUs
	}
	m := b[head+udpHeader:]
	if m[0] != dhcpReply || binary.BigEndian.Uint32(m[4:]) != xid || [6]byte(m[28:34]) != mac || binary.BigEndian.Uint32(m[236:]) != dhcpMagic {
		return nil, errNotForUs
	}
	l := &lease{requested: [4]byte(m[16:20])}
	kind, bits := byte(0), 24
	for o := m[dhcpFixed:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return nil, errors.New("a DHCP answer is cut off")
		}
		code, v := o[0], o[2:2+int(o[1])]
		o = o[2+len(v):]
		switch {
		case code == 53 && len(v) == 1:
			kind = v[0]
		case code == 1 && len(v) == 4:
			var ok bool
			if bits, ok = ones(binary.BigEndian.Uint32(v)); !ok {
				return nil, errors.New("a DHCP answer has no proper mask")
			}
		case code == 3 && len(v) >= 4:
			l.Router = netip.AddrFrom4([4]byte(v))
		case code == 6:
			for ; len(v) >= 4 && len(l.DNS) < 3; v = v[4:] {
				l.DNS = append(l.DNS, netip.AddrFrom4([4]byte(v)))
			}
		case code == 12:
			l.Host = hostName(string(v))
		case code == 51 && len(v) == 4:
			l.Lasts = min(time.Duration(binary.BigEndian.Uint32(v))*time.Second, maxLease)
		case code == 54 && len(v) == 4:
			l.Server = netip.AddrFrom4([4]byte(v))
		}
	}
	address := netip.AddrFrom4(l.requested)
	switch {
	case kind == dhcpNak:
		return nil, errDHCPRefuse
	case kind != dhcpOffer && kind != dhcpAck:
		return nil, errNotForUs
	case address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() || !l.Server.IsValid():
		return nil, fmt.Errorf("a DHCP answer gives the address %s", address)
	}
	l.offer = kind == dhcpOffer
	l.Address = netip.PrefixFrom(address, bits)
	return l, nil
}

// ones counts the leading ones of a mask that has nothing behind them.
func ones(mask uint32) (n int, ok bool) {
	for ; mask&(1<<31) != 0; mask <<= 1 {
		n++
	}
	return n, mask == 0 && n > 0
}

// hostName takes a name from the network if it is one (RFC 1123), without its domain.
func hostName(s string) string {
	s, _, _ = strings.Cut(strings.TrimRight(s, "\x00"), ".")
	if len(s) > 63 || strings.HasPrefix(s, "-") {
		return ""
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return ""
		}
	}
	return s
}
