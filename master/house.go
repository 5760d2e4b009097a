package master

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/netresearch/go-cron"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/core/schedule"
	"github.com/rouse-ci/rouse/master/engine"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/notify"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/worker/proto"
)

const (
	houseEvery = time.Hour
	shortWait  = time.Minute // for the requests of a scheduler to be stored
)

// keepHouse applies the retention of records and logs, at the start and then every hour.
func (m *master) keepHouse(ctx context.Context) error {
	for {
		if err := m.prune(ctx); err != nil && ctx.Err() == nil {
			m.log.Error("master: cannot remove what is old", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(houseEvery):
		}
	}
}

func (m *master) prune(ctx context.Context) error {
	c := m.current.Load().cfg.Master
	if c.RecordMaxAge > 0 {
		builds, err := m.store.Prune(ctx, time.Now().Add(-c.RecordMaxAge))
		if err != nil {
			return err
		}
		if err := m.logs.Remove(builds); err != nil {
			return err
		}
	}
	if c.LogMaxAge == 0 && c.LogMaxSize == 0 {
		return nil
	}
	sn, err := m.engine.Snapshot(ctx)
	if err != nil {
		return err
	}
	live := map[model.BuildID]bool{}
	for _, b := range sn.Builds {
		live[b.ID] = true
	}
	_, err = m.logs.Prune(ctx, steplog.PruneOptions{MaxAge: c.LogMaxAge, MaxSize: c.LogMaxSize, Live: func(id steplog.ID) bool { return live[id.Build] }})
	return err
}

// schedulers are those that go by the clock, for the core.
func schedulers(list []hcl.Scheduler) ([]core.Scheduler, error) {
	var out []core.Scheduler
	for _, s := range list {
		c, err := calendar(&s)
		if err != nil {
			return nil, err
		}
		if c != nil {
			out = append(out, core.Scheduler{Name: s.Name, Calendar: c})
		}
	}
	return out, nil
}

func calendar(s *hcl.Scheduler) (schedule.Calendar, error) {
	switch s.Kind {
	case "periodic":
		return schedule.Every(s.Every), nil
	case "nightly":
		spec := s.Cron
		if s.Zone != "" {
			spec = "CRON_TZ=" + s.Zone + " " + spec
		}
		c, err := cron.ParseStandard(spec)
		if err != nil {
			return nil, fmt.Errorf("scheduler %s: %w", s.Name, err)
		}
		return c, nil
	}
	return nil, nil
}

// due submits the requests of a scheduler whose time has come.
func (m *master) due(name string, at time.Time) error {
	list := m.current.Load().cfg.Schedulers
	i := slices.IndexFunc(list, func(s hcl.Scheduler) bool { return s.Name == name })
	if i < 0 {
		return fmt.Errorf("scheduler %s is not in the configuration any more", name)
	}
	s := &list[i]
	props := model.Properties{"scheduler": {Value: s.Name, Source: "Scheduler"}}
	for k, v := range s.Properties {
		props[k] = model.Property{Value: v, Source: "Scheduler"}
	}
	var reqs []model.Request
	for _, b := range s.Builders {
		reqs = append(reqs, model.Request{Builder: b, Priority: s.Priority, Scheduler: s.Name, Properties: props,
			Reason: fmt.Sprintf("The %s scheduler named '%s' triggered this build", s.Kind, s.Name),
			Source: model.Source{Repository: s.Repository, Branch: s.Branch}})
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortWait)
	defer cancel()
	_, err := m.engine.SubmitWith(ctx, reqs, func([]model.RequestID) store.Tx {
		k, v := engine.ScheduleMeta(name, at)
		return store.Tx{Meta: map[string]string{k: v}}
	})
	return err
}

// notify tells people what the core wants them to know: always in the log, to the webhook, and by mail to those whom the worker names.
func (m *master) notify(n core.Notify) {
	attrs := []any{"kind", n.Kind, "text", n.Text}
	if n.Worker != "" {
		attrs = append(attrs, "worker", n.Worker)
	}
	m.log.Warn("master: notice", attrs...)
	m.notices.Send(context.Background(), notify.Notice{Kind: n.Kind, Worker: n.Worker, Text: n.Text, To: m.addresses(n.Worker)})
}

// addresses are whom a worker's notices are mailed to.
func (m *master) addresses(worker string) []string {
	if a := m.current.Load(); a != nil && a.workers[worker] != nil {
		return a.workers[worker].NotifyOnMissing
	}
	return nil
}

// targets are the ways out of the configuration in force. Secrets are read when they are used.
func (m *master) targets() notify.Targets {
	a := m.current.Load()
	if a == nil {
		return notify.Targets{}
	}
	c := a.cfg.Master
	t := notify.Targets{Name: c.Name}
	if c.Mail != nil {
		t.Mail = &notify.Mail{Relay: c.Mail.Relay, From: c.Mail.From, Username: c.Mail.Username, TLS: c.Mail.TLS}
		if c.Mail.Secret != nil {
			t.Mail.Secret = m.secrets.reader(c.Mail.Secret)
		}
	}
	if c.Webhook != nil {
		t.Webhook = &notify.Webhook{URL: c.Webhook.URL}
		if c.Webhook.Secret != nil {
			t.Webhook.Secret = m.secrets.reader(c.Webhook.Secret)
		}
	}
	return t
}

// notice is what an agent says of its machine.
func (m *master) notice(worker, kind, text string) {
	m.log.Info("master: a worker says", "worker", worker, "kind", kind, "text", text)
	switch kind {
	case proto.NoticeSpot: // its machine is taken back: better retry now than be cut off
		m.engine.Deliver(core.EndAsked{Worker: worker, Interrupted: core.InterruptedSpot,
			Reason: "interrupted: the provider takes the instance back (" + kind + "): " + text})
	case proto.NoticeRebalance:
		m.engine.Deliver(core.LeaveAsked{Worker: worker, Reason: "the provider may take the instance back: " + text})
	}
}

// lazyLoop is the engine as a build sees it. Builds exist only after the engine, but their runner is made before it.
type lazyLoop struct{ m *master }

func (l lazyLoop) Save(ctx context.Context, tx store.Tx) error { return l.m.engine.Save(ctx, tx) }
func (l lazyLoop) Do(ctx context.Context, ev core.Event) error { return l.m.engine.Do(ctx, ev) }
func (l lazyLoop) Wait(ctx context.Context, id model.RequestID) (model.Result, error) {
	return l.m.engine.Wait(ctx, id)
}

func (l lazyLoop) SubmitWith(ctx context.Context, reqs []model.Request, also func([]model.RequestID) store.Tx) ([]model.RequestID, error) {
	return l.m.engine.SubmitWith(ctx, reqs, also)
}
