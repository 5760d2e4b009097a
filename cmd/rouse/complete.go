package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

// completing prepares the request of a shell: the words before the cursor, and the one at the cursor, which may be empty. Cobra completes flags with two dashes;
// who has typed one gets them with one, since a shell drops what does not begin with what was typed.
func (a *app) completing(root *cobra.Command, args []string) []string {
	end := len(args) - 1
	words, literal := normalise(root, args[1:end])
	word := args[end]
	if !literal && strings.HasPrefix(word, "-") && !strings.HasPrefix(word, "--") {
		if len(word) > 1 {
			word = "-" + word
		}
		if !strings.Contains(word, "=") {
			root.SetOut(oneDashed{a.stdout})
		}
	}
	return append(append([]string{args[0]}, words...), word)
}

// oneDashed writes the names of flags with one dash. Cobra writes each of them at once.
type oneDashed struct{ to io.Writer }

func (w oneDashed) Write(p []byte) (int, error) {
	s := string(p)
	if strings.HasPrefix(s, "--") {
		s = strings.ReplaceAll(s[1:], "`", "") // they mark the name of the value in a flag's description
	}
	if _, err := io.WriteString(w.to, s); err != nil {
		return 0, err
	}
	return len(p), nil
}

// source asks a master for the words that may stand somewhere; a tab after a word begins its description.
type source func(ctx context.Context, c *api.Client, given []string) ([]string, error)

// complete completes the arguments of a command from the live master, one source for each. It is quick or gives nothing.
func (a *app) complete(sources ...source) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(given) >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
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

// value completes the value of a flag, wherever among the arguments it stands.
func (a *app) value(of source) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.complete(of)(c, nil, word)
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

// blocksAndWorkers are the names that orders take: those of blocks with a count, each before its workers, and of workers.
func blocksAndWorkers(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.WorkerList
	err = c.Get(ctx, "/workers", nil, &l)
	size := map[string]int{}
	for i := range l.Workers {
		size[l.Workers[i].Pool]++
	}
	last := ""
	for _, w := range l.Workers {
		if w.Pool != "" && w.Pool != last {
			out = append(out, cobra.CompletionWithDesc(w.Pool, "all "+plural(size[w.Pool], "worker")))
		}
		last = w.Pool
		out = append(out, cobra.CompletionWithDesc(w.Name, w.State))
	}
	return out, err
}

func forceSchedulers(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.SchedulerList
	err = c.Get(ctx, "/schedulers", nil, &l)
	for _, s := range l.Schedulers {
		if s.Kind == "force" {
			out = append(out, s.Name)
		}
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

// instanceNames are the workers whose instances live: they name these, too.
func instanceNames(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.InstanceList
	err = c.Get(ctx, "/instances", nil, &l)
	for _, in := range l.Instances {
		out = append(out, cobra.CompletionWithDesc(in.Worker, string(in.Key)+", "+in.State.String()))
	}
	return out, err
}

func generationNumbers(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var l api.GenerationList
	err = c.Get(ctx, "/generations", nil, &l)
	for _, g := range l.Generations {
		if !g.Current {
			out = append(out, cobra.CompletionWithDesc(fmt.Sprint(g.Number), g.From+" "+clock(g.AppliedAt)+" "+clean(g.Reason)))
		}
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
