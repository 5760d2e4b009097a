package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
)

// fmtOptions are the options of `rouse fmt`.
type fmtOptions struct {
	check, diff, recursive bool
}

// Exit codes of `rouse fmt`, which are Terraform's.
const (
	fmtUnparsable = 2
	fmtUnclean    = 3
)

func newFmtCmd(a *app) *cobra.Command {
	var o fmtOptions
	c := &cobra.Command{
		Use:   "fmt [DIR|FILE|-]...",
		Short: "Tidy the layout of configuration files",
		Long: `Rewrites *.hcl files in the usual layout and prints the names of those that changed. A directory (default: this one) stands for its files;
"-" reads standard input and writes standard output. JSON files are left alone.`,
		Annotations: exits("0 it is done", "1 the command line is wrong", "2 a file is missing or cannot be parsed; it is left as it is", "3 with -check: something would change"),
		Example:     "  rouse fmt\n  rouse fmt -check -diff -recursive\n  rouse fmt - < draft.hcl",
		RunE: func(_ *cobra.Command, given []string) error {
			if len(given) == 0 {
				given = []string{"."}
			}
			return a.format(given, o)
		},
	}
	c.Flags().BoolVar(&o.check, "check", false, "change nothing; exit with code 3 if something would change")
	c.Flags().BoolVar(&o.diff, "diff", false, "show what changes")
	c.Flags().BoolVar(&o.recursive, "recursive", false, "go into folders too")
	return c
}

func (a *app) format(given []string, o fmtOptions) error {
	code := 0
	worse := func(c int) {
		if c == fmtUnparsable || code == 0 {
			code = c
		}
	}
	for _, arg := range given {
		if arg == "-" {
			src, err := io.ReadAll(io.LimitReader(a.stdin, hcl.MaxFileSize+1))
			if err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			worse(a.formatOne("<stdin>", src, o, func(formatted []byte) error {
				_, err := a.stdout.Write(formatted)
				return err
			}))
			continue
		}
		files, err := formattable(arg, o.recursive)
		if err != nil {
			fmt.Fprintln(a.stderr, a.paint(a.stderr, "31;1", "Error:"), err)
			worse(fmtUnparsable)
		}
		for _, name := range files {
			src, err := os.ReadFile(name)
			if err != nil {
				fmt.Fprintln(a.stderr, a.paint(a.stderr, "31;1", "Error:"), err)
				worse(fmtUnparsable)
				continue
			}
			worse(a.formatOne(name, src, o, func(formatted []byte) error {
				if bytes.Equal(formatted, src) {
					return nil
				}
				return replaceFile(name, formatted)
			}))
		}
	}
	if code != 0 {
		return exit(code)
	}
	return nil
}

// formatOne formats one text. write gets the result unless only a check was asked for.
func (a *app) formatOne(name string, src []byte, o fmtOptions, write func([]byte) error) int {
	formatted, diags := hcl.Format(name, src)
	if diags.HasErrors() {
		w := hcl2.NewDiagnosticTextWriter(a.stderr, map[string]*hcl2.File{name: {Bytes: src}}, a.width(), a.colour(a.stderr))
		_ = w.WriteDiagnostics(diags)
		return fmtUnparsable
	}
	changed := !bytes.Equal(src, formatted)
	if changed && name != "<stdin>" {
		fmt.Fprintln(a.stdout, name)
	}
	if o.diff && changed {
		_, _ = io.WriteString(a.stdout, unifiedDiff(name, src, formatted))
	}
	if o.check {
		if changed {
			return fmtUnclean
		}
		return 0
	}
	if name == "<stdin>" && o.diff {
		return 0
	}
	if err := write(formatted); err != nil {
		fmt.Fprintln(a.stderr, a.paint(a.stderr, "31;1", "Error:"), err)
		return fmtUnparsable
	}
	return 0
}

// formattable lists the *.hcl files that an argument stands for.
func formattable(arg string, recursive bool) ([]string, error) {
	info, err := os.Stat(arg)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if !strings.HasSuffix(arg, ".hcl") {
			return nil, fmt.Errorf("%s is not a *.hcl file", arg)
		}
		return []string{arg}, nil
	}
	var files []string
	err = filepath.WalkDir(arg, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != arg && (!recursive || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(d.Name(), ".hcl") && !strings.HasPrefix(d.Name(), "."):
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// replaceFile puts the new text in place at once, so that a reader and a crash see the old text or the new one. A symbolic link stays one.
func replaceFile(name string, data []byte) (err error) {
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
