package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// defaultTimeout is Buildbot's limit without output for the commands that run rm and cp.
const defaultTimeout = 120 * time.Second

// outcome reports a file-system command as Buildbot does: rc is 0, or the errno after a header that tells what went wrong.
func (j *job) outcome(what string, err error) error {
	if err == nil {
		j.rc(0)
	} else {
		j.header("%s: %v\n", what, err)
		rc := 1
		var errno syscall.Errno
		if errors.As(err, &errno) {
			rc = int(errno)
		}
		j.rc(rc)
	}
	j.elapsed()
	return nil
}

func (j *job) mkdir(context.Context) error {
	paths, err := j.pathsArg("paths")
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := os.MkdirAll(p, 0o777); err != nil {
			return j.outcome("mkdir", err)
		}
	}
	return j.outcome("", nil)
}

// rmdir runs rm -rf, since a large tree takes long: the usual limits and interrupts work. If it fails, permissions are repaired for a second try.
func (j *job) rmdir(ctx context.Context) error {
	paths, err := j.pathsArg("paths")
	if err != nil {
		return err
	}
	var last int
	for _, p := range paths {
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		rc, err := j.tool(ctx, "rm", "-rf", "--", p)
		if err == nil && rc != 0 && ctx.Err() == nil {
			if _, err = j.tool(ctx, "chmod", "-Rf", "u+rwx", "--", p); err == nil {
				rc, err = j.tool(ctx, "rm", "-rf", "--", p)
			}
		}
		if err != nil {
			return err
		}
		if rc != 0 {
			last = rc
		}
	}
	j.rc(last)
	j.elapsed()
	return nil
}

func (j *job) cpdir(ctx context.Context) error {
	from, err := j.pathArg("from_path")
	if err != nil {
		return err
	}
	to, err := j.pathArg("to_path")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return j.outcome("cpdir", err)
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		// cp would make a directory inside. The contents are meant to be merged.
		from = strings.TrimSuffix(from, "/") + "/."
	}
	rc, err := j.tool(ctx, "cp", "-R", "-P", "-p", "--", from, to)
	if err != nil {
		return err
	}
	j.rc(rc)
	j.elapsed()
	return nil
}

// tool runs one of the system's programs with the limits of the command's arguments.
func (j *job) tool(ctx context.Context, words ...string) (int, error) {
	p := program{argv: words, dir: j.Basedir, env: os.Environ(), stdout: true, stderr: true, signal: syscall.SIGKILL, maxLines: -1}
	var err error
	if p.timeout, err = j.seconds("timeout"); err != nil {
		return 0, err
	}
	if j.Args["timeout"] == nil {
		p.timeout = defaultTimeout
	}
	if p.maxTime, err = j.seconds("maxTime"); err != nil {
		return 0, err
	}
	j.header("%s\n", quote(words))
	return j.exec(ctx, p)
}

// stat gives Python's ten numbers of os.stat.
func (j *job) stat(context.Context) error {
	p, err := j.pathArg("path")
	if err != nil {
		return err
	}
	var s syscall.Stat_t
	if err := syscall.Stat(p, &s); err != nil {
		return j.outcome("stat", &fs.PathError{Op: "stat", Path: p, Err: err})
	}
	j.sink.Update("stat", []any{int64(s.Mode), int64(s.Ino), int64(s.Dev), int64(s.Nlink), int64(s.Uid), int64(s.Gid), s.Size,
		int64(s.Atim.Sec), int64(s.Mtim.Sec), int64(s.Ctim.Sec)}) //nolint:unconvert // 32 bits on some systems
	return j.outcome("", nil)
}

func (j *job) listdir(context.Context) error {
	p, err := j.pathArg("path")
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return j.outcome("listdir", err)
	}
	names, err := f.Readdirnames(proto.MaxItems + 1)
	_ = f.Close()
	if err != nil && len(names) == 0 && !isEOF(err) {
		return j.outcome("listdir", err)
	}
	return j.files("listdir", names)
}

func (j *job) rmfile(context.Context) error {
	p, err := j.pathArg("path")
	if err != nil {
		return err
	}
	if err := syscall.Unlink(p); err != nil {
		return j.outcome("rmfile", &fs.PathError{Op: "unlink", Path: p, Err: err})
	}
	return j.outcome("", nil)
}

// files reports a list of names, if it fits into one message.
func (j *job) files(what string, names []string) error {
	size := 0
	list := make([]any, len(names))
	for i, n := range names {
		list[i] = strings.ToValidUTF8(n, "\uFFFD")
		size += len(n) + 5
	}
	if len(names) > proto.MaxItems || size > proto.MaxMessage/2 {
		return j.outcome(what, fmt.Errorf("%d names (%d bytes) are too many for one answer: %w", len(names), size, syscall.E2BIG))
	}
	j.sink.Update("files", list)
	return j.outcome("", nil)
}
