package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/images"
	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/libvirt"
)

// imageTest boots one image.
type imageTest struct {
	a                               *app
	boot                            images.Boot
	dir, uri, pool, network, listen string
	worker                          string // its name
	password                        string // file, or "": the instance's token
	orphan                          time.Duration
	limit                           time.Duration

	home  string // of the master that runs meanwhile
	owner providers.Owner
}

func (t *imageTest) run(ctx context.Context) (err error) {
	dir, err := filepath.Abs(t.dir)
	if err != nil {
		return err
	}
	if t.home, err = os.MkdirTemp("", "rouse-image-test-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.clean(), os.RemoveAll(t.home)) }()
	if err := os.WriteFile(filepath.Join(t.home, "rouse.hcl"), []byte(t.config(dir)), 0o600); err != nil {
		return err
	}
	stop, err := t.master(ctx)
	if err != nil {
		return err
	}
	defer stop()
	c, err := api.NewClient(filepath.Join(t.home, "state", api.SocketName), "", nil)
	if err != nil {
		return err
	}
	defer c.Close()

	began := time.Now()
	if err := t.probe(ctx, c, "probe"); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("in %s no worker of the image has attached and run a probe: %w", t.limit, err)
		}
		return err
	}
	t.say("it boots, attaches and runs a probe", began)

	began = time.Now()
	if err := t.until(ctx, func() (bool, error) {
		var list api.InstanceList
		err := c.Get(ctx, "/instances", nil, &list)
		return len(list.Instances) == 0, err
	}); err != nil {
		return fmt.Errorf("the guest does not end: %w", err)
	}
	if took := time.Since(began); took > powerOffLimit {
		return fmt.Errorf("the guest does not power off when it is told to (ACPI): it had to be destroyed after %s", human(took.Seconds()))
	}
	t.say("it powers off when it is told to", began)

	key, err := t.attach(ctx, c)
	if err != nil {
		return err
	}
	stop()
	began = time.Now()
	if err := t.untilAlone(ctx, key); err != nil {
		return err
	}
	t.say("it powers off when its master is gone", began)
	return nil
}

// powerOffLimit is how long a guest may take to power off; the configuration's graceful is longer.
const powerOffLimit = 50 * time.Second

func (t *imageTest) say(what string, began time.Time) {
	fmt.Fprintf(t.a.stdout, "%-45s ok, %s\n", what, human(time.Since(began).Seconds()))
}

// config is the test master's configuration.
func (t *imageTest) config(dir string) string {
	var b strings.Builder
	file := func(name, value string) {
		if value != "" && !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
		if value != "" {
			fmt.Fprintf(&b, "    %s = %q\n", name, value)
		}
	}
	boot := t.boot
	fmt.Fprintf(&b, "master {\n  listen = %q\n}\n", t.listen)
	fmt.Fprintf(&b, "provider \"libvirt\" \"host\" {\n  uri = %q\n  pool = %q\n  network = %q\n}\n", t.uri, t.pool, t.network)
	fmt.Fprintf(&b, "worker %q {\n  provider = provider.libvirt.host\n  build_wait_timeout = \"1s\"\n  missing_timeout = %q\n  orphan_timeout = %q\n",
		t.worker, min(5*time.Minute, t.limit*3/4), t.orphan)
	if t.password != "" {
		b.WriteString("  password = secret.worker\n")
	}
	b.WriteString("  instance {\n")
	file("base_image", boot.Image)
	file("kernel", boot.Kernel)
	file("initrd", boot.Initrd)
	if boot.Kernel != "" {
		if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
			fmt.Fprintf(&b, "    cmdline = %q\n", strings.TrimSpace(string(line)))
		}
	}
	fmt.Fprintf(&b, "    identity = %q\n    memory = %q\n    graceful = \"1m\"\n  }\n}\n", boot.Identity, boot.Memory)
	if t.password != "" {
		fmt.Fprintf(&b, "secret \"worker\" {\n  file = %q\n}\n", t.password)
	}
	b.WriteString(strings.ReplaceAll(strings.ReplaceAll(`
builder "probe" {
  workers = ["@worker"]
  step "shell" "probe" {
    command         = "set -e; echo probe > probe; test \"$(cat probe)\" = probe; test \"$ROUSE_WORKER\" = \"@worker\"; @probe; uname -a; cat /proc/uptime"
    halt_on_failure = true
  }
}
builder "wait" {
  workers = ["@worker"]
  step "shell" "wait" { command = "sleep 3600" }
}
scheduler "force" "force" { builders = [builder.probe, builder.wait] }
`, "@worker", t.worker), "@probe", cmp.Or(boot.Probe, "true")))
	return b.String()
}

// master starts one beside this process. stop kills it: that is what the last part of the test is about.
func (t *imageTest) master(ctx context.Context) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	state := filepath.Join(t.home, "state")
	log, err := os.Create(filepath.Join(t.home, "master.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	cmd := exec.Command(self, "master", "-config", t.home, "-state", state)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	dead := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(dead)
	}()
	stop = func() {
		_ = cmd.Process.Kill()
		<-dead
	}
	err = t.until(ctx, func() (bool, error) {
		select {
		case <-dead:
			b, _ := os.ReadFile(filepath.Join(t.home, "master.log"))
			return false, fmt.Errorf("the test's master ended:\n%s", b)
		default:
			return exists(filepath.Join(state, api.SocketName)), nil
		}
	})
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// probe asks for one build and wants it to succeed at once.
func (t *imageTest) probe(ctx context.Context, c *api.Client, builder string) error {
	var made api.Forced
	if err := c.Post(ctx, "/force", nil, api.Force{Builder: builder}, &made); err != nil {
		return err
	}
	var r api.Request
	err := t.until(ctx, func() (bool, error) {
		if err := t.learn(ctx, c); err != nil {
			return false, err
		}
		err := c.Get(ctx, "/requests/"+strconv.FormatInt(int64(made.Requests[0]), 10), nil, &r)
		return !r.FinishedAt.IsZero() || r.Attempts > 1, err
	})
	if err == nil && (r.Attempts > 1 || r.Result.String() != "success") {
		b := t.first(ctx, c)
		err = fmt.Errorf("the probe: %s: %s%s", b.Result, b.Text, t.printed(ctx, c, b))
	}
	if err != nil {
		return errors.Join(err, errors.New(t.console()))
	}
	return nil
}

// first is the first build, whose end says why there was another.
func (t *imageTest) first(ctx context.Context, c *api.Client) api.Build {
	var list api.BuildList
	if err := c.Get(ctx, "/builds", nil, &list); err != nil || len(list.Builds) == 0 {
		return api.Build{}
	}
	return slices.MinFunc(list.Builds, func(a, b api.Build) int { return cmp.Compare(a.ID, b.ID) })
}

// printed is what a build's first step printed.
func (t *imageTest) printed(ctx context.Context, c *api.Client, b api.Build) string {
	var out strings.Builder
	if err := c.Copy(ctx, fmt.Sprintf("/builds/%d/steps/0/logs/%s/raw", b.ID, stdio), nil, &out); err != nil {
		return "" // it has not come so far
	}
	return "\n" + plain(out.String())
}

// learn takes the master's owner tag from the first instance's key, "<owner>-<worker>-<n>": without it nobody could clean up after a failure.
func (t *imageTest) learn(ctx context.Context, c *api.Client) error {
	if t.owner != "" {
		return nil
	}
	var list api.InstanceList
	if err := c.Get(ctx, "/instances", nil, &list); err != nil {
		return err
	}
	for _, in := range list.Instances {
		owner, _, _ := strings.Cut(string(in.Key), "-"+t.worker+"-")
		t.owner = providers.Owner(owner)
	}
	return nil
}

// attach starts a build that does not end and returns the key of the guest that it runs on.
func (t *imageTest) attach(ctx context.Context, c *api.Client) (key providers.Key, err error) {
	var made api.Forced
	if err := c.Post(ctx, "/force", nil, api.Force{Builder: "wait"}, &made); err != nil {
		return "", err
	}
	err = t.until(ctx, func() (bool, error) {
		var list api.InstanceList
		if err := c.Get(ctx, "/instances", nil, &list); err != nil {
			return false, err
		}
		for _, in := range list.Instances {
			key = providers.Key(in.Key)
			if !in.AttachedAt.IsZero() {
				return true, nil
			}
		}
		return false, nil
	})
	return key, err
}

// untilAlone waits until a guest without a master has ended by itself.
func (t *imageTest) untilAlone(ctx context.Context, key providers.Key) error {
	p, err := t.provider()
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // it holds nothing that could be lost
	limit := time.Now().Add(t.orphan + time.Minute)
	return t.until(ctx, func() (bool, error) {
		in, err := p.Get(ctx, key)
		switch {
		case providers.ClassOf(err) == providers.NotFound:
			return true, nil
		case err != nil:
			return false, err
		case in.State == providers.Running && time.Now().After(limit):
			return false, errors.New("the guest does not power off when its master is gone: it would run, and cost, for ever")
		}
		return in.State != providers.Running, nil
	})
}

// provider opens the test master's provider, when that master is dead.
func (t *imageTest) provider() (providers.Provider, error) {
	b, err := filepath.Glob(filepath.Join(t.home, "state", "providers", "libvirt", "*"))
	if err != nil || len(b) != 1 {
		return nil, errors.New("the test's master has left no provider's state")
	}
	p, _, err := libvirt.Kind{}.Open(context.Background(), providers.Env{Name: "host", Owner: t.owner, StateDir: b[0], Log: slog.New(slog.DiscardHandler),
		Config: libvirt.Config{Pool: t.pool, Network: t.network, Hosts: []libvirt.Host{{Name: "host", URI: t.uri}}}})
	return p, err
}

// clean ends whatever guest is left.
func (t *imageTest) clean() error {
	p, err := t.provider()
	if err != nil {
		return nil //nolint:nilerr // no instance was ever made
	}
	defer p.Close() //nolint:errcheck // it holds nothing that could be lost
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	list, err := p.List(ctx, t.owner)
	if err != nil {
		return fmt.Errorf("look for guests that are left: %w", err)
	}
	for _, in := range list {
		for {
			err := p.Destroy(ctx, in.Key)
			if providers.ClassOf(err) == providers.NotFound {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("the guest %s is left: %w", in.ID, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	return nil
}

// console is what the guests printed last.
func (t *imageTest) console() string {
	logs, _ := filepath.Glob(filepath.Join(t.home, "state", "providers", "libvirt", "*", "consoles", "*"))
	var b strings.Builder
	for _, name := range logs {
		text, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(plain(string(text))), "\n")
		fmt.Fprintf(&b, "The console of %s ends with:\n%s\n", strings.TrimSuffix(filepath.Base(name), ".log"), strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	return b.String()
}

func (t *imageTest) until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it took more than -timeout=%s, or was interrupted: %w", t.limit, ctx.Err())
		case <-tick.C:
		}
	}
}
