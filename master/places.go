package master

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store/sqlite"
	"github.com/rouse-ci/rouse/providers"
)

// A provider's block may say where its instances live: a region, an account, a host. Changing that must not lose those that live elsewhere, since the
// provider of the new place would not find them, and would call that a proof that they are gone. So the core, the engine and the store know a
// provider by its handle: the block's name, and its place if it has one (see model.ProviderName). What people see is the name.

// house is what is needed to open providers, by a master and by who plans without one.
type house struct {
	kinds    map[string]providers.Kind
	owner    providers.Owner
	stateDir string
	log      *slog.Logger
}

// handle names a block and its place. It must never change for a place: instances in the store are found again by it.
func (h *house) handle(b *hcl.Provider) string {
	k, ok := h.kinds[b.Kind].(providers.PlaceKind)
	if !ok {
		return b.Name
	}
	place := k.Place(b.Config)
	if place == "" {
		return b.Name
	}
	sum := sha256.Sum256([]byte(place))
	return b.Name + "@" + slug(place) + hex.EncodeToString(sum[:4])
}

// slug makes the readable part of a handle.
func slug(place string) string {
	const most = 24
	var b strings.Builder
	for _, r := range strings.ToLower(place) {
		if b.Len() == most {
			break
		}
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			b.WriteRune(r)
		} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
			b.WriteByte('-')
		}
	}
	s := strings.Trim(b.String(), "-")
	if s == "" {
		return ""
	}
	return s + "-"
}

// handles are those of a configuration's providers, by their names.
func (h *house) handles(blocks []hcl.Provider) map[string]string {
	m := make(map[string]string, len(blocks))
	for i := range blocks {
		m[blocks[i].Name] = h.handle(&blocks[i])
	}
	return m
}

// kindsOf are the kinds of a configuration's providers, by their handles.
func (h *house) kindsOf(blocks []hcl.Provider) map[string]string {
	m := make(map[string]string, len(blocks))
	for i := range blocks {
		m[h.handle(&blocks[i])] = blocks[i].Kind
	}
	return m
}

// open opens the provider of one block. It may block as long as the kind likes.
func (h *house) open(ctx context.Context, b *hcl.Provider, readOnly bool) (engine.Opened, error) {
	k := h.kinds[b.Kind]
	if k == nil {
		return engine.Opened{}, fmt.Errorf("open provider %s %q: this program has no such kind", b.Kind, b.Name)
	}
	dir := filepath.Join(h.stateDir, "providers", b.Kind, h.handle(b))
	p, lim, err := k.Open(ctx, providers.Env{Name: b.Name, Owner: h.owner, Config: b.Config, StateDir: dir, Log: h.log, ReadOnly: readOnly})
	if err != nil {
		return engine.Opened{}, fmt.Errorf("open provider %s %q: %w", b.Kind, b.Name, err)
	}
	return engine.Opened{Provider: p, Limits: lim}, nil
}

// same says whether a block is the one that a provider was opened with.
func (h *house) same(b *hcl.Provider, old []hcl.Provider) bool {
	for i := range old {
		if o := &old[i]; o.Name == b.Name {
			return o.Kind == b.Kind && reflect.DeepEqual(o.Config, b.Config)
		}
	}
	return false
}

// shown is a snapshot as people see it: providers by their blocks' names.
func shown(sn *core.Snapshot) *core.Snapshot {
	if sn == nil || !placed(sn) {
		return sn
	}
	c := *sn
	c.Workers = append([]core.WorkerView(nil), sn.Workers...)
	c.Instances = append([]core.InstanceView(nil), sn.Instances...)
	c.Providers = append([]core.ProviderView(nil), sn.Providers...)
	for i := range c.Workers {
		c.Workers[i].Worker.Provider = model.ProviderName(c.Workers[i].Worker.Provider)
	}
	for i := range c.Instances {
		c.Instances[i].Instance.Provider = model.ProviderName(c.Instances[i].Instance.Provider)
	}
	for i := range c.Providers {
		c.Providers[i].Name = model.ProviderName(c.Providers[i].Name)
	}
	return &c
}

// placed says whether any provider has a place.
func placed(sn *core.Snapshot) bool {
	for i := range sn.Providers {
		if strings.Contains(sn.Providers[i].Name, "@") {
			return true
		}
	}
	for i := range sn.Instances {
		if strings.Contains(sn.Instances[i].Instance.Provider, "@") {
			return true
		}
	}
	return false
}

// shownEngine is the engine as the API sees it.
type shownEngine struct{ *engine.Engine }

func (e shownEngine) Snapshot(ctx context.Context) (*core.Snapshot, error) {
	sn, err := e.Engine.Snapshot(ctx)
	return shown(sn), err
}

// shownRecords are the records as the API and the meter see them.
type shownRecords struct{ *sqlite.Store }

func (r shownRecords) Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error) {
	in, err := r.Store.Instance(ctx, key)
	in.Provider = model.ProviderName(in.Provider)
	return in, err
}

func (r shownRecords) Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error) {
	list, err := r.Store.Instances(ctx, worker, limit)
	for i := range list {
		list[i].Provider = model.ProviderName(list[i].Provider)
	}
	return list, err
}
