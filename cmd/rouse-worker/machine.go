package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A virtual machine can carry the agent's settings itself: -config smbios: finds them in the OEM strings (type 11) that its hypervisor gave it, as
// "rouse.agent=" and the JSON in base64. Only root can read them, and there is no file and no disk to write them to. A machine that is to be
// saved and restored many times has "rouse.wait=" and the name of a port instead.
const (
	fromSMBIOS  = "smbios:"
	smbiosLabel = "rouse.agent="
)

// Replaced by tests.
var (
	dmiEntries   = "/sys/firmware/dmi/entries"
	hostNameFile = "/proc/sys/kernel/hostname"
)

// beCalled makes the worker's name that of a machine whose whole identity came from its firmware: its image has none that fits. An agent that may not do
// that does its work all the same.
func beCalled(name string) {
	if err := os.WriteFile(hostNameFile, []byte(name), 0o644); err != nil { //nolint:gosec // a file of the kernel's; the mode is not used
		fmt.Fprintf(os.Stderr, "rouse: the machine keeps its host name: %v\n", err)
	}
}

// firmwareStrings are the OEM strings of the machine's SMBIOS table.
func firmwareStrings() (all []string, err error) {
	tables, err := filepath.Glob(filepath.Join(dmiEntries, "11-*", "raw"))
	if err != nil {
		return nil, err
	}
	for _, name := range tables {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, oemStrings(raw)...)
	}
	return all, nil
}

// isToWait says whether this machine is a template, or was made from one.
func isToWait() bool {
	all, _ := firmwareStrings()
	return slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, waitLabel) })
}

// readSMBIOS returns the settings from the machine's SMBIOS table.
func readSMBIOS() ([]byte, error) {
	all, err := firmwareStrings()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if port, ok := strings.CutPrefix(s, waitLabel); ok {
			return awaitOrder(port)
		}
		if text, ok := strings.CutPrefix(s, smbiosLabel); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, fmt.Errorf("the SMBIOS string %s… is not base64", smbiosLabel)
			}
			return b, nil
		}
	}
	return nil, errors.New("this machine has no SMBIOS string (type 11) that begins with " + smbiosLabel)
}

// oemStrings takes apart a raw SMBIOS structure of type 11: a header with its length in the second byte, then strings that end with a zero (DMTF
// DSP0134, 6.1.3 and 7.12).
func oemStrings(raw []byte) []string {
	if len(raw) < 5 || raw[0] != 11 || int(raw[1]) > len(raw) || int(raw[1]) < 5 {
		return nil
	}
	var all []string
	for s := range bytes.SplitSeq(raw[raw[1]:], []byte{0}) {
		if len(s) > 0 {
			all = append(all, string(s))
		}
	}
	return all
}
