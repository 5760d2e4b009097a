package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// How a template is made, and how it goes.

// makeTemplate boots a guest until its agent waits, and saves it.
func (p *provider) makeTemplate(ctx context.Context, l link, g *guest, m *materials, digest string) (_ *memory, err error) {
	if err := p.pullPlug(ctx, l, p.templateKey(digest)); err != nil { // of one that an earlier life of this master has left
		return nil, err
	}
	disk, save := p.templateName(digest, diskSuffix), p.templateName(digest, saveSuffix)
	for _, name := range []string{disk, save} { // what an earlier attempt, or another master's life, has left
		v, err := l.Volume(ctx, m.pool, name)
		switch {
		case err == nil && p.inUse(ctx, l, m.pool, v):
			return nil, fmt.Errorf("instances still depend on %s", v.Path)
		case unless(noVolume, err) != nil:
			return nil, err
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
		err = errors.Join(err, p.pullPlug(clean, l, g.key))
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
	switch {
	case w.seen:
		return nil
	case err == nil:
		err = errors.New("its machine has ended")
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
