package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

func newWorkersCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "workers", Short: "List workers", Example: "  rouse workers", Args: args(cobra.NoArgs)}
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		var out api.WorkerList
		if err := s.Get(ctx, "/workers", nil, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			if len(out.Workers) == 0 {
				t.line("No workers.")
				return
			}
			t.head("WORKER", "PROVIDER", "STATE", "INSTANCE", "BUILD", "NOTE")
			for _, w := range out.Workers {
				t.row(w.Name, dash(w.Provider), w.State, dash(string(w.Instance)), dash(numbers(w.Builds)), workerNote(w))
			}
		})
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func workerNote(w api.Worker) string {
	switch {
	case !w.AwaySince.IsZero():
		return fmt.Sprintf("its agent is away since %s, its builds wait until %s", w.AwaySince.Local().Format(time.TimeOnly), w.AwayUntil.Local().Format(time.TimeOnly))
	case w.Paused != "":
		return "paused: " + w.Paused
	case w.Retired:
		return "not in the configuration any more"
	case w.Tries > 0:
		failures := plural(w.Tries, "failure")
		if w.FailClass != "" {
			failures += " (" + w.FailClass + ")"
		}
		next := "the last"
		if !w.BackoffUntil.IsZero() { // the master leaves it out when it is past
			next = "next try after " + w.BackoffUntil.Local().Format(time.TimeOnly)
		}
		return fmt.Sprintf("%s, %s: %s", failures, next, w.LastError)
	case w.Refused != "" && !w.Attached:
		return w.Refused + ", at " + w.RefusedAt.Local().Format(time.TimeOnly)
	}
	return ""
}

func newInstancesCmd(a *app) *cobra.Command {
	var all bool
	var worker string
	var limit int
	c := &cobra.Command{
		Use:     "instances",
		Short:   "List instances: the machines and processes that workers run on",
		Example: "  rouse instances\n  rouse instances -all -worker=linux-1",
		Args:    args(cobra.NoArgs),
	}
	c.Flags().BoolVar(&all, "all", false, "also those that are gone")
	c.Flags().StringVar(&worker, "worker", "", "only of this `WORKER`")
	c.Flags().IntVar(&limit, "limit", 100, "at most this `NUMBER`, up to 1000")
	_ = c.RegisterFlagCompletionFunc("worker", a.value(workerNames))
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		set(query, "worker", worker)
		if all {
			query.Set("all", "true")
		}
		var out api.InstanceList
		if err := s.Get(ctx, "/instances", query, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			if len(out.Instances) == 0 {
				t.line("No instances.")
				return
			}
			t.head("INSTANCE", "WORKER", "PROVIDER", "ID", "STATE", "AGE", "RUNNING", "COST", "NOTE")
			for _, m := range out.Instances {
				note := m.Reason
				switch {
				case m.Op != "":
					note = m.Op + " in flight"
				case note == "" && !m.StoppedAt.IsZero():
					note = "since " + clock(m.StoppedAt)
				case note == "":
					note = machine(m)
				}
				t.row(m.Key, m.Worker, m.Provider, dash(m.ProviderID), m.State, human(m.Age), m.Builds, dash(money(m.Cost)), note)
			}
		})
	})
}

// machine says in a few words what an instance is.
func machine(m api.Instance) string {
	var parts []string
	for _, name := range []string{"type", "market", "zone", "address"} {
		if v := m.Facts[name]; v != "" {
			parts = append(parts, v)
		}
	}
	return strings.Join(parts, ", ")
}
