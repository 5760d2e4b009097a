// Package model holds the nouns that every part of rouse shares: plain values, identifiers and enumerations.
//
// It contains no decisions and does no I/O; it knows nothing of how its values are stored, sent or shown, except that their
// JSON names are fixed here, since the API, the store and the command line all print the same thing.
package model

import (
	"strings"
	"time"
)

// Identifiers are distinct types, so that a build can never be passed where a request is meant.
// All of them count from 1; 0 means "none".
type (
	RequestID  int64 // one build request
	BuildID    int64 // one attempt to satisfy one or more requests
	OpID       int64 // one call to a provider
	SessionID  int64 // one live connection of an agent; unique in one master process
	Generation int64 // one applied configuration
)

// InstanceKey names an instance for ever. We choose it before the provider is called: "<owner>-<worker>-<n>".
type InstanceKey string

// Source is what a build is made from: Buildbot's source stamp.
type Source struct {
	Repository string `json:"repository,omitempty"`
	Branch     string `json:"branch,omitempty"`
	Revision   string `json:"revision,omitempty"`
	Project    string `json:"project,omitempty"`
	Codebase   string `json:"codebase,omitempty"`
	Patch      *Patch `json:"patch,omitempty"`
}

// Patch is a change that no version control system knows yet.
type Patch struct {
	Level   int    `json:"level"` // number of leading path components to strip, as in patch -p
	Body    []byte `json:"body"`
	Subdir  string `json:"subdir,omitempty"`
	Author  string `json:"author,omitempty"`
	Comment string `json:"comment,omitempty"`
}

// Property is a value together with where it came from ("Force Build", "Worker", "Builder", "Scheduler", "SetProperty Step", …).
// Value is one of nil, bool, float64, string, []any, map[string]any: what JSON can hold.
type Property struct {
	Value  any    `json:"value"`
	Source string `json:"source"`
}

// Properties maps a name to its property.
type Properties map[string]Property

// RequestState says where a request is in its life.
type RequestState uint8

const (
	RequestWaiting RequestState = iota // nobody works on it
	RequestClaimed                     // a build was made for it
	RequestDone                        // ended; it will never change again
)

// Request asks for one build of one builder.
type Request struct {
	ID          RequestID    `json:"id"`
	Builder     string       `json:"builder"`
	Priority    int          `json:"priority"`
	Reason      string       `json:"reason,omitempty"`
	Scheduler   string       `json:"scheduler,omitempty"`
	Owner       string       `json:"owner,omitempty"` // who asked
	Source      Source       `json:"source"`
	Properties  Properties   `json:"properties,omitempty"`
	Worker      string       `json:"worker,omitempty"` // pinned to this worker, if not empty
	Parent      BuildID      `json:"parent,omitempty"` // the build whose trigger step asked
	Generation  Generation   `json:"generation"`
	SubmittedAt time.Time    `json:"submitted_at"`
	State       RequestState `json:"state"`
	Attempts    int          `json:"attempts"` // builds made for it so far
	Build       BuildID      `json:"build,omitempty"`
	Result      Result       `json:"result"`
	Text        string       `json:"text,omitempty"` // why it ended so
	FinishedAt  time.Time    `json:"finished_at,omitzero"`
}

// BuildPhase says where a build is in its life.
type BuildPhase uint8

const (
	BuildPreparing BuildPhase = iota // its worker is being substantiated
	BuildRunning                     // its steps run
	BuildDone                        // ended; it will never change again
)

// Build is one attempt on one worker.
type Build struct {
	ID         BuildID     `json:"id"`
	Requests   []RequestID `json:"requests"` // the first one gave it its source and properties; the others were collapsed into it
	Builder    string      `json:"builder"`
	Worker     string      `json:"worker"`
	Instance   InstanceKey `json:"instance,omitempty"`
	Generation Generation  `json:"generation"`
	Attempt    int         `json:"attempt"` // counts from 1
	Phase      BuildPhase  `json:"phase"`
	AssignedAt time.Time   `json:"assigned_at"`
	StartedAt  time.Time   `json:"started_at,omitzero"`
	FinishedAt time.Time   `json:"finished_at,omitzero"`
	Result     Result      `json:"result"`
	Text       string      `json:"text,omitempty"` // why it ended so
	Properties Properties  `json:"properties,omitempty"`
}

// Step is one step of one build.
type Step struct {
	Build      BuildID   `json:"build"`
	Number     int       `json:"number"` // counts from 0 in the order of the configuration
	Name       string    `json:"name"`
	Kind       string    `json:"kind"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Result     Result    `json:"result"`
	Text       string    `json:"text,omitempty"`
	Logs       []string  `json:"logs,omitempty"`  // names of its logs, "stdio" first
	State      []byte    `json:"state,omitempty"` // what the step needs to go on after a restart of the master (JSON), private to the runner
}

// InstanceState says what is known of an instance.
type InstanceState uint8

const (
	InstanceRequested InstanceState = iota // the intent is stored; the provider may or may not have it
	InstanceBooting                        // the provider has it; its agent has not attached yet
	InstanceAttached                       // its agent is connected
	InstanceLost                           // its agent was connected and is not now
	InstanceStopping                       // it is being switched off
	InstanceStopped                        // it is switched off, and its disks are kept
	InstanceDoomed                         // its end is decided and never undone
	InstanceGone                           // proven absent
)

// Instance is one virtual machine or process, as the store remembers it.
type Instance struct {
	Key        InstanceKey   `json:"key"`
	Worker     string        `json:"worker"`
	Provider   string        `json:"provider"`
	ProviderID string        `json:"provider_id,omitempty"` // the provider's own name, once known
	State      InstanceState `json:"state"`
	Reason     string        `json:"reason,omitempty"` // why it was doomed
	AskedAt    time.Time     `json:"asked_at"`
	BootedAt   time.Time     `json:"booted_at,omitzero"` // when the provider was first known to have it
	AttachedAt time.Time     `json:"attached_at,omitzero"`
	DoomedAt   time.Time     `json:"doomed_at,omitzero"`
	GoneAt     time.Time     `json:"gone_at,omitzero"`
	Price      float64       `json:"price"` // per hour, in the configuration's currency

	Place        string            `json:"place,omitempty"`           // the host that it is on, or is to be on, of those that its provider chooses from
	StoppedPrice float64           `json:"stopped_price,omitempty"`   // per hour, while it is switched off
	StoppedAt    time.Time         `json:"stopped_at,omitzero"`       // since when it is switched off; zero if it is not
	Stopped      float64           `json:"stopped_seconds,omitempty"` // how long it was switched off before that
	Detail       string            `json:"detail,omitempty"`          // what the provider last said of it
	Facts        map[string]string `json:"facts,omitempty"`           // what it is, as the provider says: image, type, market, zone, address
}

// ProviderName is the name of a provider's block, of its handle. A handle is what the core, the engine and the store know a provider by: the block's name, or
// name@place if the block says where its instances live. Two places are two handles, since neither sees the other's instances. People see the name.
func ProviderName(handle string) string {
	name, _, _ := strings.Cut(handle, "@")
	return name
}
