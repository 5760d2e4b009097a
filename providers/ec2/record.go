package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/durable"
)

// A journal is what this provider must not forget: StateDir/KEY/launch.json for each key that a launch was tried for, and StateDir/KEY/doomed once
// a Destroy of it was accepted. Both are written and synced before the call that they are about is made. The lock is on the directory.
type journal struct{ dir string }

const (
	fileLaunch = "launch.json"
	fileDoomed = "doomed"

	keepDoom = 48 * time.Hour // EC2 keeps client tokens and lists terminated instances for less
)

// record is how far the launch for a key has come.
type record struct {
	Key    providers.Key `json:"key"`
	Worker string        `json:"worker"`
	Since  time.Time     `json:"since"` // of the first Create

	// Attempt counts launches that differ in anything; the client token is made of key and attempt. Only one attempt of a key is ever open, and
	// the next begins after EC2 has refused it.
	Attempt   int       `json:"attempt"`
	Choice    choice    `json:"choice"`             // the attempt's
	Open      bool      `json:"open,omitempty"`     // it may have been sent, and EC2 has not refused it
	Uncertain time.Time `json:"uncertain,omitzero"` // when a reply was lost last; zero if none was, or if it is so long ago that it cannot matter

	ID       string    `json:"id,omitempty"` // the instance, once known; then no other launch is made for this key
	Launched time.Time `json:"launched,omitzero"`

	Care   bool     `json:"care,omitempty"` // address and volumes below are still to be attached
	IP     string   `json:"elastic_ip,omitempty"`
	Volume []Volume `json:"volumes,omitempty"`
	Assoc  string   `json:"association,omitempty"` // of the address
}

// choice is what is tried in one launch.
type choice struct {
	Type     string `json:"type,omitempty"`
	Zone     string `json:"zone,omitempty"` // whole name
	Subnet   string `json:"subnet,omitempty"`
	Market   string `json:"market"`
	Image    string `json:"image,omitempty"`
	MaxPrice string `json:"max_price,omitempty"`
}

// String names a choice for people, by what capacity depends on.
func (c choice) String() string {
	s := c.Type
	if s == "" {
		s = "the template's type"
	}
	if c.Zone+c.Subnet != "" {
		s += " in " + c.Zone + c.Subnet
	}
	return s + ", " + c.Market
}

func (j journal) path(key providers.Key, name string) string {
	return filepath.Join(j.dir, string(key), name)
}

// lock makes other Creates of this key wait, in this process and in others.
func (j journal) lock(ctx context.Context, key providers.Key) (unlock func(), err error) {
	dir := filepath.Join(j.dir, string(key))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return durable.Lock(ctx, dir)
}

// load returns the record of a key, or nil.
func (j journal) load(key providers.Key) (*record, error) {
	data, err := durable.Read(j.path(key, fileLaunch))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", j.path(key, fileLaunch), err)
	}
	return &r, nil
}

// save writes a record; it is on the disk when save returns.
func (j journal) save(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(j.dir, string(r.Key)), fileLaunch, data)
}

// doom remembers that a Destroy of this key was accepted.
func (j journal) doom(key providers.Key) error {
	if j.doomed(key) {
		return nil
	}
	dir := filepath.Join(j.dir, string(key))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.Write(dir, fileDoomed, nil)
}

func (j journal) doomed(key providers.Key) bool {
	_, err := os.Stat(j.path(key, fileDoomed))
	return err == nil
}

// changed is when a key's record was saved last.
func (j journal) changed(key providers.Key) (time.Time, error) {
	info, err := os.Stat(j.path(key, fileLaunch))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// all returns every record that is not doomed, and removes what was doomed long ago. What cannot be read is skipped: EC2's tags say enough.
func (j journal) all(now time.Time) ([]*record, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, err
	}
	var list []*record
	for _, e := range entries {
		key := providers.Key(e.Name())
		if !key.Valid() || !e.IsDir() {
			continue
		}
		if info, err := os.Stat(j.path(key, fileDoomed)); err == nil {
			if now.Sub(info.ModTime()) > keepDoom {
				_ = os.RemoveAll(filepath.Join(j.dir, e.Name()))
			}
			continue
		}
		r, err := j.load(key)
		if err == nil && (r == nil || r.ID == "") { // nothing was launched
			if info, e := e.Info(); e == nil && now.Sub(info.ModTime()) > keepDoom { // a name in it changes with every save
				_ = os.RemoveAll(filepath.Join(j.dir, string(key)))
			}
			continue
		}
		if err == nil && r.Key == key {
			list = append(list, r)
		}
	}
	return list, nil
}
