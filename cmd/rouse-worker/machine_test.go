package main

import (
	"encoding/base64"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func FuzzOEMStringsAreTakenApart(f *testing.F) {
	f.Add(oemTable("a", "rouse.agent=x"))
	f.Add([]byte{11, 200, 0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, s := range oemStrings(raw) {
			if s == "" || len(s) > len(raw) {
				t.Errorf("%q", s)
			}
		}
	})
}

func TestSettingsComeFromTheMachinesSMBIOSTable(t *testing.T) { //nolint:paralleltest // replaces a variable
	dir := t.TempDir()
	defer func(old string) { dmiEntries = old }(dmiEntries)
	dmiEntries = dir
	defer func(old string) { hostNameFile = old }(hostNameFile)
	hostNameFile = filepath.Join(dir, "hostname")
	if _, err := readConfig(fromSMBIOS); err == nil {
		t.Error("no table, and no error")
	}
	write := func(n string, strings ...string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, n), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, n, "raw"), oemTable(strings...), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	write("11-0", "made by somebody", "serial")
	write("11-1", "x", smbiosLabel+base64.StdEncoding.EncodeToString([]byte(`{"master": "ws://h:1", "name": "w", "token": "t", "instance": "k"}`)))
	got, err := readConfig(fromSMBIOS)
	if want := (file{Master: "ws://h:1", Name: "w", Token: "t", Instance: "k"}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if b, err := os.ReadFile(hostNameFile); err != nil || string(b) != "w" {
		t.Errorf("the machine is called %q, %v", b, err)
	}
	hostNameFile = filepath.Join(dir, "none", "hostname") // where the machine keeps its name, the agent works, too
	if got, err := readConfig(fromSMBIOS); err != nil || got.Name != "w" {
		t.Errorf("%+v, %v", got, err)
	}
	write("11-1", smbiosLabel+"not base64!")
	if _, err := readConfig(fromSMBIOS); err == nil {
		t.Error("what is not base64 was taken")
	}
}

func TestOEMStrings(t *testing.T) {
	t.Parallel()
	if got := oemStrings(oemTable("a", "b c")); !slices.Equal(got, []string{"a", "b c"}) {
		t.Errorf("%q", got)
	}
	for _, raw := range [][]byte{nil, {11}, {11, 5, 0, 0}, {11, 4, 0, 0, 1, 'x', 0}, {1, 5, 0, 0, 1, 'x', 0}, {11, 99, 0, 0, 1}} {
		if got := oemStrings(raw); got != nil {
			t.Errorf("%v: %q", raw, got)
		}
	}
}

// oemTable is the inverse of oemStrings.
func oemTable(all ...string) []byte {
	raw := []byte{11, 5}
	raw = binary.LittleEndian.AppendUint16(raw, 0x0e00)
	raw = append(raw, byte(len(all)))
	for _, s := range all {
		raw = append(append(raw, s...), 0)
	}
	return append(raw, 0)
}
