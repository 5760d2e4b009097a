package libvirt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// How an instance begins with a template's memory: a disk over the template's, a copy of the memory under the instance's own name, the restore, and the order
// that tells the agent in it who it is.

// restore starts an instance from a template's memory.
func (p *provider) restore(ctx context.Context, l link, g *guest, m *materials, t *memory) error {
	disk := volumeName(p.owner, g.key, diskSuffix)
	text, err := overlay(disk, t.disk)
	if err != nil {
		return err
	}
	g.disk = volume{Pool: m.pool, Name: disk, Path: path.Join(path.Dir(t.disk.Path), disk), Format: "qcow2"}
	g.tags.Agent = base64.StdEncoding.EncodeToString(g.agent)
	p.templates.first(g.key)
	began := time.Now()
	made := make(chan error, 1)
	go func() { made <- l.CreateVolume(ctx, m.pool, text) }()
	file, err := p.label(ctx, l, g, m, t)
	if err := errors.Join(<-made, err); err != nil {
		return err
	}
	copied := time.Now()
	if err := l.Restore(ctx, file, ""); err != nil {
		return err
	}
	restored := time.Now()
	if err := p.order(ctx, l, g); err != nil {
		return err
	}
	p.log.Debug("libvirt: restored from memory", "instance", g.key, "copy", copied.Sub(began), "restore", restored.Sub(copied), "order", time.Since(restored))
	// QEMU has read it. Somebody waits for the guest, and nobody for this: what is left here is found at the instance's end.
	if err := l.DeleteVolume(ctx, m.pool, path.Base(file)); err != nil {
		p.log.Warn("libvirt: the memory of a restored guest is not deleted before its end", "instance", g.key, "volume", file, "err", err)
	}
	return nil
}

// order tells the agent in a restored guest who it is.
func (p *provider) order(ctx context.Context, l link, g *guest) error {
	o, err := newOrder(g)
	if err != nil {
		return err
	}
	return l.Send(ctx, domainName(g.key), orderPort, o)
}

// orderAgain tells a restored guest that an earlier life of this master has made, once: that life may have ended before the order was sent. A second
// order is never read.
func (p *provider) orderAgain(ctx context.Context, l link, d *domain) {
	if d.Tags == nil || !d.Tags.Fast || d.Power != powerOn || !p.templates.first(d.Tags.Key) {
		return
	}
	g := &guest{key: d.Tags.Key, tags: *d.Tags}
	var err error
	if g.agent, err = base64.StdEncoding.DecodeString(d.Tags.Agent); err == nil {
		err = p.order(ctx, l, g)
	}
	if err != nil {
		p.templates.forget(g.key)
		p.log.Warn("libvirt: a restored guest could not be told who it is", "instance", g.key, "err", err)
	}
}

// first says whether it is called for the first time with a key: then its guest is told.
func (t *templates) first(k providers.Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told[k] {
		return false
	}
	t.told[k] = true
	return true
}

func (t *templates) forget(k providers.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.told, k)
}

// newOrder is what the agent in a restored guest reads: one line.
func newOrder(g *guest) ([]byte, error) {
	seed := make([]byte, 64)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	b, err := json.Marshal(struct {
		Agent    json.RawMessage `json:"agent"`
		Time     int64           `json:"time"`
		Seed     []byte          `json:"seed"`
		MAC      string          `json:"mac"`
		Hostname string          `json:"hostname"`
	}{g.agent, time.Now().UnixNano(), seed, macOf(g.key, 0), g.tags.Worker})
	return append(b, '\n'), err
}

// label makes the instance's copy of the template's memory, and returns its path on the host.
func (p *provider) label(ctx context.Context, l link, g *guest, m *materials, t *memory) (string, error) {
	r, err := openSaved(ctx, l, t.save)
	if err != nil {
		return "", err
	}
	defer r.Close() //nolint:errcheck // only read
	s, err := readSaved(r)
	if err != nil {
		return "", err
	}
	xml, err := g.relabel(s.xml)
	if err != nil {
		return "", err
	}
	head := s.head(xml)
	rest := t.save.Capacity - int64(saveHeader) - int64(s.number(1))
	name := volumeName(p.owner, g.key, saveSuffix)
	text, err := whole(name, "raw", int64(len(head))+rest)
	if err != nil {
		return "", err
	}
	if err := l.CreateVolume(ctx, m.pool, text); err != nil {
		return "", err
	}
	file := path.Join(path.Dir(g.disk.Path), name)
	if local, ok := r.(*os.File); ok { // the host is this machine: the kernel copies
		w, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return "", err
		}
		_, err = w.Write(head)
		if err == nil {
			_, err = io.Copy(w, local)
		}
		return file, errors.Join(err, w.Close())
	}
	return file, l.Upload(ctx, m.pool, name, io.MultiReader(bytes.NewReader(head), r), int64(len(head))+rest)
}

// openSaved reads a volume: as a file where the host is this machine, through the connection elsewhere.
func openSaved(ctx context.Context, l link, v volume) (io.ReadCloser, error) {
	if f, err := os.Open(v.Path); err == nil {
		if st, err := f.Stat(); err == nil && st.Size() == v.Capacity {
			return f, nil
		}
		_ = f.Close()
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(l.Download(ctx, v.Pool, v.Name, w)) }()
	return r, nil
}

// relabel makes the XML of a saved template that of an instance.
func (g *guest) relabel(text string) (string, error) {
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		return "", fmt.Errorf("the template's XML: %w", err)
	}
	i, err := ownDisk(d, g.spec.Disk)
	if err != nil {
		return "", fmt.Errorf("the template's XML: %w", err)
	}
	d.ID, d.Name, d.UUID = nil, domainName(g.key), uuidOf(g.key)
	d.Description = "instance of worker " + g.tags.Worker + ", made by rouse"
	d.Metadata = &libvirtxml.DomainMetadata{XML: g.tags.String()}
	d.Devices.Disks[i].Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: g.disk.Path}}
	d.Devices.Disks[i].BackingStore = nil // read from the new disk
	for n := range d.Devices.Interfaces {
		d.Devices.Interfaces[n].MAC = &libvirtxml.DomainInterfaceMAC{Address: macOf(g.key, n)}
		d.Devices.Interfaces[n].Target = nil
	}
	for n := range d.Devices.Serials {
		d.Devices.Serials[n].Source = &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
	}
	d.Devices.Consoles = nil
	for n := range d.Devices.Channels {
		d.Devices.Channels[n].Source = &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}}
	}
	return d.Marshal()
}
