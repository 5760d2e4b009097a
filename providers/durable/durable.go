// Package durable keeps what a provider must not forget: small files in its state directory, and the locks that order whoever works there.
//
// Several masters' processes may have one state directory open (a master, and a command that looks at or ends its instances), and each of them may be
// killed, or lose its power, between any two calls.
package durable

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// MaxFile is the size in bytes up to which Read reads a file. Records are far smaller: a larger one is damaged, or somebody else's.
const MaxFile = 64 << 10

// Read returns the content of a file. The error is fs.ErrNotExist when there is none.
func Read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case len(data) > MaxFile:
		return nil, fmt.Errorf("%s has more than %d bytes: it is no record", name, MaxFile)
	}
	return data, nil
}

// Write makes or replaces a file as a whole, mode 0600. When it returns without an error, the file outlives a loss of power.
func Write(dir, name string, data []byte) error {
	if err := Replace(dir, name, data, true); err != nil {
		return err
	}
	return syncDir(dir)
}

// Replace makes or replaces a file as a whole, mode 0600: a reader sees the old content or the new one. With sync the same holds after a loss of power;
// without, what the file has then is undefined.
func Replace(dir, name string, data []byte, sync bool) error {
	f, err := os.CreateTemp(dir, "."+name+"-*") // mode 0600; a name of its own, since another process may be at it
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
	}
	return err
}
