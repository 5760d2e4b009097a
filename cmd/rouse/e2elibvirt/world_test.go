// Package e2elibvirt runs the real programs with real guests: rouse and rouse-worker as they are built for users, a libvirtd of their own, QEMU. It
// knows them from outside only: command lines, configurations, the API, and what virsh, the pool's directory and QEMU's processes say.
//
// It runs inside .ci/libvirt-world, by .ci/e2e-libvirt (make e2e-libvirt); elsewhere it does nothing.
//
//	E2E_LIBVIRT=DIR    where the programs are
//	E2E_IMAGES=DIR     where the minimal image is
//	E2E_SUMMARY=FILE   takes the last line
//	ROUSE_DEBIAN_IMAGE=FILE, what images/debian makes, adds the tests of it
package e2elibvirt

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

const (
	images  = "/var/lib/libvirt/images" // the pool "default", inside the world only
	logs    = "/var/log/libvirt/qemu"
	pids    = "/run/libvirt/qemu"
	gateway = "10.99.0.1"
	patient = 3 * time.Minute // for what takes seconds on a machine that has nothing else to do
)

var (
	programs string
	cmdline  string
	port     atomic.Int64
)

func TestMain(m *testing.M) {
	if programs = os.Getenv("E2E_LIBVIRT"); programs == "" || os.Getenv("WORLD") == "" {
		fmt.Println("skipped: make e2e-libvirt runs these tests")
		return
	}
	port.Store(9900)
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	line := summary()
	if name := os.Getenv("E2E_SUMMARY"); name != "" {
		if err := os.WriteFile(name, []byte(line+"\n"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	if !strings.HasSuffix(line, " leaked=0") {
		fmt.Println(line)
		status = 1
	}
	os.Exit(status)
}

// prepare makes a network with `rouse libvirt network` and a pool with the minimal image.
func prepare() error {
	dir := os.Getenv("E2E_IMAGES")
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return err
	}
	cmdline = strings.TrimSpace(string(b))
	net, err := command(programs+"/rouse", "libvirt", "network", "-name", "ci", "-bridge", "ci0", "-subnet", "10.99.0.0/24", "named-1")
	if err != nil {
		return err
	}
	file := filepath.Join(os.Getenv("WORLD"), "net.xml")
	if err := os.WriteFile(file, []byte(net), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{{"net-define", file}, {"net-start", "ci"}, {"pool-define-as", "default", "dir", "--target", images}, {"pool-start", "default"}} {
		if _, err := command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...); err != nil {
			return err
		}
	}
	for _, name := range []string{"minimal.qcow2", "vmlinux", "initrd.img"} {
		if _, err := command("cp", filepath.Join(dir, name), images); err != nil {
			return err
		}
	}
	return nil
}

var (
	starting     = regexp.MustCompile(`(?m)^.*starting up libvirt version`)
	templateName = regexp.MustCompile(`^rouse-template-[0-9a-f]+-[0-9a-f]+\.(qcow2|save)$`)
)

// summary counts, by what libvirt and the disk say, how many guests there were and what is left of them. Templates are no guest's; each test that
// makes some proves that they are bounded.
func summary() string {
	guests := 0
	files, _ := filepath.Glob(logs + "/rouse-*.log")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		guests += len(starting.FindAll(b, -1))
	}
	var left []string
	domains, err := command("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name")
	if err != nil {
		return fmt.Sprintf("guests=%d leaked=unknown: %v", guests, err)
	}
	for _, d := range strings.Fields(domains) {
		if strings.HasPrefix(d, "rouse-") {
			left = append(left, "domain "+d)
		}
	}
	pools, err := command("virsh", "-q", "-c", "qemu:///system", "pool-list", "--all", "--name")
	if err != nil {
		return fmt.Sprintf("guests=%d leaked=unknown: %v", guests, err)
	}
	for _, p := range strings.Fields(pools) {
		_, _ = command("virsh", "-q", "-c", "qemu:///system", "pool-refresh", p)
		volumes, err := command("virsh", "-q", "-c", "qemu:///system", "vol-list", p)
		if err != nil {
			left = append(left, "unknown: "+err.Error())
		}
		for line := range strings.Lines(volumes) {
			if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "rouse-") && !templateName.MatchString(f[0]) {
				left = append(left, "volume "+f[0]+" of pool "+p)
			}
		}
	}
	for _, l := range left {
		fmt.Println("left:", l)
	}
	return fmt.Sprintf("guests=%d leaked=%d", guests, len(left))
}

func command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// world is one state directory with its configuration, and the masters that live on it, one after the other.
type world struct {
	*testing.T
	dir   string
	port  int64
	cmd   *exec.Cmd
	dead  chan struct{}
	c     *api.Client
	mine  []string      // its workers' names begin so
	under []string      // command that masters run under, or none
	slow  time.Duration // how long it waits for what it waits for
	mu    sync.Mutex
	log   bytes.Buffer
}

func newWorld(t *testing.T, workers ...string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "rouse-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, dir: dir, port: port.Add(1), mine: workers, slow: patient}
	t.Cleanup(func() {
		w.end()
		_ = os.RemoveAll(dir)
	})
	return w
}

// end waits until all instances have ended by themselves, and looks for what is left of them.
func (w *world) end() {
	w.Helper()
	if w.cmd == nil {
		return
	}
	if !w.Failed() {
		w.until("all instances have ended", func() bool { return len(w.instances()) == 0 })
		w.until("nothing is left of them", func() bool { return len(w.left()) == 0 })
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.dead:
	case <-time.After(time.Minute):
		w.kill()
		w.Error("the master did not end")
	}
	if w.Failed() {
		w.mu.Lock()
		said := w.log.String()
		w.mu.Unlock()
		w.Logf("the masters said:\n%s", said[max(0, len(said)-6000):])
		for _, d := range w.domains() {
			w.Logf("left: %s", d)
			_, _ = command("virsh", "-q", "-c", "qemu:///system", "destroy", d) // the next tests need the processors
		}
		consoles, _ := filepath.Glob(w.dir + "/state/providers/libvirt/*/consoles/*")
		for _, c := range consoles {
			b, _ := os.ReadFile(c)
			w.Logf("%s:\n%s", filepath.Base(c), b[max(0, len(b)-2000):])
		}
	}
}

// guest is the instance block of a minimal guest.
func guest(more string) string {
	return fmt.Sprintf(`
  instance {
    base_image = "minimal.qcow2"
    kernel     = "vmlinux"
    initrd     = "initrd.img"
    cmdline    = %q
    memory     = "128MiB"
    %s
  }`, cmdline, more)
}

// worker is a worker block, with a builder of the same name that runs a command on it. Its instances end after a build unless attrs say otherwise.
func worker(name, attrs, instance, run string) string {
	if !strings.Contains(attrs, "build_wait_timeout") {
		attrs += "\n  build_wait_timeout = \"0s\""
	}
	return fmt.Sprintf(`
worker %[1]q {
  provider        = provider.libvirt.lab
  missing_timeout = "3m"
  %[2]s
  %[3]s
}
builder %[1]q {
  workers = [worker.%[1]s]
  step "shell" "run" { command = %[4]q }
}
scheduler "force" %[1]q { builders = [builder.%[1]s] }
`, name, attrs, instance, run)
}

func (w *world) configure(provider string, blocks ...string) {
	w.Helper()
	text := fmt.Sprintf("master { listen = \"%s:%d\" }\nprovider \"libvirt\" \"lab\" {\n  network = \"ci\"\n  %s\n}\n%s", gateway, w.port, provider, strings.Join(blocks, ""))
	if err := os.MkdirAll(w.dir+"/config", 0o700); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(w.dir+"/config/rouse.hcl", []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// up starts a master.
func (w *world) up() {
	w.Helper()
	args := append(slices.Clone(w.under), programs+"/rouse", "master", "-config", w.dir+"/config", "-state", w.dir+"/state", "-log-json")
	w.cmd = exec.Command(args[0], args[1:]...)
	w.cmd.Stdout, w.cmd.Stderr = w, w
	if err := w.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.dead = make(chan struct{})
	go func(cmd *exec.Cmd, dead chan struct{}) {
		_ = cmd.Wait()
		close(dead)
	}(w.cmd, w.dead)
	c, err := api.NewClient(w.dir+"/state/"+api.SocketName, "", nil)
	if err != nil {
		w.Fatal(err)
	}
	w.c = c
	w.until("the master serves", func() bool {
		select {
		case <-w.dead:
			w.Fatal("the master ended")
		default:
		}
		var s api.Status
		return w.c.Get(w.Context(), "/status", nil, &s) == nil
	})
}

// Write takes what masters say.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

func (w *world) kill() {
	_ = w.cmd.Process.Kill()
	<-w.dead
}

func (w *world) until(what string, done func() bool) {
	w.Helper()
	for limit := time.Now().Add(w.slow); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			w.Fatalf("waited %s in vain until %s", w.slow, what)
		}
	}
}

func get[T any](w *world, path string, query ...string) (v T) {
	w.Helper()
	q := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	if err := w.c.Get(context.Background(), path, q, &v); err != nil {
		w.Fatalf("GET %s: %v", path, err)
	}
	return v
}

func (w *world) force(builder string) model.RequestID {
	w.Helper()
	var made api.Forced
	if err := w.c.Post(w.Context(), "/force", nil, api.Force{Builder: builder}, &made); err != nil {
		w.Fatal(err)
	}
	return made.Requests[0]
}

func (w *world) request(id model.RequestID) api.Request {
	w.Helper()
	return get[api.Request](w, fmt.Sprintf("/requests/%d", id))
}

// succeeds waits for a request's end.
func (w *world) succeeds(id model.RequestID) api.Request {
	w.Helper()
	var r api.Request
	w.until(fmt.Sprintf("request %d is done", id), func() bool { r = w.request(id); return !r.FinishedAt.IsZero() })
	if r.Result.String() != "success" {
		w.Fatalf("request %d: %s after %d attempts: %s", id, r.Result, r.Attempts, r.Text)
	}
	return r
}

// cancel ends a request that would be tried for ever, if it has not ended.
func (w *world) cancel(id model.RequestID) {
	w.Helper()
	if !w.request(id).FinishedAt.IsZero() {
		return
	}
	if err := w.c.Delete(w.Context(), fmt.Sprintf("/requests/%d", id), nil, &api.Done{}); err != nil {
		w.Fatal(err)
	}
}

// builds are a request's, in order.
func (w *world) builds(id model.RequestID) []api.Build {
	w.Helper()
	list := get[api.BuildList](w, "/builds", "request", fmt.Sprint(id)).Builds
	slices.SortFunc(list, func(a, b api.Build) int { return int(a.ID - b.ID) })
	return list
}

func (w *world) detail(b api.Build) api.BuildDetail {
	w.Helper()
	return get[api.BuildDetail](w, fmt.Sprintf("/builds/%d", b.ID))
}

// output is what one step of a build printed.
func (w *world) output(b api.Build, step api.Step, log string) string {
	w.Helper()
	var out strings.Builder
	query := url.Values{}
	if log == "stdio" {
		query.Set("stream", "stdout")
	}
	if err := w.c.Copy(w.Context(), fmt.Sprintf("/builds/%d/steps/%d/logs/%s/raw", b.ID, step.Number, log), query, &out); err != nil {
		w.Fatal(err)
	}
	return out.String()
}

// stdout is what the only step of a request's last build printed.
func (w *world) stdout(id model.RequestID) string {
	w.Helper()
	list := w.builds(id)
	last := w.detail(list[len(list)-1])
	for _, s := range last.Steps {
		if s.Name == "run" {
			return w.output(last.Build, s, "stdio")
		}
	}
	w.Fatalf("build %d has no step: %+v", last.ID, last)
	return ""
}

func (w *world) instances() []api.Instance {
	w.Helper()
	return get[api.InstanceList](w, "/instances").Instances
}

// attached waits until one instance of a worker has an agent, and returns it.
func (w *world) attached(worker string) (in api.Instance) {
	w.Helper()
	w.until("a guest of "+worker+" is attached", func() bool {
		for _, i := range w.instances() {
			if i.Worker == worker && !i.AttachedAt.IsZero() {
				in = i
				return true
			}
		}
		return false
	})
	return in
}

// running waits until the step of a request's build runs, on the instance that it returns.
func (w *world) running(id model.RequestID, worker string) api.Instance {
	w.Helper()
	w.until("the step runs", func() bool { r := w.request(id); return r.Step == "run" || !r.FinishedAt.IsZero() })
	return w.attached(worker)
}

func (w *world) workerSays(name string) string {
	w.Helper()
	for _, x := range get[api.WorkerList](w, "/workers").Workers {
		if x.Name == name {
			return x.LastError
		}
	}
	return ""
}

// virsh runs a command that must succeed.
func (w *world) virsh(args ...string) string {
	w.Helper()
	out, err := command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) isMine(name string) bool {
	return slices.ContainsFunc(w.mine, func(m string) bool { return strings.Contains(name, "-"+m+"-") || strings.Contains(name, "-"+m+".") })
}

// domains are the guests of this world's workers.
func (w *world) domains() (out []string) {
	w.Helper()
	for _, d := range strings.Fields(w.virsh("list", "--all", "--name")) {
		if strings.HasPrefix(d, "rouse-") && w.isMine(d) {
			out = append(out, d)
		}
	}
	return out
}

// left are the domains and files of this world's workers.
func (w *world) left() []string {
	w.Helper()
	out := w.domains()
	names, _ := filepath.Glob(images + "/rouse-*")
	more, _ := filepath.Glob(images + "/*/rouse-*")
	for _, n := range append(names, more...) {
		if w.isMine(filepath.Base(n)) {
			out = append(out, n)
		}
	}
	return out
}

// hasBeen counts the machines that were started for a worker.
func (w *world) hasBeen(worker string) (n int) {
	files, _ := filepath.Glob(logs + "/rouse-*-" + worker + "-*.log")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		n += len(starting.FindAll(b, -1))
	}
	return n
}

func domainOf(in api.Instance) string { return "rouse-" + string(in.Key) }

// pid is the process of a guest, or of libvirtd.
func (w *world) pid(file string) int {
	w.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		w.Fatal(err)
	}
	return n
}
