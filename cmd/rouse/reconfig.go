package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

func newReconfigCmd(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "reconfig",
		Short: "Let the master read its configuration directory again",
		Long: `The running master reads the directory again that it was started with, as for a SIGHUP, and puts it into force. A broken configuration changes nothing: every
mistake is shown with its place. Nobody is asked; to see first what would happen, use rouse plan and rouse apply.`,
		Annotations: exits("0 it is in force, or nothing has changed", "1 an error: nothing was changed, unless it is said that this is not known",
			"130 interrupted by Ctrl-C or SIGTERM; it is not known whether it is in force"),
		Example: "  rouse reconfig\n  rouse reconfig -reason=\"more workers\"",
		Args:    args(cobra.NoArgs),
	}
	c.Flags().StringVar(&reason, "reason", "", "`TEXT` that tells people why")
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		out, err := s.reconfig(ctx, reason)
		if err != nil {
			return a.invalid(err, s.json)
		}
		return s.show(out, func(t *table) {
			if !out.Changed {
				t.line("The configuration has not changed; generation %d stays in force.", out.Generation)
				return
			}
			t.line("%s", fmt.Sprintf("The configuration is applied: %s, generation %d.", counted(out.Summary), out.Generation))
		})
	})
}

func (s *session) reconfig(ctx context.Context, reason string) (out api.Applied, err error) {
	if err = s.Post(ctx, "/reconfig", nil, api.ReconfigAsk{Order: api.Order{Reason: reason}}, &out); err != nil && lost(ctx, err) {
		err = unsure(ctx, err, 0)
	}
	return out, err
}
