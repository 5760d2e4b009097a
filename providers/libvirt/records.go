package libvirt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// record is what must be known of a key besides what the hosts say: where it was to be made, so that a repeated create cannot make it on two
// hosts, and whether its end was asked for, so that no create follows.
type record struct {
	Worker  string
	Host    string
	URI     string `json:",omitempty"` // of the host: its name may have become another one's
	Pool    string
	Dir     string `json:",omitempty"` // of the pool, if it is one that PoolOf made, which a restart of the host forgets
	Image   string // fingerprint of the base that its disk is a clone of
	NVRAM   bool   `json:",omitempty"` // the hypervisor has made a file beside its volumes, which its pool knows of only when it is refreshed
	At      time.Time
	Ended   bool
	EndedAt time.Time
	AskedAt time.Time `json:",omitzero"` // when its end was asked for again, long after: it is not proven yet
}

// lastAsked is when its end was asked for, to within half of keepEnded.
func (r record) lastAsked() time.Time {
	if r.AskedAt.After(r.EndedAt) {
		return r.AskedAt
	}
	return r.EndedAt
}

// keepEnded is how long the end of a key is remembered. A key is never used again; only a call that is still on its way could ask for it.
const keepEnded = 24 * time.Hour

// keepHalf is how long a half-written record is left alone: while a configuration changes, another provider may be writing it.
const keepHalf = time.Hour

// records are files, one for each key. All are in memory, too.
type records struct {
	dir string
	mu  sync.Mutex
	all map[providers.Key]record
}

func openRecords(dir string, readOnly bool) (*records, error) {
	if !readOnly {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of instances: %w", err)
		}
	}
	r := &records{dir: dir, all: map[providers.Key]record{}}
	names, err := os.ReadDir(dir)
	if err != nil && !(readOnly && errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("read the records of instances: %w", err)
	}
	for _, n := range names {
		key, ok := strings.CutSuffix(n.Name(), ".json")
		if !ok || !providers.Key(key).Valid() {
			if info, err := n.Info(); !readOnly && err == nil && time.Since(info.ModTime()) > keepHalf {
				_ = os.Remove(filepath.Join(dir, n.Name())) // a half-written one
			}
			continue
		}
		if _, err := r.reload(providers.Key(key)); err != nil {
			return nil, err
		}
	}
	if !readOnly {
		r.tidy()
	}
	return r, nil
}

// tidy forgets the keys that ended long ago.
func (r *records) tidy() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, rec := range r.all {
		if rec.Ended && time.Since(rec.lastAsked()) > keepEnded && os.Remove(r.file(k)) == nil {
			delete(r.all, k)
		}
	}
}

func (r *records) file(k providers.Key) string { return filepath.Join(r.dir, string(k)+".json") }

// reload reads a record that somebody else may have written. One that is not there is zero.
func (r *records) reload(k providers.Key) (rec record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := durable.Read(r.file(k))
	if errors.Is(err, os.ErrNotExist) {
		return rec, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil {
		return rec, fmt.Errorf("read the record of instance %s: %w", k, err)
	}
	r.all[k] = rec
	return rec, nil
}

func (r *records) load(k providers.Key) (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.all[k]
	return rec, ok
}

// save makes a record durable.
func (r *records) save(k providers.Key, rec record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := durable.Write(r.dir, filepath.Base(r.file(k)), b); err != nil {
		return err
	}
	r.all[k] = rec
	return nil
}

// drop forgets a record, of a create that has certainly come to nothing.
func (r *records) drop(k providers.Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.file(k)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	delete(r.all, k)
	return nil
}

// end remembers that the end of a key was asked for; the first time counts.
func (r *records) end(k providers.Key) error {
	rec, err := r.reload(k)
	if err != nil || rec.Ended {
		return err
	}
	rec.Ended, rec.EndedAt = true, time.Now()
	return r.save(k, rec)
}

// askedAgain keeps the record of a key whose end is still asked for: it says where the instance's volumes are.
func (r *records) askedAgain(k providers.Key) error {
	rec, ok := r.load(k)
	if !ok || !rec.Ended || time.Since(rec.lastAsked()) < keepEnded/2 {
		return nil
	}
	rec.AskedAt = time.Now()
	return r.save(k, rec)
}

// pools are the pools that hold, or may hold, volumes of ours.
func (r *records) pools() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{"": true}
	for _, rec := range r.all {
		if !seen[rec.Pool] {
			seen[rec.Pool] = true
			out = append(out, rec.Pool)
		}
	}
	return out
}

// on are the instances of a host whose end was not asked for.
func (r *records) on(host string) (keys []providers.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, rec := range r.all {
		if rec.Host == host && !rec.Ended {
			keys = append(keys, k)
		}
	}
	return keys
}

// users counts the instances of a host, not ended, whose disks are clones of a base at this path with another content than the one given.
func (r *records) users(host, base, fingerprint string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.all {
		if rec.Host == host && !rec.Ended && rec.Image != fingerprint && strings.HasPrefix(rec.Image, base+"@") {
			n++
		}
	}
	return n
}
