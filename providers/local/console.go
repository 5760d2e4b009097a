//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package local

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/rouse-ci/rouse/providers"
)

const (
	consoleTail = 64 << 10 // what Console returns at most
	consoleFull = 1 << 20  // where console.log is cut
)

// Console implements providers.ConsoleReader.
func (p *provider) Console(ctx context.Context, key providers.Key) ([]byte, error) {
	if _, err := p.get(ctx, "console", key); err != nil {
		return nil, err
	}
	out, err := console(p.dir(key))
	if err != nil {
		return nil, providers.Errorf(providers.Unknown, "console", "%w", err)
	}
	return out, nil
}

// console returns the last bytes of what an agent printed.
func console(dir string) ([]byte, error) {
	now, err := tail(filepath.Join(dir, fileConsole))
	if err != nil || len(now) == consoleTail {
		return now, err
	}
	older, err := tail(filepath.Join(dir, fileOlder))
	all := append(older, now...)
	return all[max(0, len(all)-consoleTail):], err
}

// tail returns the last bytes of a file; a missing file is empty.
func tail(name string) ([]byte, error) {
	f, err := os.Open(name)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-consoleTail), consoleTail))
}

// trim bounds console.log. The agent appends to it, so it goes on at the new end; what it prints between the two steps is lost.
func trim(dir string) {
	name := filepath.Join(dir, fileConsole)
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() < consoleFull {
		return
	}
	if old, err := tail(name); err == nil {
		_ = os.WriteFile(filepath.Join(dir, fileOlder), old, 0o600)
	}
	_ = os.Truncate(name, 0)
}

// unknownEnd is said of an agent whose end nobody can tell the reason of: only its parent could, the process of the master that started it.
const unknownEnd = "ended; only the master that started it could have seen how"

// epitaph says how an agent ended: if it has ended itself, with the last thing that it said. What was killed did not know of it, so its last words explain nothing.
func (p *provider) epitaph(key providers.Key, how string) string {
	if !strings.HasPrefix(how, exitStatus) {
		return how
	}
	out, _ := console(p.dir(key))
	out = bytes.TrimSpace(out)
	last := string(out[bytes.LastIndexByte(out, '\n')+1:])
	last = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(last, "?"))
	if r := []rune(last); len(r) > 200 {
		last = string(r[:200]) + "…"
	}
	if last == "" {
		return how
	}
	return how + ": " + last
}
