package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// example is what `rouse init` writes. A test loads it.
//
//go:embed example.hcl
var example []byte

const exampleName = "rouse.hcl"

func newInitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a commented example configuration that works",
		Long: `Writes rouse.hcl into a directory (default: this one), which is made if it is not there. It needs nothing but this machine: its workers are
processes that exist only while there is work. A directory that holds a configuration already is left as it is.`,
		Example: "  rouse init\n  rouse init ci",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE:    func(_ *cobra.Command, given []string) error { return a.initialise(directory(given)) },
	}
}

func (a *app) initialise(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".hcl") || strings.HasSuffix(e.Name(), ".hcl.json") {
			return fmt.Errorf("%s is a configuration already; nothing was written", filepath.Join(dir, e.Name()))
		}
	}
	name := filepath.Join(dir, exampleName)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; nothing was written", name)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(example)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(name)
		return fmt.Errorf("write %s: %w", name, err)
	}
	in := ""
	if dir != "." {
		in = " " + dir
	}
	fmt.Fprintf(a.stdout, "Wrote %s. Next:\n\n  rouse validate%s\n  rouse master -config %s\n  rouse force hello -wait     # in another terminal\n", name, in, dir)
	return nil
}
