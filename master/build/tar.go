package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Bounds of an uploaded directory.
const (
	maxEntries = 100_000
	maxDepth   = 64
)

// refusal says why something that an agent sent is not accepted.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// tarSink unpacks a tar stream, as it arrives, into a new directory.
type tarSink struct {
	w    *io.PipeWriter
	size int64
	err  error
	end  chan struct{}
}

func newTarSink(root *os.Root, name string, limit int64) (sink, error) {
	if err := root.Mkdir(name, 0o755); err != nil {
		return nil, err
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	s := &tarSink{w: w, end: make(chan struct{})}
	go func() {
		defer close(s.end)
		defer closeRoot(dir)
		s.size, s.err = untar(dir, r, limit)
		_ = r.CloseWithError(s.err) // what follows the archive's end is accepted and dropped, what follows a refusal is not
		if s.err == nil {
			return
		}
	}()
	return s, nil
}

func (s *tarSink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return len(p), nil
	}
	return n, err
}

func (s *tarSink) finish() (int64, error) {
	_ = s.w.Close()
	<-s.end
	return s.size, s.err
}

// untar unpacks a hostile archive. Entries can only make things below dir: os.Root sees to that for what is opened, and the rules here for
// what is left behind for others to read. No entry goes through a symbolic link, and no link leads out: its target is relative and climbs
// only at its beginning, and not above dir.
func untar(dir *os.Root, r io.Reader, limit int64) (int64, error) {
	u := &unpacker{dir: dir, limit: limit, kinds: map[string]byte{".": tar.TypeDir}}
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			if _, err := io.Copy(io.Discard, r); err != nil { // padding
				return u.size, err
			}
			return u.size, nil
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrHeader):
			return u.size, refuse("the archive is damaged: %s", err)
		case err != nil:
			return u.size, refuse("the archive cannot be read: %s", err)
		case n == maxEntries:
			return u.size, refuse("more than %d files", maxEntries)
		}
		if err := u.entry(h, t); err != nil {
			return u.size, err
		}
	}
}

type unpacker struct {
	dir   *os.Root
	limit int64
	size  int64
	kinds map[string]byte // what was made, by its path
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	if name == "" || name == "." { // the directory itself, as Python's tarfile names it
		return nil
	}
	if !localPath(name) || strings.Count(name, "/") >= maxDepth {
		return refuse("the archive holds %q, which is outside of it or not a usable name", shorten(h.Name, 100))
	}
	name = path.Clean(name)
	if name == "." {
		return nil
	}
	if err := u.parents(path.Dir(name)); err != nil {
		return err
	}
	if kind, there := u.kinds[name]; there && (kind != tar.TypeDir || h.Typeflag != tar.TypeDir) {
		return refuse("the archive holds %q twice", name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.mkdir(name)
	case tar.TypeReg:
		return u.file(name, h, r)
	case tar.TypeSymlink:
		if !staysInside(name, h.Linkname) {
			return refuse("the link %q leads out of the directory, to %q", name, shorten(h.Linkname, 100))
		}
		u.kinds[name] = tar.TypeSymlink
		return u.dir.Symlink(h.Linkname, name)
	case tar.TypeLink:
		old := path.Clean(h.Linkname)
		if u.kinds[old] != tar.TypeReg {
			return refuse("the hard link %q is to %q, which is no file of the archive", name, shorten(h.Linkname, 100))
		}
		u.kinds[name] = tar.TypeReg
		return u.dir.Link(old, name)
	}
	return refuse("%q is neither a file nor a directory nor a link", name)
}

// parents makes the directories above an entry; none may be a link.
func (u *unpacker) parents(dir string) error {
	if kind, there := u.kinds[dir]; there {
		if kind != tar.TypeDir {
			return refuse("the archive uses %q as a directory, which it is not", dir)
		}
		return nil
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	return u.mkdir(dir)
}

func (u *unpacker) mkdir(name string) error {
	if _, there := u.kinds[name]; there {
		return nil
	}
	if len(u.kinds) > 2*maxEntries {
		return refuse("more than %d directories", maxEntries)
	}
	u.kinds[name] = tar.TypeDir
	return u.dir.Mkdir(name, 0o755)
}

func (u *unpacker) file(name string, h *tar.Header, r io.Reader) error {
	if h.Size < 0 || h.Size > u.limit-u.size {
		return errTooLarge
	}
	u.kinds[name] = tar.TypeReg
	f, err := u.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(h.Mode&0o111|0o644)) // never setuid, always ours to read
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, h.Size))
	u.size += n
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse("the archive ends within %q", name)
	case err == nil && n < h.Size:
		return refuse("the archive ends within %q", name)
	}
	return err
}

// staysInside says whether a link leads to something below the directory, if every other link does.
func staysInside(name, target string) bool {
	if target == "" || path.IsAbs(target) || len(target) > 1024 || strings.ContainsRune(target, 0) || strings.ContainsRune(target, '\\') {
		return false
	}
	depth := strings.Count(name, "/")
	climbing := true
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "..":
			if depth--; !climbing || depth < 0 {
				return false
			}
		case part != "" && part != ".":
			climbing = false
		}
	}
	return true
}
