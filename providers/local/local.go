// Package local is a provider whose instances are processes on this machine: each is a rouse-worker in a directory, session and process
// group of its own. It is the default where nothing else is configured.
//
// An instance is what its directory says: StateDir/instances/KEY holds instance.json, written and synced before the process is started,
// process.json (pid, start time and boot, so that a pid that was used again is never taken for ours), "doomed" once a Destroy was
// accepted, exit.json once the process has ended by itself, console.log, and the agent's work and tmp directories. Every process of
// an instance carries ROUSE_INSTANCE and ROUSE_OWNER in its environment, so a crash between start and process.json loses nothing.
// Any number of handles, in any number of processes, may work on one StateDir: a file lock per instance orders them.
//
// The end of the agent is the end of its machine: whatever it leaves behind is killed, also before Destroy is called.
// On Linux the agent adopts what its commands leave behind, so a process that empties its environment and begins a session of its own is still
// found, as its descendant; see members for what is not.
// The package knows nothing of the master, and of the agent only its command line, its configuration file, and that.
package local

import (
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// Kind is the provider kind "local".
type Kind struct{}

// Name implements providers.Kind.
func (Kind) Name() string { return "local" }

// Config is a decoded provider block.
type Config struct {
	WorkerBinary string            // worker_binary: the agent; default: rouse-worker next to the running program, else on PATH
	Grace        time.Duration     // grace: from SIGTERM to the agent to SIGKILL to everything; default 2 s
	MaxInstances int64             // max_instances: class over-quota beyond; 0 = no limit
	Env          map[string]string // env: added to the few variables that instances get from the master's environment
}

// Spec is a decoded instance block. Zero values mean no limit.
type Spec struct {
	Env          map[string]string // env: added to the provider's
	Nice         int64             // nice: 0 to 19
	MaxMemory    int64             // max_memory, bytes: of the data of each process (RLIMIT_DATA), not of all together
	MaxProcesses int64             // max_processes: of the user that rouse runs as (RLIMIT_NPROC); no effect for root
	MaxOpenFiles int64             // max_open_files: of each process (RLIMIT_NOFILE)
}

// DecodeProvider implements providers.Kind.
func (Kind) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	c := Config{Grace: 2 * time.Second}
	a := decode.Body(body, ctx, "worker_binary", "grace", "max_instances", "env")
	a.String("worker_binary", &c.WorkerBinary)
	a.Duration("grace", &c.Grace)
	a.Int("max_instances", &c.MaxInstances, 0, 10_000)
	a.Env("env", &c.Env)
	reserved(a, c.Env)
	if c.Grace > time.Minute {
		a.Bad("grace", "It is %s; more than 1m makes no sense for a process that was told to end.", c.Grace)
	}
	return c, a.Diags
}

// DecodeInstance implements providers.Kind.
func (Kind) DecodeInstance(_ any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	var s Spec
	a := decode.Body(body, ctx, "env", "nice", "max_memory", "max_processes", "max_open_files")
	a.Env("env", &s.Env)
	reserved(a, s.Env)
	a.Int("nice", &s.Nice, 0, 19)
	a.Bytes("max_memory", &s.MaxMemory, 16<<20)
	a.Int("max_processes", &s.MaxProcesses, 8, 1<<22)
	a.Int("max_open_files", &s.MaxOpenFiles, 64, 1<<20)
	return s, a.Diags
}

// Names of the variables by which the processes of an instance are found again.
const (
	tagInstance = "ROUSE_INSTANCE"
	tagOwner    = "ROUSE_OWNER"
)

func reserved(a *decode.Attrs, env map[string]string) {
	for _, name := range []string{tagInstance, tagOwner} {
		if _, ok := env[name]; ok {
			a.Bad("env", "%s is set by rouse itself: instances are found by it.", name)
		}
	}
}

// limits: everything here is fast, so all is looked at often.
var limits = providers.Limits{
	CreateTimeout:  30 * time.Second,
	CallTimeout:    30 * time.Second,
	Settle:         5 * time.Second,
	Concurrency:    16,
	SweepInterval:  time.Minute,
	CheckInterval:  2 * time.Second,
	DestroyBackoff: 200 * time.Millisecond,
}
