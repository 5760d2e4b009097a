// Package plan says what a new configuration would do to a live fleet: desired (hcl.Config) against actual (core.Snapshot and the providers' lists) becomes
// a Plan, a plain value that is JSON, text (WriteText) and a file (Write, Read).
//
// It is pure: it dials nothing, reads no clock and changes nothing, so that the same input is the same plan, and a saved plan can be held against one
// made later (Stale). Who asks providers and the store, and who puts a configuration into force, is the master. It must not know how that is done. No value of a
// secret or of a sensitive variable is ever in a Plan: where one changes, the plan says that it does.
package plan

import (
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// FormatVersion is that of the JSON and of plan files. Additions do not change it.
const FormatVersion = 1

// Input is everything that a plan is made from. Old and New must be free of errors.
type Input struct {
	Master string           // the owner of the state: whose fleet this is
	Base   model.Generation // of Old; 0: nothing is applied yet
	Now    time.Time
	Old    *hcl.Config // in force; nil: none
	New    *hcl.Config // wanted

	Snapshot  *core.Snapshot  // what is live; nil: not known
	Queued    []model.Request // waiting, each with the generation that it was submitted under
	Offline   bool            // no master runs: Snapshot is what the state on disk remembers
	Refreshed bool            // providers were asked; if not, Seen, Resolved and Prices may be empty

	Unlike []string // sensitive variables whose values, where the plan was asked for, are not those of New

	Seen         map[string]Seen                 // by provider: what its List answered
	Resolved     map[string][]providers.Resolved // by worker of New: what its spec would be made from now
	Prices       map[string]providers.Price      // by worker of New
	PricesBefore map[string]providers.Price      // by worker of Old; a worker whose spec is the same need not be in it
	Findings     []Finding                       // of the providers' preflights
}

// Seen is one provider's answer to List.
type Seen struct {
	Instances []providers.Instance
	Err       error
	Left      map[string]bool // keys of those that are where New has no provider: it has been removed, or names another place
}

// Finding is one thing that a preflight found of a worker's spec, or of a provider (then Worker is empty).
type Finding struct {
	Provider string
	Worker   string
	providers.Finding
}

// Plan is what would happen. Lists are never null and are sorted: the same input is the same plan.
type Plan struct {
	FormatVersion int              `json:"format_version"`
	ID            string           `json:"id" doc:"digest of everything else but the time"`
	Master        string           `json:"master" doc:"whose fleet this is"`
	Base          model.Generation `json:"base_generation" doc:"the configuration that it starts from; 0: none"`
	Next          model.Generation `json:"next_generation" doc:"what applying it would make; base_generation if nothing is to be done"`
	CreatedAt     time.Time        `json:"created_at"`
	Offline       bool             `json:"offline" doc:"no master was running: compared with the state on disk"`
	Refreshed     bool             `json:"refreshed" doc:"the providers were asked what they hold"`
	SourceChanged bool             `json:"source_changed" doc:"the text or the given variables differ, be it only in comments"`
	Changes       []Change         `json:"changes" doc:"one for each resource, those that stay as they are too"`
	Instances     []Instance       `json:"instances" doc:"what happens to each live instance"`
	Work          []Work           `json:"work" doc:"running builds and waiting requests that are touched"`
	Resolved      []Resolved       `json:"resolved" doc:"what moving parts of the workers' instances stand for now"`
	Drift         []Drift          `json:"drift" doc:"what changed behind the master's back"`
	Diagnostics   []Diagnostic     `json:"diagnostics"`
	Cost          Cost             `json:"cost"`
	Summary       Summary          `json:"summary"`
}

// Action says what happens to a resource.
type Action string

// The actions.
const (
	NoOp    Action = "no-op"
	Create  Action = "create"
	Update  Action = "update"  // in place: nothing that is live is disturbed
	Replace Action = "replace" // of a worker: instances of the new definition follow those of the old one, none is ended while it builds
	Remove  Action = "remove"  // of a worker: it drains
)

// Change is one resource. Address is like worker.linux-3, builder.app, provider.ec2.main, lock.db, scheduler.nightly.night, secret.token, variable.branch
// or master.
type Change struct {
	Address    string      `json:"address"`
	Kind       string      `json:"kind" doc:"worker, builder, provider, lock, scheduler, secret, variable or master"`
	Name       string      `json:"name"`
	Pool       string      `json:"pool,omitempty" doc:"the block that the worker is one of (count)"`
	Action     Action      `json:"action"`
	Reason     string      `json:"reason,omitempty" doc:"why, if the attributes do not say it"`
	Note       string      `json:"note,omitempty" doc:"what it means for what runs"`
	Attributes []Attribute `json:"attributes,omitempty" doc:"what differs; of a new resource, all that is set"`
	Unchanged  int         `json:"unchanged_attributes,omitempty" doc:"number of set attributes that stay"`
	Range      *hcl.Range  `json:"range,omitempty" doc:"where it is configured"`
}

// Attribute is one attribute before and after. Before and After are as in JSON; both are left away if it is sensitive, and Before (After) if it was (will be) not set.
type Attribute struct {
	Path          string   `json:"path" doc:"dotted, as in the configuration"`
	Before        any      `json:"before,omitempty"`
	After         any      `json:"after,omitempty"`
	Sensitive     bool     `json:"sensitive,omitempty"`
	Expression    bool     `json:"expression,omitempty" doc:"before and after are source text"`
	Inputs        []string `json:"inputs,omitempty" doc:"variables, local values and files that the expression uses and that are not what they were"`
	ForcesReplace bool     `json:"forces_replacement,omitempty"`
}

// Fate says what happens to a live instance.
type Fate string

// The fates.
const (
	Keep             Fate = "keep"
	ReplaceWhenIdle  Fate = "replace-when-idle"   // it is idle now: at once
	ReplaceAfterWork Fate = "replace-after-build" // after Builds
	End              Fate = "end"                 // its worker goes, and it is idle
	EndAfterWork     Fate = "end-after-build"
	Ending           Fate = "ending" // its end was decided before this plan
	Adopt            Fate = "adopt"  // the worker was gone from the configuration and is back: its instance is taken on
	DestroyOrphan    Fate = "destroy-orphan"
	Abandon          Fate = "abandon-orphan" // no record knows it, and it is where no provider is configured any more
	Lost             Fate = "gone"           // drift: the provider has it no more
)

// Instance is one live instance, or one that carries our tag and is in no record.
type Instance struct {
	Key      string          `json:"key"`
	Worker   string          `json:"worker,omitempty"`
	Provider string          `json:"provider"`
	ID       string          `json:"provider_id,omitempty"`
	State    string          `json:"state" doc:"as the master knows it; of an orphan, as the provider does"`
	Fate     Fate            `json:"fate"`
	Builds   []model.BuildID `json:"builds,omitempty" doc:"what runs on it"`
	Reason   string          `json:"reason,omitempty"`
}

// Work is a running build or a waiting request that the plan touches.
type Work struct {
	Kind       string           `json:"kind" doc:"build or request"`
	ID         int64            `json:"id"`
	Builder    string           `json:"builder"`
	Worker     string           `json:"worker,omitempty"`
	Generation model.Generation `json:"generation" doc:"whose definition it is built with"`
	Effect     string           `json:"effect" doc:"keeps-definition, builder-removed, worker-removed, worker-replaced or no-worker"`
	Text       string           `json:"text" doc:"for people"`
}

// Resolved is one moving part of a worker's instance.
type Resolved struct {
	Worker string `json:"worker"`
	Attr   string `json:"attr"`
	Before string `json:"before,omitempty" doc:"what live instances are made from; empty: there is none"`
	After  string `json:"after"`
	Detail string `json:"detail,omitempty"`
	Moved  bool   `json:"moved,omitempty"`
}

// Drift is one thing that changed behind the master's back.
type Drift struct {
	Kind     string `json:"kind" doc:"gone, failed, stopped, changed, orphan or unlisted"`
	Address  string `json:"address" doc:"the worker or the provider"`
	Instance string `json:"instance,omitempty"`
	Text     string `json:"text"`
}

// Diagnostic is something that people should know before they agree.
type Diagnostic struct {
	Severity string     `json:"severity" doc:"error: applying would not work as intended; warning"`
	Summary  string     `json:"summary"`
	Detail   string     `json:"detail,omitempty"`
	Address  string     `json:"address,omitempty"`
	Range    *hcl.Range `json:"range,omitempty"`
}

// Cost is the greatest cost per hour: one instance of each latent worker at once.
type Cost struct {
	Currency string  `json:"currency"`
	Before   float64 `json:"max_per_hour_before"`
	After    float64 `json:"max_per_hour_after"`
	Unpriced int     `json:"unpriced_workers,omitempty" doc:"latent workers of the new configuration whose price is not known: they count nothing"`
}

// Summary counts.
type Summary struct {
	Add       int          `json:"add"`
	Change    int          `json:"change"`
	Replace   int          `json:"replace"`
	Remove    int          `json:"remove"`
	NoOp      int          `json:"no_op"`
	Instances map[Fate]int `json:"instances" doc:"number by fate"`
	Errors    int          `json:"errors"`
	Warnings  int          `json:"warnings"`
}

// Empty says that applying the plan would do nothing: no resource changes, and no instance is replaced for a moved image.
func (p *Plan) Empty() bool {
	s := p.Summary
	return s.Add+s.Change+s.Replace+s.Remove == 0 && s.Instances[ReplaceWhenIdle]+s.Instances[ReplaceAfterWork] == 0
}
