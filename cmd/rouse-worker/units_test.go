package main

import (
	"os"
	"strings"
	"testing"
)

// TestImagesUnitReadsTheSettingsOfItsMachine keeps the unit that images have from naming an option that is no more.
func TestImagesUnitReadsTheSettingsOfItsMachine(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../images/packer/rouse-smbios.service")
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
