package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

// Exit codes of reap, beside 0 (nothing found) and 1 (error).
const exitFound = 2

const (
	reapFirst = 250 * time.Millisecond // before a destroy is repeated the first time; doubles
	reapPause = 5 * time.Second        // the longest such pause
	reapLimit = 15 * time.Minute       // for all destroys together
)

type reapOptions struct {
	client      clientFlags
	config      configFlags
	dir, owner  string
	dry, assent bool
}

// reaping looks for instances that no record knows, and ends them: through the master, or beside a state that no master uses.
type reaping interface {
	Look(ctx context.Context, provider string) (api.StrayList, error)
	Destroy(ctx context.Context, key model.InstanceKey) (gone bool, err error)
}

func newReapCmd(a *app) *cobra.Command {
	o := &reapOptions{}
	c := &cobra.Command{
		Use:   "reap [PROVIDER]",
		Short: "Find instances that no record knows, and destroy them",
		Long: `Lists everything that carries this master's tag, at each provider or at one, and compares it with the records. If nothing is broken there is never
anything to find: the master does the same by itself all the time. This is for whoever wants to see it.

What a record knows is never touched. Whatever else is listed must be seen twice, some seconds apart, and be older than any call that could have
made it. It is shown, and destroyed after you have agreed, again and again until its provider says that it is gone.

A running master does all that itself, with its own credentials; what it makes meanwhile is in its records first. If none runs, this program
takes the state for as long as it works, so that no master can begin, and opens the providers of the configuration that the state remembers, or
of -config.

If the state is lost, its instances can still be found by their owner's tag, which their consoles, names and tags show: -owner ID -config DIR.
There are no records then: EVERYTHING with this tag is destroyed, also what a master on another machine is using. The owner must be typed again.`,
		Annotations: exits("0 nothing was found", "1 an error: what is there is not known, or could not be destroyed", "2 something was found, destroyed or not"),
		Example: `  rouse reap -dry-run
  rouse reap cloud -auto-approve -json
  rouse reap -owner 33vramgvquqe -config /etc/rouse`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.complete(providerNames),
	}
	o.client.register(c)
	o.config.register(c)
	fl := c.Flags()
	fl.BoolVar(&o.dry, "dry-run", false, "only list")
	fl.BoolVar(&o.assent, "auto-approve", false, "destroy without asking")
	fl.StringVar(&o.owner, "owner", "", "the state is lost: destroy everything that carries this owner's `ID`")
	fl.StringVar(&o.dir, "config", "", "`DIR` of the configuration whose providers are asked, if no master runs (default: as the state remembers it)")
	_ = c.MarkFlagDirname("config")
	c.RunE = func(c *cobra.Command, given []string) error {
		provider := ""
		if len(given) > 0 {
			provider = given[0]
		}
		return a.reap(c.Context(), o, provider)
	}
	return c
}

func providerNames(ctx context.Context, c *api.Client, _ []string) (out []string, err error) {
	var st api.Status
	err = c.Get(ctx, "/status", nil, &st)
	for _, p := range st.Providers {
		out = append(out, p.Name)
	}
	return out, err
}

func (a *app) reap(ctx context.Context, o *reapOptions, provider string) error {
	switch {
	case o.owner != "" && o.dir == "":
		return usagef("-owner needs -config DIR: without a state, it says which providers to ask")
	case o.owner != "" && (o.assent || o.client.master != ""):
		return usagef("-owner goes neither with -auto-approve, since the owner must be typed, nor with -master, since that has its state")
	case o.dry && o.assent:
		return usagef("-dry-run destroys nothing; leave out -auto-approve")
	}
	if o.owner == "" {
		client, err := o.client.connect()
		if err != nil {
			return err
		}
		defer client.Close()
		var st api.Status
		err = client.Get(ctx, "/status", nil, &st)
		away := errors.Is(err, api.ErrNoMaster)
		switch {
		case err == nil:
			return a.reapWith(ctx, o, onlineReaper{client}, provider, "")
		case !away || cmp.Or(o.client.master, os.Getenv("ROUSE_MASTER")) != "" && o.client.state == "":
			return err
		}
	}
	h, err := o.config.options(a)
	if err != nil {
		return err
	}
	r, err := master.OpenReaper(ctx, master.ReapOptions{StateDir: cmp.Or(o.client.state, defaultState()), ConfigDir: o.dir, Hcl: h, Owner: o.owner})
	if errors.Is(err, master.ErrNoState) {
		return fmt.Errorf("no master answers, and %w.\nSay where it is with -state DIR or -master URL. If the state is lost: rouse reap -owner ID -config DIR", err)
	}
	if err != nil {
		return err
	}
	note := "No master runs; its state is held until this program ends."
	if o.owner != "" {
		note = "There are no records: everything with the tag of owner " + o.owner + " is listed."
	}
	fmt.Fprintln(a.stderr, a.paint(a.stderr, "90", note))
	return errors.Join(a.reapWith(ctx, o, r, provider, o.owner), r.Close())
}

// reaped is what reap prints as JSON.
type reaped struct {
	api.StrayList
	Destroyed []model.InstanceKey `json:"destroyed"`
	Left      []model.InstanceKey `json:"left"`
}

// reapWith looks twice, shows, asks, destroys. owner must be typed, if it is not empty.
func (a *app) reapWith(ctx context.Context, o *reapOptions, r reaping, provider, owner string) error {
	list, err := r.Look(ctx, provider)
	if err == nil && len(list.Strays) > 0 {
		fmt.Fprintln(a.stderr, a.paint(a.stderr, "90", "Looking twice…"))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(core.ReapApart + time.Second/2):
		}
		list, err = r.Look(ctx, provider)
	}
	if err != nil {
		return err
	}
	out := reaped{StrayList: list, Destroyed: []model.InstanceKey{}, Left: []model.InstanceKey{}}
	if !o.client.json {
		if err := a.showStrays(list); err != nil {
			return err
		}
	}
	code := 0
	var sure []api.Stray
	for _, st := range list.Strays {
		code = exitFound
		if st.Sure {
			sure = append(sure, st)
		} else {
			out.Left = append(out.Left, st.Instance)
		}
	}
	var failed error
	if agreed, err := a.mayReap(ctx, o, sure, owner); err != nil {
		return err
	} else if agreed {
		out.Destroyed, failed = a.destroyAll(ctx, r, sure)
	}
	for _, st := range sure {
		if !slices.Contains(out.Destroyed, st.Instance) {
			out.Left = append(out.Left, st.Instance)
		}
	}
	if o.client.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	for _, p := range list.Providers {
		if p.Error != "" {
			failed = errors.Join(failed, fmt.Errorf("provider %s does not say what it holds: %s", p.Name, clean(p.Error)))
		}
	}
	if failed != nil || code == 0 {
		return failed
	}
	return exit(code)
}

func (a *app) showStrays(list api.StrayList) error {
	t := newTable(a)
	if len(list.Strays) == 0 {
		var names []string
		for _, p := range list.Providers {
			if p.Error == "" { // else nobody knows what it holds
				names = append(names, p.Name)
			}
		}
		if len(names) > 0 {
			t.line("Every instance with this master's tag is in its records (%s).", strings.Join(names, ", "))
		}
		return t.flush()
	}
	t.head("PROVIDER", "INSTANCE", "ID", "STATE", "AGE", "NOTE")
	for _, st := range list.Strays {
		note := "in no record"
		switch {
		case !st.Sure:
			note = "not sure yet: " + st.Why
		case st.Ending:
			note = "in no record; its end was ordered"
		}
		t.row(st.Provider, st.Instance, dash(st.ID), st.State, human(st.Age), note)
	}
	return t.flush()
}

// mayReap asks whether to destroy.
func (a *app) mayReap(ctx context.Context, o *reapOptions, sure []api.Stray, owner string) (bool, error) {
	switch {
	case len(sure) == 0 || o.dry:
		return false, nil
	case o.assent:
		return true, nil
	case !isTerminal(a.stdin):
		fmt.Fprintln(a.stderr, "Nothing is destroyed: nobody can be asked here. To destroy without asking: -auto-approve. To list only: -dry-run.")
		return false, nil
	case owner != "":
		return a.agree(ctx, fmt.Sprintf("\nALL %d instances above are destroyed, with whatever runs on them. No record can spare one, and a master with this owner that runs elsewhere loses its builds.\nType the owner to destroy them: ", len(sure)), owner)
	}
	return a.agree(ctx, fmt.Sprintf("\nDestroy %s? Only \"yes\" is taken for it: ", plural(len(sure), "instance")), "yes")
}

// agree asks, and says whether the answer is the one that agrees. Whatever else is typed, or nothing, is no.
func (a *app) agree(ctx context.Context, question, answer string) (bool, error) {
	fmt.Fprint(a.stderr, question)
	line, err := a.answer(ctx, a.stderr)
	if err == nil && line == answer {
		return true, nil
	}
	fmt.Fprintln(a.stderr, "Nothing is destroyed.")
	return false, err
}

// destroyAll destroys until everything is gone, and says so.
func (a *app) destroyAll(ctx context.Context, r reaping, list []api.Stray) (gone []model.InstanceKey, failed error) {
	ctx, cancel := context.WithTimeout(ctx, reapLimit)
	defer cancel()
	began := time.Now()
	left := map[model.InstanceKey]bool{}
	for _, st := range list {
		left[st.Instance] = true
	}
	gone = []model.InstanceKey{}
	for wait := reapFirst; len(left) > 0; wait = min(2*wait, reapPause) {
		for _, st := range list {
			if !left[st.Instance] {
				continue
			}
			done, err := r.Destroy(ctx, st.Instance)
			switch {
			case err != nil:
				delete(left, st.Instance)
				failed = errors.Join(failed, fmt.Errorf("destroy %s: %w", st.Instance, err))
			case done:
				delete(left, st.Instance)
				gone = append(gone, st.Instance)
				fmt.Fprintf(a.stderr, "Instance %s is gone after %s.\n", clean(string(st.Instance)), human(time.Since(began).Seconds()))
			case wait == reapFirst:
				fmt.Fprintf(a.stderr, "Destroying %s\n", clean(string(st.Instance)))
			}
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return gone, errors.Join(failed, fmt.Errorf("%s not gone after %s: %w", plural(len(left), "instance"), human(time.Since(began).Seconds()), ctx.Err()))
		case <-time.After(wait):
		}
	}
	return gone, failed
}

// onlineReaper lets the running master do it.
type onlineReaper struct{ *api.Client }

func (r onlineReaper) Look(ctx context.Context, provider string) (out api.StrayList, err error) {
	query := url.Values{}
	set(query, "provider", provider)
	err = r.Post(ctx, "/strays/look", query, nil, &out)
	return out, err
}

// Destroy gives the order once more, unless the master does not see the instance any more.
func (r onlineReaper) Destroy(ctx context.Context, key model.InstanceKey) (gone bool, err error) {
	err = r.Post(ctx, "/strays/"+url.PathEscape(string(key))+"/destroy", nil, nil, new(api.Done))
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusNotFound {
		return true, nil
	}
	return false, err
}
