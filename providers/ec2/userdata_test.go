package ec2

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/rouse-ci/rouse/providers"
)

func testAgent() providers.Agent {
	return providers.Agent{Master: "wss://ci.example.org:9989", Name: "w1", Token: "tok-s3cr3t", Orphan: 90 * time.Second, TLSRoot: []byte("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")}
}

func TestAgentFindsItsConfigurationInUserData(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 22<<10)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(noise)
	for name, text := range map[string]string{
		"alone":           "",
		"beside a script": "#!/bin/sh\necho EOF\n",
		"a cloud-config":  "#cloud-config\nruncmd:\n- [true]\n",
		"a MIME message":  "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"==x\"\n\n--==x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--==x--\n",
		"long":            "#!/bin/sh\n" + strings.Repeat("echo again and again\n", 5000),
	} {
		data, err := userData(Spec{UserData: text, Agent: true}, "k-1", testAgent())
		if err != nil || len(data) > maxRaw {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
			continue
		}
		conf, err := AgentConfig(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got agentJSON
		if err := json.Unmarshal(conf, &got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := agentJSON{Master: "wss://ci.example.org:9989", Name: "w1", Token: "tok-s3cr3t", Instance: "k-1", OrphanSeconds: 90, OnEnd: "poweroff", CAPEM: string(testAgent().TLSRoot), Watch: "ec2"}
		if got != want {
			t.Errorf("%s: got %+v", name, got)
		}
		again, _ := userData(Spec{UserData: text, Agent: true}, "k-1", testAgent())
		if !bytes.Equal(data, again) {
			t.Errorf("%s: a repeated launch has other user data", name)
		}
	}
	if _, err := userData(Spec{UserData: string(noise), Agent: true}, "k-1", testAgent()); err == nil {
		t.Error("22 KiB of noise fit into 16")
	}
	if data, err := userData(Spec{UserData: "as it is"}, "k-1", testAgent()); err != nil || string(data) != "as it is" {
		t.Errorf("without an agent: %q, %v", data, err)
	}
	for _, bad := range []string{"", "#!/bin/sh", "\x1f\x8bnot gzip", "Content-Type: multipart/mixed; boundary=other\n\n--other--"} {
		if _, err := AgentConfig([]byte(bad)); err == nil {
			t.Errorf("%q has an agent's configuration", bad)
		}
	}
}

// The last part is run by a real shell, with its paths in a scratch directory.
func TestScriptWritesThePrivateFileAndTheUnit(t *testing.T) {
	t.Parallel()
	data, err := userData(Spec{UserData: "#!/bin/sh\n", Agent: true}, "k-1", testAgent())
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var last []byte
	var kinds []string
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, p.Header.Get("Content-Type"))
		last, _ = io.ReadAll(p)
	}
	if len(kinds) != 2 || !strings.HasPrefix(kinds[0], "text/x-shellscript") || !strings.HasPrefix(kinds[1], "text/x-shellscript") {
		t.Errorf("parts %q", kinds)
	}
	root := t.TempDir()
	for _, d := range []string{"bin", "etc/systemd/system", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "systemctl"), []byte("#!/bin/sh\necho \"$@\" >>"+root+"/asked\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(" /etc/", " "+root+"/etc/", ">/etc/", ">"+root+"/etc/", " /var/", " "+root+"/var/").Replace(string(last))
	cmd := exec.Command("/bin/sh")
	cmd.Stdin, cmd.Env = strings.NewReader(text), []string{"PATH=" + root + "/bin:/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(root + agentFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	unit, err := os.ReadFile(root + agentUnit)
	if err != nil || !strings.Contains(string(unit), "run -config "+agentFile) || !strings.Contains(string(unit), "WantedBy=multi-user.target") {
		t.Errorf("%v: %s", err, unit)
	}
	asked, _ := os.ReadFile(root + "/asked")
	if string(asked) != "daemon-reload\nenable --now --no-block rouse-instance.service\n" {
		t.Errorf("systemctl %q", asked)
	}
}

func TestCredentialsComeFromTheTwoLineFile(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_PROFILE", "")
	home := os.Getenv("HOME")
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	if p, err := testConfig().static(log); p != nil || err != nil {
		t.Errorf("without a file: %v, %v", p, err)
	}
	path := filepath.Join(home, ".ec2", "aws_id")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("AKIAONE\ns3cr3t\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := testConfig().static(log)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	if c, err := p.Retrieve(t.Context()); err != nil || c.AccessKeyID != "AKIAONE" || c.SecretAccessKey != "s3cr3t" {
		t.Errorf("%s, %v", c.AccessKeyID, err)
	}
	if !strings.Contains(logged.String(), "chmod 600") || strings.Contains(logged.String(), "s3cr3t") {
		t.Errorf("logged %q", logged.String())
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATWO")
	if p, err := testConfig().static(log); p != nil || err != nil {
		t.Errorf("the environment's credentials come before the default file: %v, %v", p, err)
	}
	c := testConfig()
	c.AWSIDFile = "~/broken"
	if err := os.WriteFile(filepath.Join(home, "broken"), []byte("AKIAONLY\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.static(log); err == nil || !strings.Contains(err.Error(), "must have two") {
		t.Errorf("a file of one line: %v", err)
	}
}

// The SDK as it is connected: the role is assumed with the named credentials, and a refusal of it is class Unauthorized, with nothing sent to EC2.
func TestRoleIsAssumedAndARefusalIsUnauthorized(t *testing.T) {
	refuse := false
	calls := map[string]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		calls[r.Form.Get("Action")] = r.Header.Get("Authorization")
		switch {
		case r.Form.Get("Action") == "AssumeRole" && refuse:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/x is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/ci</Message></Error></ErrorResponse>`)
		case r.Form.Get("Action") == "AssumeRole":
			_, _ = io.WriteString(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>y</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
		default:
			_, _ = io.WriteString(w, `<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>`)
		}
	}))
	defer srv.Close()
	c := testConfig()
	c.Endpoint, c.Identifier, c.SecretIdentifier = srv.URL, "AKIAUSER", "s3cr3t"
	c.Role = &Role{ARN: "arn:aws:iam::123456789012:role/ci", SessionName: "rouse", Duration: time.Hour}
	ask := func() error {
		cl, _, err := connect(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = newAPI(newGovernor(1), cl).DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
		return err
	}
	if err := ask(); err != nil || !strings.Contains(calls["AssumeRole"], "AKIAUSER") || !strings.Contains(calls["DescribeInstances"], "ASIAROLE") {
		t.Errorf("%v; %v", err, calls)
	}
	refuse, calls = true, map[string]string{}
	err := fail("list", ask(), "list instances")
	wantClass(t, err, providers.Unauthorized)
	if calls["DescribeInstances"] != "" || !strings.Contains(err.Error(), "must allow sts:AssumeRole") {
		t.Errorf("%v; %v", err, calls)
	}
}
