package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/providers"
)

// imagesTimeout bounds all calls of a provider together: EC2 is asked once more for each condition when there is no image.
const imagesTimeout = 2 * time.Minute

// imageList is what `rouse images -json` prints.
type imageList struct {
	Worker   string            `json:"worker"`
	Provider string            `json:"provider"`
	Images   []providers.Image `json:"images"` // in the order of the choice
}

func newImagesCmd(a *app) *cobra.Command {
	var flags configFlags
	var asJSON, all bool
	c := &cobra.Command{
		Use:   "images WORKER [DIR]",
		Short: "Show how a worker's image is chosen",
		Long: `Shows every candidate for the image of a worker's next instance, in the order of the choice, and why each was taken or refused. The last one
that is not refused is taken.

It reads the configuration in DIR (default: this directory) and asks the worker's provider from here, with the credentials that the
configuration or this environment gives. No master is needed, and nothing is changed.`,
		Annotations: exits("0 an image is taken", "1 none is, or an error"),
		Example:     "  rouse images linux\n  rouse images linux-1 contrib/examples/ec2 -json",
		Args:        args(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, given []string) error {
			o, err := flags.options(a)
			if err != nil {
				return err
			}
			list, err := a.images(c.Context(), given[0], directory(given[1:]), o)
			if err != nil {
				return err
			}
			return a.showImages(list, asJSON, all)
		},
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			o, err := flags.options(a)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.latentWorkers(".", o), cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, of all candidates")
	c.Flags().BoolVar(&all, "all", false, "show all candidates, however many")
	return c
}

// latentWorkers are the names for completion: of workers whose provider makes their instances.
func (a *app) latentWorkers(dir string, o hcl.Options) (names []cobra.Completion) {
	cfg, _ := hcl.Load(dir, o) // what is wrong elsewhere is no reason to complete nothing
	for _, w := range cfg.Workers {
		if w.Provider != "" {
			names = append(names, cobra.CompletionWithDesc(w.Name, w.Provider))
		}
	}
	return names
}

// images asks the provider of one worker.
func (a *app) images(ctx context.Context, name, dir string, o hcl.Options) (*imageList, error) {
	cfg, diags := hcl.Load(dir, o)
	if diags.HasErrors() {
		diags = cfg.Relocate(dir, diags)
		if err := cfg.WriteDiagnostics(a.stderr, diags, a.width(), a.colour(a.stderr)); err != nil {
			return nil, err
		}
		return nil, exit(1)
	}
	w, p, err := latentWorker(cfg, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, imagesTimeout)
	defer cancel()
	state, err := os.MkdirTemp("", "rouse-images-") // not the master's: that one belongs to the process that runs
	if err != nil {
		return nil, fmt.Errorf("make a directory for the provider: %w", err)
	}
	defer os.RemoveAll(state) //nolint:errcheck // what stays is empty or harmless
	log := slog.New(tint.NewTextHandler(a.stderr, &tint.Options{Level: slog.LevelWarn, TimeFormat: time.TimeOnly, NoColor: !a.colour(a.stderr)}))
	provider, _, err := a.kinds[p.Kind].Open(ctx, providers.Env{Name: p.Name, Config: p.Config, StateDir: state, Log: log, Console: a.stderr})
	if err != nil {
		return nil, fmt.Errorf("open provider %s: %w", p.Name, err)
	}
	defer provider.Close() //nolint:errcheck // it holds nothing that could be lost
	lister, ok := provider.(providers.ImageLister)
	if !ok {
		return nil, fmt.Errorf("worker %s: its provider %s is of kind %s, which does not choose among images", w.Name, p.Name, p.Kind)
	}
	images, err := lister.Images(ctx, w.Instance)
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", w.Name, unclassed(err))
	}
	return &imageList{Worker: w.Name, Provider: p.Name, Images: images}, nil
}

// unclassed is a provider's error without what only the engine needs to know.
func unclassed(err error) error {
	var e *providers.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// latentWorker finds a worker and its provider. The label of a counted worker means its first one: they differ by their index at most.
func latentWorker(cfg *hcl.Config, name string) (*hcl.Worker, *hcl.Provider, error) {
	var names []string
	for _, want := range []string{name, name + "-1"} {
		for i := range cfg.Workers {
			w := &cfg.Workers[i]
			if w.Provider != "" {
				names = append(names, w.Name, strings.TrimRight(strings.TrimRight(w.Name, "0123456789"), "-"))
			}
			if w.Name != want {
				continue
			}
			for j := range cfg.Providers {
				if p := &cfg.Providers[j]; p.Name == w.Provider {
					return w, p, nil
				}
			}
			return nil, nil, fmt.Errorf("worker %s is no latent worker: nothing makes its machine, so there is no image to choose", w.Name)
		}
	}
	msg := fmt.Sprintf("the configuration has no worker %q.", name)
	if near := hcl.Nearest(name, names); near != "" {
		msg += fmt.Sprintf(" Did you mean %q?", near)
	}
	return nil, nil, errors.New(msg)
}

// maxRefused is how many candidates that are not taken are shown to people who did not ask for all.
const maxRefused = 20

// fewRefused leaves out the candidates that are furthest from the choice, which is at the end, and says how many.
func fewRefused(images []providers.Image) (shown []providers.Image, left int) {
	refused := 0
	for _, im := range slices.Backward(images) {
		if !im.Taken {
			refused++
		}
		if im.Taken || refused <= maxRefused {
			shown = append(shown, im)
		} else {
			left++
		}
	}
	slices.Reverse(shown)
	return shown, left
}

func (a *app) showImages(list *imageList, asJSON, all bool) error {
	taken := false
	for _, im := range list.Images {
		taken = taken || im.Taken
	}
	if asJSON {
		if list.Images == nil {
			list.Images = []providers.Image{}
		}
		if err := a.printJSON(list); err != nil {
			return err
		}
	} else {
		t := newTable(a)
		shown, left := list.Images, 0
		if !all {
			shown, left = fewRefused(list.Images)
		}
		if left > 0 {
			t.line("%s before these are not taken, too; to see them: -all", plural(left, "candidate"))
			t.gap()
		}
		t.head("IMAGE", "CREATED", "NAME", "LOCATION", "TAKEN", "WHY")
		for _, im := range shown {
			verdict := "-"
			if im.Taken {
				verdict = "yes"
			}
			t.row(im.ID, dash(clock(im.CreatedAt)), dash(im.Name), dash(im.Location), verdict, im.Why)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if taken {
		return nil
	}
	return &exitError{code: 1, msg: fmt.Sprintf("no image would be taken for %s; candidates: %d", list.Worker, len(list.Images))}
}
