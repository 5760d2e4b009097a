package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
)

const stdio = "stdio" // name of every step's log

// state is what a step needs to go on under another master. It is saved in the step's row and holds no secret.
type state struct {
	Done     []done            `json:"done,omitempty"`     // items that have ended; the next one may have started
	Tries    int               `json:"tries,omitempty"`    // how often the item under way was started again under a new ID
	Cleanup  bool              `json:"cleanup,omitempty"`  // the step began after the build was cancelled
	Out      []byte            `json:"out,omitempty"`      // captured output of the item under way
	OutEnd   int64             `json:"out_end,omitempty"`  // position after the last output that was looked at for that
	Torn     bool              `json:"torn,omitempty"`     // the end of the output is not in Out, because it may begin a secret
	Requests []model.RequestID `json:"requests,omitempty"` // submitted by a trigger step
}

// step is one step under way.
type step struct {
	*run
	n       int
	def     *hcl.Step
	row     model.Step
	st      state
	ctx     context.Context // what interrupts it
	resumed bool            // the item after those in st.Done may have been started by an earlier master
	log     Log
	next    int      // number of the next item
	lines   int64    // lines the master has written to the log, as far as the program has come
	low     int64    // agent position of the last command
	ids     []string // commands whose outcomes the agent still keeps
}

// step runs one step. known says that row is there: an earlier master began it.
func (b *run) step(n int, def *hcl.Step, row model.Step, known bool) error {
	s := &step{run: b, n: n, def: def, ctx: b.ctx, row: row, resumed: known}
	var bad error
	if known {
		if err := json.Unmarshal(row.State, &s.st); err != nil {
			bad = fmt.Errorf("the saved state of the step is damaged: %w", err)
		}
	} else {
		s.row = model.Step{Build: b.job.ID, Number: n, Name: def.Name, Kind: def.Kind, StartedAt: b.Now(), Result: model.NoResult}
		s.st.Cleanup = b.ctx.Err() != nil
	}
	if s.st.Cleanup {
		s.ctx = b.cleanupContext()
	}

	b.scopeStep(n, def)
	ev, err := b.def.Eval(s.ctx, def, b.scope)
	b.read(ev)
	b.hide(b.base) // after that, which may have taken long
	if bad == nil {
		bad = err
	}
	if bad == nil && !ev.Run && !known {
		s.finish(model.Skipped, "skipped")
		return nil
	}
	if !known {
		s.row.Logs = []string{stdio}
		if bad == nil { // a step that cannot be evaluated sends nothing, so that nothing must be saved before
			if err := s.save(); err != nil {
				return err
			}
		}
	}
	if err := s.open(); err != nil {
		bad = err
	}
	result, text, err := s.perform(ev.Spec, bad)
	if err != nil {
		s.abandonLog()
		return err
	}
	s.finish(result, text)
	return nil
}

// cleanupContext bounds the steps that run after the build was cancelled. Nobody can cancel a build twice, so it must end by itself.
func (b *run) cleanupContext() context.Context {
	if b.cleanup == nil {
		ctx, cancel := context.WithTimeoutCause(b.base, b.CleanupTime,
			&engine.StopCause{Result: model.Cancelled, Reason: fmt.Sprintf("cleaning up took longer than %s", b.CleanupTime)})
		b.cleanup, b.closers = ctx, append(b.closers, cancel)
	}
	return b.cleanup
}

// open opens the step's log. It may be there although the row does not say so, and it may even have been closed, if the old master died in
// between.
func (s *step) open() (err error) {
	id := steplog.ID{Build: s.job.ID, Step: s.n, Name: stdio}
	open := s.Logs.Create
	if s.run.resumed {
		open = s.Logs.Resume
	}
	var log Log
	err = s.patience(func() error {
		if log, err = open(id, s.secrets); err != nil {
			open = s.Logs.Resume // it may have been made, but not been filled
		}
		return err
	})
	if err != nil {
		s.log = nil
		return fmt.Errorf("cannot open the step's log: %w", err)
	}
	s.log = patientLog{log, s}
	return nil
}

// save records the step as it is now, together with all that waits to be recorded.
func (s *step) save() error {
	s.row.State = s.st.encode()
	return s.flush(s.row)
}

func (st *state) encode() []byte {
	js, err := json.Marshal(st)
	if err != nil {
		panic(err) // it holds nothing that JSON cannot
	}
	return js
}

// finish ends the step. Its log is closed, and thereby safe from a loss of power, before its row says that it has ended; its row is saved with
// the next flush; and only then may the agent forget its commands.
func (s *step) finish(r model.Result, text string) {
	if s.log != nil {
		if err := s.log.Close(); err != nil {
			s.Log.Error("cannot end a log", "build", s.job.ID, "step", s.n, "error", err)
			s.abandonLog()
		}
	}
	s.row.FinishedAt, s.row.Result, s.row.Text, s.row.State = s.Now(), r, s.clean(text), nil
	s.pending = append(s.pending, s.row)
	s.forget = append(s.forget, s.ids...)
	s.count(s.def, s.row)
}

// abandonLog lets go of the log, for the next master to go on with.
func (s *step) abandonLog() {
	if s.log == nil {
		return
	}
	if err := s.log.Abandon(); err != nil {
		s.Log.Warn("cannot let go of a log", "build", s.job.ID, "step", s.n, "error", err)
	}
}

// perform runs the step's program and makes a result of what came of it. Its error is only for what ends the runner.
func (s *step) perform(spec any, bad error) (result model.Result, text string, err error) {
	if bad == nil {
		result, text, bad = s.program(spec)
	}
	if bad == nil {
		return result, text, nil
	}
	var stop *engine.StopCause
	var save *saveError
	switch {
	case s.detached(), letGo(bad):
		return 0, "", engine.ErrDetach
	case errors.As(bad, &save):
		return 0, "", bad
	case errors.As(bad, &stop):
		result, text = stop.Result, stop.Reason
		if s.reason == "" {
			s.reason = stop.Reason
		}
		bad = fmt.Errorf("%s: %s", stop.Result, stop.Reason)
	case errors.Is(bad, session.ErrLost):
		result, text = model.Retry, "worker "+s.job.Worker+" is lost"
		s.reason = text
		bad = errors.New(text)
	default:
		result, text = model.Exception, bad.Error()
	}
	if s.log != nil {
		if err := s.note(bad.Error()); err != nil {
			s.Log.Warn("cannot write to a log", "build", s.job.ID, "step", s.n, "error", err)
		}
	}
	return result, text, nil
}

// program runs the program of the step's kind.
func (s *step) program(spec any) (result model.Result, text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("a step has a bug", "build", s.job.ID, "step", s.def.Name, "panic", p, "stack", string(debug.Stack()))
			err = errors.New("internal error; the master's log has the details")
		}
	}()
	switch spec := spec.(type) {
	case *hcl.ShellSpec:
		return s.shell(spec)
	case *hcl.GitSpec:
		return s.git(spec)
	case *hcl.UploadSpec:
		return s.upload(spec)
	case *hcl.DownloadSpec:
		return s.download(spec)
	case *hcl.SetPropertySpec:
		return s.setProperty(spec)
	case *hcl.TriggerSpec:
		return s.trigger(spec)
	}
	return 0, "", fmt.Errorf("steps of kind %s are not known to the runner (%T)", s.def.Kind, spec)
}

// commandID names a command for ever. try counts the times it was started again under a new name.
func (s *step) commandID(item, try int) string {
	id := "b" + strconv.FormatInt(int64(s.job.ID), 10) + ".s" + strconv.Itoa(s.n) + "." + strconv.Itoa(item)
	if try > 0 {
		id += "r" + strconv.Itoa(try)
	}
	return id
}
