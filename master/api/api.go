// Package api is the master's HTTP interface: JSON under /api/v1 with an OpenAPI description at /openapi.json, and /metrics, /healthz, /readyz.
//
// It translates: a request into one call of the engine or one reading of the records, a result into an answer, an error into a problem
// (RFC 9457) that says what is wrong and what to do. It decides nothing about builds or workers, and declares the small interfaces that it
// needs. It also holds the client, so that both ends share the types of the answers.
//
// Who may do what: the local socket's file mode is the credential of whoever connects to it. Over TCP every request but /healthz, /readyz and
// /openapi.json carries a bearer token, of role "read" (GET and HEAD) or "admin" (everything).
//
// No answer holds a secret: answers are made of types of this package and of model, which have no field for one. What a step keeps for
// itself (model.Step.State) and what an agent tells of its environment are left out.
package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/plan"
	"github.com/rouse-ci/rouse/master/store"
)

// Prefix is where the JSON interface lives.
const Prefix = "/api/v1"

// Engine is what the API needs of the engine.
type Engine interface {
	Submit(ctx context.Context, reqs []model.Request) ([]model.RequestID, error)
	Do(ctx context.Context, ev core.Event) error
	Snapshot(ctx context.Context) (*core.Snapshot, error)
	Explain(ctx context.Context, id model.RequestID) (core.Explanation, error)
	Wait(ctx context.Context, id model.RequestID) (model.Result, error)
}

// Records is what the API reads of the store.
type Records interface {
	Request(ctx context.Context, id model.RequestID) (model.Request, error)
	Requests(ctx context.Context, ids []model.RequestID) ([]model.Request, error)
	Build(ctx context.Context, id model.BuildID) (model.Build, error)
	Builds(ctx context.Context, f store.BuildFilter) ([]model.Build, error)
	Steps(ctx context.Context, build model.BuildID) ([]model.Step, error)
	Instance(ctx context.Context, key model.InstanceKey) (model.Instance, error)
	Instances(ctx context.Context, worker string, limit int) ([]model.Instance, error)
	Trace(ctx context.Context, id model.RequestID) ([]store.JournalRow, error)
	Config(ctx context.Context, g model.Generation) (store.ConfigSnapshot, error)
	Configs(ctx context.Context, limit int) ([]store.ConfigSnapshot, error)
}

// Logs opens the log of a step for reading. An error that wraps fs.ErrNotExist says that there is no such log (yet).
type Logs interface {
	OpenLog(build model.BuildID, step int, name string) (Log, error)
}

// Line is one line of a log, as it is sent.
type Line struct {
	N      int64  `json:"n" doc:"number of the line, from 0"`
	Stream string `json:"s" enum:"stdout,stderr,header" doc:"stream that it belongs to"`
	Text   string `json:"t" doc:"text, without the newline"`
	Part   bool   `json:"part,omitempty" doc:"the line goes on in the next one of its stream: it was too long for one"`
}

// Log is one log, open for reading.
type Log interface {
	// Lines calls fn for up to n lines from number from on, and returns at the end of what is there.
	Lines(ctx context.Context, from int64, n int, fn func(Line) error) error
	// Follow calls fn for every line from number from on, as they come, until the log has ended, ctx ends or fn fails.
	Follow(ctx context.Context, from int64, fn func(Line) error) error
	// WriteText writes what one stream ("": all) has printed so far, as it came.
	WriteText(ctx context.Context, w io.Writer, stream string) error
	Close() error
}

// Options are what a Server is made of. Engine, Records, Logs and Catalog are needed; the rest may be left zero.
type Options struct {
	Engine  Engine
	Records Records
	Logs    Logs
	Configs Configs         // plans and changes the configuration; nil: nothing can be planned or applied
	Catalog func() *Catalog // of the configuration in force
	Tokens  func() []Token  // who may use the API over TCP
	Ready   func() error    // why the master cannot serve now; nil if it can
	Alive   func() error    // why the master should be killed and started again
	Metrics http.Handler
	Version string
	Name    string // the master's, for people
	Log     *slog.Logger
	Now     func() time.Time

	// Latest is what was live when the engine could last say so: the status shows it while the master is not ready. It may be nil.
	Latest func() *core.Snapshot

	// Refused says why no agent could attach as this standard worker, "" if nothing is known. It may be nil.
	Refused func(worker string) (why string, at time.Time)
}

// Server serves the API on any number of listeners.
type Server struct {
	o       Options
	mux     *http.ServeMux
	api     huma.API
	handler http.Handler
	started time.Time
	quit    chan struct{} // closed when streams shall end
	stop    sync.Once
	streams chan struct{} // one element for each open stream
}

const (
	maxBody    = 1 << 20          // bytes of a request's body
	maxTrace   = 10_000           // entries of a request's journal that are shown, the last ones
	maxStreams = 1000             // followers and watchers at once
	callLimit  = 30 * time.Second // how long one call of the engine or the store may take
	writeLimit = 30 * time.Second // how long a client may take to accept one piece of an answer
	sendLimit  = 30 * time.Second // how long a client may take to send a request's body

	configLimit     = 5 * time.Minute // how long a plan or an apply may take: providers are asked
	configSendLimit = 5 * time.Minute // how long the text of a configuration may be on its way: maxConfig over a poor link
	lookLimit       = 3 * time.Minute // how long a list of all instances may take: longer than one call of any provider
)

// limits bound one kind of request.
type limits struct {
	send, work time.Duration
	size       int64 // bytes of the body
}

// whole is how long everything may take, with the answer's way back.
func (l limits) whole() time.Duration { return l.send + l.work + writeLimit }

var (
	usual    = limits{sendLimit, callLimit, maxBody}
	patient  = limits{configSendLimit, configLimit, maxConfig}
	limitsOf = map[string]limits{"/plan": patient, "/apply": patient, "/rollback": patient, "/reconfig": patient, "/strays/look": {sendLimit, lookLimit, maxBody}}
)

// limitsFor are those of a request; path is without Prefix. Streams set their own.
func limitsFor(method, path string) limits {
	if l, ok := limitsOf[path]; ok && method == http.MethodPost {
		return l
	}
	return usual
}

// New makes a server. Nothing is served before Serve.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tokens == nil {
		o.Tokens = func() []Token { return nil }
	}
	if o.Refused == nil {
		o.Refused = func(string) (string, time.Time) { return "", time.Time{} }
	}
	s := &Server{o: o, mux: http.NewServeMux(), started: o.Now(), quit: make(chan struct{}), streams: make(chan struct{}, maxStreams)}
	s.api = humago.New(s.mux, config(o.Version))
	s.registerRequests()
	s.registerBuilds()
	s.registerLogs()
	s.registerViews()
	s.registerWorkers()
	s.registerStrays()
	s.registerConfigs()
	s.mux.HandleFunc("GET /healthz", probe(o.Alive))
	s.mux.HandleFunc("GET /readyz", probe(o.Ready))
	if o.Metrics != nil {
		s.mux.Handle("GET /metrics", o.Metrics)
	}
	s.mux.HandleFunc("/", notFound)
	s.handler = s.guard(http.NewCrossOriginProtection().Handler(s.mux))
	return s
}

// Handle adds a handler beside the API, such as pages for people. It is guarded like the API.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Handler answers as over TCP: every request needs a token.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI is the description of the interface.
func (s *Server) OpenAPI() *huma.OpenAPI { return s.api.OpenAPI() }

func config(version string) huma.Config {
	c := huma.DefaultConfig("rouse", version)
	c.Info.Description = "The HTTP interface of a rouse master: builds, workers and instances. Times are RFC 3339, durations are seconds, money is in the configuration's currency."
	c.Info.Version = "v1" // of the interface, not of the program: the description changes only when the interface does
	c.CreateHooks = nil   // no "$schema" in answers
	c.Transformers = append(c.Transformers, briefly)
	c.DocsPath = "" // its page would load scripts from elsewhere
	c.SchemasPath = ""
	c.RejectUnknownQueryParameters = true
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "One of the configuration's token blocks. Not needed on the local socket."},
	}
	c.Security = []map[string][]string{{"token": {}}}
	return c
}

// schemaName names the types of plans so that they are not taken for those of answers: a plan's Instance is PlanInstance.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.PkgPath() == planPackage && !strings.HasPrefix(name, "Plan") {
		return "Plan" + name
	}
	return name
}

var planPackage = reflect.TypeFor[plan.Plan]().PkgPath()

// op describes one operation. The identifier is also the name of its function in generated clients.
func op(method, path, id, tag, summary string, errors ...int) huma.Operation {
	l := limitsFor(method, path)
	return huma.Operation{Method: method, Path: Prefix + path, OperationID: id, Tags: []string{tag}, Summary: summary, MaxBodyBytes: l.size, BodyReadTimeout: l.send,
		Errors: append(errors, http.StatusServiceUnavailable)}
}
