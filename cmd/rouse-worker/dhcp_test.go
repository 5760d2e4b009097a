package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

var testMAC = [6]byte{0x52, 0x54, 0, 1, 2, 3}

// dhcpAnswer is what a server says, made from the question as a server makes it.
func dhcpAnswer(kind byte, question []byte, address [4]byte, options ...byte) []byte {
	b := append([]byte(nil), question[:ipHeader+udpHeader+dhcpFixed]...)
	b[6], b[7] = 0x40, 0 // not to be taken apart
	binary.BigEndian.PutUint16(b[ipHeader:], dhcpServerPort)
	binary.BigEndian.PutUint16(b[ipHeader+2:], dhcpClientPort)
	m := b[ipHeader+udpHeader:]
	m[0] = dhcpReply
	copy(m[16:], address[:])
	b = append(b, 53, 1, kind, 0, 54, 4, 10, 0, 0, 1)
	return append(append(b, options...), 255)
}

func TestALeaseIsAskedForAndTaken(t *testing.T) {
	t.Parallel()
	question := dhcpMessage(testMAC, 7, nil)
	if got := checksum(question[:ipHeader]); got != 0 {
		t.Errorf("the sum over a header with its checksum is %#x", got)
	}
	if n := int(binary.BigEndian.Uint16(question[2:])); n != len(question) {
		t.Errorf("the header says %d bytes of %d", n, len(question))
	}
	offer, err := parseDHCP(dhcpAnswer(dhcpOffer, question, [4]byte{10, 0, 0, 9}), testMAC, 7)
	if err != nil || !offer.offer {
		t.Fatalf("%+v, %v", offer, err)
	}
	ask := dhcpMessage(testMAC, 8, offer)
	if !bytes.Contains(ask[ipHeader+udpHeader+dhcpFixed:], []byte{53, 1, dhcpAsk, 50, 4, 10, 0, 0, 9, 54, 4, 10, 0, 0, 1}) {
		t.Errorf("it asks % x", ask[ipHeader+udpHeader+dhcpFixed:])
	}
	got, err := parseDHCP(dhcpAnswer(dhcpAck, ask, [4]byte{10, 0, 0, 9}, 1, 4, 255, 255, 240, 0, 3, 4, 10, 0, 0, 1, 6, 8, 10, 0, 0, 2, 10, 0, 0, 3,
		12, 8, 'w', '-', '1', '.', 'l', 'a', 'n', 0, 51, 4, 0, 0, 14, 16), testMAC, 8)
	want := &lease{Address: netip.MustParsePrefix("10.0.0.9/20"), Router: netip.MustParseAddr("10.0.0.1"), Server: netip.MustParseAddr("10.0.0.1"),
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}, Host: "w-1", Lasts: time.Hour, requested: [4]byte{10, 0, 0, 9}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestWhatIsNoAnswerToOurQuestionIsNotTaken(t *testing.T) {
	t.Parallel()
	question := dhcpMessage(testMAC, 7, nil)
	good := dhcpAnswer(dhcpAck, question, [4]byte{10, 0, 0, 9})
	if _, err := parseDHCP(good, testMAC, 7); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"another conversation": func(b []byte) []byte { b[ipHeader+udpHeader+7]++; return b },
		"another card":         func(b []byte) []byte { b[ipHeader+udpHeader+28]++; return b },
		"a question":           func(b []byte) []byte { b[ipHeader+udpHeader] = dhcpRequest; return b },
		"another port":         func(b []byte) []byte { b[ipHeader+3]++; return b },
		"TCP":                  func(b []byte) []byte { b[9] = 6; return b },
		"a fragment":           func(b []byte) []byte { b[7] = 1; return b },
		"a long header":        func(b []byte) []byte { b[0] = 0x4f; return b[:ipHeader+udpHeader+dhcpFixed] },
		"cut off":              func(b []byte) []byte { return b[:len(b)-8] },
		"no server": func([]byte) []byte {
			return append(good[:ipHeader+udpHeader+dhcpFixed:ipHeader+udpHeader+dhcpFixed], 53, 1, dhcpAck, 255)
		},
		"no kind": func([]byte) []byte {
			return append(good[:ipHeader+udpHeader+dhcpFixed:ipHeader+udpHeader+dhcpFixed], 255)
		},
		"no address":        func([]byte) []byte { return dhcpAnswer(dhcpAck, question, [4]byte{}) },
		"multicast":         func([]byte) []byte { return dhcpAnswer(dhcpAck, question, [4]byte{224, 0, 0, 1}) },
		"a mask with holes": func([]byte) []byte { return dhcpAnswer(dhcpAck, question, [4]byte{10, 0, 0, 9}, 1, 4, 255, 0, 255, 0) },
	} {
		if l, err := parseDHCP(change(bytes.Clone(good)), testMAC, 7); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if _, err := parseDHCP(dhcpAnswer(dhcpNak, question, [4]byte{}), testMAC, 7); !errors.Is(err, errDHCPRefuse) {
		t.Errorf("a refusal: %v", err)
	}
}

func FuzzPacketsFromTheNetworkAreTakenApart(f *testing.F) {
	question := dhcpMessage(testMAC, 7, nil)
	f.Add(dhcpAnswer(dhcpAck, question, [4]byte{10, 0, 0, 9}, 1, 4, 255, 255, 255, 0, 12, 2, '-', 'x'))
	f.Add(question)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseDHCP(b, testMAC, 7)
		if err != nil {
			return
		}
		if !l.Address.IsValid() || !l.Server.IsValid() || l.Lasts > maxLease || len(l.DNS) > 3 || l.Host != hostName(l.Host) {
			t.Errorf("%+v", l)
		}
	})
}
