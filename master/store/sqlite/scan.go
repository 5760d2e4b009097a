package sqlite

import (
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/latent"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

const (
	requestColumns = `SELECT id, builder, priority, reason, scheduler, owner, source, properties, worker, parent, generation, submitted_at,
		state, attempts, build, result, text, finished_at`
	buildColumns = `SELECT id, request, requests, builder, worker, instance, generation, attempt, phase, assigned_at, started_at, finished_at,
		result, text, cancelling, locks`
	instanceColumns = `SELECT key, worker, provider, provider_id, spec, price, asked_at, resolved, unresolved_at, booted_at, attached_at, lost_at,
		agent, served, doomed, doomed_at, reason, destroy_tries, gone_at, stopped_price, power, power_at, slept, detail, facts,
		place, vcpus, memory`
)

// moment reads microseconds into a time.
type moment struct{ t *time.Time }

func (m moment) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return strconv.ErrSyntax
	}
	*m.t = fromMicros(n)
	return nil
}

func scanID[T ~int64](r scanner, id *T) error { return r.Scan(id) }

func scanCoreRequest(r scanner, q *core.Request) error {
	return r.Scan(&q.ID, &q.Builder, &q.Priority, moment{&q.SubmittedAt}, &q.Worker, &q.SourceKey, &q.Generation, &q.State, &q.Attempts, &q.Build, &q.Result, &q.Text,
		moment{&q.FinishedAt}, &q.Interrupted)
}

func scanRequest(r scanner, q *model.Request) error {
	var source, properties sql.NullString
	if err := r.Scan(&q.ID, &q.Builder, &q.Priority, &q.Reason, &q.Scheduler, &q.Owner, &source, &properties, &q.Worker, &q.Parent, &q.Generation,
		moment{&q.SubmittedAt}, &q.State, &q.Attempts, &q.Build, &q.Result, &q.Text, moment{&q.FinishedAt}); err != nil {
		return err
	}
	if err := fromJSON(source, &q.Source); err != nil {
		return err
	}
	return fromJSON(properties, &q.Properties)
}

// buildDest lists where the columns of buildColumns go; requests returns what the first two of them say once they are read.
func buildDest(b *core.Build) (dest []any, requests func() error) {
	var first model.RequestID
	var list, locks sql.NullString
	dest = []any{&b.ID, &first, &list, &b.Builder, &b.Worker, &b.Instance, &b.Generation, &b.Attempt, &b.Phase, moment{&b.AssignedAt},
		moment{&b.StartedAt}, moment{&b.FinishedAt}, &b.Result, &b.Text, &b.Cancelling, &locks}
	return dest, func() error {
		if first != 0 {
			b.Requests = []model.RequestID{first}
		}
		if err := fromJSON(locks, &b.Locks); err != nil || !list.Valid {
			return err
		}
		b.Requests = nil
		for f := range strings.FieldsSeq(list.String) {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return err
			}
			b.Requests = append(b.Requests, model.RequestID(n))
		}
		return nil
	}
}

func scanCoreBuild(r scanner, b *core.Build) error {
	dest, requests := buildDest(b)
	if err := r.Scan(dest...); err != nil {
		return err
	}
	return requests()
}

func scanBuild(r scanner, b *model.Build) error {
	var c core.Build
	var properties sql.NullString
	dest, requests := buildDest(&c)
	if err := r.Scan(append(dest, &properties)...); err != nil {
		return err
	}
	if err := requests(); err != nil {
		return err
	}
	*b = model.Build{ID: c.ID, Requests: c.Requests, Builder: c.Builder, Worker: c.Worker, Instance: c.Instance, Generation: c.Generation, Attempt: c.Attempt,
		Phase: c.Phase, AssignedAt: c.AssignedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, Result: c.Result, Text: c.Text}
	return fromJSON(properties, &b.Properties)
}

func scanStep(r scanner, s *model.Step) error {
	var logs sql.NullString
	if err := r.Scan(&s.Build, &s.Number, &s.Name, &s.Kind, moment{&s.StartedAt}, moment{&s.FinishedAt}, &s.Result, &s.Text, &logs, &s.State); err != nil {
		return err
	}
	return fromJSON(logs, &s.Logs)
}

func scanWorker(r scanner, w *core.WorkerState) error {
	return r.Scan(&w.Name, &w.Generation, &w.Tries, moment{&w.BackoffUntil}, &w.LastError, &w.Paused, moment{&w.SeenAt}, &w.FailClass, &w.ClassTries)
}

func scanCoreInstance(r scanner, in *core.Instance) error {
	var slept int64
	var facts sql.NullString
	if err := r.Scan(&in.Key, &in.Worker, &in.Provider, &in.ProviderID, &in.Spec, &in.Price, moment{&in.AskedAt}, &in.Resolved, moment{&in.UnresolvedAt},
		moment{&in.BootedAt}, moment{&in.AttachedAt}, moment{&in.LostAt}, &in.Agent, &in.Served, &in.Doomed, moment{&in.DoomedAt}, &in.Reason,
		&in.DestroyTries, moment{&in.GoneAt}, &in.StoppedPrice, &in.Power, moment{&in.PowerAt}, &slept, &in.Detail, &facts, &in.Place, &in.VCPUs, &in.Memory); err != nil {
		return err
	}
	in.Slept = time.Duration(slept) * time.Microsecond
	return fromJSON(facts, &in.Facts)
}

func scanInstance(r scanner, in *model.Instance) error {
	var c core.Instance
	if err := scanCoreInstance(r, &c); err != nil {
		return err
	}
	*in = core.Show(&c, instanceState(&c))
	return nil
}

func instanceState(in *core.Instance) model.InstanceState {
	switch {
	case !in.GoneAt.IsZero():
		return model.InstanceGone
	case in.Doomed:
		return model.InstanceDoomed
	case in.Power == latent.Stopping:
		return model.InstanceStopping
	case in.Power == latent.Stopped:
		return model.InstanceStopped
	case !in.LostAt.IsZero():
		return model.InstanceLost
	case !in.AttachedAt.IsZero():
		return model.InstanceAttached
	case !in.BootedAt.IsZero():
		return model.InstanceBooting
	}
	return model.InstanceRequested
}

func scanConfig(r scanner, c *store.ConfigSnapshot) error {
	var files, variables sql.NullString
	if err := r.Scan(&c.Generation, moment{&c.AppliedAt}, &files, &variables, &c.By, &c.From, &c.Directory, &c.Reason, &c.Summary); err != nil {
		return err
	}
	if err := fromJSON(files, &c.Files); err != nil {
		return err
	}
	return fromJSON(variables, &c.Variables)
}

func scanJournal(r scanner, j *store.JournalRow) error {
	e := &j.Entry
	return r.Scan(&j.Seq, moment{&j.Time}, &e.Event, &e.Kind, &e.Request, &e.Build, &e.Worker, &e.Instance, &e.Op, &e.From, &e.To, &e.Cause)
}
