//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"

	virt "libvirt.org/go/libvirt"
)

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
	out.Tags, err = tagsIn(d.GetMetadata(virt.DOMAIN_METADATA_ELEMENT, tagSpace, virt.DOMAIN_AFFECT_CURRENT))
	return out, err
}

// tagsIn reads the answer to the question for our element. Only where the host says that there is none, or cannot have any, the domain is somebody else's:
// an instance of ours must not be taken for that, and so for gone, because an answer was lost.
func tagsIn(text string, err error) (*tags, error) {
	var e virt.Error
	switch {
	case err == nil:
		return parseTags(text), nil
	case errors.As(err, &e) && (e.Code == virt.ERR_NO_DOMAIN_METADATA || e.Code == virt.ERR_NO_SUPPORT):
		return nil, nil
	}
	return nil, err
}

func (l *conn) Start(ctx context.Context, xml string) error {
	over, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
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
	given := make(chan console, 1) // what do did not wait for must be closed all the same
	open, err := do(ctx, l, func() (out console, err error) {
		defer func() { given <- out }()
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
			return console{}, err
		}
		return out, nil
	})
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) { // of do: the call goes on
		go func() {
			if late := <-given; late.c != nil {
				_ = late.st.Free()
				_, _ = late.c.Close()
			}
		}()
	}
	if err != nil {
		return err
	}
	st := open.st
	defer open.c.Close() //nolint:errcheck // only read
	defer st.Free()      //nolint:errcheck // a reference of ours
	ended, over := make(chan struct{}), make(chan struct{})
	defer func() { close(ended); <-over }() // the stream must not be let go of while it is aborted
	go func() {
		defer close(over)
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
	over, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	ctx = context.WithValue(ctx, patient{}, true) // as much as a disk, for a guest with much memory
	_, err = withDomain(ctx, l, name, func(d *virt.Domain) (struct{}, error) { return struct{}{}, d.Save(file) })
	return err
}

func (l *conn) Restore(ctx context.Context, file, xml string) error {
	over, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	return run(ctx, l, func() error { return l.c.DomainRestoreFlags(file, xml, virt.DOMAIN_SAVE_RUNNING) })
}
