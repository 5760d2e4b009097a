package run

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rouse-ci/rouse/worker/proto"
)

var errTooLarge = errors.New("too large")

// transferred reports a transfer's end: rc 0, or rc 1 and what went wrong on stderr.
func (j *job) transferred(err error) error {
	rc := 0
	if err != nil {
		rc = 1
		j.text(proto.Stderr, "%v\n", err)
	}
	j.rc(rc)
	j.elapsed()
	return nil
}

// blockSize is the master's wish within what the protocol carries.
func (j *job) blockSize() (int, error) {
	n, err := j.count("blocksize")
	if n <= 0 {
		n = proto.MaxOutput
	}
	return int(min(n, proto.MaxOutput)), err
}

// remote writes to the master, one block per request, and stops when more than limit bytes come (limit < 0 is none).
type remote struct {
	ctx   context.Context
	j     *job
	op    string
	limit int64
}

func (w *remote) Write(p []byte) (int, error) {
	over := w.limit >= 0 && int64(len(p)) > w.limit
	if over {
		p = p[:w.limit]
	}
	if len(p) > 0 {
		if _, err := w.j.call(w.ctx, w.op, map[string]any{"args": p}); err != nil {
			return 0, err
		}
	}
	if w.limit >= 0 {
		w.limit -= int64(len(p))
	}
	if over {
		return len(p), errTooLarge
	}
	return len(p), nil
}

func (j *job) call(ctx context.Context, op string, fields map[string]any) (any, error) {
	if ctx.Err() != nil {
		return nil, errors.New("transfer interrupted")
	}
	if j.Master == nil {
		return nil, errors.New("transfer has no master")
	}
	return j.Master.Call(ctx, op, fields)
}

func (j *job) uploadFile(ctx context.Context) error {
	path, block, limit, err := j.transferArgs()
	if err != nil {
		return err
	}
	keep, err := j.flag("keepstamp", false)
	if err != nil {
		return err
	}
	j.header("sending %s\n", path)
	err = j.sendFile(ctx, path, block, limit)
	if err == nil && keep {
		var info fs.FileInfo
		if info, err = os.Stat(path); err == nil {
			st, _ := info.Sys().(*syscall.Stat_t)
			_, err = j.call(ctx, proto.OpUploadFileUtime, map[string]any{
				"access_time":   float64(st.Atim.Sec) + float64(st.Atim.Nsec)/1e9,
				"modified_time": float64(st.Mtim.Sec) + float64(st.Mtim.Nsec)/1e9})
		}
	}
	return j.transferred(err)
}

// sendFile sends a file's blocks and, whatever happened, the close.
func (j *job) sendFile(ctx context.Context, path string, block int, limit int64) error {
	err := j.sendBlocks(ctx, path, block, limit)
	if _, cerr := j.call(ctx, proto.OpUploadFileClose, nil); err == nil {
		err = cerr
	}
	return err
}

func (j *job) sendBlocks(ctx context.Context, path string, block int, limit int64) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("Cannot open file %q for upload: %w", path, err)
	}
	defer f.Close() // only read
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return fmt.Errorf("Cannot open file %q for upload: it is a directory", path)
	}
	w := &remote{ctx: ctx, j: j, op: proto.OpUploadFileWrite, limit: limit}
	// The wrappers hide ReadFrom and WriteTo, which would bypass the block size.
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, block))
	if errors.Is(err, errTooLarge) {
		return fmt.Errorf("Maximum filesize reached, truncating file %q", path)
	}
	return err
}

func (j *job) transferArgs() (path string, block int, limit int64, err error) {
	if path, err = j.pathArg("path"); err != nil {
		return
	}
	if block, err = j.blockSize(); err != nil {
		return
	}
	limit, err = j.count("maxsize")
	return
}

func (j *job) uploadDirectory(ctx context.Context) error {
	path, block, limit, err := j.transferArgs()
	if err != nil {
		return err
	}
	compress, err := j.str("compress")
	if err != nil {
		return err
	}
	j.header("sending %s\n", path)
	switch compress {
	case "", "gz":
	default:
		return j.transferred(fmt.Errorf("cannot compress with %q: this worker writes gz and uncompressed archives", compress))
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return j.transferred(fmt.Errorf("Cannot read directory %q for upload: %w", path, cmpErr(err, syscall.ENOTDIR)))
	}
	w := &remote{ctx: ctx, j: j, op: proto.OpUploadDirectoryWrite, limit: limit}
	err = writeArchive(bufio.NewWriterSize(w, block), path, compress == "gz")
	if errors.Is(err, errTooLarge) {
		err = fmt.Errorf("Maximum filesize reached, truncating directory %q", path)
	}
	if err == nil {
		_, err = j.call(ctx, proto.OpUploadDirectoryUnpack, nil)
	}
	return j.transferred(err)
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func writeArchive(b *bufio.Writer, dir string, compress bool) error {
	var w io.Writer = b
	var zip *gzip.Writer
	if compress {
		zip = gzip.NewWriter(b)
		w = zip
	}
	t := tar.NewWriter(w)
	if err := addTree(t, dir); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	if zip != nil {
		if err := zip.Close(); err != nil {
			return err
		}
	}
	return b.Flush()
}

// addTree adds what is in dir, with names relative to it. Sockets and devices are left out.
func addTree(t *tar.Writer, dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		link := ""
		switch {
		case info.Mode().IsRegular(), info.IsDir():
		case info.Mode()&fs.ModeSymlink != 0:
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		default:
			return nil
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(dir, p); err != nil {
			return err
		}
		if info.IsDir() {
			h.Name += "/"
		}
		if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close() // only read
		if _, err := io.CopyN(t, f, h.Size); err != nil {
			return fmt.Errorf("%s: file shrank while it was sent: %w", p, err)
		}
		return nil
	})
}

// downloadFile writes next to the target and renames at the end: an interrupted transfer leaves the old file alone.
func (j *job) downloadFile(ctx context.Context) error {
	path, block, limit, err := j.transferArgs()
	if err != nil {
		return err
	}
	mode, err := j.count("mode")
	if err != nil {
		return err
	}
	err = j.receive(ctx, path, block, limit, mode)
	if _, cerr := j.call(ctx, proto.OpReadFileClose, nil); err == nil {
		err = cerr
	}
	return j.transferred(err)
}

func (j *job) receive(ctx context.Context, path string, block int, limit, mode int64) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	part := path + ".rouse-part"
	perm := fs.FileMode(0o666)
	if mode >= 0 {
		perm = 0o600 // it may hold a secret: nobody else reads it before it has its mode
	}
	_ = os.Remove(part) // of an earlier transfer
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("Cannot open file %q for download: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(part)
		}
	}()
	for {
		answer, err := j.call(ctx, proto.OpReadFile, map[string]any{"length": int64(block)})
		if err != nil {
			return err
		}
		data, ok := answer.([]byte)
		if !ok && answer != nil {
			return fmt.Errorf("the master's answer is a %T, want bytes", answer)
		}
		if len(data) == 0 {
			break
		}
		if limit >= 0 && int64(len(data)) > limit {
			return fmt.Errorf("Maximum filesize reached, truncating file %q", path)
		}
		if limit >= 0 {
			limit -= int64(len(data))
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	if mode >= 0 {
		if err := f.Chmod(fs.FileMode(mode & 0o777)); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(part, path)
}
