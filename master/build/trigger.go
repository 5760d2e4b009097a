package build

import (
	"context"
	"fmt"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// trigger runs a trigger step: it asks for builds of other builders and, if told so, waits for them.
func (s *step) trigger(spec *hcl.TriggerSpec) (model.Result, string, error) {
	sch := s.run.def.Schedulers[spec.Scheduler]
	if sch == nil || sch.Kind != "triggerable" {
		return 0, "", fmt.Errorf("there is no triggerable scheduler %q", spec.Scheduler)
	}
	if len(s.st.Requests) == 0 {
		if err := s.submit(spec, sch); err != nil {
			return 0, "", err
		}
	}
	text := fmt.Sprintf("triggered %s", spec.Scheduler)
	if err := s.note(fmt.Sprintf("%s: requests %v of builders %q", text, s.st.Requests, sch.Builders)); err != nil {
		return 0, "", err
	}
	if !spec.Wait {
		return model.Success, text, nil
	}
	worst := model.Success
	for i, id := range s.st.Requests {
		r, err := s.Loop.Wait(s.ctx, id)
		if s.ctx.Err() != nil {
			return 0, "", s.abandon()
		}
		if err != nil {
			return 0, "", fmt.Errorf("request %d: %w", id, err)
		}
		if err := s.note(fmt.Sprintf("request %d (%s): %s", id, builderAt(sch, i), r)); err != nil {
			return 0, "", err
		}
		if r != model.Skipped {
			worst = model.Worst(worst, r)
		}
	}
	if worst == model.Retry || worst == model.Cancelled { // the child's verdict: this build's worker is well, and nobody cancelled this build
		worst = model.Failure
	}
	return worst, fmt.Sprintf("%s: %s", text, worst), nil
}

func builderAt(sch *hcl.Scheduler, i int) string {
	if i < len(sch.Builders) {
		return sch.Builders[i]
	}
	return "?"
}

// submit asks for the builds. Their IDs are stored in the same transaction as the requests: an old master's crash can neither lose nor repeat
// them.
func (s *step) submit(spec *hcl.TriggerSpec, sch *hcl.Scheduler) error {
	src := s.req.Source
	if got, ok := s.props["got_revision"].Value.(string); ok && s.props["got_revision"].Source == fromSource {
		src.Revision = got // Buildbot's updateSourceStamp: the children build what this build has checked out
	}
	if spec.Branch != "" && spec.Branch != src.Branch {
		src.Branch, src.Revision = spec.Branch, ""
	}
	if spec.Revision != "" {
		src.Revision = spec.Revision
	}
	props := make(model.Properties, len(sch.Properties)+len(spec.Properties))
	for k, v := range sch.Properties {
		props[k] = model.Property{Value: v, Source: "Scheduler"}
	}
	for k, v := range spec.Properties {
		props[k] = model.Property{Value: s.maskValue(v), Source: fromTrigger}
	}
	props["scheduler"] = model.Property{Value: sch.Name, Source: "Scheduler"}
	reqs := make([]model.Request, len(sch.Builders))
	for i, name := range sch.Builders {
		reqs[i] = model.Request{
			Builder: name, Priority: sch.Priority, Scheduler: sch.Name, Owner: s.req.Owner, Parent: s.job.ID, Source: src, Properties: props,
			Reason: fmt.Sprintf("triggered by build %d of %s", s.job.ID, s.run.def.Builder.Name), Result: model.NoResult,
		}
	}
	ids, err := s.Loop.SubmitWith(s.base, reqs, func(ids []model.RequestID) store.Tx {
		row, st := s.row, s.st
		st.Requests = ids
		row.State = st.encode()
		return store.Tx{Steps: []model.Step{row}}
	})
	if err != nil {
		return fmt.Errorf("cannot submit the requests: %w", err)
	}
	s.st.Requests = ids
	return nil
}

// abandon is what becomes of the children when the step is interrupted: they are cancelled, unless the build only changes masters. It returns
// why the step was interrupted.
func (s *step) abandon() error {
	cause := context.Cause(s.ctx)
	if s.detached() {
		return engine.ErrDetach
	}
	for _, id := range s.st.Requests {
		if err := s.Loop.Do(s.base, core.CancelAsked{Request: id, Reason: fmt.Sprintf("build %d, which triggered it, was stopped", s.job.ID)}); err != nil {
			s.Log.Warn("a triggered request goes on", "build", s.job.ID, "request", id, "error", err)
		}
	}
	return cause
}
