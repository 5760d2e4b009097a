package run

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rouse-ci/rouse/worker/proto"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// glob finds the files that match a pattern, as Python's glob.glob(recursive=True) does: "**" is any number of directories, also none, and
// wildcards do not match a leading dot. No match is an empty list and rc 0.
func (j *job) glob(ctx context.Context) error {
	pattern, err := j.pathArg("path")
	if err != nil {
		return err
	}
	parts := strings.Split(strings.ReplaceAll(filepath.Clean(pattern), "[!", "[^"), "/")[1:]
	for _, p := range parts {
		if _, err := filepath.Match(p, ""); err != nil {
			return j.outcome("glob "+pattern, err)
		}
	}
	g := globber{ctx: ctx}
	g.walk("/", parts)
	if err := ctx.Err(); err != nil {
		return j.outcome("glob", errors.New("interrupted"))
	}
	return j.files("glob", g.found)
}

type globber struct {
	ctx   context.Context
	found []string
}

func (g *globber) full() bool { return len(g.found) > proto.MaxItems || g.ctx.Err() != nil }

// walk matches parts below dir, which exists.
func (g *globber) walk(dir string, parts []string) {
	if g.full() {
		return
	}
	if len(parts) == 0 {
		g.found = append(g.found, dir)
		return
	}
	part, rest := parts[0], parts[1:]
	switch {
	case part == "**":
		for len(rest) > 0 && rest[0] == "**" {
			rest = rest[1:]
		}
		g.deep(dir, rest)
	case strings.ContainsAny(part, `*?[\`):
		for _, e := range g.list(dir) {
			if ok, _ := filepath.Match(part, e.Name()); ok && (e.Name()[0] != '.' || part[0] == '.') {
				g.descend(filepath.Join(dir, e.Name()), rest)
			}
		}
	default:
		g.descend(filepath.Join(dir, part), rest)
	}
}

// descend goes on in p if p exists and, where more must match, is a directory.
func (g *globber) descend(p string, rest []string) {
	info, err := os.Lstat(p)
	if err == nil && len(rest) > 0 {
		info, err = os.Stat(p)
	}
	if err == nil && (len(rest) == 0 || info.IsDir()) {
		g.walk(p, rest)
	}
}

// deep matches rest in dir and in every directory below it. Links are not followed, so that it ends.
func (g *globber) deep(dir string, rest []string) {
	if g.full() {
		return
	}
	g.walk(dir, rest)
	for _, e := range g.list(dir) {
		if e.Name()[0] == '.' {
			continue
		}
		p := filepath.Join(dir, e.Name())
		if e.IsDir() {
			g.deep(p, rest)
		} else if len(rest) == 0 {
			g.found = append(g.found, p)
		}
	}
}

func (g *globber) list(dir string) []os.DirEntry {
	if g.full() {
		return nil
	}
	entries, _ := os.ReadDir(dir) // what cannot be read matches nothing
	return entries
}
