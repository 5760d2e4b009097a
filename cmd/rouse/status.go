package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/providers"
)

func newStatusCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show the master in a few numbers", Example: "  rouse status", Args: args(cobra.NoArgs)}
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		var st api.Status
		if err := s.Get(ctx, "/status", nil, &st); err != nil {
			return err
		}
		return s.show(st, func(t *table) { showStatus(t, st) })
	})
}

func showStatus(t *table, st api.Status) {
	state := "ready"
	switch {
	case st.Stopping:
		state = "stopping"
	case !st.Ready:
		state = "not ready: " + st.NotReady
	}
	t.line("%s", strings.TrimSpace(fmt.Sprintf("Master %s %s, up %s, %s", st.Name, st.Version, human(st.Uptime), state)))
	t.pair("configuration", fmt.Sprintf("generation %d", st.Generation))
	requests := fmt.Sprintf("%d waiting", st.Waiting)
	if st.Waiting > 0 {
		requests += ", the oldest for " + human(st.OldestAge)
	}
	t.pair("requests", requests)
	t.pair("builds", fmt.Sprintf("%d running, %d preparing", st.Running, st.Preparing))
	t.pair("workers", byState(st.Workers))
	instances := byState(st.Instances)
	if st.PricePerHour > 0 {
		instances += fmt.Sprintf(" (%.4f per hour)", st.PricePerHour)
	}
	t.pair("instances", instances)
	for _, p := range st.Providers {
		text := "not listed yet"
		if !p.ListedAt.IsZero() {
			text = "listed " + human(st.Time.Sub(p.ListedAt).Seconds()) + " ago"
		}
		if p.Orphans > 0 {
			text += ", " + plural(p.Orphans, "orphan")
		}
		if p.ListError != "" {
			text += ", last list failed: " + p.ListError
		}
		t.pair("provider "+p.Name, text)
		for _, h := range p.Hosts {
			name := "  host " + h.Name
			if h.Name == "host" || h.Name == providers.LimitRoom { // a provider's only one is called so, or there is none
				name = "  " + h.Name
			}
			t.pair(name, hostText(h, st.Time))
		}
	}
}

// hostText says what of a host is taken, and since when it cannot be reached.
func hostText(h api.Host, now time.Time) string {
	parts := []string{plural(h.Instances, "instance")}
	if h.Slots > 0 {
		parts[0] = fmt.Sprintf("%d of %s", h.Instances, plural(h.Slots, "slot"))
	}
	if h.VCPULimit > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s", h.VCPUs, plural(h.VCPULimit, "vcpu")))
	}
	if h.MemoryLimit > 0 {
		parts = append(parts, fmt.Sprintf("%s of %s of memory", core.Amount(h.Memory), core.Amount(h.MemoryLimit)))
	}
	text := strings.Join(parts, ", ") + " taken"
	if h.Down {
		text = "cannot be reached since " + clock(h.DownSince) + " (" + human(now.Sub(h.DownSince).Seconds()) + "): nothing new begins there; " + text
	}
	return text
}

func byState(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	var parts []string
	for _, state := range sortedKeys(m) {
		parts = append(parts, fmt.Sprintf("%d %s", m[state], state))
	}
	return strings.Join(parts, ", ")
}

func newBuildersCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "builders", Short: "List builders and their queues", Example: "  rouse builders", Args: args(cobra.NoArgs)}
	return a.clientCmd(c, func(ctx context.Context, s *session, _ []string) error {
		var out api.BuilderList
		if err := s.Get(ctx, "/builders", nil, &out); err != nil {
			return err
		}
		return s.show(out, func(t *table) {
			if len(out.Builders) == 0 {
				t.line("No builders.")
				return
			}
			t.head("BUILDER", "WAITING", "RUNNING", "WORKERS", "FORCE", "DESCRIPTION")
			for _, b := range out.Builders {
				t.row(b.Name, b.Waiting, b.Running, plural(len(b.Workers), "worker"), dash(strings.Join(b.Force, " ")), b.Description)
			}
		})
	})
}
