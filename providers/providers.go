// Package providers is the contract between rouse and whatever makes machines: a cloud, a hypervisor, this machine itself.
//
// It holds the contract, the classes of error and the author's guide (README.md), and nothing else. It knows no concrete provider
// and nothing of the master.
package providers

import (
	"context"
	"io"
	"log/slog"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
)

// Key names one instance for ever. The caller chooses it before Create and stores it first, so an instance whose identifier
// was lost with a reply can still be found and destroyed. It matches [a-z0-9-]{1,120}.
type Key string

// Owner names one master's state for ever (it is drawn at random when the state is first made). Every instance is tagged with it, and
// a provider must never list, show or touch an instance with another owner.
type Owner string

// Secret is a value that must not appear in a log, an error, a listing of processes or a file that others can read.
type Secret string

// String hides the value, so that %v, %s and slog never print it.
func (Secret) String() string { return "(secret)" }

// GoString hides the value from %#v.
func (Secret) GoString() string { return "(secret)" }

// LogValue hides the value from log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// MarshalText hides the value from encoding/json.
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// Reveal returns the value. Its callers are the only places where a secret can leave.
func (s Secret) Reveal() string { return string(s) }

// Agent tells the worker agent inside the instance how to reach its master.
type Agent struct {
	Master  string        // ws:// or wss:// URL of the master's worker port
	Name    string        // the worker's name
	Token   Secret        // credential of this instance, good for one agent only
	Orphan  time.Duration // without a master for this long, the agent ends itself and its machine
	TLSRoot []byte        // PEM certificates to trust instead of the system's; may be empty
}

// CreateRequest asks for one instance.
type CreateRequest struct {
	Key    Key
	Owner  Owner
	Worker string
	Spec   any // what the Kind's DecodeInstance returned for this worker
	Agent  Agent
}

// State is what a provider knows of an instance.
type State uint8

const (
	Pending  State = iota // accepted, not running yet
	Running               // its machine runs (which says nothing of the agent)
	Stopping              // on its way out
	Gone                  // ended; some providers list such instances for a while
	Failed                // ended by itself, or will never run; Detail says why
)

func (s State) String() string {
	names := [...]string{"pending", "running", "stopping", "gone", "failed"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Instance is what a provider says of one instance.
type Instance struct {
	Key       Key
	ID        string // the provider's own identifier
	Worker    string // from the tags
	State     State
	Detail    string // for people: state reason, address, …
	CreatedAt time.Time
}

// Provider makes and unmakes instances. All methods are safe for concurrent use, return soon after ctx ends, and classify
// every error (see Class): an error without a class counts as Unknown, that is, the outcome is not known.
type Provider interface {
	// Create starts the instance named req.Key. It is idempotent: as long as an instance with this key exists, repeating the call returns
	// that instance and makes no other. It need not wait for the instance to run. All tags (owner, key, worker) are part of the
	// creating call, so that no instance is ever anonymous.
	//
	// A key is never used again. Once a Destroy of the key was accepted, Create makes nothing: it returns what is left (Stopping or Gone) or
	// an error. A key of another owner is refused with class BadConfig.
	Create(ctx context.Context, req CreateRequest) (Instance, error)

	// Destroy ends the instance with everything that belongs to it. nil means accepted, not done; an error of class NotFound means gone.
	// The caller repeats the call until it sees NotFound. Destroying twice is harmless.
	Destroy(ctx context.Context, key Key) error

	// Get returns one instance, or an error of class NotFound. An instance in state Gone may be returned or be NotFound.
	Get(ctx context.Context, key Key) (Instance, error)

	// List returns every instance that carries the owner's tag, known to this process or not. A partial list is an error, never a short answer.
	List(ctx context.Context, owner Owner) ([]Instance, error)

	// Close releases what the provider holds. It destroys no instance.
	Close() error
}

// ConsoleReader is implemented by providers that can show what an instance printed while it booted: at most the last 64 KiB.
type ConsoleReader interface {
	Console(ctx context.Context, key Key) ([]byte, error)
}

// Checker is implemented by providers that can check, without changing anything, that a spec could be created.
type Checker interface {
	Check(ctx context.Context, spec any) error
}

// Limits are what the engine must know of a provider before it calls it.
type Limits struct {
	CreateTimeout  time.Duration // deadline of one Create call
	CallTimeout    time.Duration // deadline of every other call
	Settle         time.Duration // how long after an unresolved Create the instance may still appear in Get and List
	Concurrency    int           // calls in flight at once
	SweepInterval  time.Duration // how often List is asked for orphans
	CheckInterval  time.Duration // how often Get is asked while an instance boots
	DestroyBackoff time.Duration // first pause before a Destroy is repeated; doubles up to 1 min
}

// Kind is one kind of provider ("local", "ec2", …): it decodes its blocks of configuration and opens providers. cmd/rouse holds the only list.
// Decoding never dials, never runs anything and never reads a credential.
type Kind interface {
	Name() string

	// DecodeProvider decodes the body of a provider block, without the attributes that rouse itself decodes.
	// The returned value is given to Open. It must be comparable with reflect.DeepEqual.
	DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics)

	// DecodeInstance decodes the body of a worker's instance block. config is what DecodeProvider returned.
	// The returned value becomes CreateRequest.Spec. It must be comparable with reflect.DeepEqual.
	DecodeInstance(config any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics)

	Open(ctx context.Context, env Env) (Provider, Limits, error)
}

// Env is what a provider gets when it is opened.
type Env struct {
	Name     string // of the provider block
	Owner    Owner  // of the master that opens it: Get and Destroy answer NotFound for any other owner's instance
	Config   any    // from DecodeProvider
	StateDir string // a directory of this provider's own, mode 0700, which survives restarts
	Log      *slog.Logger
	Console  io.Writer // where a provider may show progress to a person; may be nil
}
