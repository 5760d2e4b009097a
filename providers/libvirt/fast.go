package libvirt

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/rouse-ci/rouse/providers"
)

// Substantiation from memory. A template is booted once, from a disk of its own, until its agent waits for an order; then its memory is saved and its
// disk never changes again. Every instance is restored from a copy of that memory, with a name, UUID, MAC address and disk of its own (an overlay over
// the template's disk: the memory knows that disk's content), and is told over a virtio-serial port who it is. Its agent makes the clock, the random
// numbers and the network new before it speaks to anybody. Whatever goes wrong on the way: the instance boots instead.
const (
	orderPort    = "rouse.agent.0"
	waitingLine  = "rouse: waiting for an order"
	bootLimit    = 2 * time.Minute // of a template
	templateRest = 5 * time.Minute // after a template that could not be made
)

// How long templates are kept. One that nobody asks for any more (its image, its XML or libvirt has changed, or its worker has gone) is deleted as
// soon as no instance depends on it, so that there are at most as many as there are kinds of fast workers.
const (
	unusedTemplate  = 24 * time.Hour // since an instance was last made from it
	unknownTemplate = time.Hour      // of one that an earlier life has left, before somebody asks for it
)

// templates are the saved guests of all hosts.
type templates struct {
	mu     sync.Mutex
	all    map[string]*memory // by host and digest
	wanted map[string]want    // by host and worker
	told   map[providers.Key]bool
	since  time.Time // when the provider was opened
}

// want is what the last instance of a worker was, or could have been, made from.
type want struct {
	digest string
	at     time.Time
}

// memory is one saved guest.
type memory struct {
	ready bool
	busy  bool      // it is looked for, or made
	until time.Time // no attempt to make it before
	disk  volume
	save  volume
}

// templateKey is the key of a template's domain while it boots. Its tags are the owner's, so that the sweep finds what a crash has left of it.
func (p *provider) templateKey(digest string) providers.Key {
	return providers.Key(templateMark + ownerMark(p.owner) + "-" + digest)
}

const templateMark = "template-"

// isTemplate says whether a key is a template's.
func (p *provider) isTemplate(k providers.Key) bool {
	return strings.HasPrefix(string(k), templateMark+ownerMark(p.owner)+"-")
}

func (p *provider) templateName(digest, suffix string) string {
	return prefix + string(p.templateKey(digest)) + suffix
}

// templateDigest covers everything that the memory of a guest depends on.
func templateDigest(n node, g *guest, m *materials) (string, error) {
	text := ""
	if m.template != nil {
		var err error
		if text, err = m.template.Marshal(); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal([]any{n.Libvirt, n.Hypervisor, m.base.fingerprint(), g.spec, m.machine, m.kernel, m.initrd, text})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6]), nil
}

// memoryFor returns the template for an instance, or nil when there is none yet: then one is made meanwhile, for the next ones.
func (p *provider) memoryFor(ctx context.Context, l link, h *host, g *guest, m *materials) (*memory, error) {
	n, err := l.Node(ctx)
	if err != nil {
		return nil, err
	}
	if !mayRelabel(n.Libvirt) {
		return nil, fmt.Errorf("the save files of libvirt %s are not known", n.Libvirt)
	}
	digest, err := templateDigest(n, g, m)
	if err != nil {
		return nil, err
	}
	id := h.Name + " " + digest
	ts := &p.templates
	ts.mu.Lock()
	ts.wanted[h.Name+" "+g.tags.Worker] = want{digest, time.Now()}
	t := ts.all[id]
	if t == nil {
		t = &memory{}
		ts.all[id] = t
	}
	was := *t
	ts.mu.Unlock()
	if was.ready {
		if _, err := l.Volume(ctx, m.pool, was.save.Name); err == nil {
			return &was, nil
		}
	}
	ts.mu.Lock()
	if t.busy || time.Now().Before(t.until) {
		ts.mu.Unlock()
		return nil, nil
	}
	t.ready, t.busy = false, true // until this call, or the making that it begins, is over
	ts.mu.Unlock()
	done := func(m memory) {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		*t = m
	}
	if made := p.savedBefore(ctx, l, m.pool, digest); made != nil {
		done(*made)
		return made, nil
	}
	tg, tm := *g, *m
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, bootLimit)
		defer cancel()
		made, err := p.makeTemplate(ctx, l, &tg, &tm, digest)
		if err != nil {
			done(memory{until: time.Now().Add(templateRest)})
			p.log.Warn("libvirt: no template; instances boot instead", "host", h.Name, "worker", tg.tags.Worker, "err", err)
			return
		}
		done(*made)
		p.log.Info("libvirt: template saved", "host", h.Name, "worker", tg.tags.Worker, "template", digest)
		if all, err := l.Volumes(ctx, tm.pool); err == nil {
			p.tidyTemplates(ctx, h, l, all)
		}
	})
	return nil, nil
}

// savedBefore finds the template that an earlier life of this master has made, if it is whole: libvirt writes the header's magic last.
func (p *provider) savedBefore(ctx context.Context, l link, pool, digest string) *memory {
	m := &memory{ready: true}
	var err error
	if m.disk, err = l.Volume(ctx, pool, p.templateName(digest, diskSuffix)); err != nil {
		return nil
	}
	if m.save, err = l.Volume(ctx, pool, p.templateName(digest, saveSuffix)); err != nil {
		return nil
	}
	if _, err = l.Domain(ctx, domainName(p.templateKey(digest))); err == nil || kindOf(err) != noDomain {
		return nil // it runs, so its disk changes
	}
	r, err := openSaved(ctx, l, m.save)
	if err != nil {
		return nil
	}
	defer r.Close() //nolint:errcheck // only read
	if _, err := readSaved(r); err != nil {
		return nil
	}
	return m
}

// making says whether this provider boots the template of a key just now.
func (p *provider) making(h *host, k providers.Key) bool {
	digest, ok := strings.CutPrefix(string(k), templateMark+ownerMark(p.owner)+"-")
	p.templates.mu.Lock()
	defer p.templates.mu.Unlock()
	t := p.templates.all[h.Name+" "+digest]
	return ok && t != nil && t.busy
}

// tidyTemplates deletes the templates of one of a host's pools, whose volumes are given, that nobody asks for and nobody's disk depends on.
func (p *provider) tidyTemplates(ctx context.Context, h *host, l link, all []volume) {
	used, found := map[string]bool{}, map[string][]volume{}
	for _, v := range all {
		used[v.Backing] = true
		if key, ok := strings.CutPrefix(v.Name, prefix); ok && p.isTemplate(providers.Key(key)) {
			digest, _, _ := strings.Cut(strings.TrimPrefix(key, templateMark+ownerMark(p.owner)+"-"), ".")
			found[digest] = append(found[digest], v)
		}
	}
	for digest, volumes := range found {
		if p.keepTemplate(h, digest) || slices.ContainsFunc(volumes, func(v volume) bool { return used[v.Path] }) {
			continue
		}
		slices.SortFunc(volumes, func(a, b volume) int { return strings.Compare(b.Name, a.Name) }) // the memory before its disk
		for _, v := range volumes {
			if err := l.DeleteVolume(ctx, v.Pool, v.Name); err != nil {
				p.log.Warn("libvirt: a template that nobody needs is left", "host", h.Name, "volume", v.Path, "err", err)
				return
			}
		}
		p.log.Info("libvirt: template deleted: no worker needs it any more", "host", h.Name, "template", digest)
	}
}

func (p *provider) keepTemplate(h *host, digest string) bool {
	ts := &p.templates
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for who, w := range ts.wanted {
		if time.Since(w.at) > unusedTemplate {
			delete(ts.wanted, who)
		} else if w.digest == digest && strings.HasPrefix(who, h.Name+" ") {
			return true
		}
	}
	t := ts.all[h.Name+" "+digest]
	switch {
	case t == nil:
		return time.Since(ts.since) < unknownTemplate
	case t.busy:
		return true
	}
	delete(ts.all, h.Name+" "+digest)
	return false
}

func mayRelabel(version string) bool {
	for _, v := range relabelled {
		if strings.HasPrefix(version, v) {
			return true
		}
	}
	return false
}

// makeTemplate boots a guest until its agent waits, and saves it.
func (p *provider) makeTemplate(ctx context.Context, l link, g *guest, m *materials, digest string) (_ *memory, err error) {
	disk, save := p.templateName(digest, diskSuffix), p.templateName(digest, saveSuffix)
	for _, name := range []string{disk, save} { // what an earlier attempt, or another master's life, has left
		if v, err := l.Volume(ctx, m.pool, name); err == nil && p.inUse(ctx, l, m.pool, v) {
			return nil, fmt.Errorf("instances still depend on %s", v.Path)
		}
		if err := l.DeleteVolume(ctx, m.pool, name); err != nil {
			return nil, err
		}
	}
	text, err := overlay(disk, m.base)
	if err != nil {
		return nil, err
	}
	if err := l.CreateVolume(ctx, m.pool, text); err != nil {
		return nil, err
	}
	g.key = p.templateKey(digest)
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		err = errors.Join(err, l.Destroy(clean, domainName(g.key)))
		if err != nil {
			err = errors.Join(err, l.DeleteVolume(clean, m.pool, disk), l.DeleteVolume(clean, m.pool, save))
		}
	}()
	if g.disk, err = l.Volume(ctx, m.pool, disk); err != nil {
		return nil, err
	}
	g.waits, g.agent = true, nil
	g.tags.Key, g.tags.Worker = g.key, "template"
	if text, err = g.define(m.template); err != nil {
		return nil, err
	}
	if err := l.Start(ctx, text); err != nil {
		return nil, err
	}
	if err := untilSaid(ctx, l, domainName(g.key), waitingLine); err != nil {
		return nil, err
	}
	file := path.Join(path.Dir(g.disk.Path), save)
	if err := l.Save(ctx, domainName(g.key), file); err != nil {
		return nil, err
	}
	if err := l.Refresh(ctx, m.pool); err != nil {
		return nil, err
	}
	t := &memory{ready: true}
	if t.disk, err = l.Volume(ctx, m.pool, disk); err != nil {
		return nil, err
	}
	if t.save, err = l.Volume(ctx, m.pool, save); err != nil {
		return nil, err
	}
	return t, nil
}

// inUse says whether a volume is the base of another one.
func (p *provider) inUse(ctx context.Context, l link, pool string, v volume) bool {
	all, err := l.Volumes(ctx, pool)
	if err != nil {
		return true
	}
	for _, o := range all {
		if o.Backing == v.Path {
			return true
		}
	}
	return false
}

// untilSaid follows a guest's console until it prints a text.
func untilSaid(ctx context.Context, l link, name, text string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watcher{text: text, found: cancel}
	err := l.Console(ctx, name, w)
	if w.seen {
		return nil
	}
	return fmt.Errorf("the image's agent does not wait for an order (%w); its console ends with:\n%s", err, lastLines(w.said.String(), 10))
}

type watcher struct {
	text  string
	said  bytes.Buffer
	seen  bool
	found func()
}

func (w *watcher) Write(b []byte) (int, error) {
	if w.said.Len() > maxConsole {
		w.said.Next(w.said.Len() - maxConsole/2)
	}
	w.said.Write(b)
	if !w.seen && strings.Contains(w.said.String(), w.text) {
		w.seen = true
		w.found()
	}
	return len(b), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// restore starts an instance from a template's memory.
func (p *provider) restore(ctx context.Context, l link, g *guest, m *materials, t *memory) error {
	name := volumeName(p.owner, g.key, diskSuffix)
	text, err := overlay(name, t.disk)
	if err != nil {
		return err
	}
	if err := l.CreateVolume(ctx, m.pool, text); err != nil {
		return err
	}
	if g.disk, err = l.Volume(ctx, m.pool, name); err != nil {
		return err
	}
	g.tags.Agent = base64.StdEncoding.EncodeToString(g.agent)
	p.templates.first(g.key)
	file, err := p.label(ctx, l, g, m, t)
	if err != nil {
		return err
	}
	if err := l.Restore(ctx, file, ""); err != nil {
		return err
	}
	if err := l.DeleteVolume(ctx, m.pool, path.Base(file)); err != nil {
		return err
	}
	return p.order(ctx, l, g)
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
