package libvirt

import (
	"context"
	"errors"
	"io"
	"time"
)

// The seam between what this provider decides and libvirt's library: everything above it is tested with a fake, and everything below it is in
// virt.go (with the library) or novirt.go (without).

// link is one connection to one host. It is safe for concurrent use; each call returns soon after its context ends, even if the library does not.
// Its errors are *linkError where the host answered.
type link interface {
	Close()
	Node(ctx context.Context) (node, error)
	Capabilities(ctx context.Context) (string, error) // XML

	Domains(ctx context.Context) ([]domain, error)               // all of the host, ours and others'
	Domain(ctx context.Context, name string) (domain, error)     // with XML
	Start(ctx context.Context, xml string) error                 // a transient domain: nothing is left of it when it stops
	Shutdown(ctx context.Context, name string) error             // ACPI: a request
	Destroy(ctx context.Context, name string) error              // pulls the plug, and removes what a persistent domain of this name has left
	Console(ctx context.Context, name string, w io.Writer) error // the serial console as it comes, until the domain stops or ctx ends
	Send(ctx context.Context, name, channel string, b []byte) error
	Save(ctx context.Context, name, file string) error // memory to a file on the host; the domain stops
	Restore(ctx context.Context, file, xml string) error

	Network(ctx context.Context, name string) (network, error)
	NetworkHost(ctx context.Context, name string, add bool, mac, host, ip string) error // a DHCP entry of a live network

	Pool(ctx context.Context, name string) (pool, error)
	PoolOf(ctx context.Context, dir string, mayMake bool) (string, error) // the name of the active pool over a directory of the host; if there is none, it is made (not persistent) or noPool
	Refresh(ctx context.Context, pool string) error                       // looks at the directory again: somebody may have copied an image there
	Volumes(ctx context.Context, pool string) ([]volume, error)
	Volume(ctx context.Context, pool, name string) (volume, error)
	VolumesNamed(ctx context.Context, pool string, names []string) ([]volume, error) // those of them that are there
	VolumeByPath(ctx context.Context, path string) (volume, error)
	CreateVolume(ctx context.Context, pool, xml string) error
	CopyVolume(ctx context.Context, pool, xml, fromPool, from string) error
	DeleteVolume(ctx context.Context, pool, name string) error
	Upload(ctx context.Context, pool, name string, r io.Reader, size int64) error
	Download(ctx context.Context, pool, name string, w io.Writer) error
}

// dialer opens links. lost is called once, when the connection has broken; event for each change in a domain's life, from a goroutine of the
// library's: it must not block.
type dialer func(ctx context.Context, uri string, event func(event), lost func(error)) (link, error)

// node is what a host has.
type node struct {
	CPUs       int
	Memory     int64 // bytes
	Libvirt    string
	Hypervisor string
}

// power is what libvirt says of a domain's machine.
type power uint8

const (
	powerOff power = iota
	powerOn
	powerStopping
	powerPaused
	powerCrashed
)

func (p power) String() string {
	return [...]string{"shut off", "running", "shutting down", "paused", "crashed"}[p]
}

// domain is what libvirt says of one domain.
type domain struct {
	Name       string
	UUID       string
	Power      power
	Why        string // the state's reason
	Persistent bool
	Tags       *tags  // nil: not ours
	XML        string // of Domain only
}

// event is a change in a domain's life.
type event struct {
	Name string
	What string // "started", "stopped: destroyed", "crashed", …
	Gone bool   // its machine has stopped
}

type network struct {
	Name   string
	Active bool
	XML    string
}

type pool struct {
	Name      string
	Active    bool
	Path      string
	Available int64 // bytes
	Capacity  int64
}

// volume is what libvirt says of a storage volume.
type volume struct {
	Pool, Name, Path string
	Format           string
	Capacity         int64  // bytes that a guest sees
	Allocation       int64  // bytes on the disk
	Changed          string // when its content changed last, as the host says it
	Backing          string // path of its backing file
}

// linkError is a refusal by the host, or the end of the connection.
type linkError struct {
	Kind errorKind
	Text string
}

func (e *linkError) Error() string { return e.Text }

type errorKind uint8

const (
	failed   errorKind = iota // the host said no, in some other way: whether anything happened is not known
	noDomain                  // no such domain, network, pool or volume
	noNetwork
	noPool
	noVolume
	exists       // there is one of this name already
	notRunning   // the operation needs a running domain
	invalid      // what was asked for can never work (XML, arguments)
	unsupported  // this hypervisor or library cannot
	denied       // authentication or access
	noSpace      // the pool or the disk is full
	disconnected // the connection has broken: whether anything happened is not known
	unreachable  // there is no connection: certainly nothing happened
	noLibrary    // the library is not installed
)

// kindOf returns what an error of a link is; failed if it is none.
func kindOf(err error) errorKind {
	var e *linkError
	if errors.As(err, &e) {
		return e.Kind
	}
	return failed
}

const (
	callTimeout = 30 * time.Second // of one call of the library: after it the connection counts as broken
	copyTimeout = 30 * time.Minute // of a call that moves a disk's content
)

// unless forgets an error of one kind: what was to go is gone already.
func unless(kind errorKind, err error) error {
	if err == nil || kindOf(err) != kind {
		return err
	}
	return nil
}

// patient marks the context of such a call.
type patient struct{}
