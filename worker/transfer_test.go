package worker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/worker/proto"
)

// uploads lets the master take blocks into the buffer that it returns. Read it only after the command's end.
func uploads(m *master, ops *[]string) *bytes.Buffer {
	var got bytes.Buffer
	for _, op := range []string{proto.OpUploadFileWrite, proto.OpUploadFileClose, proto.OpUploadFileUtime, proto.OpUploadDirectoryWrite, proto.OpUploadDirectoryUnpack} {
		m.answer[op] = func(msg proto.Message) (any, string) {
			*ops = append(*ops, op)
			if b, ok := msg.Fields["args"].([]byte); ok {
				got.Write(b)
				if len(b) > proto.MaxOutput {
					return nil, "too large"
				}
			}
			return nil, ""
		}
	}
	return &got
}

func TestUploadFile(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	var ops []string
	got := uploads(m, &ops)
	a, _ := m.agent(nil)
	m.attach(1)
	data := bytes.Repeat([]byte("0123456789"), 70_000)
	if err := os.WriteFile(filepath.Join(a.cfg.Basedir, "f"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start("u", "upload_file", map[string]any{"path": "f", "keepstamp": true, "blocksize": int64(1 << 30)})
	if l := m.finish("u"); l.value("rc") != int64(0) || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%v, %d bytes", l.done, got.Len())
	}
	if s := strings.Join(ops, " "); !strings.HasSuffix(s, "write update_upload_file_close update_upload_file_utime") {
		t.Errorf("order %s", s)
	}
	got.Reset()
	m.start("max", "upload_file", map[string]any{"path": "f", "maxsize": int64(1000), "blocksize": int64(300)})
	if l := m.finish("max"); l.value("rc") != int64(1) || !bytes.Equal(got.Bytes(), data[:1000]) || !strings.Contains(l.text(proto.Stderr), "Maximum filesize reached") {
		t.Errorf("%v, %d bytes", l.done, got.Len())
	}
	m.start("none", "upload_file", map[string]any{"path": "missing"})
	if l := m.finish("none"); l.value("rc") != int64(1) || !strings.Contains(l.text(proto.Stderr), "Cannot open file") {
		t.Errorf("%v", l.done)
	}
}

func TestUploadDirectory(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	var ops []string
	got := uploads(m, &ops)
	a, _ := m.agent(nil)
	m.attach(1)
	dir := filepath.Join(a.cfg.Basedir, "d")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, "sub/f"), []byte("text"), 0o644),
		os.Symlink("sub/f", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	m.start("u", "upload_directory", map[string]any{"path": "d", "compress": "gz"})
	if l := m.finish("u"); l.value("rc") != int64(0) {
		t.Fatalf("%v %s", l.done, l.text(proto.Stderr))
	}
	zip, err := gzip.NewReader(got)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if s := strings.Join(names, " "); s != "link sub/ sub/f" {
		t.Errorf("members %q", s)
	}
	if ops[len(ops)-1] != proto.OpUploadDirectoryUnpack {
		t.Errorf("order %v", ops)
	}
	for id, args := range map[string]map[string]any{"bz": {"path": "d", "compress": "bz2"}, "none": {"path": "missing"}} {
		m.start(id, "upload_directory", args)
		if l := m.finish(id); l.value("rc") != int64(1) || l.text(proto.Stderr) == "" {
			t.Errorf("%s: %v", id, l.done)
		}
	}
}

func TestDownloadFile(t *testing.T) {
	t.Parallel()
	m := newMaster(t)
	data := bytes.Repeat([]byte("abcdefg"), 100_000)
	rest := data
	base := ""
	m.answer[proto.OpReadFile] = func(msg proto.Message) (any, string) {
		n, _ := msg.Fields["length"].(int64)
		b := rest[:min(int64(len(rest)), n)]
		rest = rest[len(b):]
		if parts, _ := filepath.Glob(filepath.Join(base, "new/dir/*.rouse-part")); len(parts) == 1 && msg.CommandID == "d" {
			if info, err := os.Stat(parts[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the half file is %v for others to read (%v)", info.Mode(), err)
			}
		}
		return b, ""
	}
	a, _ := m.agent(nil)
	m.mu.Lock()
	base = a.cfg.Basedir
	m.mu.Unlock()
	m.attach(1)
	m.start("d", "download_file", map[string]any{"path": "new/dir/f", "mode": int64(0o640)})
	if l := m.finish("d"); l.value("rc") != int64(0) {
		t.Fatalf("%v %s", l.done, l.text(proto.Stderr))
	}
	path := filepath.Join(a.cfg.Basedir, "new/dir/f")
	b, err := os.ReadFile(path)
	info, serr := os.Stat(path)
	if err != nil || serr != nil || !bytes.Equal(b, data) || info.Mode().Perm() != 0o640 {
		t.Errorf("%d bytes, %v %v", len(b), err, info)
	}
	m.mu.Lock()
	rest = data
	m.mu.Unlock()
	m.start("max", "download_file", map[string]any{"path": "new/dir/f", "maxsize": int64(10)})
	if l := m.finish("max"); l.value("rc") != int64(1) {
		t.Errorf("%v", l.done)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, data) {
		t.Errorf("a failed download changed the file: %d bytes, %v", len(b), err)
	}
	m.mu.Lock()
	m.answer[proto.OpReadFile] = func(proto.Message) (any, string) { return nil, "no such file" }
	m.mu.Unlock()
	m.start("no", "download_file", map[string]any{"path": "other"})
	if l := m.finish("no"); l.value("rc") != int64(1) || !strings.Contains(l.text(proto.Stderr), "no such file") {
		t.Errorf("%v", l.done)
	}
	if files, _ := filepath.Glob(filepath.Join(a.cfg.Basedir, "**rouse-part")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}
