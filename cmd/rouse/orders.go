package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

// newOrderCmd makes a command that gives an order about workers.
func newOrderCmd(a *app, verb, short, long string, withReason bool) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:               verb + " WORKER...",
		Short:             short,
		Long:              long + "\n\nThe name of a worker block with a count stands for all of its workers.",
		Example:           fmt.Sprintf("  rouse %s linux-1\n  rouse %s linux mac-mini        # all of block linux, and another one", verb, verb),
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.value(blocksAndWorkers), // however many came before
	}
	if withReason {
		c.Flags().StringVar(&reason, "reason", "", "`TEXT` that tells people why")
	}
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		query := url.Values{}
		set(query, "reason", reason)
		names, err := s.ordered(ctx, verb, given)
		if err != nil {
			return err
		}
		out := orders{Done: []order{}}
		var failed []error
		for _, name := range names { // each of them, whatever becomes of the others
			var d api.Done
			err := s.Post(ctx, "/workers/"+url.PathEscape(name)+"/"+verb, query, nil, &d)
			switch {
			case err == nil && s.json:
				out.Done = append(out.Done, order{Worker: name, Text: d.Text})
			case err == nil:
				err = s.said(d)
			}
			failed = append(failed, err)
		}
		if s.json {
			failed = append(failed, s.printJSON(out))
		}
		return errors.Join(failed...)
	})
}

// orders is what -json prints: one object, however many workers were named.
type orders struct {
	Done []order `json:"done"`
}

type order struct {
	Worker string `json:"worker"`
	Text   string `json:"text"`
}

// ordered are the workers that words name, each once: by their own names, or by that of a block with a count. What names none is left for the master to refuse,
// which knows what is near.
func (s *session) ordered(ctx context.Context, verb string, given []string) (names []string, err error) {
	var all api.WorkerList
	if err := s.Get(ctx, "/workers", nil, &all); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	take := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, word := range given {
		var own bool
		var pool, able []string
		for i := range all.Workers {
			switch w := &all.Workers[i]; {
			case w.Name == word:
				own = true
			case w.Pool == word:
				pool = append(pool, w.Name)
				if verb != "end" || w.Instance != "" {
					able = append(able, w.Name)
				}
			}
		}
		switch {
		case own || len(pool) == 0:
			take(word)
		case len(able) == 0:
			return nil, fmt.Errorf("none of the %s of %s has an instance now", plural(len(pool), "worker"), word)
		default:
			for _, name := range able {
				take(name)
			}
		}
	}
	return names, nil
}

func newPauseCmd(a *app) *cobra.Command {
	return newOrderCmd(a, "pause", "Give workers no more builds", "Give workers no more builds, until `rouse unpause`. Running builds go on.", true)
}

func newUnpauseCmd(a *app) *cobra.Command {
	return newOrderCmd(a, "unpause", "Give workers builds again", "Give paused workers builds again.", false)
}

func newEndCmd(a *app) *cobra.Command {
	return newOrderCmd(a, "end", "End workers' instances, whatever they do", "End the instances of workers, whatever they do. Their builds are stopped and tried again.", true)
}
