package libvirt

import (
	"context"
	"fmt"
	"io"
	"strings"
)

func (l *fakeLink) Pool(ctx context.Context, name string) (p pool, err error) {
	leave, err := l.enter(ctx, "Pool")
	if err != nil {
		return p, err
	}
	defer leave(&err)
	if _, ok := l.h.pools[name]; !ok {
		return p, &linkError{noPool, "no pool " + name}
	}
	if l.h.poolIs != nil {
		return *l.h.poolIs, nil
	}
	return pool{Name: name, Active: true, Path: "/pool"}, nil
}

func (l *fakeLink) PoolOf(ctx context.Context, dir string, mayMake bool) (name string, err error) {
	leave, err := l.enter(ctx, "PoolOf")
	if err != nil {
		return "", err
	}
	defer leave(&err)
	if dir == "/pool" {
		return "default", nil
	}
	if !mayMake {
		return "", &linkError{noPool, "no pool over " + dir}
	}
	if l.h.dirs[dir] {
		l.h.pools["rouse-of"+dir] = map[string]volume{}
		return "rouse-of" + dir, nil
	}
	return "", &linkError{failed, "no directory " + dir}
}

func (l *fakeLink) Refresh(context.Context, string) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for f := range l.h.files {
		if name, ok := strings.CutPrefix(f, "/pool/"); ok {
			l.h.pools["default"][name] = volume{Pool: "default", Name: name, Path: f, Format: "raw"}
			delete(l.h.files, f)
		}
	}
	return nil
}

func (l *fakeLink) Volumes(ctx context.Context, pool string) (all []volume, err error) {
	leave, err := l.enter(ctx, "Volumes")
	if err != nil {
		return nil, err
	}
	defer leave(&err)
	p, ok := l.h.pools[pool]
	if !ok {
		return nil, &linkError{noPool, "no pool " + pool}
	}
	for _, v := range p {
		all = append(all, v)
	}
	return all, nil
}

func (l *fakeLink) Volume(ctx context.Context, pool, name string) (v volume, err error) {
	leave, err := l.enter(ctx, "Volume")
	if err != nil {
		return v, err
	}
	defer leave(&err)
	p, ok := l.h.pools[pool]
	if !ok {
		return v, &linkError{noPool, "no pool " + pool}
	}
	if v, ok := p[name]; ok {
		return v, nil
	}
	return v, &linkError{noVolume, "no volume " + name}
}

func (l *fakeLink) VolumesNamed(ctx context.Context, pool string, names []string) (all []volume, err error) {
	for _, n := range names {
		switch v, err := l.Volume(ctx, pool, n); {
		case err == nil:
			all = append(all, v)
		case kindOf(err) != noVolume:
			return nil, err
		}
	}
	return all, nil
}

func (l *fakeLink) VolumeByPath(_ context.Context, file string) (volume, error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for _, p := range l.h.pools {
		for _, v := range p {
			if v.Path == file {
				return v, nil
			}
		}
	}
	return volume{}, &linkError{noVolume, "no volume " + file}
}

func (l *fakeLink) CreateVolume(ctx context.Context, pool, xml string) (err error) {
	leave, err := l.enter(ctx, "CreateVolume")
	if err != nil {
		return err
	}
	defer leave(&err)
	v, err := parseVolume(xml, pool)
	if err != nil {
		return &linkError{invalid, err.Error()}
	}
	p, ok := l.h.pools[pool]
	if _, taken := p[v.Name]; !ok || taken {
		return &linkError{exists, "volume " + v.Name + " exists, or there is no pool " + pool}
	}
	v.Path = "/pool/" + v.Name
	if v.Backing != "" && !l.h.has(v.Backing) {
		return &linkError{failed, "no backing file " + v.Backing}
	}
	p[v.Name] = v
	return nil
}

func (l *fakeLink) CopyVolume(ctx context.Context, pool, xml, _, _ string) error {
	return l.CreateVolume(ctx, pool, xml)
}

func (l *fakeLink) DeleteVolume(ctx context.Context, pool, name string) (err error) {
	leave, err := l.enter(ctx, "DeleteVolume")
	if err != nil {
		return err
	}
	defer leave(&err)
	v, ok := l.h.pools[pool][name]
	if ok {
		delete(l.h.pools[pool], name)
		delete(l.h.content, v.Path)
	}
	return nil
}

func (l *fakeLink) Upload(ctx context.Context, pool, name string, r io.Reader, size int64) (err error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	leave, err := l.enter(ctx, "Upload")
	if err != nil {
		return err
	}
	defer leave(&err)
	if int64(len(b)) != size {
		return &linkError{failed, fmt.Sprintf("%d bytes were announced, %d came", size, len(b))}
	}
	l.h.content[l.h.pools[pool][name].Path] = b
	return nil
}

func (l *fakeLink) Download(_ context.Context, pool, name string, w io.Writer) error {
	l.h.mu.Lock()
	b := l.h.content[l.h.pools[pool][name].Path]
	l.h.mu.Unlock()
	_, err := w.Write(b)
	return err
}
