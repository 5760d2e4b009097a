//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	virt "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// events runs the library's event loop, once for the process. It must be registered before the first connection is opened.
var events = sync.OnceValue(func() error {
	if err := virt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	// Without a timer of our own the loop sleeps for ever when nothing is registered, and never sees what is registered later.
	if _, err := virt.EventAddTimeout(1000, func(int) {}); err != nil {
		return err
	}
	go func() {
		for {
			if err := virt.EventRunDefaultImpl(); err != nil {
				time.Sleep(100 * time.Millisecond) // the loop must outlive whatever this is
			}
		}
	}()
	return nil
})

const refreshTries = 50 // a tenth of a second apart

const (
	keepaliveInterval = 5 // seconds between probes of a silent connection…
	keepaliveCount    = 3 // …and how many may stay unanswered
)

// conn is a link over libvirt's own library.
type conn struct {
	c    *virt.Connect
	uri  string
	lost func(error)
	once sync.Once
	dead chan struct{}
}

// dial connects. The library's connect cannot be cancelled: at ctx's end it is given up, and closed whenever it returns.
func dial(ctx context.Context, uri string, event func(event), lost func(error)) (link, error) {
	type result struct {
		l   *conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		l, err := connect(uri, event, lost)
		done <- result{l, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.l, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.l != nil {
				r.l.Close()
			}
		}()
		return nil, &linkError{unreachable, "no connection to " + uri + " in time"}
	}
}

func connect(uri string, event func(event), lost func(error)) (*conn, error) {
	if err := events(); err != nil {
		return nil, translate(err)
	}
	c, err := virt.NewConnect(uri)
	if err != nil {
		e := translate(err)
		if e.Kind != noLibrary && e.Kind != denied {
			e.Kind = unreachable
		}
		return nil, e
	}
	l := &conn{c: c, uri: uri, lost: lost, dead: make(chan struct{})}
	_ = c.SetKeepAlive(keepaliveInterval, keepaliveCount) // drivers without a wire have none
	_ = c.RegisterCloseCallback(func(_ *virt.Connect, reason virt.ConnectCloseReason) {
		l.broken(fmt.Errorf("the connection has closed (%d)", reason))
	})
	_, _ = c.DomainEventLifecycleRegister(nil, func(_ *virt.Connect, d *virt.Domain, e *virt.DomainEventLifecycle) {
		if name, err := d.GetName(); err == nil {
			event(lifecycle(name, e))
		}
	})
	return l, nil
}

func (l *conn) broken(err error) {
	l.once.Do(func() {
		close(l.dead)
		go l.lost(err)
	})
}

// Close ends the connection. Guests go on.
func (l *conn) Close() {
	l.once.Do(func() { close(l.dead) })
	_, _ = l.c.Close()
}

// do makes one call of the library, which cannot be cancelled: at the deadline it is left alone, and the connection counts as broken.
func do[T any](ctx context.Context, l *conn, f func() (T, error)) (T, error) {
	var zero T
	type result struct {
		v   T
		err error
	}
	select {
	case <-l.dead:
		return zero, &linkError{unreachable, "the connection is closed"}
	default:
	}
	limit := callTimeout
	if ctx.Value(patient{}) != nil {
		limit = copyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return r.v, translate(r.err)
		}
		return r.v, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.broken(errors.New("a call was not answered in time"))
		}
		return zero, ctx.Err()
	}
}

func run(ctx context.Context, l *conn, f func() error) error {
	_, err := do(ctx, l, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (l *conn) Node(ctx context.Context) (node, error) {
	return do(ctx, l, func() (node, error) {
		info, err := l.c.GetNodeInfo()
		if err != nil {
			return node{}, err
		}
		n := node{CPUs: int(info.Cpus), Memory: int64(info.Memory) << 10}
		if v, err := l.c.GetLibVersion(); err == nil {
			n.Libvirt = version(v)
		}
		if v, err := l.c.GetVersion(); err == nil {
			kind, _ := l.c.GetType()
			n.Hypervisor = kind + " " + version(v)
		}
		return n, nil
	})
}

func (l *conn) Capabilities(ctx context.Context) (string, error) {
	return do(ctx, l, l.c.GetCapabilities)
}

func version(v uint32) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// withDomain looks a domain up and lets go of it afterwards: one that is kept keeps the connection open.
func withDomain[T any](ctx context.Context, l *conn, name string, f func(d *virt.Domain) (T, error)) (T, error) {
	return do(ctx, l, func() (T, error) {
		var zero T
		d, err := l.c.LookupDomainByName(name)
		if err != nil {
			return zero, err
		}
		defer d.Free() //nolint:errcheck // a reference of ours
		return f(d)
	})
}

func (l *conn) Domains(ctx context.Context) ([]domain, error) {
	return do(ctx, l, func() ([]domain, error) {
		all, err := l.c.ListAllDomains(0)
		if err != nil {
			return nil, err
		}
		out := make([]domain, 0, len(all))
		for i := range all {
			d, err := describe(&all[i])
			_ = all[i].Free()
			if kind := translate(err).Kind; err != nil && kind == noDomain {
				continue // it has ended meanwhile
			} else if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
		return out, nil
	})
}

func (l *conn) Domain(ctx context.Context, name string) (domain, error) {
	return withDomain(ctx, l, name, func(d *virt.Domain) (domain, error) {
		out, err := describe(d)
		if err != nil {
			return out, err
		}
		out.XML, err = d.GetXMLDesc(virt.DOMAIN_XML_INACTIVE)
		return out, err
	})
}

func describe(d *virt.Domain) (out domain, err error) {
	if out.Name, err = d.GetName(); err != nil {
		return out, err
	}
	if out.UUID, err = d.GetUUIDString(); err != nil {
		return out, err
	}
	state, reason, err := d.GetState()
	if err != nil {
		return out, err
	}
	switch state {
	case virt.DOMAIN_RUNNING, virt.DOMAIN_BLOCKED, virt.DOMAIN_PMSUSPENDED:
		out.Power = powerOn
	case virt.DOMAIN_PAUSED:
		out.Power = powerPaused
	case virt.DOMAIN_SHUTDOWN:
		out.Power = powerStopping
	case virt.DOMAIN_CRASHED:
		out.Power = powerCrashed
	}
	out.Why = fmt.Sprintf("reason %d", reason)
	if out.Persistent, err = d.IsPersistent(); err != nil {
		return out, err
	}
	if text, err := d.GetMetadata(virt.DOMAIN_METADATA_ELEMENT, tagSpace, virt.DOMAIN_AFFECT_CURRENT); err == nil {
		out.Tags = parseTags(text)
	}
	return out, nil
}

func (l *conn) Start(ctx context.Context, xml string) error {
	return run(ctx, l, func() error {
		d, err := l.c.DomainCreateXML(xml, 0)
		if err != nil {
			return err
		}
		return d.Free()
	})
}

func (l *conn) Shutdown(ctx context.Context, name string) error {
	_, err := withDomain(ctx, l, name, func(d *virt.Domain) (struct{}, error) { return struct{}{}, d.Shutdown() })
	return err
}

func (l *conn) Destroy(ctx context.Context, name string) error {
	_, err := withDomain(ctx, l, name, func(d *virt.Domain) (struct{}, error) {
		err := d.Destroy()
		if kind := translate(err).Kind; err != nil && kind != notRunning && kind != noDomain {
			return struct{}{}, err
		}
		if kept, err := d.IsPersistent(); err == nil && kept {
			return struct{}{}, d.UndefineFlags(virt.DOMAIN_UNDEFINE_MANAGED_SAVE | virt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
				virt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | virt.DOMAIN_UNDEFINE_NVRAM)
		}
		return struct{}{}, nil
	})
	return unless(noDomain, err)
}

// Console follows the serial console until the stream ends. It has a connection of its own: while one thread waits for a stream's data, the answers to
// other threads' calls on the same connection wait with it, until something else arrives (seen with libvirt 9.0: the next keepalive, 5 s later).
func (l *conn) Console(ctx context.Context, name string, w io.Writer) error {
	type console struct {
		c  *virt.Connect
		st *virt.Stream
	}
	open, err := do(ctx, l, func() (out console, err error) {
		if out.c, err = virt.NewConnect(l.uri); err != nil {
			return out, err
		}
		_ = out.c.SetKeepAlive(keepaliveInterval, keepaliveCount)
		d, err := out.c.LookupDomainByName(name)
		if err == nil {
			defer d.Free() //nolint:errcheck // a reference of ours
			if out.st, err = out.c.NewStream(0); err == nil {
				if err = d.OpenConsole("", out.st, virt.DOMAIN_CONSOLE_FORCE); err != nil {
					_ = out.st.Free()
				}
			}
		}
		if err != nil {
			_, _ = out.c.Close()
		}
		return out, err
	})
	if err != nil {
		return err
	}
	st := open.st
	defer open.c.Close() //nolint:errcheck // only read
	defer st.Free()      //nolint:errcheck // a reference of ours
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
			_ = st.Abort()
		case <-l.dead:
			_ = st.Abort()
		case <-ended:
		}
	}()
	buf := make([]byte, 4096)
	for {
		n, err := st.Recv(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				_ = st.Abort()
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return translate(err)
		case n <= 0:
			return nil
		}
	}
}

// Send writes into a virtio-serial channel of a guest.
func (l *conn) Send(ctx context.Context, name, channel string, b []byte) error {
	_, err := withDomain(ctx, l, name, func(d *virt.Domain) (struct{}, error) {
		st, err := l.c.NewStream(0)
		if err != nil {
			return struct{}{}, err
		}
		defer st.Free() //nolint:errcheck // a reference of ours
		if err := d.OpenChannel(channel, st, virt.DOMAIN_CHANNEL_FORCE); err != nil {
			return struct{}{}, err
		}
		for len(b) > 0 {
			n, err := st.Send(b)
			if err != nil {
				_ = st.Abort()
				return struct{}{}, err
			}
			b = b[n:]
		}
		return struct{}{}, st.Finish()
	})
	return err
}

func (l *conn) Save(ctx context.Context, name, file string) error {
	_, err := withDomain(ctx, l, name, func(d *virt.Domain) (struct{}, error) { return struct{}{}, d.Save(file) })
	return err
}

func (l *conn) Restore(ctx context.Context, file, xml string) error {
	return run(ctx, l, func() error { return l.c.DomainRestoreFlags(file, xml, virt.DOMAIN_SAVE_RUNNING) })
}

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

func withPool[T any](ctx context.Context, l *conn, name string, f func(p *virt.StoragePool) (T, error)) (T, error) {
	return do(ctx, l, func() (T, error) {
		var zero T
		p, err := l.c.LookupStoragePoolByName(name)
		if err != nil {
			return zero, err
		}
		defer p.Free() //nolint:errcheck // a reference of ours
		return f(p)
	})
}

func (l *conn) Pool(ctx context.Context, name string) (pool, error) {
	return withPool(ctx, l, name, func(p *virt.StoragePool) (pool, error) {
		out := pool{Name: name}
		var err error
		if out.Active, err = p.IsActive(); err != nil {
			return out, err
		}
		if info, err := p.GetInfo(); err == nil {
			out.Available, out.Capacity = int64(info.Available), int64(info.Capacity)
		}
		text, err := p.GetXMLDesc(0)
		if err != nil {
			return out, err
		}
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(text); err == nil && x.Target != nil {
			out.Path = x.Target.Path
		}
		return out, nil
	})
}

func (l *conn) PoolOf(ctx context.Context, dir string) (string, error) {
	return do(ctx, l, func() (string, error) {
		if p, err := l.c.LookupStoragePoolByTargetPath(dir); err == nil {
			defer p.Free() //nolint:errcheck // a reference of ours
			if on, err := p.IsActive(); err == nil && !on {
				if err := p.Create(0); err != nil {
					return "", err
				}
			}
			return p.GetName()
		}
		x := &libvirtxml.StoragePool{Type: "dir", Name: "rouse-" + strings.ReplaceAll(strings.Trim(path.Clean(dir), "/"), "/", "-"),
			Target: &libvirtxml.StoragePoolTarget{Path: dir}}
		text, err := x.Marshal()
		if err != nil {
			return "", err
		}
		p, err := l.c.StoragePoolCreateXML(text, 0)
		if err != nil {
			return "", err
		}
		defer p.Free() //nolint:errcheck // a reference of ours
		return x.Name, nil
	})
}

func (l *conn) Refresh(ctx context.Context, name string) error {
	for n := 0; ; n++ { // libvirt refuses while somebody fills a volume of the pool
		_, err := withPool(ctx, l, name, func(p *virt.StoragePool) (struct{}, error) { return struct{}{}, p.Refresh(0) })
		if err == nil || n == refreshTries || !strings.Contains(err.Error(), "asynchronous jobs running") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (l *conn) Volumes(ctx context.Context, name string) ([]volume, error) {
	return withPool(ctx, l, name, func(p *virt.StoragePool) ([]volume, error) {
		all, err := p.ListAllStorageVolumes(0)
		if err != nil {
			return nil, err
		}
		out := make([]volume, 0, len(all))
		for i := range all {
			v, err := describeVolume(&all[i], name)
			_ = all[i].Free()
			if err == nil { // else it has been deleted meanwhile
				out = append(out, v)
			}
		}
		return out, nil
	})
}

func withVolume[T any](ctx context.Context, l *conn, pool, name string, f func(v *virt.StorageVol) (T, error)) (T, error) {
	return withPool(ctx, l, pool, func(p *virt.StoragePool) (T, error) {
		var zero T
		v, err := p.LookupStorageVolByName(name)
		if err != nil {
			return zero, err
		}
		defer v.Free() //nolint:errcheck // a reference of ours
		return f(v)
	})
}

func (l *conn) Volume(ctx context.Context, pool, name string) (volume, error) {
	return withVolume(ctx, l, pool, name, func(v *virt.StorageVol) (volume, error) { return describeVolume(v, pool) })
}

func (l *conn) VolumesNamed(ctx context.Context, pool string, names []string) ([]volume, error) {
	return withPool(ctx, l, pool, func(p *virt.StoragePool) (out []volume, err error) {
		for _, name := range names {
			v, err := p.LookupStorageVolByName(name)
			if err == nil {
				var one volume
				one, err = describeVolume(v, pool)
				_ = v.Free()
				if err == nil {
					out = append(out, one)
				}
			}
			if err != nil && translate(err).Kind != noVolume { // it has been deleted meanwhile, or was never there
				return nil, err
			}
		}
		return out, nil
	})
}

func (l *conn) VolumeByPath(ctx context.Context, file string) (volume, error) {
	return do(ctx, l, func() (volume, error) {
		v, err := l.c.LookupStorageVolByPath(file)
		if err != nil {
			return volume{}, err
		}
		defer v.Free() //nolint:errcheck // a reference of ours
		p, err := v.LookupPoolByVolume()
		if err != nil {
			return volume{}, err
		}
		defer p.Free() //nolint:errcheck // a reference of ours
		name, err := p.GetName()
		if err != nil {
			return volume{}, err
		}
		return describeVolume(v, name)
	})
}

func describeVolume(v *virt.StorageVol, pool string) (volume, error) {
	text, err := v.GetXMLDesc(0)
	if err != nil {
		return volume{}, err
	}
	return parseVolume(text, pool)
}

func (l *conn) CreateVolume(ctx context.Context, pool, xml string) error {
	_, err := withPool(ctx, l, pool, func(p *virt.StoragePool) (struct{}, error) {
		v, err := p.StorageVolCreateXML(xml, 0)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, v.Free()
	})
	return err
}

func (l *conn) CopyVolume(ctx context.Context, pool, xml, fromPool, from string) error {
	ctx = context.WithValue(ctx, patient{}, true)
	_, err := withVolume(ctx, l, fromPool, from, func(v *virt.StorageVol) (struct{}, error) {
		p, err := l.c.LookupStoragePoolByName(pool)
		if err != nil {
			return struct{}{}, err
		}
		defer p.Free() //nolint:errcheck // a reference of ours
		n, err := p.StorageVolCreateXMLFrom(xml, v, virt.STORAGE_VOL_CREATE_REFLINK)
		if err != nil { // not on this file system, or not this format
			n, err = p.StorageVolCreateXMLFrom(xml, v, 0)
		}
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, n.Free()
	})
	return err
}

func (l *conn) DeleteVolume(ctx context.Context, pool, name string) error {
	_, err := withVolume(ctx, l, pool, name, func(v *virt.StorageVol) (struct{}, error) { return struct{}{}, v.Delete(0) })
	return unless(noVolume, err)
}

func (l *conn) Upload(ctx context.Context, pool, name string, r io.Reader, size int64) error {
	ctx = context.WithValue(ctx, patient{}, true)
	_, err := withVolume(ctx, l, pool, name, func(v *virt.StorageVol) (struct{}, error) {
		st, err := l.c.NewStream(0)
		if err != nil {
			return struct{}{}, err
		}
		defer st.Free() //nolint:errcheck // a reference of ours
		if err := v.Upload(st, 0, uint64(size), 0); err != nil {
			return struct{}{}, err
		}
		err = st.SendAll(func(_ *virt.Stream, n int) ([]byte, error) {
			b := make([]byte, n)
			k, err := io.ReadFull(r, b)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return b[:k], err
		})
		if err != nil {
			_ = st.Abort()
			return struct{}{}, err
		}
		return struct{}{}, st.Finish()
	})
	return err
}

func (l *conn) Download(ctx context.Context, pool, name string, w io.Writer) error {
	ctx = context.WithValue(ctx, patient{}, true)
	_, err := withVolume(ctx, l, pool, name, func(v *virt.StorageVol) (struct{}, error) {
		st, err := l.c.NewStream(0)
		if err != nil {
			return struct{}{}, err
		}
		defer st.Free() //nolint:errcheck // a reference of ours
		if err := v.Download(st, 0, 0, 0); err != nil {
			return struct{}{}, err
		}
		if err := st.RecvAll(func(_ *virt.Stream, b []byte) (int, error) { return w.Write(b) }); err != nil {
			_ = st.Abort()
			return struct{}{}, err
		}
		return struct{}{}, st.Finish()
	})
	return err
}

// translate classifies the library's errors by their codes.
func translate(err error) *linkError {
	if err == nil {
		return &linkError{}
	}
	var mine *linkError
	if errors.As(err, &mine) {
		return mine
	}
	var e virt.Error
	if !errors.As(err, &e) {
		if errors.Is(err, os.ErrNotExist) {
			return &linkError{unreachable, err.Error()}
		}
		return &linkError{failed, err.Error()}
	}
	kind, ok := map[virt.ErrorNumber]errorKind{
		virt.ERR_NO_DOMAIN: noDomain, virt.ERR_NO_NETWORK: noNetwork, virt.ERR_NO_STORAGE_POOL: noPool, virt.ERR_NO_STORAGE_VOL: noVolume,
		virt.ERR_DOM_EXIST: exists, virt.ERR_STORAGE_VOL_EXIST: exists, virt.ERR_OPERATION_INVALID: notRunning,
		virt.ERR_XML_ERROR: invalid, virt.ERR_XML_DETAIL: invalid, virt.ERR_XML_INVALID_SCHEMA: invalid, virt.ERR_INVALID_ARG: invalid,
		virt.ERR_CONFIG_UNSUPPORTED: invalid, virt.ERR_NO_SUPPORT: unsupported, virt.ERR_OPERATION_UNSUPPORTED: unsupported,
		virt.ERR_ARGUMENT_UNSUPPORTED: unsupported, virt.ERR_AUTH_FAILED: denied, virt.ERR_AUTH_CANCELLED: denied, virt.ERR_ACCESS_DENIED: denied,
		virt.ERR_OPERATION_DENIED: denied, virt.ERR_INVALID_CONN: disconnected, virt.ERR_RPC: disconnected, virt.ERR_NO_CONNECT: unreachable,
	}[e.Code]
	switch {
	case strings.Contains(e.Message, "Failed to open libvirt.so"): // the binding's own text: there is no code for it
		kind = noLibrary
	case strings.Contains(e.Message, "No space left on device"): // from the kernel, or printed by qemu-img
		kind = noSpace
	case ok:
	case e.Code == virt.ERR_SYSTEM_ERROR && e.Domain == virt.FROM_RPC:
		kind = unreachable
		if strings.Contains(e.Message, "Permission denied") {
			kind = denied
		}
	case e.Code == virt.ERR_INTERNAL_ERROR && e.Domain == virt.FROM_RPC:
		kind = disconnected
	}
	return &linkError{kind, e.Message}
}

// lifecycle translates an event.
func lifecycle(name string, e *virt.DomainEventLifecycle) event {
	out := event{Name: name, What: fmt.Sprintf("event %d/%d", e.Event, e.Detail)}
	switch e.Event {
	case virt.DOMAIN_EVENT_STARTED:
		out.What = "started"
	case virt.DOMAIN_EVENT_STOPPED:
		out.Gone = true
		out.What = "stopped: " + map[int]string{
			int(virt.DOMAIN_EVENT_STOPPED_SHUTDOWN): "it powered off", int(virt.DOMAIN_EVENT_STOPPED_DESTROYED): "it was destroyed",
			int(virt.DOMAIN_EVENT_STOPPED_CRASHED): "it crashed", int(virt.DOMAIN_EVENT_STOPPED_SAVED): "it was saved",
			int(virt.DOMAIN_EVENT_STOPPED_FAILED): "the hypervisor's process ended", int(virt.DOMAIN_EVENT_STOPPED_MIGRATED): "it was moved",
		}[e.Detail]
	case virt.DOMAIN_EVENT_CRASHED:
		out.What = "crashed"
	case virt.DOMAIN_EVENT_SHUTDOWN:
		out.What = "shutting down"
	}
	return out
}
