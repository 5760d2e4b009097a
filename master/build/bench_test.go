package build

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/worker/proto"
)

// idle is a world that does nothing and keeps nothing.
type idle struct {
	Loop
	req model.Request
}

func (i *idle) Run(_ context.Context, _ string, c session.Command) (session.Outcome, error) {
	return session.Outcome{}, c.Output(proto.Header, []byte("/bin/true\n in dir /srv/w1/lin/build\n"), 37)
}
func (i *idle) Info(string) map[string]any {
	return map[string]any{"basedir": "/srv/w1", "numcpus": int64(4), "os_name": "debian", "version": "1"}
}
func (i *idle) Forget(string, string)                                           {}
func (i *idle) Save(context.Context, store.Tx) error                            { return nil }
func (i *idle) Request(context.Context, model.RequestID) (model.Request, error) { return i.req, nil }
func (i *idle) Build(context.Context, model.BuildID) (model.Build, error)       { return model.Build{}, nil }
func (i *idle) Steps(context.Context, model.BuildID) ([]model.Step, error)      { return nil, nil }
func (i *idle) Instance(context.Context, model.InstanceKey) (model.Instance, error) {
	return model.Instance{Key: "k", Provider: "local", ProviderID: "1"}, nil
}
func (i *idle) Create(steplog.ID, [][]byte) (Log, error) { return &nullLog{}, nil }
func (i *idle) Resume(steplog.ID, [][]byte) (Log, error) { return &nullLog{}, nil }

type nullLog struct{ pos int64 }

func (l *nullLog) Write(_ proto.Stream, p []byte, end int64) error {
	l.pos = end
	_, err := io.Discard.Write(p)
	return err
}
func (l *nullLog) Position() int64 { return l.pos }
func (*nullLog) Hide([][]byte)     {}
func (*nullLog) Flush() error      { return nil }
func (l *nullLog) Close() error    { return nil }
func (l *nullLog) Abandon() error  { return nil }

const oneStep = `
worker "w1" { password = secret.pw }
secret "pw" { env = "PW" }
builder "lin" {
  workers = ["w1"]
  step "shell" "true" { command = ["/bin/true"] }
}
`

// BenchmarkRunOneShellStep is the runner's own share of a build: everything but the store, the log's file, and the connection. The real
// configuration is evaluated.
func BenchmarkRunOneShellStep(b *testing.B) {
	cfg, diags := hcl.LoadFiles(map[string][]byte{"main.hcl": []byte(oneStep)}, hcl.Options{})
	if diags.HasErrors() {
		b.Fatal(diags)
	}
	catalog := NewCatalog(nil)
	catalog.Put(1, cfg)
	i := &idle{req: model.Request{ID: 7, Builder: "lin", Properties: model.Properties{"scheduler": {Value: "force", Source: "Scheduler"}}}}
	r := New(Config{Commands: i, Logs: i, Records: i, Loop: i, Definitions: catalog, Log: slog.New(slog.DiscardHandler)})
	job := engine.Job{Build: core.Build{ID: 12, Requests: []model.RequestID{7}, Builder: "lin", Worker: "w1", Instance: "k", Generation: 1, Attempt: 1, StartedAt: time.Now()}}
	b.ReportAllocs()
	for b.Loop() {
		if out := r.Run(context.Background(), job); out.Result != model.Success {
			b.Fatal(out)
		}
	}
}

// BenchmarkOutput is what one chunk of a command's output costs the runner.
func BenchmarkOutput(b *testing.B) {
	s := &step{run: &run{Runner: &Runner{Config{Vault: &fakeVault{}}}}, log: &nullLog{}, lines: 1}
	out := s.output(cmd{})
	chunk := make([]byte, 64<<10)
	for i := range chunk {
		chunk[i] = 'x'
	}
	b.SetBytes(int64(len(chunk)))
	end := int64(0)
	for b.Loop() {
		end += int64(len(chunk))
		if err := out(proto.Stdout, chunk, end); err != nil {
			b.Fatal(err)
		}
	}
}
