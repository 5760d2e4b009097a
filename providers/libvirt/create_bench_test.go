//go:build cgo && libvirt_dlopen

package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

const (
	figureRuns = 15                     // of each step, in turn: what else the machine does troubles all alike
	figureRest = 500 * time.Millisecond // libvirt's last work for a guest that has ended is no part of the next one's start
)

// TestHostFigures measures what this provider adds to a guest's own boot and end, on a machine that should have nothing else to do (make bench-libvirt). It
// prints lines NAME_seconds=…: each is a median, best= the least. Beside them are the steps of Buildbot's libvirt worker: a clone that its operator makes with
// qemu-img, createXML, destroy; and the least that libvirt itself needs, for a disk that is there already. What the provider takes beyond that is its overhead.
func TestHostFigures(t *testing.T) { //nolint:paralleltest // nothing else must run
	if os.Getenv("BENCH") == "" {
		t.Skip("make bench-libvirt runs it")
	}
	real(t)
	defer noneLeft(t)
	l, base := realHost(t)
	defer l.Close()
	p := realProvider(t, t.TempDir(), "bench", slog.New(slog.DiscardHandler))
	defer p.Close() //nolint:errcheck // it holds nothing
	b := &figures{T: t, ctx: t.Context(), l: l, p: p, base: base, all: map[string][]time.Duration{}}
	b.guest = &guest{key: "bench-raw-1", spec: realSpec(), machine: "qemu", tags: tags{Owner: "bench", Key: "bench-raw-1", Worker: "w"},
		disk: volume{Path: realPool + "/bench.qcow2", Format: "qcow2"}, agent: []byte("{}")}
	var err error
	if b.xml, err = b.guest.define(nil); err != nil {
		t.Fatal(err)
	}
	for i := range figureRuns {
		for _, step := range []func(){b.clone, func() { b.bare(false) }, func() { b.bare(true) }, func() { b.whole(providers.Key(fmt.Sprintf("bench-w-%d", i+1))) }} {
			time.Sleep(figureRest)
			step()
		}
	}
	b.print()
}

type figures struct {
	*testing.T
	ctx   context.Context
	l     link
	p     *provider
	base  volume
	guest *guest
	xml   string
	all   map[string][]time.Duration
}

func (b *figures) time(name string, step func() error) {
	b.Helper()
	began := time.Now()
	if err := step(); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	b.all[name] = append(b.all[name], time.Since(began))
}

func (b *figures) byHand() error {
	out, err := exec.Command("qemu-img", "create", "-q", "-b", b.base.Path, "-F", "qcow2", "-f", "qcow2", b.guest.disk.Path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// clone makes the disk of a guest from a base of 2 GiB through the API.
func (b *figures) clone() {
	text, err := overlay("bench.qcow2", b.base)
	if err != nil {
		b.Fatal(err)
	}
	b.time("clone", func() error { return b.l.CreateVolume(b.ctx, "default", text) })
	if err := b.l.DeleteVolume(b.ctx, "default", "bench.qcow2"); err != nil {
		b.Fatal(err)
	}
}

// bare starts and ends a guest with libvirt's calls only; as Buildbot does, its disk is made and removed, too.
func (b *figures) bare(buildbot bool) {
	who := "libvirt"
	if buildbot {
		who = "buildbot"
		b.time("buildbot_clone", b.byHand)
		_ = os.Remove(b.guest.disk.Path)
	} else if err := b.byHand(); err != nil {
		b.Fatal(err)
	}
	b.time(who+"_start", func() error {
		if buildbot {
			if err := b.byHand(); err != nil {
				return err
			}
		}
		return b.l.Start(b.ctx, b.xml)
	})
	b.time(who+"_stop", func() error {
		err := b.l.Destroy(b.ctx, domainName(b.guest.key))
		if buildbot {
			_ = os.Remove(b.guest.disk.Path)
		}
		return err
	})
	_ = os.Remove(b.guest.disk.Path)
}

// whole starts and ends a guest with the provider.
func (b *figures) whole(key providers.Key) {
	b.time("start", func() error {
		_, err := b.p.Create(b.ctx, request(key))
		return err
	})
	b.time("stop", func() error { return b.p.Destroy(b.ctx, key) })
	if err := b.p.Destroy(b.ctx, key); providers.ClassOf(err) != providers.NotFound {
		b.Fatalf("%s is not gone: %v", key, err)
	}
}

func (b *figures) print() {
	median, best := map[string]time.Duration{}, map[string]time.Duration{}
	for name, all := range b.all {
		slices.Sort(all)
		median[name], best[name] = all[len(all)/2], all[0]
	}
	for _, end := range []string{"start", "stop"} {
		median[end+"_overhead"], best[end+"_overhead"] = median[end]-median["libvirt_"+end], best[end]-best["libvirt_"+end]
	}
	var out strings.Builder
	for _, f := range []struct {
		name  string
		limit time.Duration
	}{{"clone", 100 * time.Millisecond}, {"start_overhead", 300 * time.Millisecond}, {"stop_overhead", 200 * time.Millisecond},
		{"start", 0}, {"stop", 0}, {"libvirt_start", 0}, {"libvirt_stop", 0}, {"buildbot_clone", 0}, {"buildbot_start", 0}, {"buildbot_stop", 0}} {
		fmt.Fprintf(&out, "%s_seconds=%.3f best=%.3f", f.name, median[f.name].Seconds(), best[f.name].Seconds())
		switch {
		case f.limit == 0:
		case median[f.name] > f.limit:
			fmt.Fprintf(&out, " limit=%.3f over", f.limit.Seconds())
		default:
			fmt.Fprintf(&out, " limit=%.3f ok", f.limit.Seconds())
		}
		out.WriteByte('\n')
	}
	fmt.Print(out.String())
}
