package api

import (
	"time"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
)

// Catalog is what the API must know of the configuration in force. It is immutable.
type Catalog struct {
	Builders   []Builder
	Schedulers []Scheduler
	Pools      map[string]string // workers' names: the block that makes several of them
}

// Builder is a builder of the catalog.
type Builder struct {
	Name        string
	Description string
	Workers     []string
}

// Scheduler is a scheduler of the catalog.
type Scheduler struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind" doc:"force, triggerable, periodic or nightly"`
	Builders   []string       `json:"builders"`
	Priority   int            `json:"priority"`
	Properties map[string]any `json:"properties,omitempty"`
	Every      float64        `json:"every_seconds,omitempty" doc:"periodic: seconds between two builds"`
	Cron       string         `json:"cron,omitempty" doc:"nightly: when"`
	Zone       string         `json:"zone,omitempty" doc:"nightly: time zone"`
}

// Force asks for one build.
type Force struct {
	Builder    string         `json:"builder" minLength:"1" maxLength:"200" doc:"name of the builder"`
	Scheduler  string         `json:"scheduler,omitempty" maxLength:"200" doc:"force scheduler to use; default: the first that reaches the builder"`
	Repository string         `json:"repository,omitempty" maxLength:"2000"`
	Branch     string         `json:"branch,omitempty" maxLength:"500"`
	Revision   string         `json:"revision,omitempty" maxLength:"500"`
	Project    string         `json:"project,omitempty" maxLength:"500"`
	Reason     string         `json:"reason,omitempty" maxLength:"2000" doc:"why, for people"`
	Owner      string         `json:"owner,omitempty" maxLength:"200" doc:"who asks; over TCP it is always the token's name"`
	Properties map[string]any `json:"properties,omitempty" maxProperties:"500"`
	Priority   *int           `json:"priority,omitempty" minimum:"-1000000" maximum:"1000000" doc:"default: the scheduler's"`
	Worker     string         `json:"worker,omitempty" maxLength:"200" doc:"only this worker may build it"`
}

// Forced names the requests that were made.
type Forced struct {
	Requests []model.RequestID `json:"requests"`
}

// Request is a build request and what happens to it now.
type Request struct {
	model.Request
	Phase      string  `json:"phase" enum:"waiting,substantiating,running,done"`
	OnWorker   string  `json:"on_worker,omitempty" doc:"the worker of its build"`
	Step       string  `json:"step,omitempty" doc:"the step that runs"`
	StepNumber int     `json:"step_number" doc:"its number, from 0"`
	Waited     float64 `json:"waited_seconds" doc:"from its submission to the start of its build, or until now"`
}

// RequestList is a list of requests.
type RequestList struct {
	Requests []Request `json:"requests"`
	Total    int       `json:"total" doc:"number of requests in these states, which may be more than the list has"`
}

// Explanation says why a request waits.
type Explanation struct {
	Request    Request     `json:"request"`
	Ahead      int         `json:"ahead" doc:"requests for the same workers that come first"`
	Text       string      `json:"text"`
	Candidates []Candidate `json:"candidates"`
}

// Candidate is one worker that could serve a request.
type Candidate struct {
	Worker string   `json:"worker"`
	State  string   `json:"state"`
	Blocks []string `json:"blocks" doc:"what stands in the way; empty: nothing"`
}

// Trace is the journal of one request, oldest entry first.
type Trace struct {
	Request model.RequestID `json:"request"`
	Entries []TraceEntry    `json:"entries"`
}

// TraceEntry is one transition of one thing.
type TraceEntry struct {
	Seq      int64             `json:"seq"`
	Time     time.Time         `json:"time"`
	After    float64           `json:"after_seconds" doc:"since the first entry"`
	Event    string            `json:"event" doc:"what caused it"`
	Kind     string            `json:"kind" doc:"what changed: request, build, worker, instance, provider; or effect, for an order to the outside"`
	Build    model.BuildID     `json:"build,omitempty"`
	Worker   string            `json:"worker,omitempty"`
	Instance model.InstanceKey `json:"instance,omitempty"`
	Op       model.OpID        `json:"op,omitempty"`
	From     string            `json:"from,omitempty"`
	To       string            `json:"to"`
	Cause    string            `json:"cause,omitempty"`
}

// Build is a build and what it has cost.
type Build struct {
	model.Build
	Duration float64 `json:"duration_seconds" doc:"from its assignment to its end, or until now"`
	Waits    string  `json:"waits,omitempty" doc:"why a running build does not go on now"`
}

// BuildList is a list of builds, newest first.
type BuildList struct {
	Builds []Build `json:"builds"`
}

// BuildDetail is a build with all that is known of it.
type BuildDetail struct {
	Build
	Source  model.Source `json:"source" doc:"of the request that gave the build its source"`
	Reason  string       `json:"reason,omitempty"`
	Owner   string       `json:"owner,omitempty"`
	Steps   []Step       `json:"steps"`
	Machine *Instance    `json:"machine,omitempty" doc:"the instance it runs or ran on"`
	Cost    float64      `json:"cost" doc:"an estimate: price of the instance times duration so far"`
}

// Step is one step of a build.
type Step struct {
	Number     int          `json:"number" doc:"from 0"`
	Name       string       `json:"name"`
	Kind       string       `json:"kind"`
	StartedAt  time.Time    `json:"started_at,omitzero"`
	FinishedAt time.Time    `json:"finished_at,omitzero"`
	Duration   float64      `json:"duration_seconds"`
	Result     model.Result `json:"result"`
	Text       string       `json:"text,omitempty"`
	Logs       []string     `json:"logs,omitempty"`
}

// Worker is a worker.
type Worker struct {
	Name         string            `json:"name"`
	Pool         string            `json:"pool,omitempty" doc:"name of the block with a count that it is one of"`
	Provider     string            `json:"provider,omitempty" doc:"empty: a standard worker, which somebody else starts"`
	State        string            `json:"state" doc:"not-substantiated, substantiating, substantiated, insubstantiating, stopped or shut-down; standard worker: attached or detached"`
	Attached     bool              `json:"attached"`
	Instance     model.InstanceKey `json:"instance,omitempty"`
	Builds       []model.BuildID   `json:"builds"`
	MaxBuilds    int               `json:"max_builds" doc:"0: no limit"`
	Price        float64           `json:"price" doc:"per hour"`
	Tries        int               `json:"tries,omitempty" doc:"failed substantiations in a row"`
	BackoffUntil time.Time         `json:"backoff_until,omitzero" doc:"no new instance before this; not there if it is past"`
	LastError    string            `json:"last_error,omitempty"`
	FailClass    string            `json:"failure_class,omitempty" doc:"of the last failure: the class of the provider's answer, or missing, lost, ended or vanished"`
	ClassTries   int               `json:"failures_of_class,omitempty" doc:"failures of this class in a row"`
	AwaySince    time.Time         `json:"away_since,omitzero" doc:"when the agent was lost that running builds wait for"`
	AwayUntil    time.Time         `json:"away_until,omitzero" doc:"how long they wait; then they are tried again"`
	Paused       string            `json:"paused,omitempty" doc:"why it gets no builds"`
	Retired      bool              `json:"retired,omitempty" doc:"not in the configuration any more"`
	Refused      string            `json:"refused,omitempty" doc:"of a standard worker: why no agent could attach the last time that one tried, or why none can"`
	RefusedAt    time.Time         `json:"refused_at,omitzero" doc:"when that was"`
}

// WorkerList is all workers.
type WorkerList struct {
	Workers []Worker `json:"workers"`
}

// Instance is one virtual machine or process.
type Instance struct {
	model.Instance
	Builds int     `json:"builds" doc:"builds on it now"`
	Op     string  `json:"op,omitempty" doc:"the call to its provider that is in flight: create, check, destroy, stop or start"`
	Age    float64 `json:"age_seconds" doc:"from asking for it to its end, or until now"`
	Cost   float64 `json:"cost" doc:"an estimate: price times age, and for the time that it was switched off the price for that"`
}

// InstanceList is a list of instances.
type InstanceList struct {
	Instances []Instance `json:"instances"`
}

// BuilderStatus is a builder and its queue.
type BuilderStatus struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Workers     []string  `json:"workers"`
	Force       []string  `json:"force" doc:"force schedulers that reach it"`
	Waiting     int       `json:"waiting"`
	Running     int       `json:"running"`
	Oldest      time.Time `json:"oldest,omitzero" doc:"when its oldest waiting request was submitted"`
}

// BuilderList is all builders.
type BuilderList struct {
	Builders []BuilderStatus `json:"builders"`
}

// SchedulerList is all schedulers.
type SchedulerList struct {
	Schedulers []Scheduler `json:"schedulers"`
}

// Timer is one armed deadline.
type Timer struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
	In   float64   `json:"in_seconds" doc:"negative: it is late"`
}

// TimerList is all armed deadlines, the next one first.
type TimerList struct {
	Timers []Timer `json:"timers"`
}

// Status is the master in a few numbers.
type Status struct {
	Name         string           `json:"name,omitempty"`
	Version      string           `json:"version"`
	Time         time.Time        `json:"time"`
	Uptime       float64          `json:"uptime_seconds"`
	Ready        bool             `json:"ready"`
	NotReady     string           `json:"not_ready,omitempty" doc:"why not"`
	Stopping     bool             `json:"stopping,omitempty"`
	Generation   model.Generation `json:"generation" doc:"of the configuration"`
	Waiting      int              `json:"requests_waiting"`
	OldestAge    float64          `json:"oldest_request_seconds" doc:"age of the oldest waiting request"`
	Running      int              `json:"builds_running"`
	Preparing    int              `json:"builds_preparing" doc:"builds whose worker is being substantiated"`
	Workers      map[string]int   `json:"workers" doc:"number by state"`
	Instances    map[string]int   `json:"instances" doc:"number by state"`
	PricePerHour float64          `json:"price_per_hour" doc:"of all instances that are not gone"`
	Providers    []ProviderStatus `json:"providers"`
}

// ProviderStatus is one provider.
type ProviderStatus struct {
	Name      string    `json:"name"`
	ListedAt  time.Time `json:"listed_at,omitzero" doc:"when its instances were last listed"`
	ListError string    `json:"list_error,omitempty"`
	Orphans   int       `json:"orphans" doc:"instances with our tag that no record knows"`
	Hosts     []Host    `json:"hosts,omitempty" doc:"the machines that its instances share, if it has said which"`
}

// Host is a machine that a provider's instances share, and what they take of it. What is switched off takes nothing.
type Host struct {
	Name        string    `json:"name"`
	Down        bool      `json:"down,omitempty" doc:"it can not be reached: nothing new begins there, and what lives there goes on"`
	DownSince   time.Time `json:"down_since,omitzero" doc:"as far as this master knows"`
	Instances   int       `json:"instances" doc:"that live there, or are about to"`
	Slots       int       `json:"slots,omitempty" doc:"instances that may live there; absent: any number"`
	VCPUs       int       `json:"vcpus_taken"`
	VCPULimit   int       `json:"vcpus,omitempty" doc:"that instances may take together; absent: any number"`
	Memory      int64     `json:"memory_taken_bytes"`
	MemoryLimit int64     `json:"memory_bytes,omitempty" doc:"that instances may take together; absent: any amount"`
}

// Version is the master's version.
type Version struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	API      string `json:"api"`
}

// Done says what an order did.
type Done struct {
	Text string `json:"text"`
}

// PlanAsk asks what a configuration would do (POST /plan). The answer is a plan.Plan.
type PlanAsk struct {
	Files     map[string][]byte `json:"files" maxProperties:"2000" doc:"the configuration's text by file name, with the files that its expressions read (base64)"`
	Variables map[string]string `json:"variables,omitempty" maxProperties:"1000" doc:"given values, as expressions; those of sensitive variables are the master's own"`
	Dir       string            `json:"dir,omitempty" maxLength:"4096" doc:"the directory that it was read from, for people and for relative names"`
	Sensitive *SensitiveGiven   `json:"sensitive,omitempty" doc:"proofs of the values that sensitive variables have where the order comes from, so that the plan can say which are not the master's"`
	Refresh   bool              `json:"refresh" doc:"ask the providers what they hold, what moving parts stand for and what is wrong"`
}

// SensitiveGiven lets a master compare values of sensitive variables with its own without being told them.
type SensitiveGiven struct {
	Key     []byte            `json:"key" minLength:"22" maxLength:"88" doc:"random bytes, new for each order (base64)"`
	Digests map[string]string `json:"digests" maxProperties:"1000" doc:"HMAC-SHA-256 with the key, in hexadecimal, of each variable's name and value"`
}

// ApplyAsk asks for a configuration to be put into force (POST /apply).
type ApplyAsk struct {
	PlanAsk
	Expect *Expect `json:"expect,omitempty" doc:"the plan that was agreed to: if anything of it has moved, nothing is applied"`
	Order
}

// Order says who gives an order and why.
type Order struct {
	By     string `json:"by,omitempty" maxLength:"200" doc:"who asks; only if neither the token nor the local socket says it"`
	Reason string `json:"reason,omitempty" maxLength:"2000" doc:"why, for people"`
}

// Expect is what must still be so for a plan that was agreed to.
type Expect struct {
	Plan      string           `json:"plan" maxLength:"200" doc:"the plan's ID"`
	Master    string           `json:"master" maxLength:"200" doc:"whose fleet it is"`
	Base      model.Generation `json:"base_generation" doc:"the generation that it starts from"`
	Refreshed bool             `json:"refreshed,omitempty" doc:"the providers were asked: resolved is all that there was"`
	Resolved  []plan.Resolved  `json:"resolved,omitempty" maxItems:"200000" doc:"what moving parts stood for; compared if the plan is refreshed now"`
}

// RollbackAsk asks for the text of an older generation to be put into force again, as a new generation (POST /rollback).
type RollbackAsk struct {
	Generation model.Generation `json:"generation,omitempty" minimum:"0" doc:"which; 0: the one before the one in force"`
	Refresh    bool             `json:"refresh"`
	Expect     *Expect          `json:"expect,omitempty"`
	Order
}

// ReconfigAsk asks the master to read the directory again that it was started with (POST /reconfig).
type ReconfigAsk struct {
	Order
}

// Applied is what came of an order to change the configuration.
type Applied struct {
	ID         string           `json:"id" doc:"of this apply; a second one at the same time is told it"`
	Changed    bool             `json:"changed" doc:"false: there was nothing to do"`
	Generation model.Generation `json:"generation" doc:"in force now"`
	From       string           `json:"from" enum:"start,reload,apply,rollback"`
	Summary    plan.Summary     `json:"summary"`
}

// ApplyStatus is what an apply has still to do (GET /apply).
type ApplyStatus struct {
	Generation model.Generation `json:"generation" doc:"in force"`
	Running    string           `json:"running,omitempty" doc:"the ID of an apply that is under way"`
	Phase      string           `json:"phase,omitempty" doc:"what it does: reading, asking, opening or storing"`
	Draining   []Draining       `json:"draining" doc:"what lives by an older configuration and has still to end"`
}

// Draining is one worker that still lives by an older configuration.
type Draining struct {
	Worker   string            `json:"worker"`
	Instance model.InstanceKey `json:"instance,omitempty"`
	State    string            `json:"state"`
	Builds   []model.BuildID   `json:"builds" doc:"what it waits for"`
	Reason   string            `json:"reason"`
}

// Generation is one configuration that was in force.
type Generation struct {
	Number    model.Generation `json:"number"`
	AppliedAt time.Time        `json:"applied_at"`
	By        string           `json:"by,omitempty"`
	From      string           `json:"from,omitempty" doc:"start, reload, apply or rollback"`
	Directory string           `json:"directory,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Summary   *plan.Summary    `json:"summary,omitempty" doc:"of the plan that made it"`
	Current   bool             `json:"current"`
}

// GenerationList is generations, newest first.
type GenerationList struct {
	Generations []Generation `json:"generations"`
}

// GenerationText is one generation with its text.
type GenerationText struct {
	Generation
	Files     map[string][]byte `json:"files"`
	Variables map[string]string `json:"variables,omitempty" doc:"none that is sensitive"`
}
