package main

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

func newGenerationsCmd(a *app) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "generations",
		Short: "List the configurations that were in force: who, when, whence and what changed",
		Long: `Lists the generations of the configuration, newest first; a star marks the one in force. They come from the start of a master, from reading its
directory again (reload), from an apply or from a rollback.`,
		Example: "  rouse generations\n  rouse generations -json",
		Args:    args(cobra.NoArgs),
	}
	c.Flags().IntVar(&limit, "limit", 20, "at most this `NUMBER`, up to 1000")
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		var out api.GenerationList
		if err := s.Get(ctx, "/generations", url.Values{"limit": {strconv.Itoa(limit)}}, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			t.head("GENERATION", "APPLIED", "BY", "FROM", "CHANGES", "DIRECTORY", "REASON")
			for _, g := range out.Generations {
				n := strconv.FormatInt(int64(g.Number), 10)
				if g.Current {
					n += " *"
				}
				changes := "-"
				if g.Summary != nil {
					changes = counted(*g.Summary)
				}
				t.row(n, when(g.AppliedAt), dash(g.By), dash(g.From), changes, dash(g.Directory), g.Reason)
			}
		})
	})
}

func when(t time.Time) string { return t.Local().Format(time.DateTime) }
