package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"libvirt.org/go/libvirtxml"
)

// fakeHost is a host in memory. It holds its guests to what a real one does: a disk that is not there, a name that is taken and a foreign domain are
// refused, and a transient domain leaves nothing behind.
type fakeHost struct {
	mu      sync.Mutex
	domains map[string]*fakeDomain
	pools   map[string]map[string]volume // by pool and name
	content map[string][]byte            // of volumes, by path
	nets    map[string]network
	watch   []func(event)
	down    error                                            // dials fail so
	fail    map[string]error                                 // calls fail so, by name, before anything is done
	lose    map[string]bool                                  // calls are done, and their answer is lost
	hook    func(call string, n int) (fail error, lose bool) // the same for the n-th call of a name, n from 1; may be nil
	node    node
	calls   map[string]int
	sent    map[string][]byte // by domain
	links   []*fakeLink
	poolIs  *pool           // what Pool answers; nil: all is well
	files   map[string]bool // what the hypervisor has made beside the volumes: a pool knows of it when it is refreshed
	dirs    map[string]bool // directories that are no pools yet
}

type fakeDomain struct {
	domain
	stopped chan struct{}
}

func newFakeHost() *fakeHost {
	h := &fakeHost{domains: map[string]*fakeDomain{}, pools: map[string]map[string]volume{"default": {}}, files: map[string]bool{}, content: map[string][]byte{}, fail: map[string]error{}, lose: map[string]bool{},
		nets: map[string]network{"default": {Name: "default", Active: true}}, node: node{CPUs: 8, Memory: 64 << 30, Libvirt: "9.0.0", Hypervisor: "QEMU 7.2.0"}, calls: map[string]int{}, sent: map[string][]byte{}}
	h.pools["default"]["base.qcow2"] = volume{Pool: "default", Name: "base.qcow2", Path: "/pool/base.qcow2", Format: "qcow2", Capacity: 1 << 30, Changed: "1"}
	return h
}

func (h *fakeHost) dial(_ context.Context, _ string, event func(event), lost func(error)) (link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down != nil {
		return nil, h.down
	}
	h.watch = append(h.watch, event)
	l := &fakeLink{h: h, lost: lost}
	h.links = append(h.links, l)
	return l, nil
}

// cut breaks all connections; guests go on.
func (h *fakeHost) cut() {
	h.mu.Lock()
	links := h.links
	h.links = nil
	h.mu.Unlock()
	for _, l := range links {
		l.lost(io.ErrUnexpectedEOF)
	}
}

// stop ends a guest's machine, as the guest or somebody else does.
func (h *fakeHost) stop(name, why string) {
	h.mu.Lock()
	d := h.domains[name]
	if d == nil {
		h.mu.Unlock()
		return
	}
	delete(h.domains, name)
	close(d.stopped)
	watch := append([]func(event){}, h.watch...)
	h.mu.Unlock()
	for _, f := range watch {
		f(event{Name: name, What: "stopped: " + why, Gone: true})
	}
}

func (h *fakeHost) alive(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.domains[name] != nil
}

// left are the volumes that are nobody's base image.
func (h *fakeHost) left() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pools {
		for n := range p {
			if strings.HasPrefix(n, prefix) {
				names = append(names, n)
			}
		}
	}
	for f := range h.files {
		names = append(names, f)
	}
	return names
}

type fakeLink struct {
	h    *fakeHost
	lost func(error)
}

func (l *fakeLink) enter(ctx context.Context, call string) (leave func(err *error), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.h.mu.Lock()
	l.h.calls[call]++
	fail, lose := l.h.fail[call], l.h.lose[call]
	if l.h.hook != nil && fail == nil {
		fail, lose = l.h.hook(call, l.h.calls[call])
	}
	if fail != nil {
		l.h.mu.Unlock()
		return nil, fail
	}
	return func(err *error) {
		if *err == nil && lose {
			*err = &linkError{disconnected, "the answer was lost"}
		}
		l.h.mu.Unlock()
	}, nil
}

func (l *fakeLink) Close() {}

func (l *fakeLink) Node(ctx context.Context) (n node, err error) {
	leave, err := l.enter(ctx, "Node")
	if err != nil {
		return n, err
	}
	defer leave(&err)
	return l.h.node, nil
}

func (l *fakeLink) Capabilities(context.Context) (string, error) {
	return "<capabilities><guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/></arch></guest></capabilities>", nil
}

func (l *fakeLink) Domains(ctx context.Context) (all []domain, err error) {
	leave, err := l.enter(ctx, "Domains")
	if err != nil {
		return nil, err
	}
	defer leave(&err)
	for _, d := range l.h.domains {
		all = append(all, d.domain)
	}
	return all, nil
}

func (l *fakeLink) Domain(ctx context.Context, name string) (d domain, err error) {
	leave, err := l.enter(ctx, "Domain")
	if err != nil {
		return d, err
	}
	defer leave(&err)
	if f := l.h.domains[name]; f != nil {
		return f.domain, nil
	}
	return d, &linkError{noDomain, "no domain " + name}
}

func (l *fakeLink) Start(ctx context.Context, xml string) (err error) {
	leave, err := l.enter(ctx, "Start")
	if err != nil {
		return err
	}
	defer leave(&err)
	var x libvirtxml.Domain
	if err := x.Unmarshal(xml); err != nil {
		return &linkError{invalid, err.Error()}
	}
	if l.h.domains[x.Name] != nil {
		return &linkError{exists, "domain " + x.Name + " exists"}
	}
	for _, d := range x.Devices.Disks {
		if d.Device == "cdrom" || d.Source != nil && d.Source.File != nil && strings.HasPrefix(d.Source.File.File, "/srv/") {
			continue // an empty drive, and what is on the host besides its pools
		}
		if d.Source == nil || d.Source.File == nil || !l.h.has(d.Source.File.File) {
			return &linkError{failed, "cannot access storage file"}
		}
	}
	d := &fakeDomain{domain: domain{Name: x.Name, UUID: x.UUID, Power: powerOn, XML: xml}, stopped: make(chan struct{})}
	if x.Metadata != nil {
		d.Tags = parseTags(x.Metadata.XML)
	}
	l.h.domains[x.Name] = d
	if file := nvramOf(&x); file != "" && !l.h.has(file) {
		l.h.files[file] = true
	}
	return nil
}

// nvramOf is the file that the hypervisor makes for a machine with UEFI.
func nvramOf(x *libvirtxml.Domain) string {
	switch {
	case x.OS == nil || x.OS.Firmware != "efi" && (x.OS.Loader == nil || x.OS.Loader.Type != "pflash"):
		return ""
	case x.OS.NVRam != nil && x.OS.NVRam.NVRam != "":
		return x.OS.NVRam.NVRam
	}
	return "/var/lib/libvirt/qemu/nvram/" + x.Name + "_VARS.fd"
}

func (h *fakeHost) has(file string) bool {
	for _, p := range h.pools {
		for _, v := range p {
			if v.Path == file {
				return true
			}
		}
	}
	return false
}

func (l *fakeLink) Shutdown(ctx context.Context, name string) (err error) {
	leave, err := l.enter(ctx, "Shutdown")
	if err != nil {
		return err
	}
	defer leave(&err)
	return nil
}

func (l *fakeLink) Destroy(ctx context.Context, name string) (err error) {
	leave, err := l.enter(ctx, "Destroy")
	if err != nil {
		return err
	}
	defer leave(&err)
	if d := l.h.domains[name]; d != nil {
		delete(l.h.domains, name)
		close(d.stopped)
	}
	return nil
}

func (l *fakeLink) Console(ctx context.Context, name string, w io.Writer) error {
	l.h.mu.Lock()
	d := l.h.domains[name]
	l.h.mu.Unlock()
	if d == nil {
		return &linkError{noDomain, "no domain"}
	}
	_, _ = fmt.Fprintf(w, "booting %s\r\n%s\r\n", name, waitingLine)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.stopped:
		return nil
	}
}

func (l *fakeLink) Send(ctx context.Context, name, _ string, b []byte) (err error) {
	leave, err := l.enter(ctx, "Send")
	if err != nil {
		return err
	}
	defer leave(&err)
	l.h.sent[name] = append(l.h.sent[name], b...)
	return nil
}

func (l *fakeLink) Save(ctx context.Context, name, file string) (err error) {
	leave, err := l.enter(ctx, "Save")
	if err != nil {
		return err
	}
	defer leave(&err)
	d := l.h.domains[name]
	if d == nil {
		return &linkError{noDomain, "no domain"}
	}
	delete(l.h.domains, name)
	close(d.stopped)
	b := saveFile(d.XML, "<cookie/>", "memory of "+name)
	l.h.content[file] = b
	l.h.pools["default"][path.Base(file)] = volume{Pool: "default", Name: path.Base(file), Path: file, Format: "raw", Capacity: int64(len(b))}
	return nil
}

func (l *fakeLink) Restore(ctx context.Context, file, _ string) error {
	l.h.mu.Lock()
	b, ok := l.h.content[file]
	l.h.mu.Unlock()
	if !ok {
		return &linkError{failed, "no save file " + file}
	}
	s, err := readSaved(bytes.NewReader(b))
	if err != nil {
		return &linkError{invalid, err.Error()}
	}
	return l.Start(ctx, s.xml)
}

func (l *fakeLink) Network(_ context.Context, name string) (network, error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if n, ok := l.h.nets[name]; ok {
		return n, nil
	}
	return network{}, &linkError{noNetwork, "no network " + name}
}

func (l *fakeLink) NetworkHost(context.Context, string, bool, string, string, string) error {
	return nil
}

var _ link = (*fakeLink)(nil)

// count is how many machines run.
func (h *fakeHost) count() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		if d.Power == powerOn {
			n++
		}
	}
	return n
}

// called is how often a call was made.
func (h *fakeHost) called(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[name]
}
