package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

type entry struct {
	name, link string
	kind       byte
	body       string
	mode       int64
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.body)), Mode: e.mode}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks into DIR/in; DIR/outside is what must not be touched.
func unpack(t testing.TB, data []byte, limit int64) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "outside"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeRoot(root)
	s, err := newTarSink(root, "in", limit)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := s.Write(data)
	_, err = s.finish()
	if err == nil && werr != nil {
		t.Errorf("Write: %v", werr)
	}
	return dir, err
}

func TestUntarMakesFilesDirectoriesAndLinks(t *testing.T) {
	t.Parallel()
	dir, err := unpack(t, archive(t, entry{name: "./", kind: tar.TypeDir}, entry{name: "bin/tool", body: "tool", mode: 0o4755}, entry{name: "lib/", kind: tar.TypeDir, mode: 0o700},
		entry{name: "lib/libx.so.1", body: "x"}, entry{name: "lib/libx.so", kind: tar.TypeSymlink, link: "libx.so.1"}, entry{name: "lib/tool", kind: tar.TypeSymlink, link: "../bin/tool"},
		entry{name: "hard", kind: tar.TypeLink, link: "bin/tool"}), 1000)
	if err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(dir, "in")
	if read(t, in, "lib/libx.so") != "x" || read(t, in, "lib/tool") != "tool" || read(t, in, "hard") != "tool" {
		t.Error("not all is there")
	}
	fi, err := os.Stat(filepath.Join(in, "bin/tool"))
	if err != nil || fi.Mode()&^0o022 != 0o755&^0o022 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}

func TestUntarRefusesWhatLeadsOut(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]entry{
		"absolute":              {{name: "/etc/x"}},
		"parent":                {{name: "../outside", body: "gone"}},
		"parent within":         {{name: "a/../../outside"}},
		"absolute link":         {{name: "l", kind: tar.TypeSymlink, link: "/etc"}},
		"link out":              {{name: "a/l", kind: tar.TypeSymlink, link: "../../outside"}},
		"link out after a name": {{name: "a/b/l", kind: tar.TypeSymlink, link: "../.."}, {name: "p", kind: tar.TypeSymlink, link: "a/b/l/../../../outside"}},
		"file through a link":   {{name: "l", kind: tar.TypeSymlink, link: "."}, {name: "l/f"}},
		"link over a directory": {{name: "d/f"}, {name: "d", kind: tar.TypeSymlink, link: "."}},
		"file over a link":      {{name: "l", kind: tar.TypeSymlink, link: "x"}, {name: "l"}},
		"twice":                 {{name: "f"}, {name: "./f"}},
		"file as directory":     {{name: "f"}, {name: "f/g"}},
		"hard link out":         {{name: "h", kind: tar.TypeLink, link: "../outside"}},
		"hard link to a link":   {{name: "l", kind: tar.TypeSymlink, link: "x"}, {name: "h", kind: tar.TypeLink, link: "l"}},
		"device":                {{name: "d", kind: tar.TypeChar}},
		"fifo":                  {{name: "d", kind: tar.TypeFifo}},
		"control character":     {{name: "a\nb"}},
		"too deep":              {{name: strings.Repeat("d/", 70) + "f"}},
		"empty link":            {{name: "l", kind: tar.TypeSymlink, link: ""}},
	} {
		dir, err := unpack(t, archive(t, entries...), 1000)
		var r *refusal
		if !errors.As(err, &r) {
			t.Errorf("%s: %v", name, err)
		}
		if read(t, dir, "outside") != "untouched" {
			t.Errorf("%s: touched", name)
		}
	}
}

func TestUntarBoundsWhatItTakes(t *testing.T) {
	t.Parallel()
	whole := archive(t, entry{name: "a", body: strings.Repeat("x", 600)}, entry{name: "b", body: strings.Repeat("y", 600)})
	if _, err := unpack(t, whole, 1199); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	if _, err := unpack(t, whole, 1200); err != nil {
		t.Error(err)
	}
	for _, cut := range []int{100, 512, 700, 1600} {
		if _, err := unpack(t, whole[:cut], 1200); err == nil && cut%512 != 0 {
			t.Errorf("cut at %d is accepted", cut)
		}
	}
}

func FuzzUntar(f *testing.F) {
	f.Add(archive(f, entry{name: "a/b", body: "x"}, entry{name: "a/l", kind: tar.TypeSymlink, link: "b"}))
	f.Add(archive(f, entry{name: "../b", body: "x"}))
	f.Add([]byte("not an archive"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, _ := unpack(t, data, 1<<20)
		if read(t, dir, "outside") != "untouched" {
			t.Error("touched")
		}
		_ = filepath.WalkDir(filepath.Join(dir, "in"), func(p string, d os.DirEntry, err error) error {
			if err != nil || d.Type()&os.ModeSymlink == 0 {
				return err
			}
			if end, err := filepath.EvalSymlinks(p); err == nil && !strings.HasPrefix(end, filepath.Join(dir, "in")) {
				t.Errorf("%s leads to %s", p, end)
			}
			return nil
		})
	})
}

func TestHostileUploadFailsItsStepAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dir = t.TempDir()
	w.answers["stat"] = answer{upd: map[string][]any{"stat": {[]any{int64(0o040755)}}}}
	w.answers["upload_directory"] = answer{upload: archive(t, entry{name: "ok", body: "x"}, entry{name: "../../x", body: "x"})}
	w.add("up", &hcl.UploadSpec{From: "out", Workdir: "build"})
	w.run()
	if r := w.rows[0]; r.Result != model.Failure || !strings.Contains(r.Text, "outside of it") {
		t.Errorf("%+v\n%s", r, w.log(0))
	}
	left, err := os.ReadDir(filepath.Join(w.dir, "lin", "12"))
	if err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

func TestUploadDestinationStaysAmongTheArtifacts(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"../x", "/etc/x", "a/../../x", ".", "a\nb"} {
		w := newWorld(t)
		w.dir = t.TempDir()
		w.add("up", &hcl.UploadSpec{From: "out", To: to, Workdir: "build"})
		if out := w.run(); out.Result != model.Exception || len(w.order) != 0 {
			t.Errorf("%q: %+v", to, out)
		}
	}
}
