package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheImagesNetworkScriptHasItsTime(t *testing.T) { //nolint:paralleltest // replaces variables
	before, patience := netScript, netPatience
	defer func() { netScript, netPatience = before, patience }()
	o := &order{MAC: "02:00:00:00:00:01"}
	for _, c := range []struct {
		script   string
		patience time.Duration
		want     string // "": it is well
	}{
		{`test "$1" = 02:00:00:00:00:01`, time.Minute, ""},
		{"exit 3", time.Minute, "exit status 3"},
		{"exec sleep 60", 50 * time.Millisecond, "has not ended after 50ms"},
	} {
		netScript, netPatience = filepath.Join(t.TempDir(), "net"), c.patience
		if err := os.WriteFile(netScript, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		began := time.Now()
		err := o.network()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || time.Since(began) > 30*time.Second {
			t.Errorf("%s: %v after %s", c.script, err, time.Since(began))
		}
	}
}
