//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	virt "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

const refreshTries = 50 // a tenth of a second apart

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

func (l *conn) PoolOf(ctx context.Context, dir string, mayMake bool) (string, error) {
	return do(ctx, l, func() (string, error) {
		if p, err := l.c.LookupStoragePoolByTargetPath(dir); err == nil {
			defer p.Free() //nolint:errcheck // a reference of ours
			if on, err := p.IsActive(); err == nil && !on {
				if !mayMake {
					return "", &linkError{noPool, "the storage pool over " + dir + " is not active"}
				}
				if err := p.Create(0); err != nil {
					return "", err
				}
			}
			return p.GetName()
		} else if kind := translate(err).Kind; kind != noPool && kind != unsupported { // old drivers cannot look that way
			return "", err
		}
		if !mayMake {
			return "", &linkError{noPool, "there is no storage pool over " + dir}
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
			of, _ := all[i].GetName() // it is at hand
			_ = all[i].Free()
			switch {
			case err == nil:
				out = append(out, v)
			case translate(err).Kind != noVolume && strings.HasPrefix(of, prefix): // neither deleted meanwhile, nor somebody else's that cannot be read
				return nil, err
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
	return l.transfer(ctx, pool, name, func(v *virt.StorageVol, st *virt.Stream) error { return v.Upload(st, 0, uint64(size), 0) },
		func(st *virt.Stream) error {
			return st.SendAll(func(_ *virt.Stream, n int) ([]byte, error) {
				b := make([]byte, n)
				k, err := io.ReadFull(r, b)
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					err = nil
				}
				return b[:k], err
			})
		})
}

func (l *conn) Download(ctx context.Context, pool, name string, w io.Writer) error {
	return l.transfer(ctx, pool, name, func(v *virt.StorageVol, st *virt.Stream) error { return v.Download(st, 0, 0, 0) },
		func(st *virt.Stream) error {
			return st.RecvAll(func(_ *virt.Stream, b []byte) (int, error) { return w.Write(b) })
		})
}

// transfer moves what a volume holds: begin ties a stream to it, move sends or receives all of it.
func (l *conn) transfer(ctx context.Context, pool, name string, begin func(*virt.StorageVol, *virt.Stream) error, move func(*virt.Stream) error) error {
	ctx = context.WithValue(ctx, patient{}, true)
	_, err := withVolume(ctx, l, pool, name, func(v *virt.StorageVol) (struct{}, error) {
		st, err := l.c.NewStream(0)
		if err != nil {
			return struct{}{}, err
		}
		defer st.Free() //nolint:errcheck // a reference of ours
		if err := begin(v, st); err != nil {
			return struct{}{}, err
		}
		if err := move(st); err != nil {
			_ = st.Abort()
			return struct{}{}, err
		}
		return struct{}{}, st.Finish()
	})
	return err
}
