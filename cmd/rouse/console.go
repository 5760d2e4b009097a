package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/api"
)

func newConsoleCmd(a *app) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "console INSTANCE",
		Short: "Print what an instance has printed on its console",
		Long: `Print what a living instance has printed on its serial console, as far as its provider keeps it: mostly the last 64 KiB. The instance is named by its key,
or by its worker. Its token is masked. What an instance printed that has failed a build is kept with that build: see rouse logs.`,
		Example: `  rouse console linux-1
  rouse console linux-1 -f             # goes on until the instance ends`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.complete(instanceNames),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the instance ends")
	a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		if s.json {
			return usagef("what an instance prints is text: there is no -json")
		}
		return s.console(ctx, given[0], follow)
	})
	_ = c.Flags().MarkHidden("json") // it came with what all clients have
	return c
}

// console prints the console of the living instance that is called so, or whose worker is.
func (s *session) console(ctx context.Context, name string, follow bool) error {
	const all = 1000
	key := name
	var out api.InstanceList
	if err := s.Get(ctx, "/instances", url.Values{"limit": {strconv.Itoa(all)}}, &out); err != nil {
		return err
	}
	for _, in := range out.Instances {
		if in.Worker == name {
			key = string(in.Key)
		}
	}
	if len(out.Instances) < all && !slices.ContainsFunc(out.Instances, func(in api.Instance) bool { return string(in.Key) == key }) {
		return s.noInstance(ctx, key)
	}
	query := url.Values{}
	if follow {
		query.Set("follow", "true")
	}
	var printed counter
	err := s.Copy(ctx, "/instances/"+url.PathEscape(key)+"/console", query, io.MultiWriter(&printed, &plainText{w: s.stdout}))
	if err == nil && printed == 0 {
		fmt.Fprintf(s.stderr, "Instance %s has printed nothing so far, or its provider does not have it yet.\n", clean(key))
	}
	return err
}

// counter counts bytes.
type counter int

func (n *counter) Write(b []byte) (int, error) {
	*n += counter(len(b))
	return len(b), nil
}

// noInstance says what is wrong with a name that none of the living instances has, nor their workers.
func (s *session) noInstance(ctx context.Context, name string) error {
	var all api.WorkerList
	if err := s.Get(ctx, "/workers", nil, &all); err != nil {
		return err
	}
	var names []string
	for i := range all.Workers {
		switch w := &all.Workers[i]; {
		case w.Name == name && w.Provider == "":
			return fmt.Errorf("worker %q is a standard one, which somebody else starts: it has no instance whose console could be read", name)
		case w.Name == name:
			return fmt.Errorf("worker %q has no instance now", name)
		case w.Provider != "":
			names = append(names, w.Name)
		}
	}
	msg := fmt.Sprintf("there is no living instance, and no worker, %q.", name)
	if near := hcl.Nearest(name, names); near != "" {
		msg += fmt.Sprintf(" Did you mean %q?", near)
	}
	return errors.New(msg)
}

// plainText leaves out what would drive the terminal: what a machine prints is not to be trusted. It forgets nothing between two writes.
type plainText struct {
	w    io.Writer
	in   byte   // what it is inside of: 0 text, '\x1b' an escape sequence, '[' one with parameters, ']' one with a text
	rest []byte // the beginning of a character
}

func (p *plainText) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	p.rest = append(p.rest, b...)
	for len(p.rest) > 0 && utf8.FullRune(p.rest) {
		r, n := utf8.DecodeRune(p.rest)
		if p.keeps(r) && (r != utf8.RuneError || n > 1) {
			out = append(out, p.rest[:n]...)
		}
		p.rest = p.rest[n:]
	}
	_, err := p.w.Write(out)
	return len(b), err
}

// keeps says whether a character is text, and follows what it is inside of (ECMA-48, 5.3 to 5.6). A line's end ends everything: no more than a line is lost
// to what a machine has begun and not ended.
func (p *plainText) keeps(r rune) bool {
	const escape, bell, csi, st = 0x1b, 0x07, 0x9b, 0x9c
	switch {
	case r == '\n':
		p.in = 0
		return true
	case r == escape:
		p.in = escape
	case p.in == escape && r == '[', p.in == 0 && r == csi:
		p.in = '['
	case p.in == escape && strings.ContainsRune("]PX^_", r):
		p.in = ']'
	case p.in == escape && r >= ' ' && r <= '/': // there is more of it
	case p.in == '[' && (r < '@' || r > '~'):
	case p.in == ']' && r != bell && r != st:
	case p.in != 0:
		p.in = 0
	default:
		return r == '\t' || unicode.IsPrint(r)
	}
	return false
}

// plain is a whole text without what would drive a terminal.
func plain(s string) string {
	var b strings.Builder
	_, _ = (&plainText{w: &b}).Write([]byte(s)) // a builder takes all
	return b.String()
}
