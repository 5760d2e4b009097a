package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A machine may be one of many that were restored from the same memory. Its agent was saved while it waited here, before it had spoken to anybody, and
// goes on in each copy. Whatever must be one copy's own is made new before anything else happens: the clock, which stood still while the machine was
// a file; the kernel's random numbers, of which all copies would draw the same; the machine's identifier, name and address.

const (
	waitLabel = "rouse.wait=" // SMBIOS string: the name of the virtio-serial port to wait on
	maxOrder  = 256 << 10
)

// Replaced by tests.
var (
	netScript   = "/rouse/net" // of the image, if it has one: sets up the network, with the hardware address as its argument
	netPatience = time.Minute  // with it
)

// order is what the host sends, as one line of JSON.
type order struct {
	Agent    json.RawMessage `json:"agent"` // the agent's settings
	Time     int64           `json:"time"`  // Unix time in nanoseconds
	Seed     []byte          `json:"seed"`  // random bytes, at least 32
	MAC      string          `json:"mac"`
	Hostname string          `json:"hostname"`
}

// awaitOrder waits on the port until the host sends an order, and carries it out. It returns the agent's settings.
func awaitOrder(port string) ([]byte, error) {
	dev, err := portDevice(port)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dev, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	rehearse()
	fmt.Fprintf(os.Stderr, "rouse: waiting for an order on %s\n", port)
	line, err := readOrder(pollingReader(fd))
	if err != nil {
		return nil, err
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return nil, fmt.Errorf("the host's order: %w", err)
	}
	if err := o.renew(); err != nil {
		return nil, err
	}
	return o.Agent, nil
}

// pollingReader reads a virtio-serial port, which says end of file as long as nobody is at its other end.
type pollingReader int

func (r pollingReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(r), b)
		switch {
		case n > 0:
			return n, nil
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return 0, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// readOrder reads one line, which is bounded.
func readOrder(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxOrder)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the host's order: %w", err)
	}
	return bytes.TrimSpace(line), nil
}

// portDevice finds a virtio-serial port by its name.
func portDevice(port string) (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == port {
			return "/dev/" + filepath.Base(filepath.Dir(n)), nil
		}
	}
	return "", fmt.Errorf("this machine has no virtio-serial port %q", port)
}

func (o *order) renew() error {
	if len(o.Seed) < 32 {
		return errors.New("the host's order has no seed: this machine's random numbers would be another one's")
	}
	if o.Time > 0 {
		tv := unix.NsecToTimeval(o.Time)
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
	}
	if err := reseed(o.Seed); err != nil {
		return fmt.Errorf("renew the random numbers: %w", err)
	}
	if o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if _, err := os.Stat("/etc/machine-id"); err == nil {
		id := sha256.Sum256(append([]byte("machine-id"), o.Seed...))
		if err := os.WriteFile("/etc/machine-id", []byte(hex.EncodeToString(id[:16])+"\n"), 0o444); err != nil {
			return fmt.Errorf("renew the machine's identifier: %w", err)
		}
	}
	return o.network()
}

// network gives the card its own hardware address, and gets an address: by the image's script if it has one, since only the image knows who else sees
// to its network.
func (o *order) network() error {
	mac, err := net.ParseMAC(o.MAC)
	if err != nil {
		return fmt.Errorf("the host's order: %w", err)
	}
	if _, err := os.Stat(netScript); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), netPatience)
		defer cancel()
		cmd := exec.CommandContext(ctx, netScript, o.MAC)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err := cmd.Run()
		if ctx.Err() != nil {
			return fmt.Errorf("set up the network: %s has not ended after %s", netScript, netPatience)
		}
		if err != nil {
			return fmt.Errorf("set up the network: %w", err)
		}
		return nil
	}
	return bringUp(mac, o.Hostname == "")
}

// reseed gives the kernel new random bytes, counts them as entropy, and makes it draw from them at once: random(4), RNDADDENTROPY and RNDRESEEDCRNG.
func reseed(seed []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	pool := make([]byte, 8+len(seed))
	*(*int32)(unsafe.Pointer(&pool[0])) = int32(len(seed) * 8)
	*(*int32)(unsafe.Pointer(&pool[4])) = int32(len(seed))
	copy(pool[8:], seed)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0]))); e != 0 {
		return e
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); e != 0 {
		return e
	}
	return nil
}
