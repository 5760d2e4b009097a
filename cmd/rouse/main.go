// Command rouse is the operator's program and the master.
//
// It is thin: flags into a struct, one call, rendering. Every command but master, validate, fmt and init is a client of a master's API, and
// renders what people read from the very JSON that -json prints. This file holds the only list of provider kinds.
package main

import (
	"io"
	"os"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/ec2"
	"github.com/rouse-ci/rouse/providers/fake"
	"github.com/rouse-ci/rouse/providers/libvirt"
	"github.com/rouse-ci/rouse/providers/local"
)

func main() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Main runs one command line and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{kinds: kinds(), stdin: stdin, stdout: stdout, stderr: stderr}
	return a.run(args)
}

// kinds is the only list of provider kinds.
func kinds() map[string]providers.Kind {
	m := map[string]providers.Kind{}
	for _, k := range []providers.Kind{local.Kind{}, ec2.Kind{}, libvirt.Kind{}, fake.New(fake.Options{})} {
		m[k.Name()] = k
	}
	return m
}
