package session

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// frames cuts a captured client-to-server stream (after the HTTP request) into unmasked payloads of binary messages.
func frames(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 14 {
			b = append(b[:len(b):len(b)], make([]byte, 14-len(b))...)
		}
		op, n := b[0]&15, int(b[1]&127)
		b = b[2:]
		switch n {
		case 126:
			n = int(binary.BigEndian.Uint16(b))
			b = b[2:]
		case 127:
			n = int(binary.BigEndian.Uint64(b))
			b = b[8:]
		}
		key := b[:4]
		if len(b) < 4+n {
			return out, errors.New("short payload")
		}
		p := make([]byte, n)
		for i := range p {
			p[i] = b[4+i] ^ key[i%4]
		}
		b = b[4+n:]
		if op == 2 {
			out = append(out, p)
		}
	}
	return out, nil
}

// rawAgent writes frames itself, so that a test can also write wrong ones, and keeps no buffers.
type rawAgent struct{ net.Conn }

func dialTCP(url string) (net.Conn, error) {
	return net.Dial("tcp", strings.TrimPrefix(url, "http://"))
}

func dialRaw(url string, h http.Header) (*rawAgent, error) {
	host := strings.TrimPrefix(url, "http://")
	c, err := dialTCP(url)
	if err != nil {
		return nil, err
	}
	var req strings.Builder
	_, _ = fmt.Fprintf(&req, "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", host)
	_ = h.Write(&req)
	req.WriteString("\r\n")
	if _, err := c.Write([]byte(req.String())); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil) // the master sends nothing more before hello
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.New(resp.Status)
	}
	return &rawAgent{c}, nil
}

// head makes a frame's head with a zero mask. n is what it claims to be the payload's length.
func head(op byte, fin bool, n uint64) []byte {
	b := []byte{op, 0x80}
	if fin {
		b[0] |= 0x80
	}
	switch {
	case n < 126:
		b[1] |= byte(n)
	case n < 1<<16:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return append(b, 0, 0, 0, 0)
}

func (a *rawAgent) write(payload []byte) error {
	_, err := a.Write(append(head(2, true, uint64(len(payload))), payload...))
	return err
}
