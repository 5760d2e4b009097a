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
	Spec   any    // what the Kind's DecodeInstance returned for this worker
	Place  string // the room that was chosen for it (see Roomer); "": the provider chooses
	Agent  Agent
}

// State is what a provider knows of an instance.
type State uint8

const (
	Pending  State = iota // accepted, not running yet
	Running               // its machine runs (which says nothing of the agent)
	Stopping              // on its way out, or to Stopped
	Gone                  // ended; some providers list such instances for a while
	Failed                // ended by itself, or will never run; Detail says why
	Stopped               // switched off (see Sleeper), also by somebody else: nothing runs, its disks are kept and cost something
)

func (s State) String() string {
	names := [...]string{"pending", "running", "stopping", "gone", "failed", "stopped"}
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
	Facts     map[string]string // what it really is, as far as the provider knows: "image", "type", "market" ("on-demand", "spot"), "zone", "address"; may be nil
	Place     string            // the room that it is in (see Roomer); "" if there are none

	// Interrupted goes with Failed: the provider has taken the instance back, such as a machine that was lent for a lower price. Its builds are not
	// charged for that, and the worker does not back off.
	Interrupted bool
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

// Interruptee is implemented by providers that avoid for a while what is taken back again and again. It is told once of each instance that was taken back, as
// its agent or the provider itself has said (see Instance.Interrupted), before its Destroy is called. It returns at once and calls nobody.
type Interruptee interface {
	Interrupted(key Key)
}

// ConsoleReader is implemented by providers that can show what an instance printed while it booted: at most the last 64 KiB.
type ConsoleReader interface {
	Console(ctx context.Context, key Key) ([]byte, error)
}

// Checker is implemented by providers that can look, without changing anything, whether specs could be created: the preflight of a plan.
// The findings of one call cover all specs; what is true of several is said once, for the first.
type Checker interface {
	Check(ctx context.Context, specs []any) []Finding
}

// Finding is one thing that a preflight has found.
type Finding struct {
	Fatal   bool   // a create would fail; otherwise it is worth a warning
	Spec    int    // index into specs; -1: it is about the provider block
	Attr    string // dotted path of the attribute in the instance block (or the provider block), such as "ami.owners"; "" is the whole block
	Summary string // what is wrong, in a few words
	Detail  string // where, and what to do: the missing permission's name, the command that would help
}

// Resolver is implemented by providers whose specs name something that moves, such as the newest image that a filter matches, or the content
// of a base image.
type Resolver interface {
	// Resolve says what the spec would be made from now. It changes nothing. No candidate at all is an error of class BadConfig.
	Resolve(ctx context.Context, spec any) ([]Resolved, error)
}

// Resolved is one moving part of a spec, fixed.
type Resolved struct {
	Attr   string // dotted path in the instance block, such as "ami"
	Value  string // identifies it, such as an image's ID or a digest: another value means other machines
	Detail string // for people, such as the image's name and date
}

// ImageLister is implemented by providers that can explain how a spec's image is chosen.
type ImageLister interface {
	// Images returns every candidate in the order of the choice: the last one that is not refused is taken.
	Images(ctx context.Context, spec any) ([]Image, error)
}

// Image is one candidate.
type Image struct {
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"`
	Location  string            `json:"location,omitempty"`
	CreatedAt time.Time         `json:"created_at,omitzero"`
	Taken     bool              `json:"taken"`
	Why       string            `json:"why"` // why it was taken or refused
	Facts     map[string]string `json:"facts,omitempty"`
}

// Pricer is implemented by providers that know what a spec costs.
type Pricer interface {
	Price(ctx context.Context, spec any) (Price, error)
}

// Price is what one instance costs, in US dollars per hour.
type Price struct {
	Running float64   `json:"running"`
	Most    float64   `json:"most,omitempty"`    // the most that it may be while it runs, whatever is launched in place of the first choice; 0: Running
	Stopped float64   `json:"stopped,omitempty"` // while it is switched off
	Source  string    `json:"source"`            // for people: "on-demand list price", "spot, mean of 24 h", …
	At      time.Time `json:"at,omitzero"`
}

// Sleeper is implemented by providers whose instances can be switched off and on again with their disks kept. Both calls are idempotent, and
// may be repeated and arrive in any state of the instance. What cannot be done in the state that it has now, such as to start what is still being
// stopped, is Transient. Neither call brings back what a Destroy was accepted for, and a Create of a stopped instance does not start it.
type Sleeper interface {
	// Stop switches an instance off; hibernate keeps its memory, too. nil: accepted, not done; Get says Stopped when it is.
	Stop(ctx context.Context, key Key, hibernate bool) error

	// Start switches a stopped instance on again. The agent is the one of CreateRequest; its token is the same.
	Start(ctx context.Context, key Key, agent Agent) (Instance, error)
}

// SleepKind is implemented by Kinds whose providers are Sleepers. It says why an instance of this spec can not be stopped (or hibernated), or nil.
type SleepKind interface {
	CanSleep(config, spec any, hibernate bool) error
}

// Roomer is implemented by providers whose instances share machines of a known size, so that it can be said beforehand where an instance fits. The
// caller counts what its instances take, chooses a room for each new one and says which (CreateRequest.Place). The provider has the last word: what does
// not fit after all is refused with class NoCapacity.
type Roomer interface {
	// Rooms are all there are, whether or not they can be reached now. An error says nothing about any of them.
	Rooms(ctx context.Context) ([]Room, error)
}

// Room is one machine on which instances live. A limit of 0 is none.
type Room struct {
	Name   string
	VCPUs  int   // that its instances may have together
	Memory int64 // bytes, likewise
	Slots  int   // instances at once
	Down   bool  // it can not be reached: nothing new is made there
}

// LimitRoom is the name of the one Room of a provider whose instances share no machines, but may not be more than so many. Its Slots say how many; beyond that, a
// Create is refused with class OverQuota. A stopped instance does not count.
const LimitRoom = "max_instances"

// Limit is how many instances a provider may have, 0 for any number. A provider that embeds it is a Roomer with that one Room.
type Limit int64

// Rooms implements Roomer.
func (l Limit) Rooms(context.Context) ([]Room, error) {
	if l == 0 {
		return nil, nil
	}
	return []Room{{Name: LimitRoom, Slots: int(l)}}, nil
}

// Place is where all of the provider's instances are (Instance.Place).
func (l Limit) Place() string {
	if l == 0 {
		return ""
	}
	return LimitRoom
}

// SizeKind is implemented by Kinds whose providers are Roomers. It says what an instance of this spec takes of its room; 0 is not known, and counts as
// nothing.
type SizeKind interface {
	Size(config, spec any) (vcpus int, memory int64)
}

// Watcher is implemented by providers that hear of changes in their instances' lives.
type Watcher interface {
	// Watch calls changed with the key of each instance that has changed, or may have: the caller then looks (Get). It may be called too often, too late or
	// not at all: nothing is lost but time. "" says that the rooms have changed (see Roomer). changed does not block. Watch returns soon after ctx has ended.
	Watch(ctx context.Context, changed func(Key)) error
}

// ConsoleFollower is implemented by providers that can show what an instance prints while it prints it.
type ConsoleFollower interface {
	// FollowConsole writes what the instance has printed, as far as it is kept, and then what it prints, until it ends (nil) or ctx does.
	FollowConsole(ctx context.Context, key Key, w io.Writer) error
}

// PlaceKind is implemented by Kinds whose provider block says where instances live: a region, an account, a host. Two configurations with
// different places do not see each other's instances, so an instance must be ended by the one that made it.
type PlaceKind interface {
	Place(config any) string // "" is the only place there is
}

// ExclusiveKind is implemented by Kinds with instances that hold what only one worker may have, such as an address. It names these things as their
// owner knows them, for example "elastic_ip 203.0.113.5"; a configuration in which two workers name the same one is refused.
type ExclusiveKind interface {
	Exclusive(config, spec any) []string
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
	Interruptible  bool          // it may take instances back: what their agents say of that is believed, unless "market" in their Facts is not "spot"
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

	// ReadOnly: the provider is opened for a plan. It is asked to List, Resolve, Price and Check, perhaps beside another handle of the same directory
	// that works, and then closed. It must not write, neither in StateDir, which need not be there, nor at whoever has the instances; and not take up
	// what an earlier handle left undone.
	ReadOnly bool
}
