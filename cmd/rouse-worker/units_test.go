package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestImagesUnitReadsTheSettingsOfItsMachine keeps the unit that images have from naming an option that is no more.
func TestImagesUnitReadsTheSettingsOfItsMachine(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../images/debian/rouse-smbios.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(text), " rouse-worker run ")
	line, _, _ = strings.Cut(line, "\n")
	var o options
	if err := o.flags().Parse(strings.Fields(line)); !ok || err != nil || o.config != fromSMBIOS || o.basedir == "" {
		t.Errorf("%q: %v; %+v", line, err, o)
	}
	for _, label := range []string{smbiosLabel, waitLabel} { // the unit's condition names both
		name, isOurs := strings.CutPrefix(strings.TrimSuffix(label, "="), "rouse.")
		if !isOurs || !strings.Contains(string(text), name) {
			t.Errorf("the unit does not look for %q", label)
		}
	}
}

// TestImagesUnitTakesNoCredentialForSettings runs the unit's condition on tables of the kinds that there are.
func TestImagesUnitTakesNoCredentialForSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../images/debian/rouse-smbios.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "\nExecCondition=/bin/sh -c '")
	line, _, ok := strings.Cut(line, "'\n")
	_, line, found := strings.Cut(line, "; ")
	if !ok || !found {
		t.Fatalf("the unit has no condition: %q", line)
	}
	for s, want := range map[string]bool{smbiosLabel + "eyJ9": true, waitLabel + "port": true, "made by somebody": false, "io.systemd.credential.binary:rouse.agent=eyJ9": false} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "11-0"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "11-0", "raw"), oemTable(s), 0o600); err != nil {
			t.Fatal(err)
		}
		err := exec.Command("/bin/sh", "-c", strings.ReplaceAll(line, dmiEntries, dir)).Run()
		if (err == nil) != want {
			t.Errorf("%q: the agent is started: %v, want %v", s, err == nil, want)
		}
	}
}

// TestImagesUnitReadsTheCredentialOfItsMachine does the same for identity = "credential".
func TestImagesUnitReadsTheCredentialOfItsMachine(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../images/debian/rouse-credential.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(text), " rouse-worker run ")
	line, _, _ = strings.Cut(line, "\n")
	var o options
	if err := o.flags().Parse(strings.Fields(line)); !ok || err != nil || o.config != "${CREDENTIALS_DIRECTORY}/rouse.agent" || o.basedir == "" {
		t.Errorf("%q: %v; %+v", line, err, o)
	}
	for _, want := range []string{"\nLoadCredential=rouse.agent\n", "\nConditionPathExists=/run/credentials/@system/rouse.agent\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the unit has no %q", want)
		}
	}
}

// TestSystemdUnitRunsACommandThatExists keeps contrib/systemd from naming an option that is no more.
func TestSystemdUnitRunsACommandThatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../contrib/systemd/rouse-worker.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(text), "\nExecStart=")
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if !ok || len(words) < 2 || words[1] != "run" {
		t.Fatalf("the unit does not start the agent: %q", words)
	}
	var o options
	if err := o.flags().Parse(words[2:]); err != nil || o.basedir == "" || o.passwordFile == "" || !o.logJSON {
		t.Errorf("%q: %v; %+v", words, err, o)
	}
}
