package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

// source asks a master for the words that may stand somewhere; a tab after a word begins its description.
type source func(ctx context.Context, c *api.Client, given []string) ([]string, error)

// complete completes the arguments of a command from the live master, one source for each. It is quick or gives nothing.
func (a *app) complete(sources ...source) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(given) >= len(sources) {
			if len(sources) > 1 || len(given) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			given = nil // the value of a flag, after the arguments
		}
		f := &clientFlags{}
		f.state, _ = c.Flags().GetString("state")
		f.master, _ = c.Flags().GetString("master")
		f.tokenFile, _ = c.Flags().GetString("token-file")
		f.ca, _ = c.Flags().GetString("ca")
		client, err := f.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		words, _ := sources[len(given)](ctx, client, given)
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func words(w ...string) source {
	return func(context.Context, *api.Client, []string) ([]string, error) { return w, nil }
}

func builderNames(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.BuilderList
	err = c.Get(ctx, "/builders", nil, &l)
	for _, b := range l.Builders {
		out = append(out, cobra.CompletionWithDesc(b.Name, clean(b.Description)))
	}
	return out, err
}

func workerNames(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.WorkerList
	err = c.Get(ctx, "/workers", nil, &l)
	for _, w := range l.Workers {
		out = append(out, cobra.CompletionWithDesc(w.Name, w.State))
	}
	return out, err
}

func buildNumbers(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.BuildList
	err = c.Get(ctx, "/builds", url.Values{"limit": {"50"}}, &l)
	for _, b := range l.Builds {
		out = append(out, cobra.CompletionWithDesc(fmt.Sprint(b.ID), b.Builder+", "+outcome(b.Result, b.Phase.String())))
	}
	return out, err
}

func requestNumbers(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.RequestList
	err = c.Get(ctx, "/requests", nil, &l)
	for _, r := range l.Requests {
		out = append(out, cobra.CompletionWithDesc(fmt.Sprint(r.ID), r.Builder+", "+r.Phase))
	}
	return out, err
}

func requestOrBuild(ctx context.Context, c *api.Client, given []string) ([]string, error) {
	if given[0] == "build" {
		return buildNumbers(ctx, c, nil)
	}
	return requestNumbers(ctx, c, nil)
}

func stepNames(ctx context.Context, c *api.Client, given []string) (out []string, err error) {
	_, id, err := number(given[:1], "build")
	if err != nil {
		return nil, err
	}
	var b api.BuildDetail
	err = c.Get(ctx, fmt.Sprintf("/builds/%d", id), nil, &b)
	for _, st := range b.Steps {
		out = append(out, cobra.CompletionWithDesc(st.Name, st.Kind))
	}
	return out, err
}
