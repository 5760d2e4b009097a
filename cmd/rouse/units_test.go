package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSystemdUnitRunsACommandThatExists keeps contrib/systemd from naming an option that is no more, and from losing what "keep" needs.
func TestSystemdUnitRunsACommandThatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../contrib/systemd/rouse.service")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, need := range []string{"Type=notify", "KillMode=process", "ExecReload=/bin/kill -HUP $MAINPID", "StateDirectory=rouse"} {
		if !slices.Contains(lines, need) {
			t.Errorf("the unit has no line %q", need)
		}
	}
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "ExecStart=") })
	if i < 0 {
		t.Fatal("the unit starts nothing")
	}
	words := strings.Fields(lines[i])
	a := &app{}
	c, rest, err := a.root().Find(words[1:])
	if err != nil || c.Name() != "master" {
		t.Fatalf("%q is no command: %v", words, err)
	}
	for _, w := range rest {
		if name, ok := strings.CutPrefix(w, "-"); ok && c.Flags().Lookup(name) == nil {
			t.Errorf("rouse master has no option -%s", name)
		}
	}
}
