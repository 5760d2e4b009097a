package hcl

import (
	"sync"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
)

// Config is a whole configuration, resolved and typed. Steps alone keep unevaluated expressions.
type Config struct {
	Master     Master
	Providers  []Provider
	Workers    []Worker // count is expanded: each entry is one identity
	Builders   []Builder
	Schedulers []Scheduler
	Locks      []Lock
	Secrets    []Secret

	Files     map[string][]byte // the source text it was made from, by file name relative to the directory; with it, what file() and templatefile() read
	Variables map[string]string // given values of variables that are not sensitive, as HCL expressions; Options.Variables of a later LoadFiles

	naming    sync.RWMutex          // of sources, which get more names (see Relocate)
	sources   map[string]*hcl2.File // parsed files, for rendering diagnostics
	bodies    map[string]hcl2.Body  // of provider blocks ("provider.NAME") and of workers' instance blocks ("worker.NAME")
	locals    []hcl2.Expression     // of local values
	unsound   map[string]bool       // names of providers whose blocks have mistakes
	env       *Env
	given     map[string]string // like Variables, but those that are sensitive too
	sensitive []string          // names of the sensitive variables that a value was given for
}

// Master is the master block. Zero values mean the defaults stated here.
type Master struct {
	Name         string // for people and for tags; default "rouse"
	Listen       string // address of the worker port; default "127.0.0.1:9989"
	URL          string // how agents reach it (ws:// or wss://); default: derived from the address it really listens on
	API          string // address of the HTTP API besides the local socket; default "" = none
	TLSCert      string // files, for the worker port and the API
	TLSKey       string
	TLSCa        Trust         // tls_ca: what the agents of instances trust instead of their system's certificates
	Tokens       []APIToken    // who may use the API over TCP
	OnStop       string        // on_master_stop: "keep" (default), "drain", "terminate"
	MaxAttempts  int           // default 5: attempts without a verdict before a request ends
	LogMaxAge    time.Duration // log retention; 0 = for ever
	LogMaxSize   int64         // bytes of all logs; 0 = no limit
	RecordMaxAge time.Duration // retention of ended builds and of the journal; 0 = for ever
	ArtifactsDir string        // where upload steps put files, relative to the state directory; default "artifacts"
	Currency     string        // default "USD"; for display and metrics' help only
	Mail         *Mail         // nil = none is sent
	Webhook      *Webhook      // nil = none is called
	Range        hcl2.Range
}

// Mail is the master's mail block: a relay for notices.
type Mail struct {
	Relay    string // host:port; the port is 25 unless it is given
	From     string
	Username string // with Secret; "" = no authentication
	Secret   *Secret
	TLS      string // "required" (default with a username), "opportunistic" (default without), "none"
	Range    hcl2.Range
}

// Webhook is the master's webhook block: notices as JSON.
type Webhook struct {
	URL    string
	Secret *Secret // signs the requests; nil = they are not signed
	Range  hcl2.Range
}

// APIToken lets its bearer use the API over TCP.
type APIToken struct {
	Name   string
	Secret Secret
	Role   string // "read" or "admin"
}

// Secret is a reference to a secret. Exactly one of Env, File and Command is set. The value is read when it is used, never stored.
type Secret struct {
	Name    string
	Env     string
	File    string
	Command []string
	Range   hcl2.Range
}

// Provider is a provider block.
type Provider struct {
	Name   string
	Kind   string
	Config any                   // from Kind.DecodeProvider
	Attrs  map[string]hcl2.Range // where the attributes of the block are, by dotted path
	Range  hcl2.Range
}

// Worker is one identity.
type Worker struct {
	Name              string
	Pool              string // the block's name, if it has a count
	Provider          string // "" = standard
	Instance          any    // from Kind.DecodeInstance; nil for a standard worker
	Spec              string // digest of everything the instance is made from (provider's and instance block's source)
	Password          *Secret
	Properties        map[string]any
	DefaultProperties map[string]any
	MaxBuilds         int           // 0 = no limit
	KeepaliveInterval time.Duration // default 1 h, as in Buildbot; 0 = none. rouse's own heartbeats go on regardless
	MissingTimeout    time.Duration // default 1 h standard, 20 min latent; 0 = never
	BuildWaitTimeout  time.Duration // default 10 min; 0 = ends after every build; negative = never
	NotifyOnMissing   []string      // addresses
	Locks             []Access
	Price             float64               // per hour; 0 = what the provider says, if it is a Pricer
	Idle              string                // what becomes of an idle instance after build_wait_timeout: "terminate" (default), "stop", "hibernate"
	OrphanTimeout     time.Duration         // default 10 min: an agent without a master for this long ends its machine
	Attrs             map[string]hcl2.Range // where the attributes of the instance block are, by dotted path: "ami.owners"
	Range             hcl2.Range
}

// Access is one use of a lock.
type Access struct {
	Lock      string
	Exclusive bool
}

// Lock is a lock block.
type Lock struct {
	Name      string
	Max       int  // default 1
	PerWorker bool // scope = "worker"
	Range     hcl2.Range
}

// Builder is a builder block.
type Builder struct {
	Name        string
	Description string
	Workers     []string
	Locks       []Access
	Collapse    bool
	MaxAttempts int
	BuildDir    string          // default: the name, with everything outside [A-Za-z0-9._-] made "_"
	Env         hcl2.Expression // for all steps that run commands; may be nil. Step.Eval merges it under the step's own
	Properties  map[string]any
	Steps       []*Step
	Range       hcl2.Range
}

// Scheduler is a scheduler block. Kind is "force", "triggerable", "periodic" or "nightly".
type Scheduler struct {
	Name       string
	Kind       string
	Builders   []string
	Priority   int
	Properties map[string]any
	Every      time.Duration // periodic
	Cron       string        // nightly: five fields, in the master's time zone unless Zone is set
	Zone       string
	Repository string // periodic, nightly: the source to build
	Branch     string
	Range      hcl2.Range
}

// Step is a step block: its static options and its unevaluated body.
type Step struct {
	Name            string
	Kind            string // shell, git, upload, download, set_property, trigger
	HaltOnFailure   bool   // the defaults of each kind are Buildbot's
	FlunkOnFailure  bool
	WarnOnFailure   bool
	FlunkOnWarnings bool
	WarnOnWarnings  bool
	AlwaysRun       bool
	When            hcl2.Expression // nil = always
	Body            hcl2.Body       // what Eval evaluates
	Range           hcl2.Range

	attrs  hcl2.Attributes // of Body
	env    hcl2.Expression // the builder's
	before []string        // names of the builder's earlier steps
}

// Scope is what a step's expressions see. Maps hold values as JSON has them.
type Scope struct {
	Build    map[string]any // id, number, builder, request, reason, attempt, started_at, result (so far), owner, scheduler
	Source   map[string]any // repository, branch, revision, project, codebase
	Prop     map[string]any // all properties by name
	Worker   map[string]any // name, info.*
	Instance map[string]any // key, provider, provider_id, and what the provider says it is: image, type, market, zone, address
	Step     map[string]any // name, number; and by the names of the steps before: {"result": …}, or the result's name alone
}

// Eval of a step gives one of these, by its kind.
type (
	// ShellSpec runs a command. Exactly one of Argv and Script is set. A Script is run by /bin/sh -c.
	ShellSpec struct {
		Argv      []string
		Script    string
		Workdir   string // relative to the builder's directory on the worker; default "build"
		Env       map[string]string
		Timeout   time.Duration  // without output; default 20 min; 0 = none
		MaxTime   time.Duration  // in all; 0 = none
		Sigterm   time.Duration  // sigterm_time: SIGTERM first, SIGKILL after this long; 0 = the signal at once
		Signal    string         // interrupt_signal; default "KILL"
		ExitCodes map[int]string // exit code -> result's name; default 0 = success, everything else failure
		LogEnv    bool
		Stdin     string
	}

	// GitSpec checks out a repository into Workdir.
	GitSpec struct {
		Repository string
		Branch     string // default: the source's branch, or the remote's HEAD
		Revision   string // default: the source's revision
		Workdir    string // default "build"
		Mode       string // "incremental" (default): fetch and reset; "clean": also git clean -ffdx; "clobber": clone anew
		Shallow    int    // depth; 0 = whole history
		Submodules bool
		Env        map[string]string
		Timeout    time.Duration
	}

	// UploadSpec copies a file or directory from the worker to the master.
	UploadSpec struct {
		From    string // on the worker, relative to Workdir
		To      string // on the master, relative to the build's artifact directory
		Workdir string
		MaxSize int64 // bytes; default 1 GiB
	}

	// DownloadSpec copies a file or directory from the master to the worker.
	DownloadSpec struct {
		From    string  // on the master; a name relative to the configuration's directory has become absolute
		Content *string // instead of From: the file's content
		To      string
		Workdir string
		Mode    int // default 0644
		MaxSize int64
	}

	// SetPropertySpec sets a property to a value, or to the trimmed standard output of a command.
	SetPropertySpec struct {
		Property string
		Value    any
		Command  *ShellSpec // nil: use Value
	}

	// TriggerSpec submits requests to a triggerable scheduler.
	TriggerSpec struct {
		Scheduler  string
		Wait       bool
		Properties map[string]any
		Branch     string
		Revision   string
	}
)

// Evaluated is a step ready to run.
type Evaluated struct {
	Spec    any      // *ShellSpec, *GitSpec, …
	Run     bool     // what `when` said
	Secrets [][]byte // values of the secrets that were read, to be masked in logs

	Lengths map[string]int // of the values of these secrets, in bytes, by their names
}

// Options say where a configuration comes from.
type Options struct {
	Dir       string                    // what relative names of files are relative to; Load sets it if it is empty
	Kinds     map[string]providers.Kind // by name
	Variables map[string]string         // -var NAME=EXPRESSION; a bare word counts as a string
	VarFiles  []string
	Stored    map[string]string   // a Config's Variables, to load its Files again: then Variables and VarFiles are asked for sensitive variables only
	Getenv    func(string) string // for env(); nil = os.Getenv

	// Accepted: the text has been in force. Rules that a later version of this program added do not refuse it, since a master that cannot read it has nobody's
	// instances to end and no build to go on with. Such rules look at this; they hold for every new text.
	Accepted bool
}
