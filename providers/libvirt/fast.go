package libvirt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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

	id       string // in templates.all
	failures int    // restores in a row
	spoiled  bool   // what is on the host is not to be used again
}

// mostFailures is how many restores in a row may fail before a template is made anew: it may be damaged, or not fit a hypervisor that was changed.
const mostFailures = 3

// restored takes in what came of a restore.
func (t *templates) restored(m *memory, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.all[m.id]
	switch {
	case now == nil || !now.ready:
	case kindOf(err) == disconnected || kindOf(err) == unreachable: // that says nothing of it
	case err == nil:
		now.failures = 0
	default:
		if now.failures++; now.failures >= mostFailures {
			*now = memory{id: m.id, spoiled: true}
		}
	}
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
	b, err := json.Marshal([]any{n.Libvirt, n.Hypervisor, m.base.fingerprint(), g.spec, m.machine, m.kernel, m.initrd, m.booted, text})
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
	if hasVariables(m.template) {
		return nil, errors.New("its firmware keeps variables in a file that all guests of one memory would write to")
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
		t = &memory{id: id}
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
		*t, t.id = m, id
	}
	if made := p.savedBefore(ctx, l, m.pool, digest); made != nil && !was.spoiled {
		made.id = id
		done(*made)
		return made, nil
	}
	tg, tm := *g, *m
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, bootLimit)
		defer cancel()
		made, err := p.makeTemplate(ctx, l, &tg, &tm, digest)
		if err != nil {
			done(memory{until: time.Now().Add(templateRest), spoiled: was.spoiled})
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

func mayRelabel(version string) bool {
	for _, v := range relabelled {
		if strings.HasPrefix(version, v) {
			return true
		}
	}
	return false
}
