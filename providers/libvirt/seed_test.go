package libvirt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
)

func TestSeedIsReadBack(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	spec := good()
	spec.Identity, spec.UserData = ByNoCloud, "#!/bin/sh\necho hello\n"
	if _, err := p.Create(t.Context(), asked("me-w1-1", spec)); err != nil {
		t.Fatal(err)
	}
	var iso []byte
	for path, b := range h.content {
		if strings.HasSuffix(path, seedSuffix) {
			iso = b
		}
	}
	if len(iso) < 0x8050 || strings.TrimRight(string(iso[0x8028:0x8048]), " \x00") != "cidata" {
		t.Fatalf("a seed of %d bytes without the label cidata", len(iso))
	}
	img, err := iso9660.OpenImage(bytes.NewReader(iso))
	if err != nil {
		t.Fatal(err)
	}
	root, err := img.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range children {
		b, err := io.ReadAll(f.Reader())
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name()] = string(b)
	}
	if got := files["meta-data"]; got != "instance-id: me-w1-1\nlocal-hostname: w1\n" {
		t.Errorf("meta-data in %v: %q", files, got)
	}
	parts := seedParts(t, files["user-data"])
	if len(parts) != 2 || parts[0].text != spec.UserData {
		t.Fatalf("%+v", parts)
	}
	_, after, _ := strings.Cut(parts[1].text, "base64 -d >/etc/rouse-worker/agent.json <<'EOF'\n")
	line, _, _ := strings.Cut(after, "\n")
	settings, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		Master, Name, Token, Instance string
		Orphan                        int    `json:"orphan_seconds"`
		OnEnd                         string `json:"on_end"`
	}
	if err := json.Unmarshal(settings, &a); err != nil || a.Token != token || a.Name != "w1" || a.Instance != "me-w1-1" || a.Orphan != 3600 || a.OnEnd != "poweroff" {
		t.Errorf("%s, %v", settings, err)
	}
}

type seedPart struct{ kind, text string }

// seedParts takes user data apart as cloud-init does.
func seedParts(t *testing.T, user string) (all []seedPart) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(user))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("%s, %v", kind, err)
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextPart()
		if err != nil {
			return all
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, seedPart{p.Header.Get("Content-Type"), string(b)})
	}
}

// TestSeedKeepsTheConfigurationsUserData: whatever it is, it is a part of its own, and the agent's comes after it.
func TestSeedKeepsTheConfigurationsUserData(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]seedPart{
		"":                                  {},
		"#cloud-config\nwrite_files: []\n":  {`text/plain; charset="utf-8"`, "#cloud-config\nwrite_files: []\n"},
		"#!/bin/sh\r\necho --rouse--\n\x00": {`text/plain; charset="utf-8"`, "#!/bin/sh\r\necho --rouse--\n\x00"},
		"Content-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x--\n": {"multipart/mixed; boundary=x", "--x\n\na\n--x--\n"},
	} {
		spec := good()
		spec.Identity, spec.UserData = ByNoCloud, text
		user, err := userData(guestOf(t, "me-w1-1", spec))
		if err != nil {
			t.Fatal(err)
		}
		parts := seedParts(t, user)
		if last := parts[len(parts)-1]; !strings.HasPrefix(last.kind, "text/x-shellscript") || !strings.HasPrefix(last.text, "#!/bin/sh\n") {
			t.Errorf("%q: the last part is %+v", text, last)
		}
		if text == "" && len(parts) == 1 {
			continue
		}
		if len(parts) != 2 || parts[0] != want {
			t.Errorf("%q: the parts are %+v", text, parts)
		}
	}
}

// TestSeedsScriptStartsTheAgentOrSaysThatThereIsNone runs it with a directory for a root and with programs that say how they were called.
func TestSeedsScriptStartsTheAgentOrSaysThatThereIsNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		agent      bool
		asked, con string
	}{
		"with an agent":    {true, "daemon-reload\nstart --no-block rouse-instance.service\n", ""},
		"without an agent": {false, "--no-block poweroff\n", "rouse: there is no worker in this image: it has no program rouse-worker on its PATH\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, dir := range []string{"bin", "etc", "run", "dev"} {
				if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			tool := func(name, text string) {
				program(t, filepath.Join(root, "bin", name), text)
			}
			tool("systemctl", `echo "$*" >>'`+root+`/asked'`+"\n")
			if c.agent {
				tool("rouse-worker", "")
			}
			for _, tool := range []string{"mkdir", "base64", "chmod", "sh"} {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Skip("this machine has no ", tool)
				}
				if err := os.Symlink(path, filepath.Join(root, "bin", tool)); err != nil {
					t.Fatal(err)
				}
			}
			text := script([]byte(`{"a": 1}`))
			for _, dir := range []string{"/etc/", "/run/", "/dev/console"} {
				text = strings.ReplaceAll(text, ">"+dir, ">"+root+dir)
				text = strings.ReplaceAll(text, " "+dir, " "+root+dir)
			}
			text = regexp.MustCompile(`(?m)^PATH=.*`).ReplaceAllString(text, "PATH="+root+"/bin")
			out, err := exec.Command("/bin/sh", "-c", text).CombinedOutput()
			if (err == nil) != c.agent {
				t.Errorf("%v: %s", err, out)
			}
			read := func(name string) string {
				b, _ := os.ReadFile(filepath.Join(root, name))
				return string(b)
			}
			if read("asked") != c.asked || read("dev/console") != c.con {
				t.Errorf("systemd was asked %q; the console says %q", read("asked"), read("dev/console"))
			}
			if !c.agent {
				return
			}
			st, err := os.Stat(filepath.Join(root, "etc/rouse-worker/agent.json"))
			if err != nil || st.Mode().Perm() != 0o600 || read("etc/rouse-worker/agent.json") != `{"a": 1}` {
				t.Errorf("the settings: %v, %v: %s", st, err, read("etc/rouse-worker/agent.json"))
			}
			if read("run/systemd/system/rouse-instance.service") != unitText {
				t.Errorf("the unit is %q", read("run/systemd/system/rouse-instance.service"))
			}
		})
	}
}
