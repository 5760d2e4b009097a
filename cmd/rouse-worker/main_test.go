package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rouse-ci/rouse/worker"
)

func put(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(p, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFlagsWinOverVariablesWinOverTheFile(t *testing.T) {
	t.Parallel()
	conf := put(t, `{"master":"ws://file:1","name":"file","token":"tok","instance":"k","basedir":"/f","orphan_seconds":60,"on_end":"poweroff","remove":true}`, 0o600)
	cfg, o, err := configure([]string{"--name", "flag", "-config", conf}, []string{"ROUSE_WORKER_NAME=env", "ROUSE_WORKER_MASTER=wss://env:2",
		"ROUSE_WORKER_UMASK=027", "ROUSE_WORKER_UNKNOWN=x", "OTHER=y"})
	if err != nil {
		t.Fatal(err)
	}
	want := worker.Config{Master: "wss://env:2", Name: "flag", Secret: "tok", Instance: "k", Basedir: "/f", Orphan: time.Minute, OnEnd: "poweroff"}
	if d := cmp.Diff(want, cfg, cmpopts.IgnoreUnexported(worker.Config{})); d != "" {
		t.Error(d)
	}
	if o.umask != 0o27 {
		t.Errorf("umask %o", o.umask)
	}
	if _, err := os.Stat(conf); !os.IsNotExist(err) {
		t.Errorf("the configuration file is still there: %v", err)
	}
}

func TestTheSecretComesFromAPrivateFile(t *testing.T) {
	t.Parallel()
	base := []string{"-master", "ws://h:1", "-name", "w", "-basedir", "/b"}
	cfg, _, err := configure(append(base, "-password-file", put(t, "geheim\n", 0o600)), []string{"ROUSE_WORKER_PASSWORD=other"})
	if err != nil || cfg.Secret != "geheim" {
		t.Errorf("%q %v", cfg.Secret, err)
	}
	cfg, _, err = configure(base, []string{"ROUSE_WORKER_PASSWORD=env"})
	if err != nil || cfg.Secret != "env" {
		t.Errorf("%q %v", cfg.Secret, err)
	}
}

func TestMistakesAreExplained(t *testing.T) {
	t.Parallel()
	ok := []string{"-master", "ws://h:1", "-name", "w", "-basedir", "/b", "-token-file", put(t, "x", 0o600)}
	for want, args := range map[string][]string{
		"missing: -master":    {},
		"chmod 600":           append(ok[:6:6], "-password-file", put(t, "x", 0o644)),
		"not both":            append(ok[:8:8], "-password-file", "x"),
		"not a URL":           append(ok[:8:8], "-master", "http://h"),
		"colon":               append(ok[:8:8], "-name", "a:b"),
		"unknown field":       append(ok[:8:8], "-config", put(t, `{"nmae":"x"}`, 0o600)),
		"no certificate":      append(ok[:8:8], "-ca", put(t, "x", 0o644)),
		"can be \"ec2\"":      append(ok[:8:8], "-watch", "gce"),
		"octal":               append(ok[:8:8], "-umask", "9"),
		"unexpected argument": append(ok[:8:8], "extra"),
		"no such file":        append(ok[:8:8], "-config", "/nonexistent"),
		"not defined":         append(ok[:8:8], "-password", "x"),
	} {
		if _, _, err := configure(args, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}

func TestWatchComesFromTheFileOrTheFlagAndItsServiceFromTheVariableOfAWS(t *testing.T) {
	t.Parallel()
	conf := put(t, `{"master": "ws://h:1", "name": "w", "basedir": "/b", "token": "t", "watch": "ec2"}`, 0o600)
	for _, tc := range []struct {
		args, env       []string
		watch, metadata string
	}{
		{[]string{"-config", conf}, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1"}, "ec2", "http://127.0.0.1:1"},
		{[]string{"-master", "ws://h:1", "-name", "w", "-basedir", "/b", "-watch", "ec2"}, []string{"ROUSE_WORKER_TOKEN=t"}, "ec2", ""},
		{[]string{"-master", "ws://h:1", "-name", "w", "-basedir", "/b"}, []string{"ROUSE_WORKER_TOKEN=t"}, "", ""},
	} {
		cfg, _, err := configure(tc.args, tc.env)
		if err != nil || cfg.Watch != tc.watch || cfg.Metadata != tc.metadata {
			t.Errorf("%v: watch %q of %q, %v", tc.args, cfg.Watch, cfg.Metadata, err)
		}
	}
}

func TestHelpTeachesAndWrongUsageIsStatusTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"-h"}, {"help"}, {"run", "--help"}, {"run", "-h"}} {
		var out, errs bytes.Buffer
		if s := start(args, &out, &errs); s != 0 || !strings.Contains(out.String(), "-password-file") || errs.Len() > 0 {
			t.Errorf("%v: status %d, %q", args, s, errs.String())
		}
	}
	for _, args := range [][]string{{"nonsense"}, {"run", "-nonsense"}, {"run", "x"}} {
		var out, errs bytes.Buffer
		if s := start(args, &out, &errs); s != 2 || !strings.Contains(errs.String(), "--help") {
			t.Errorf("%v: status %d, %q", args, s, errs.String())
		}
	}
}

// TestAReleaseKnowsItsVersion links the program as the Makefile does.
func TestAReleaseKnowsItsVersion(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil || !strings.Contains(string(makefile), "-X main.version=$(VERSION)") {
		t.Fatalf("the Makefile sets another variable: %v", err)
	}
	program := filepath.Join(t.TempDir(), "rouse-worker")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3-test", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command(program, "version").Output(); err != nil || string(out) != "rouse-worker 1.2.3-test\n" {
		t.Errorf("%v, %q", err, out)
	}
}
