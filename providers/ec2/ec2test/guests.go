package ec2test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Guests plays the inside of the machines: for each instance that moto shows as running it starts an agent as the instance's user data says, ends it
// when the instance is stopped or terminated, and terminates the instance when the agent has shut its machine down. It looks at moto directly, so it
// sees what nobody else does: instances that are hidden, forgotten or lost.
type Guests struct {
	World   *World
	Program string                                          // rouse-worker
	Config  func(userData []byte) (agent []byte, err error) // finds the agent's configuration (JSON) in the user data
	Dir     string                                          // of the guests' directories
	Env     []string                                        // of the agents, besides the test's own
	Tweak   func(in Instance, agent map[string]any)         // changes the configuration before the agent gets it; may be nil
	Fate    func(in Instance, boot int) Fate                // may be nil
	Every   time.Duration                                   // between two looks; default 100 ms

	t      testing.TB
	mark   string
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	guests map[string]*guest

	said    sync.Mutex // apart from mu, which is held while a machine ends
	trouble []string
}

// Fate is how one boot goes. The zero value is an instance in order.
type Fate struct {
	After time.Duration // the agent starts so much later
	Dead  bool          // no agent ever starts; the console says why
	Crash time.Duration // the agent is killed so long after its start, and nothing starts it again; 0 is never
}

// guest is one machine, from its first boot on.
type guest struct {
	id, dir string
	boots   int
	up      context.CancelFunc // nil: switched off
	off     chan struct{}      // closed when nothing of it runs any more
}

// Start begins to play. It ends with the test, with everything that runs in the machines.
func (g *Guests) Start(t testing.TB) {
	g.t, g.guests = t, map[string]*guest{}
	g.mark = "EC2TEST_GUEST=" + g.World.Account
	if g.Every == 0 {
		g.Every = 100 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.done.Go(func() {
		for ctx.Err() == nil {
			g.look(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(g.Every):
			}
		}
	})
	t.Cleanup(g.Stop)
}

// Stop ends all machines' programs, not the instances. Stopping twice is harmless.
func (g *Guests) Stop() {
	g.cancel()
	g.done.Wait()
	g.mu.Lock()
	all := maps.Clone(g.guests)
	g.mu.Unlock()
	for _, o := range all {
		o.end()
	}
	g.said.Lock()
	defer g.said.Unlock()
	for _, s := range g.trouble {
		g.t.Errorf("guests: %s", s)
	}
	g.trouble = nil
}

// Boots is how often machines were switched on.
func (g *Guests) Boots() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.guests {
		n += o.boots
	}
	return n
}

// Dir of an instance's machine: it has the agent's base directory and console.log.
func (g *Guests) DirOf(id string) string { return filepath.Join(g.Dir, id) }

func (g *Guests) complain(format string, args ...any) {
	g.said.Lock()
	defer g.said.Unlock()
	if len(g.trouble) < 20 {
		g.trouble = append(g.trouble, fmt.Sprintf(format, args...))
	}
}

// look compares what runs with what should.
func (g *Guests) look(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	all, err := g.World.powered(ask)
	if err != nil {
		if ctx.Err() == nil {
			g.complain("look at moto: %v", err)
		}
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, in := range all {
		if g.World.booting(id) { // one that has begun already goes on: moto runs an instance a moment before it is shown as pending
			continue
		}
		o := g.guests[id]
		if o == nil {
			o = &guest{id: id, dir: g.DirOf(id)}
			g.guests[id] = o
		}
		if o.up == nil {
			g.boot(ctx, in, o)
		}
	}
	for id, o := range g.guests {
		if _, on := all[id]; !on && o.up != nil {
			o.end()
		}
	}
}

// boot switches a machine on.
func (g *Guests) boot(ctx context.Context, in Instance, o *guest) {
	o.boots++
	var fate Fate
	if g.Fate != nil {
		fate = g.Fate(in, o.boots)
	}
	ctx, o.up = context.WithCancel(ctx)
	o.off = make(chan struct{})
	off := o.off
	go func() {
		defer close(off)
		if err := g.run(ctx, in, o, fate); err != nil && ctx.Err() == nil {
			g.complain("%s: %v", in.ID, err)
		}
	}()
}

// end switches a machine off, at once.
func (o *guest) end() {
	if o.up == nil {
		return
	}
	o.up()
	<-o.off
	o.up = nil
}

// run is the life of a machine from a boot to its end.
func (g *Guests) run(ctx context.Context, in Instance, o *guest, fate Fate) error {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	console, err := os.OpenFile(filepath.Join(o.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	g.World.Print(in.ID, func() []byte { b, _ := os.ReadFile(console.Name()); return b })
	fmt.Fprintf(console, "booting %s\r\n", in.ID)
	if fate.Dead {
		fmt.Fprint(console, "Kernel panic - not syncing: VFS: Unable to mount root fs\r\n")
		<-ctx.Done()
		return nil
	}
	if !g.World.pause(ctx, max(fate.After, time.Millisecond)) {
		return nil
	}
	config, err := g.configure(ctx, in, o)
	if err != nil {
		return err
	}
	imds, err := g.World.Metadata(in.ID)
	if err != nil {
		return err
	}
	cmd := exec.Command(g.Program, "run", "-config", config)
	mark := g.mark + "-" + in.ID
	cmd.Env = append(append(os.Environ(), g.Env...), mark, "AWS_EC2_METADATA_SERVICE_ENDPOINT="+imds)
	cmd.Stdout, cmd.Stderr, cmd.Dir = console, console, o.dir
	dieWithParent(cmd)
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // see startMoto
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil { // from here on the program is there, and carries the mark
		return err
	}
	cut := func() {
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // it was killed: that is its error
		sweep(mark)
	}
	var crash <-chan time.Time
	if fate.Crash > 0 {
		crash = time.After(fate.Crash)
	}
	select {
	case <-ctx.Done():
		cut()
		return nil
	case <-crash:
		cut()
		fmt.Fprint(console, "agent: segmentation fault\r\n")
		<-ctx.Done()
		return nil
	case err := <-ended:
		fmt.Fprintf(console, "agent ended: %v\r\n", err)
	}
	defer sweep(mark)
	if _, err := os.Stat(filepath.Join(o.dir, "poweroff")); err == nil { // the machine's own end: the instance was launched to terminate then
		sweep(mark)
		stop, cancel := background()
		defer cancel()
		return g.World.Terminate(stop, in.ID, "Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
	}
	<-ctx.Done()
	return nil
}

// configure writes the agent's configuration as the user data has it, with what is different in this machine.
func (g *Guests) configure(ctx context.Context, in Instance, o *guest) (string, error) {
	n, err := g.World.direct.Call(ctx, "DescribeInstanceAttribute", "InstanceId", in.ID, "Attribute", "userData")
	if err != nil {
		return "", err
	}
	data, err := base64.StdEncoding.DecodeString(n.S("userData", "value"))
	if err != nil {
		return "", fmt.Errorf("user data: %w", err)
	}
	text, err := g.Config(data)
	if err != nil {
		return "", fmt.Errorf("user data: %w", err)
	}
	agent := map[string]any{}
	if err := json.Unmarshal(text, &agent); err != nil {
		return "", fmt.Errorf("the agent's configuration: %w", err)
	}
	agent["basedir"] = filepath.Join(o.dir, "base")
	agent["on_end"] = "touch " + filepath.Join(o.dir, "poweroff")
	if g.Tweak != nil {
		g.Tweak(in, agent)
	}
	if text, err = json.Marshal(agent); err != nil {
		return "", err
	}
	name := filepath.Join(o.dir, "agent.json")
	return name, os.WriteFile(name, text, 0o600)
}

// sweep kills everything that carries a machine's mark, until nothing does.
func sweep(mark string) {
	for range 500 {
		left := false
		environs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, name := range environs {
			b, err := os.ReadFile(name)
			if err != nil || !bytes.Contains(append([]byte{0}, b...), []byte("\x00"+mark+"\x00")) {
				continue
			}
			pid, err := strconv.Atoi(strings.Split(name, "/")[2])
			if err == nil && !errors.Is(syscall.Kill(pid, syscall.SIGKILL), syscall.ESRCH) {
				left = true
			}
		}
		if !left {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
