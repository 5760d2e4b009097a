package main

import (
	"context"
	"io"
	"net/url"

	"github.com/spf13/cobra"

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
		Args: args(cobra.ExactArgs(1)),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the instance ends")
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		key := given[0]
		var out api.InstanceList
		if err := s.Get(ctx, "/instances", url.Values{"limit": {"1000"}}, &out); err != nil {
			return err
		}
		for _, in := range out.Instances {
			if in.Worker == given[0] {
				key = string(in.Key)
			}
		}
		query := url.Values{}
		if follow {
			query.Set("follow", "true")
		}
		return s.Copy(ctx, "/instances/"+url.PathEscape(key)+"/console", query, plainText{s.stdout})
	})
}

// plainText leaves out what would drive the terminal: a machine's console is not to be trusted.
type plainText struct{ w io.Writer }

func (p plainText) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == '\n' || c == '\t' || c >= ' ' && c != 0x7f {
			out = append(out, c)
		}
	}
	_, err := p.w.Write(out)
	return len(b), err
}
