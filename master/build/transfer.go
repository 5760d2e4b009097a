package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
)

const (
	blockSize     = 256 << 10 // of one message of a transfer
	partPrefix    = ".part-"  // of the names of what is not whole yet
	transferTries = 10        // connections that may end under one transfer
	defaultMax    = 1 << 30   // bytes of one transfer
	maxFiles      = 10_000    // files of one downloaded directory
	typeMask      = 0o170000  // of a mode as stat has it
	typeDirectory = 0o040000
)

var errTooLarge = errors.New("larger than max_size")

// upload runs an upload step. What arrives is written under a name of its own and takes its place when it is whole.
func (s *step) upload(spec *hcl.UploadSpec) (model.Result, string, error) {
	from := s.workdir(path.Join(spec.Workdir, spec.From))
	if path.IsAbs(spec.From) {
		from = path.Clean(spec.From)
	}
	to := spec.To
	if to == "" {
		to = path.Base(from)
	}
	to = path.Clean(to)
	if !localPath(to) || to == "." {
		return 0, "", fmt.Errorf("%q is not a path within the build's artifacts", spec.To)
	}
	limit := spec.MaxSize
	if limit <= 0 {
		limit = defaultMax
	}
	if s.run.resumed {
		s.removeParts(path.Dir(to))
	}
	d, err := s.command(cmd{name: "stat", again: true, args: map[string]any{"path": from}, show: "looking at " + from})
	if err != nil {
		return 0, "", err
	}
	if !d.ok() {
		return model.Failure, spec.From + " is not there", nil
	}
	directory := d.Mode&typeMask == typeDirectory
	d, err = s.moved("uploading "+from+" as "+to, func(item int) (done, error) { return s.receive(item, from, to, limit, directory) })
	if err != nil {
		return 0, "", err
	}
	if !d.ok() {
		return model.Failure, fmt.Sprintf("upload of %s failed: %s", spec.From, d.Text), nil
	}
	return model.Success, "uploaded to " + filepath.Join(s.Artifacts, s.artifactDir()) + "/" + d.Out, nil
}

// moved makes one transfer the next item of the step, between a line in the log that says what is done and one with what came of it.
func (s *step) moved(what string, transfer func(item int) (done, error)) (done, error) {
	return s.item(true, func(item int, _ bool) (done, error) {
		if err := s.head(what); err != nil {
			return done{}, err
		}
		d, err := s.unbroken(func() (done, error) { return transfer(item) })
		if err != nil {
			return done{}, err
		}
		return d, s.note(d.Text)
	})
}

// receive takes a file or a directory from the agent. What the agent does wrong makes a done that is not ok; errors are ours.
func (s *step) receive(item int, from, to string, limit int64, dir bool) (done, error) {
	root, err := s.artifacts()
	if err != nil {
		return done{}, err
	}
	defer closeRoot(root)
	if parent := path.Dir(to); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return done{}, fmt.Errorf("cannot make the artifacts' directory: %w", err)
		}
	}
	id := s.commandID(item, s.st.Tries)
	part := path.Join(path.Dir(to), partPrefix+id)
	c := cmd{args: map[string]any{"path": from, "workdir": path.Dir(from), "workersrc": path.Base(from), "maxsize": limit, "blocksize": blockSize}}
	var in sink
	if dir {
		c.name, c.args["compress"] = "upload_directory", nil
		in, err = newTarSink(root, part, limit)
	} else {
		c.name, c.args["keepstamp"] = "upload_file", false
		in, err = newFileSink(root, part, limit)
	}
	if err != nil {
		return done{}, fmt.Errorf("cannot store the upload: %w", err)
	}
	defer func() {
		_, _ = in.finish()
		_ = root.RemoveAll(part) // nothing is there after a success
	}()

	c.upload, c.maxUpload = in, math.MaxInt64/2 // the sink counts
	d, err := s.send(id, c, false)
	size, bad := in.finish()
	var refused *refusal
	switch {
	case errors.Is(bad, errTooLarge), errors.As(bad, &refused):
		if s.ctx.Err() != nil {
			return done{}, context.Cause(s.ctx)
		}
		return done{RC: 1, Text: bad.Error()}, nil
	case err != nil:
		return done{}, err
	case !d.ok():
		if d.Text == "" {
			d.Text = fmt.Sprintf("the agent says %d", d.RC)
		}
		return d, nil
	case bad != nil:
		return done{}, fmt.Errorf("cannot store the upload: %w", bad)
	}
	if err := replace(root, part, to); err != nil {
		return done{}, fmt.Errorf("cannot store the upload: %w", err)
	}
	return done{Out: to + " (" + bytesText(size) + ")"}, nil
}

// unbroken does a transfer again, under another ID, when its connection ended under it.
func (s *step) unbroken(transfer func() (done, error)) (done, error) {
	for n := 1; ; n++ {
		d, err := transfer()
		if !errors.Is(err, session.ErrBroken) || n == transferTries {
			return d, err
		}
		s.Log.Info("a transfer is done again: its connection ended", "build", s.job.ID, "step", s.n, "tries", n)
		s.st.Tries++
		if err := s.save(); err != nil { // an ID is used once, also by the next master
			return done{}, &saveError{err}
		}
	}
}

// removeParts removes what an earlier master had received of this step's upload when it died.
func (s *step) removeParts(dir string) {
	root, err := s.artifacts()
	if err != nil {
		return // the upload will say so
	}
	defer closeRoot(root)
	entries, _ := fs.ReadDir(root.FS(), dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), fmt.Sprintf("%sb%d.s%d.", partPrefix, s.job.ID, s.n)) {
			continue
		}
		if err := root.RemoveAll(path.Join(dir, e.Name())); err != nil {
			s.Log.Warn("cannot remove a part of an upload", "build", s.job.ID, "step", s.n, "error", err)
		}
	}
}

// replace puts a whole upload in its place.
func replace(root *os.Root, part, to string) error {
	if fi, err := root.Lstat(to); err == nil && fi.IsDir() {
		if err := root.RemoveAll(to); err != nil {
			return err
		}
	}
	return root.Rename(part, to)
}

// artifacts opens the build's directory of artifacts. Nothing outside it can be reached through what is returned.
func (s *step) artifacts() (*os.Root, error) {
	if s.Artifacts == "" {
		return nil, errors.New("the master has no directory for artifacts")
	}
	if err := os.MkdirAll(s.Artifacts, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the artifacts' directory: %w", err)
	}
	top, err := os.OpenRoot(s.Artifacts)
	if err != nil {
		return nil, err
	}
	defer closeRoot(top)
	dir := s.artifactDir()
	if err := top.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the artifacts' directory: %w", err)
	}
	return top.OpenRoot(dir)
}

// artifactDir is where the build's artifacts are, below those of all.
func (s *step) artifactDir() string {
	return path.Join(s.buildDir(), strconv.FormatInt(int64(s.job.ID), 10))
}

func closeRoot(r *os.Root) { _ = r.Close() }

// localPath says whether a slash-separated path stays where it starts, and is fit to be a file's name.
func localPath(p string) bool {
	return filepath.IsLocal(p) && utf8.ValidString(p) && len(p) <= 1024 && !strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// sink is where an upload's bytes go. finish ends it and says how many bytes there were, and what was wrong with them.
type sink interface {
	io.Writer
	finish() (int64, error)
}

// fileSink writes one file.
type fileSink struct {
	f     *os.File
	size  int64
	limit int64
	err   error
}

func newFileSink(root *os.Root, name string, limit int64) (sink, error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	return &fileSink{f: f, limit: limit}, nil
}

func (w *fileSink) Write(p []byte) (int, error) {
	if w.err == nil && w.size+int64(len(p)) > w.limit {
		w.err = errTooLarge
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	w.size, w.err = w.size+int64(n), err
	return n, err
}

func (w *fileSink) finish() (int64, error) {
	if w.err == nil {
		w.err = w.f.Sync()
	}
	if err := w.f.Close(); w.err == nil {
		w.err = err
	}
	return w.size, w.err
}

// download runs a download step.
func (s *step) download(spec *hcl.DownloadSpec) (model.Result, string, error) {
	to := s.workdir(path.Join(spec.Workdir, spec.To))
	if path.IsAbs(spec.To) {
		to = path.Clean(spec.To)
	}
	limit := spec.MaxSize
	if limit <= 0 {
		limit = defaultMax
	}
	mode := spec.Mode
	if mode == 0 {
		mode = 0o644
	}
	d, err := s.moved("downloading to "+to, func(item int) (done, error) { return s.provide(item, spec, to, mode, limit) })
	if err != nil {
		return 0, "", err
	}
	if !d.ok() {
		return model.Failure, fmt.Sprintf("download of %s failed: %s", spec.To, d.Text), nil
	}
	return model.Success, "downloaded " + spec.To, nil
}

// provide gives a file, a text or a directory to the agent.
func (s *step) provide(item int, spec *hcl.DownloadSpec, to string, mode int, limit int64) (done, error) {
	if spec.Content != nil {
		if int64(len(*spec.Content)) > limit {
			return done{RC: 1, Text: "the content is " + errTooLarge.Error()}, nil
		}
		return s.give(s.commandID(item, s.st.Tries), strings.NewReader(*spec.Content), to, mode)
	}
	if !filepath.IsAbs(spec.From) { // hcl makes it absolute
		return done{}, fmt.Errorf("%q is not an absolute path", spec.From)
	}
	dir, name := filepath.Split(filepath.Clean(spec.From))
	root, err := os.OpenRoot(dir)
	if err != nil {
		return done{RC: 1, Text: fmt.Sprintf("cannot open the directory of %q", spec.From)}, nil
	}
	defer closeRoot(root)
	files, err := list(root, name, limit)
	if err != nil {
		return done{RC: 1, Text: fmt.Sprintf("cannot read %q: %s", spec.From, reason(err))}, nil
	}
	var d done
	for i, f := range files {
		id := s.commandID(item, s.st.Tries)
		dest, m := to, mode
		if f.rel != "." {
			id += "." + strconv.Itoa(i)
			dest = path.Join(to, f.rel)
			m = int(f.mode.Perm())
		}
		if d, err = s.giveFile(root, id, f.name, dest, m, limit); err != nil || !d.ok() {
			return d, err
		}
	}
	return d, nil
}

// file is one file to be downloaded.
type file struct {
	name string // under the root
	rel  string // under the directory that is downloaded; "." for a single file
	mode fs.FileMode
}

// list finds what is to be downloaded: one file, or all regular files of a directory.
func list(root *os.Root, name string, limit int64) ([]file, error) {
	var files []file
	var size int64
	top := filepath.ToSlash(name)
	err := fs.WalkDir(root.FS(), top, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := root.Stat(p) // a link within the directory counts as what it points to
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			if p == top {
				return errors.New("not a file or a directory")
			}
			return nil
		}
		if size += fi.Size(); size > limit {
			return errTooLarge
		}
		if len(files) == maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		rel := "."
		if p != top {
			rel = strings.TrimPrefix(strings.TrimPrefix(p, top), "/")
			if top == "." {
				rel = p
			}
		}
		files = append(files, file{name: p, rel: rel, mode: fi.Mode()})
		return nil
	})
	if err == nil && len(files) == 0 {
		err = errors.New("no file is there")
	}
	return files, err
}

// reason is what an error of the file system says without the path, which the caller names.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func (s *step) giveFile(root *os.Root, id, name, to string, mode int, limit int64) (done, error) {
	f, err := root.Open(name)
	if err != nil {
		return done{RC: 1, Text: fmt.Sprintf("cannot read %q: %s", name, reason(err))}, nil
	}
	defer func() { _ = f.Close() }()
	return s.give(id, io.LimitReader(f, limit), to, mode)
}

func (s *step) give(id string, r io.Reader, to string, mode int) (done, error) {
	d, err := s.send(id, cmd{name: "download_file", download: r,
		args: map[string]any{"path": to, "workdir": path.Dir(to), "workerdest": path.Base(to), "maxsize": nil, "blocksize": blockSize, "mode": mode}}, false)
	if err == nil && !d.ok() && d.Text == "" {
		d.Text = fmt.Sprintf("the agent says %d", d.RC)
	}
	return d, err
}

func newReader(p []byte) io.Reader { return bytes.NewReader(p) }

// bytesText shows a size.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
